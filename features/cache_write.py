"""Write a cache whole or not at all: one file, or shards and then the index that names them.

HDF5 never writes to the disk here: when a disk is full, it cannot close its open file, and ends the
process with a segmentation fault. So it lays out a file in memory, without the embeddings
(:mod:`.memory_file`), and plain writes bring both to the disk.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError, UserError, counted, first_line
from ..files import create_file, open_file, put_in_place, unfinished, write_all
from .cache import Cache
from .cache_child import read_numbers
from .cache_rows import (
    EMPTY_ROW_MAP,
    FORMAT_VERSION,
    INDEX_VERSION,
    MAX_SHARDS,
    RowMap,
    Shard,
    StoredLayer,
    hash_table,
    hash_texts,
    layer_name,
    shard_path,
    stamp_of,
    statement,
)
from .memory_file import MemoryFile
from .recordings import Table

#: Clips up to which a cache is a single file, and clips of a shard: 10 GB of wav2vec2-base.
SHARD_CLIPS = 250_000

#: Indices of some rows of the clip table, and a function from pooling and layer to their values.
RowSource = tuple[NDArray[np.intp], Callable[[str, str], NDArray[Any]]]


@dataclass(frozen=True)
class _Content:
    """All of a cache but its embeddings; key and provenance are JSON values."""

    key: Mapping[str, Any]
    provenance: Mapping[str, Any]
    clips: Table

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips["sha256"])


def write_cache(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Table,
    sources: Iterable[RowSource],
) -> None:
    """Write a cache as one file, whole or not at all: under another name, synced, then renamed.

    The embeddings are laid out first and then filled in place from one source after another, so
    that memory does not grow with the number of clips. Together the sources fill every row. Raise
    MachineError if the file cannot be written.
    """
    content = _Content(key, provenance, clips)
    with _whole_or_not(path, [path]):
        _write_files([path], [np.arange(len(content))], content, sources)
        put_in_place(unfinished(path), path)


def write_shards(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Table,
    sources: Iterable[RowSource],
    shard_clips: int,
    kept: tuple[Cache, NDArray[np.intp]] | None = None,
) -> None:
    """Write shards for the clips that have no row yet, then the index of all shards.

    The index is put in place last: until then, the old index stays valid, because its shards are
    not touched, and new ones have higher numbers.

    The shards are in the folder ``path`` with ``.shards`` added, ``shard_clips`` clips in each.
    ``sources`` fill the rows of the new clips. ``kept`` is the index whose shards stay, and the row
    of each clip in it, -1 for a new clip. Raise UserError if there would be too many shards, and
    MachineError if a file cannot be written.
    """
    content = _Content(key, provenance, clips)
    n_clips = len(content)
    in_place = read_numbers(path)
    before, old = (kept[0].row_map, kept[1]) if kept else (EMPTY_ROW_MAP, np.full(n_clips, -1))
    new = np.flatnonzero(old < 0)
    members = [new[start : start + shard_clips] for start in range(0, len(new), shard_clips)]
    first = max(in_place, default=-1) + 1
    if first + len(members) > MAX_SHARDS:
        raise UserError(
            f"--shard-clips {shard_clips}: {len(members)} new shards beside {first}, but at most "
            f"{MAX_SHARDS} are allowed; choose a larger number"
        )
    paths = [shard_path(path, first + n) for n in range(len(members))]
    with _whole_or_not(path, [*paths, path]):
        shard_path(path, 0).parent.mkdir(exist_ok=True)
        written = _write_files(paths, members, content, sources, first)
        for shard in paths:
            put_in_place(unfinished(shard), shard)
        added = [replace(shard, stamp=stamp_of(shard.path)) for shard in written]
        shard_of, row_of = np.empty(n_clips, np.intp), np.empty(n_clips, np.intp)
        stay = np.flatnonzero(old >= 0)
        shard_of[stay], row_of[stay] = before.shard_of[old[stay]], before.row_of[old[stay]]
        shard_of[new] = len(before.shards) + np.arange(len(new)) // shard_clips
        row_of[new] = np.arange(len(new)) % shard_clips
        rows = RowMap((*before.shards, *added), shard_of, row_of)
        _write_index(path, content, rows)
        put_in_place(unfinished(path), path)


def remove_unused_shards(cache: Cache) -> None:
    """Remove shards that a cache does not name: of an earlier one, or unfinished."""
    folder = shard_path(cache.path, 0).parent
    named = {shard.path.name for shard in cache.shards}
    with suppress(OSError):  # nothing depends on it
        for file in folder.iterdir():
            if re.fullmatch(r"\d{6}\.h5(\.unfinished)?", file.name) and file.name not in named:
                file.unlink()
        if not named:
            folder.rmdir()


@dataclass(frozen=True)
class _Unfinished:
    """A file that holds rows, while it is being written."""

    #: Its final name.
    path: Path
    #: All of it but the embeddings.
    layout: MemoryFile
    #: Where the rows of each ``POOLING/LAYER`` begin, in bytes.
    offsets: Mapping[str, int]
    n_rows: int
    width: int
    dtype: str
    clips_sha256: str

    def write_rows(self, name: str, rows: NDArray[np.intp], values: NDArray[Any]) -> None:
        """Write some rows of one ``POOLING/LAYER``."""
        order = np.argsort(rows)
        rows, values = rows[order], values[order].astype(self.dtype, copy=False)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of rows without a gap
        with open_file(unfinished(self.path)) as file:
            for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
                file.seek(self.offsets[name] + int(rows[start]) * values[start].nbytes)
                write_all(file, values[start:stop].data)

    def finish(self, key: Mapping[str, Any], number: int) -> Shard:
        """Add checksums and everything but the rows, and return the finished shard."""
        shard = Shard(
            path=unfinished(self.path),
            number=number,
            n_rows=self.n_rows,
            stamp=(),
            width=self.width,
            dtype=self.dtype,
            layers={name: StoredLayer(offset, "") for name, offset in self.offsets.items()},
            statement="",
        )
        layers = {}
        for name, offset in self.offsets.items():
            digest = hashlib.sha256()
            for _, block in shard.blocks(*name.split("/")):
                digest.update(block.tobytes())
            layers[name] = StoredLayer(offset, digest.hexdigest())
        with h5py.File(self.layout, "r+") as hdf5:
            for name, layer in layers.items():
                hdf5[layer_name(*name.split("/"))].attrs.modify("sha256", layer.sha256)
        size = self.n_rows * self.width * np.dtype(self.dtype).itemsize
        with open_file(unfinished(self.path)) as file:
            _write_layout(file, self.layout, [(offset, size) for offset in self.offsets.values()])
        return replace(
            shard,
            path=self.path,
            layers=layers,
            statement=statement(key, self.clips_sha256, layers),
        )


def _write_files(
    paths: Sequence[Path],
    members: Sequence[NDArray[np.intp]],
    content: _Content,
    sources: Iterable[RowSource],
    first: int = 0,
) -> list[Shard]:
    """Write unfinished files, each with the rows of some clips, in one pass.

    Return them with their final names, numbered from ``first``, without stamps.
    """
    key, clips = content.key, content.clips
    file_of, row_of = np.full(len(content), -1), np.full(len(content), -1)
    files = []
    for number, (path, rows) in enumerate(zip(paths, members, strict=True)):
        file_of[rows], row_of[rows] = number, np.arange(len(rows))
        table = {name: column[rows] for name, column in clips.items()}
        files.append(_lay_out(path, replace(content, clips=table)))
    written = np.zeros(len(file_of), bool)
    for targets, values_of in sources:
        written[targets] = True
        parts = [(n, file_of[targets] == n) for n in np.unique(file_of[targets]).tolist()]
        for pooling, layer in ((p, name) for p in key["poolings"] for name in key["layers"]):
            values = values_of(pooling, layer)
            for number, mine in parts:
                rows = row_of[targets[mine]]
                files[number].write_rows(f"{pooling}/{layer}", rows, values[mine])
    lost = np.flatnonzero((file_of >= 0) & ~written)
    if len(lost):
        raise MachineError(
            f"{paths[0]}: the embeddings of {counted(len(lost), 'clip')} are missing, the first in "
            f"row {lost[0]}; run the same command again: what was computed is kept"
        )
    return [file.finish(key, first + number) for number, file in enumerate(files)]


def _lay_out(path: Path, content: _Content) -> _Unfinished:
    """Lay out a file in memory, and create it on the disk without content."""
    layout, offsets, key = MemoryFile(), {}, content.key
    shape, dtype = (len(content), int(key["width"])), np.dtype(key["dtype"])
    # Space is reserved at once, but nothing is written to it.
    reserved = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    reserved.set_layout(h5py.h5d.CONTIGUOUS)
    reserved.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    reserved.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    reserved.set_obj_track_times(False)  # the same command gives the same bytes
    with h5py.File(layout, "w") as file:
        _write_head(file, FORMAT_VERSION, content)
        for pooling in key["poolings"]:
            group = file.require_group(f"embeddings/{pooling}")
            for layer in key["layers"]:
                numbers = h5py.h5t.py_create(dtype, logical=True)
                space = h5py.h5s.create_simple(shape)
                created = h5py.h5d.create(group.id, layer.encode(), numbers, space, reserved)
                h5py.Dataset(created).attrs["sha256"] = "0" * 64  # room for the checksum
                offsets[f"{pooling}/{layer}"] = int(created.get_offset())
        clips_sha256 = str(file.attrs["clips_sha256"])
    with create_file(unfinished(path)) as empty:
        empty.truncate(layout.size)
    return _Unfinished(path, layout, offsets, *shape, dtype.name, clips_sha256)


def _write_layout(file: BinaryIO, layout: MemoryFile, gaps: Iterable[tuple[int, int]] = ()) -> None:
    """Write the layout in memory, except for some gaps: offsets and lengths in bytes."""
    for offset, piece in layout.pieces(gaps):
        file.seek(offset)
        write_all(file, piece)


def _write_index(path: Path, content: _Content, rows: RowMap) -> None:
    """Write an unfinished index of the shards that hold the row of any clip."""
    key = content.key
    used = np.unique(rows.shard_of).tolist()
    shards = [rows.shards[index] for index in used]
    numbers = np.array([shard.number for shard in rows.shards], np.int32)
    stated = [shard.statement for shard in shards]
    layout = MemoryFile()
    with h5py.File(layout, "w") as file:
        _write_head(file, INDEX_VERSION, content)
        file.create_dataset("rows/shard", data=numbers[rows.shard_of])
        file.create_dataset("rows/row", data=rows.row_of.astype(np.int64))
        file.create_dataset("shards/number", data=numbers[used])
        file.create_dataset("shards/sha256", data=stated, dtype=h5py.string_dtype())
        for pooling in key["poolings"]:
            for layer in key["layers"]:
                group = file.create_group(layer_name(pooling, layer))
                group.attrs["sha256"] = rows.checksum(key, pooling, layer)
    with create_file(unfinished(path)) as file_on_disk:
        _write_layout(file_on_disk, layout)


def _write_head(file: h5py.File, version: int, content: _Content) -> None:
    """Write what a file and an index have in common."""
    file.attrs["serpipe_cache"] = version
    texts = json.dumps(content.key), json.dumps(content.provenance)
    file.attrs["key"], file.attrs["provenance"] = texts
    file.attrs["about_sha256"] = hash_texts(*texts)
    file.attrs["clips_sha256"] = hash_table(content.clips)
    for name, column in content.clips.items():
        if column.dtype.kind == "U":
            text = column.astype(object)
            file.create_dataset(f"clips/{name}", data=text, dtype=h5py.string_dtype())
        else:
            file.create_dataset(f"clips/{name}", data=column)


@contextmanager
def _whole_or_not(path: Path, files: Sequence[Path]) -> Iterator[None]:
    """Leave no file of a cache behind if they cannot be written."""
    try:
        yield
    except (OSError, RuntimeError, MachineError) as error:  # h5py raises the first two
        named = {path, *(shard_path(path, number) for number in read_numbers(path))}
        for file in files:
            with suppress(OSError):
                unfinished(file).unlink(missing_ok=True)
                if file not in named:
                    file.unlink(missing_ok=True)
        if isinstance(error, MachineError):
            raise
        raise MachineError(
            f"{path}: cannot be written ({first_line(error)}); free disk space and run the same "
            "command again: what is computed is kept"
        ) from error
