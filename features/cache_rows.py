"""Where the rows of a cache are stored, and how they are read: as bytes, without HDF5."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .recordings import Table

#: Versions of a file that holds its rows, and of an index of such files.
FORMAT_VERSION = 1
INDEX_VERSION = 2
#: The names of shards have six digits.
MAX_SHARDS = 10**6
#: Rows in memory at once when a file is written or checked.
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class StoredLayer:
    """Where the rows of a layer begin in a file, in bytes, and the checksum stated for them."""

    offset: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A file that holds rows: one file of an index, or the cache itself."""

    path: Path
    #: In the index; 0 for the cache itself.
    number: int
    n_rows: int
    #: From :func:`stamp_of`, when it was opened.
    stamp: tuple[int, ...]
    width: int
    #: Of the stored numbers: float32 or float16.
    dtype: str
    #: By ``POOLING/LAYER``; each has ``n_rows`` rows of ``width`` numbers.
    layers: Mapping[str, StoredLayer]
    #: From :func:`statement`.
    statement: str

    def mapped(self, pooling: str, layer: str) -> NDArray[Any]:
        """Return one layer, mapped into memory, of ``dtype`` and shape (n_rows, width)."""
        offset = self.layers[f"{pooling}/{layer}"].offset
        return np.memmap(self.path, self.dtype, "r", offset, (self.n_rows, self.width))

    def blocks(self, pooling: str, layer: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the index of the first row of each block of a layer, and its rows.

        A block has the shape (at most ``BLOCK_ROWS``, width). Raise UserError if the file has
        become shorter since it was opened.
        """
        with self.path.open("rb") as file:
            file.seek(self.layers[f"{pooling}/{layer}"].offset)
            for start in range(0, self.n_rows, BLOCK_ROWS):
                shape = (min(BLOCK_ROWS, self.n_rows - start), self.width)
                block = np.empty(shape, self.dtype)
                if file.readinto(block.view(np.uint8).data) != block.nbytes:
                    raise UserError(
                        f"{self.path}: has been cut within {layer_name(pooling, layer)} since it "
                        "was opened; make it again with `serpipe extract --overwrite`"
                    )
                yield start, block


@dataclass(frozen=True)
class RowMap:
    """Where the row of each clip is stored."""

    shards: tuple[Shard, ...]
    #: Index of each clip's shard in ``shards``, and of its row in that shard: shape (n_clips,).
    shard_of: NDArray[np.intp]
    row_of: NDArray[np.intp]

    def __getitem__(self, clips: NDArray[np.intp] | slice) -> "RowMap":
        """Return the map of some clips."""
        return RowMap(self.shards, self.shard_of[clips], self.row_of[clips])

    def read(self, key: Mapping[str, Any], pooling: str, layer: str) -> NDArray[Any]:
        """Return the rows of all clips from one layer, as stored, of shape (n_clips, width)."""
        values = np.empty((len(self.row_of), int(key["width"])), key["dtype"])
        for index in np.unique(self.shard_of):
            mine = self.shard_of == index
            values[mine] = self.shards[index].mapped(pooling, layer)[self.row_of[mine]]
        return values

    def checksum(self, key: Mapping[str, Any], pooling: str, layer: str) -> str:
        """Return the checksum that a layer would have in a single file of these clips."""
        digest = hashlib.sha256()
        for start in range(0, len(self.row_of), BLOCK_ROWS):
            block = self[start : start + BLOCK_ROWS]
            digest.update(block.read(key, pooling, layer).tobytes())
        return digest.hexdigest()


#: For a table of clips without embeddings.
EMPTY_ROW_MAP = RowMap((), np.empty(0, np.intp), np.empty(0, np.intp))


def row_map_of_file(shard: Shard) -> RowMap:
    """Return the map of a file that holds all rows in the order of its table."""
    return RowMap((shard,), np.zeros(shard.n_rows, np.intp), np.arange(shard.n_rows))


def shard_path(index: Path, number: int) -> Path:
    """Return the path of a shard: its name is made from its number, and never read from a file."""
    return index.with_name(index.name + ".shards") / f"{number:06d}.h5"


def statement(key: Mapping[str, Any], clips_sha256: str, layers: Mapping[str, StoredLayer]) -> str:
    """Return one checksum of all that a file states: key, table and checksum of every layer."""
    sha256 = {name: layer.sha256 for name, layer in layers.items()}
    stated = [key, clips_sha256, sha256]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def layer_name(pooling: str, layer: str) -> str:
    """Return the name of a layer in a file."""
    return f"embeddings/{pooling}/{layer}"


def hash_table(clips: Table) -> str:
    """Return the checksum of a clip table."""
    columns = {name: column.tolist() for name, column in clips.items()}
    return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()


def hash_texts(*texts: str) -> str:
    """Return one checksum of several texts, such as the key and the provenance in a file."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return values that change when a file is rewritten; empty if it does not exist."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
