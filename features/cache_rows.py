"""Where the rows of a cache lie, and how they are read: as plain bytes, without HDF5."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

#: Of a file that holds its rows, and of an index of such files.
FORMAT_VERSION = 1
INDEX_VERSION = 2
#: The names of shards have six digits.
MAX_SHARDS = 10**6
#: Rows that are in memory at once when a file is written or checked.
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class StoredLayer:
    """One layer of one file.

    Attributes
    ----------
    offset : int
        Where its rows begin in the file, in bytes.
    sha256 : str
        The checksum that the file states for them.
    """

    offset: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """A file that holds rows: one of those of an index, or the cache itself.

    Attributes
    ----------
    path : Path
        The file.
    number : int
        Its number in the index; 0 for the cache itself.
    n_rows : int
        How many rows it holds.
    stamp : tuple of int
        From :func:`stamp_of`, when it was opened.
    width : int
        Numbers in a row.
    dtype : {"float32", "float16"}
        Of the stored numbers.
    layers : mapping of str to StoredLayer
        By ``POOLING/LAYER``.
    statement : str
        From :func:`statement`.
    """

    path: Path
    number: int
    n_rows: int
    stamp: tuple[int, ...]
    width: int
    dtype: str
    layers: Mapping[str, StoredLayer]
    statement: str

    def mapped(self, pooling: str, layer: str) -> NDArray[Any]:
        """Return one layer as an array that is mapped into memory.

        Returns
        -------
        ndarray of ``dtype``, shape (n_rows, width)
        """
        place = self.layers[f"{pooling}/{layer}"]
        return np.memmap(self.path, self.dtype, "r", place.offset, (self.n_rows, self.width))

    def blocks(self, pooling: str, layer: str) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the first row of each block of a layer, and its rows.

        Yields
        ------
        int, ndarray of ``dtype``, shape (at most ``BLOCK_ROWS``, width)

        Raises
        ------
        UserError
            If the file is shorter than it was when it was opened.
        """
        with self.path.open("rb") as file:
            file.seek(self.layers[f"{pooling}/{layer}"].offset)
            for start in range(0, self.n_rows, BLOCK_ROWS):
                shape = (min(BLOCK_ROWS, self.n_rows - start), self.width)
                block = np.empty(shape, self.dtype)
                if file.readinto(block.view(np.uint8).data) != block.nbytes:
                    raise UserError(
                        f"{self.path}: ends within {layer_name(pooling, layer)}; expected the file "
                        "as it was when it was opened; make it again with `serpipe extract "
                        "--overwrite`"
                    )
                yield start, block


@dataclass(frozen=True)
class RowMap:
    """Where the row of each clip lies.

    Attributes
    ----------
    shards : tuple of Shard
        The files.
    shard_of, row_of : ndarray of int, shape (n_clips,)
        Which of ``shards`` holds the row (its place among them), and which row of it that is.
    """

    shards: tuple[Shard, ...]
    shard_of: NDArray[np.intp]
    row_of: NDArray[np.intp]

    def __getitem__(self, clips: NDArray[np.intp] | slice) -> "RowMap":
        """Return where the rows of some clips lie."""
        return RowMap(self.shards, self.shard_of[clips], self.row_of[clips])

    def read(self, key: Mapping[str, Any], pooling: str, layer: str) -> NDArray[Any]:
        """Read the rows of all clips from one layer, as they are stored.

        Returns
        -------
        ndarray of ``key["dtype"]``, shape (n_clips, width)
        """
        found = np.empty((len(self.row_of), int(key["width"])), key["dtype"])
        for place in np.unique(self.shard_of):
            mine = self.shard_of == place
            found[mine] = self.shards[place].mapped(pooling, layer)[self.row_of[mine]]
        return found

    def checksum(self, key: Mapping[str, Any], pooling: str, layer: str) -> str:
        """Return the checksum that one layer has in a single file of these clips."""
        digest = hashlib.sha256()
        for start in range(0, len(self.row_of), BLOCK_ROWS):
            some = self[start : start + BLOCK_ROWS]
            digest.update(some.read(key, pooling, layer).tobytes())
        return digest.hexdigest()


#: Of a table of clips without embeddings.
EMPTY_ROW_MAP = RowMap((), np.empty(0, np.intp), np.empty(0, np.intp))


def row_map_of_file(shard: Shard) -> RowMap:
    """Return the rows of a file that holds all of them in the order of its table."""
    return RowMap((shard,), np.zeros(shard.n_rows, np.intp), np.arange(shard.n_rows))


def shard_path(index: Path, number: int) -> Path:
    """Return where a shard lies: its name is made of its number, and never read from a file."""
    return index.with_name(index.name + ".shards") / f"{number:06d}.h5"


def statement(key: Mapping[str, Any], clips_sha256: str, layers: Mapping[str, StoredLayer]) -> str:
    """Return one checksum of what a file states of its content: key, table and every layer."""
    sha256 = {name: layer.sha256 for name, layer in layers.items()}
    stated = [key, clips_sha256, sha256]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def layer_name(pooling: str, layer: str) -> str:
    """Return the name of a layer in a file."""
    return f"embeddings/{pooling}/{layer}"


def hash_table(clips: Mapping[str, NDArray[Any]]) -> str:
    """Return the checksum of a clip table."""
    columns = {name: column.tolist() for name, column in clips.items()}
    return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()


def hash_texts(*texts: str) -> str:
    """Return one checksum of several texts, such as the key and the provenance in a file."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what tells whether a file has been written anew; nothing if it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns
