"""The files in which the rows of a cache lie: how they are named, checked and read."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, first_line

#: Of a file that holds its rows, and of an index of such files.
FORMAT_VERSION = 1
INDEX_VERSION = 2
#: The names of shards have six digits.
MAX_SHARDS = 10**6
#: Rows that are in memory at once when a file is written or checked.
BLOCK_ROWS = 4096
#: What h5py raises for content that is damaged or not what it should be.
DAMAGED = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError)


#: Groups lie in groups at most so deep: a group can also contain itself.
_DEEPEST = 4


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
    """

    path: Path
    number: int
    n_rows: int
    stamp: tuple[int, ...]


@dataclass(frozen=True)
class Rows:
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

    def __getitem__(self, clips: NDArray[np.intp] | slice) -> "Rows":
        """Return where the rows of some clips lie."""
        return Rows(self.shards, self.shard_of[clips], self.row_of[clips])

    def read(self, key: Mapping[str, Any], pooling: str, layer: str) -> NDArray[Any]:
        """Read the rows of all clips from one layer, as they are stored.

        Returns
        -------
        ndarray of ``key["dtype"]``, shape (n_clips, width)
        """
        found = np.empty((len(self.row_of), int(key["width"])), key["dtype"])
        for place in np.unique(self.shard_of):
            path, mine = self.shards[place].path, self.shard_of == place
            with h5py.File(path, "r") as file:
                dataset = file[layer_name(pooling, layer)]
                shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
            if offset is None:
                raise UserError(
                    f"{path}: {layer_name(pooling, layer)} is not stored in one piece; expected a "
                    "file as `serpipe extract` writes it; make it again with --overwrite"
                )
            found[mine] = np.memmap(path, dtype, "r", offset, shape)[self.row_of[mine]]
        return found

    def checksum(self, key: Mapping[str, Any], pooling: str, layer: str) -> str:
        """Return the checksum that one layer has in a single file of these clips."""
        digest = hashlib.sha256()
        for start in range(0, len(self.row_of), BLOCK_ROWS):
            some = self[start : start + BLOCK_ROWS]
            digest.update(some.read(key, pooling, layer).tobytes())
        return digest.hexdigest()


#: Of a table of clips without embeddings.
NO_ROWS = Rows((), np.empty(0, np.intp), np.empty(0, np.intp))


def one_file(path: Path, n_rows: int, stamp: tuple[int, ...]) -> Rows:
    """Return the rows of a file that holds all of them in the order of its table."""
    shards = (Shard(path, 0, n_rows, stamp),)
    return Rows(shards, np.zeros(n_rows, np.intp), np.arange(n_rows))


def shard_path(index: Path, number: int) -> Path:
    """Return where a shard lies: its name is made of its number, and never read from a file."""
    return index.with_name(index.name + ".shards") / f"{number:06d}.h5"


def read_index(
    index: Path, file: h5py.File, key: Mapping[str, Any], hashes: NDArray[np.str_]
) -> Rows:
    """Open the shards of an index and check that they and the row map are those it was made with.

    Parameters
    ----------
    index : Path
        The index.
    file : h5py.File
        The same, open.
    key : mapping
        Its key.
    hashes : ndarray of str, shape (n_clips,)
        Content hashes of its clips.

    Returns
    -------
    Rows

    Raises
    ------
    UserError
        If a shard is not there, or is another.
    ValueError
        If the row map leads to rows that are not those of the clips.
    """
    numbers, number_of, row_of = (
        _integers(file, name) for name in ("shards/number", "rows/shard", "rows/row")
    )
    stated = read_column(file["shards/sha256"]).tolist()
    if len(stated) != len(numbers) or {len(number_of), len(row_of)} != {len(hashes)}:
        raise ValueError("columns of different lengths")
    in_order = len(numbers) > 0 and np.all(np.diff(numbers) > 0)
    if not in_order or numbers[0] < 0 or numbers[-1] >= MAX_SHARDS:
        raise ValueError("shards/number: not the numbers of shards, in order")
    for pooling in key["poolings"]:
        for layer in key["layers"]:
            file[layer_name(pooling, layer)].attrs["sha256"]  # is to be there
    if not np.isin(number_of, numbers).all():
        raise ValueError("rows/shard: a clip in a shard that is not of this index")
    shard_of = np.searchsorted(numbers, number_of)
    shards = []
    for place, number in enumerate(numbers.tolist()):
        shard, theirs = _open_shard(index, number, key, stated[place])
        clips = np.flatnonzero(shard_of == place)
        rows = row_of[clips]
        if np.any((rows < 0) | (rows >= shard.n_rows)):
            raise ValueError(f"rows/row: a row that {shard.path.name} does not have")
        if len(np.unique(rows)) != len(rows):
            raise ValueError(f"rows/row: a row of {shard.path.name} stands for two clips")
        if np.any(theirs[rows] != hashes[clips]):
            raise ValueError(f"rows/row: a row of {shard.path.name} is that of another clip")
        shards.append(shard)
    return Rows(tuple(shards), shard_of, row_of)


def _open_shard(
    index: Path, number: int, key: Mapping[str, Any], stated: str
) -> tuple[Shard, NDArray[np.str_]]:
    """Return a shard and the content hashes of its clips, if it is the one that is meant."""
    path = shard_path(index, number)
    fix = "put back what was there, or make all again with `serpipe extract --overwrite`"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a shard of {index}; {fix}")
    try:
        with h5py.File(path, "r") as file:
            stamp = stamp_of(path)
            check_contained(file)
            if file.attrs.get("serpipe_cache") != FORMAT_VERSION:
                raise ValueError("no cache that holds its rows")
            hashes = read_column(file["clips/sha256"])
            lengths = row_counts(file, key)
            found = statement(file)
    except DAMAGED as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a whole shard of {index} ({reason}); {fix}") from None
    if found != stated or lengths != {len(hashes)}:
        raise UserError(
            f"{path}: is another file than {index} was made with; expected that shard; {fix}"
        )
    return Shard(path, number, len(hashes), stamp), hashes


def check_contained(file: h5py.File) -> None:
    """Refuse a file whose data lie elsewhere: a cache from a stranger could name any file.

    Parameters
    ----------
    file : h5py.File
        Open for reading; nothing of it has been read.

    Raises
    ------
    ValueError
        If it has a link that leads elsewhere, or a dataset that is stored in other files.
    """

    def check(group: h5py.Group, depth: int) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link to somewhere else")
            found = group[name]
            if isinstance(found, h5py.Dataset):
                if found.is_virtual or found.external:
                    raise ValueError(f"{name} is stored in another file")
            elif depth == _DEEPEST:
                raise ValueError(f"{name} lies too deep")
            else:
                check(found, depth + 1)

    check(file, 1)


def statement(file: h5py.File) -> str:
    """Return one checksum of what a file states of its content: key, table and every layer."""
    key = json.loads(file.attrs["key"])
    layers = {
        f"{pooling}/{layer}": str(file[layer_name(pooling, layer)].attrs["sha256"])
        for pooling in key["poolings"]
        for layer in key["layers"]
    }
    stated = [key, str(file.attrs["clips_sha256"]), layers]
    return hashlib.sha256(json.dumps(stated, sort_keys=True).encode()).hexdigest()


def row_counts(file: h5py.File, key: Mapping[str, Any]) -> set[int]:
    """Return how many rows the layers have: one number, if the file is whole.

    Raises
    ------
    ValueError
        If a layer has another width or type of numbers than the key says.
    """
    counts = set()
    for pooling in key["poolings"]:
        for layer in key["layers"]:
            dataset = file[layer_name(pooling, layer)]
            if dataset.shape[1:] != (key["width"],) or dataset.dtype != np.dtype(key["dtype"]):
                raise ValueError(
                    f"{layer_name(pooling, layer)} is {dataset.dtype} {dataset.shape}, "
                    f"its key says {key['dtype']} of width {key['width']}"
                )
            counts.add(int(dataset.shape[0]))
    return counts


def layer_name(pooling: str, layer: str) -> str:
    """Return the name of a layer in a file."""
    return f"embeddings/{pooling}/{layer}"


def blocks(dataset: h5py.Dataset) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield the first row of each block of a layer, and its rows."""
    for start in range(0, len(dataset), BLOCK_ROWS):
        yield start, dataset[start : start + BLOCK_ROWS]


def read_column(dataset: h5py.Dataset) -> NDArray[Any]:
    """Read a column of a clip table."""
    if h5py.check_string_dtype(dataset.dtype):
        return np.array(dataset.asstr()[:], dtype=str)
    return np.asarray(dataset[:])


def hash_table(clips: Mapping[str, NDArray[Any]]) -> str:
    """Return the checksum of a clip table."""
    columns = {name: column.tolist() for name, column in clips.items()}
    return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what tells whether a file has been written anew; nothing if it is gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return ()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _integers(file: h5py.File, name: str) -> NDArray[np.intp]:
    values = np.asarray(file[name][:])
    if values.ndim != 1 or values.dtype.kind != "i":
        raise ValueError(f"{name} are not whole numbers")
    return values.astype(np.intp)
