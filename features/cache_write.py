"""Write a cache whole or not at all: one file, or shards and then the index that names them."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError, UserError, first_line
from ..files import put_in_place
from .cache import Cache
from .cache_rows import (
    BLOCK_ROWS,
    DAMAGED,
    FORMAT_VERSION,
    INDEX_VERSION,
    MAX_SHARDS,
    NO_ROWS,
    Rows,
    Shard,
    blocks,
    hash_table,
    layer_name,
    shard_path,
    stamp_of,
    statement,
)

#: Clips up to which a cache is a single file, and that a shard holds: 10 GB of wav2vec2-base.
SHARD_CLIPS = 250_000

#: Positions of some rows in the clip table, and from pooling and layer to their values.
RowSource = tuple[NDArray[np.intp], Callable[[str, str], NDArray[Any]]]


def write_cache(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
    sources: Iterable[RowSource],
) -> None:
    """Write a cache as one file, whole, or not at all: under another name, synced, then renamed.

    The embeddings are laid out first and then filled in place from one source after another, so
    that memory does not grow with the number of clips.

    Parameters
    ----------
    path : Path
        The file to put in place.
    key, provenance : mapping
        JSON values.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table by column.
    sources : iterable of (ndarray of int, callable)
        Positions in the table, and a function from pooling and layer to their rows, shape
        (n_positions, width). Together they fill every row.

    Raises
    ------
    MachineError
        If the disk does not take it.
    """
    with _whole_or_not(path, [path]):
        _write_files([path], [np.arange(len(clips["sha256"]))], key, provenance, clips, sources)
        put_in_place(_unfinished(path), path)


def write_shards(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
    sources: Iterable[RowSource],
    shard_clips: int,
    kept: tuple[Cache, NDArray[np.intp]] | None = None,
) -> None:
    """Write shards for the clips that have no row yet, then the index of all of them.

    The index is put in place last: until then, what stands at ``path`` is valid, because none of
    the shards that it names is touched, and new ones have higher numbers.

    Parameters
    ----------
    path : Path
        The index to put in place; shards lie in the folder ``path`` with ``.shards`` added.
    key, provenance, clips
        As :func:`write_cache` takes them.
    sources
        The same, for the clips that have no row yet.
    shard_clips : int
        Clips in a shard.
    kept : (Cache, ndarray of int, shape (n_clips,)), optional
        The index whose shards stay, and which of its clips each clip is; -1 for a new one.

    Raises
    ------
    UserError
        If there would be too many shards.
    MachineError
        If the disk does not take it.
    """
    n_clips = len(clips["sha256"])
    in_place = _numbers_in_place(path)
    before, old = (kept[0].places, kept[1]) if kept else (NO_ROWS, np.full(n_clips, -1))
    new = np.flatnonzero(old < 0)
    members = [new[start : start + shard_clips] for start in range(0, len(new), shard_clips)]
    first = max(in_place, default=-1) + 1
    if first + len(members) > MAX_SHARDS:
        raise UserError(
            f"--shard-clips {shard_clips}: {len(members)} new shards beside {first}; expected at "
            f"most {MAX_SHARDS} in all; let each hold more"
        )
    paths = [shard_path(path, first + n) for n in range(len(members))]
    with _whole_or_not(path, [*paths, path]):
        shard_path(path, 0).parent.mkdir(exist_ok=True)
        _write_files(paths, members, key, provenance, clips, sources)
        for shard in paths:
            put_in_place(_unfinished(shard), shard)
        added = [
            Shard(shard, first + n, len(rows), stamp_of(shard))
            for n, (shard, rows) in enumerate(zip(paths, members, strict=True))
        ]
        shard_of, row_of = np.empty(n_clips, np.intp), np.empty(n_clips, np.intp)
        stay = np.flatnonzero(old >= 0)
        shard_of[stay], row_of[stay] = before.shard_of[old[stay]], before.row_of[old[stay]]
        shard_of[new] = len(before.shards) + np.arange(len(new)) // shard_clips
        row_of[new] = np.arange(len(new)) % shard_clips
        rows = Rows((*before.shards, *added), shard_of, row_of)
        _write_index(_unfinished(path), key, provenance, clips, rows)
        put_in_place(_unfinished(path), path)


def remove_unused_shards(cache: Cache) -> None:
    """Remove the shards beside a cache that it does not name: of an earlier one, or unfinished."""
    folder = shard_path(cache.path, 0).parent
    named = {shard.path.name for shard in cache.shards}
    with suppress(OSError):  # nothing that is needed depends on it
        for file in folder.iterdir():
            if re.fullmatch(r"\d{6}\.h5(\.unfinished)?", file.name) and file.name not in named:
                file.unlink()
        if not named:
            folder.rmdir()


def _write_files(
    paths: Sequence[Path],
    members: Sequence[NDArray[np.intp]],
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
    sources: Iterable[RowSource],
) -> None:
    """Write, under other names, the files that hold the rows of some clips each, in one pass."""
    file_of, row_of = np.full(len(clips["sha256"]), -1), np.full(len(clips["sha256"]), -1)
    offsets = []
    for number, (path, rows) in enumerate(zip(paths, members, strict=True)):
        file_of[rows], row_of[rows] = number, np.arange(len(rows))
        table = {name: column[rows] for name, column in clips.items()}
        offsets.append(_lay_out(_unfinished(path), key, provenance, table))
    written = np.zeros(len(file_of), bool)
    for positions, values_of in sources:
        written[positions] = True
        parts = [(n, file_of[positions] == n) for n in np.unique(file_of[positions]).tolist()]
        for name in ((pooling, layer) for pooling in key["poolings"] for layer in key["layers"]):
            values = values_of(*name)
            for number, mine in parts:
                shape = (len(members[number]), int(key["width"]))
                mapped = np.memmap(
                    _unfinished(paths[number]), key["dtype"], "r+", offsets[number][name], shape
                )
                mapped[row_of[positions[mine]]] = values[mine]
    lost = np.flatnonzero((file_of >= 0) & ~written)
    if len(lost):
        raise MachineError(
            f"{paths[0]}: the embeddings of {len(lost)} clips are missing, the first in row "
            f"{lost[0]}; run the same command again: what was computed is kept"
        )
    for path in paths:
        with h5py.File(_unfinished(path), "r+") as file:
            for pooling, layer in ((p, name) for p in key["poolings"] for name in key["layers"]):
                dataset, digest = file[layer_name(pooling, layer)], hashlib.sha256()
                for _, block in blocks(dataset):
                    digest.update(block.tobytes())
                dataset.attrs.modify("sha256", digest.hexdigest())


def _lay_out(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
) -> dict[tuple[str, str], int]:
    """Write all but the embeddings, and return where in the file those go, in bytes."""
    offsets = {}
    with h5py.File(path, "w") as file:
        _write_head(file, FORMAT_VERSION, key, provenance, clips)
        shape = (len(clips["sha256"]), int(key["width"]))
        for pooling in key["poolings"]:
            for layer in key["layers"]:
                # Allocated at once, as zeros: a full disk shows here, not as a lost page later.
                dataset = file.create_dataset(
                    layer_name(pooling, layer), shape, key["dtype"], data=None, fillvalue=0
                )
                for start in range(0, shape[0], BLOCK_ROWS):
                    stop = min(start + BLOCK_ROWS, shape[0])
                    dataset[start:stop] = np.zeros((stop - start, shape[1]), key["dtype"])
                dataset.attrs["sha256"] = "0" * 64  # room for the checksum
                offsets[pooling, layer] = int(dataset.id.get_offset())
    return offsets


def _write_index(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
    rows: Rows,
) -> None:
    """Write the index of the shards in which some clip has its row."""
    used = np.unique(rows.shard_of).tolist()
    shards = [rows.shards[place] for place in used]
    numbers = np.array([shard.number for shard in rows.shards], np.int32)
    stated = []
    for shard in shards:
        with h5py.File(shard.path, "r") as file:
            stated.append(statement(file))
    with h5py.File(path, "w") as file:
        _write_head(file, INDEX_VERSION, key, provenance, clips)
        file.create_dataset("rows/shard", data=numbers[rows.shard_of])
        file.create_dataset("rows/row", data=rows.row_of.astype(np.int64))
        file.create_dataset("shards/number", data=numbers[used])
        file.create_dataset("shards/sha256", data=stated, dtype=h5py.string_dtype())
        for pooling in key["poolings"]:
            for layer in key["layers"]:
                group = file.create_group(layer_name(pooling, layer))
                group.attrs["sha256"] = rows.checksum(key, pooling, layer)


def _write_head(
    file: h5py.File,
    version: int,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
) -> None:
    """Write what a file and an index have alike."""
    file.attrs["serpipe_cache"] = version
    file.attrs["key"] = json.dumps(key)
    file.attrs["provenance"] = json.dumps(provenance)
    file.attrs["clips_sha256"] = hash_table(clips)
    for name, column in clips.items():
        if column.dtype.kind == "U":
            text = column.astype(object)
            file.create_dataset(f"clips/{name}", data=text, dtype=h5py.string_dtype())
        else:
            file.create_dataset(f"clips/{name}", data=column)


def _numbers_in_place(path: Path) -> set[int]:
    """Return the numbers of the shards that an index names, even if it is not whole."""
    try:
        with h5py.File(path, "r") as file:
            return {int(number) for number in file["shards/number"][:]}
    except DAMAGED:
        return set()


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".unfinished")


@contextmanager
def _whole_or_not(path: Path, files: Sequence[Path]) -> Iterator[None]:
    """Leave nothing of the files of a cache if the disk does not take them."""
    try:
        yield
    except (OSError, RuntimeError, MachineError) as error:  # h5py raises the first two
        named = {path, *(shard_path(path, number) for number in _numbers_in_place(path))}
        for file in files:
            with suppress(OSError):
                _unfinished(file).unlink(missing_ok=True)
                if file not in named:
                    file.unlink(missing_ok=True)
        if isinstance(error, MachineError):
            raise
        raise MachineError(
            f"{path}: cannot be written ({first_line(error)}); expected room for the "
            "cache; make room and run the same command again: what is computed is kept"
        ) from error
