"""The cache of embeddings, readable with h5py alone: one HDF5 file, or shards under one index.

============================== ================ ==================================================
in the file                    shape            what it is
============================== ================ ==================================================
``embeddings/POOLING/LAYER``   (n_clips, width) a row per clip; attribute ``sha256``: its checksum
``clips/COLUMN``               (n_clips,)       the clip table, in the same order
attribute ``clips_sha256``     text             checksum of the clip table
attribute ``key``              JSON             all that the numbers depend on
attribute ``provenance``       JSON             corpus, command, versions, machine
============================== ================ ==================================================

An index has the same table and attributes; its ``embeddings/POOLING/LAYER`` are empty groups with
the checksum that the layer would have in one file. The rows lie in the shards, which are
``FILE.shards/000000.h5`` and so on, each a cache of its own:

============================== ================ ==================================================
in an index                    shape            what it is
============================== ================ ==================================================
``rows/shard``                 (n_clips,)       number of the shard that holds the clip's row
``rows/row``                   (n_clips,)       which row of the shard it is
``shards/number``              (n_shards,)      the numbers of the shards
``shards/sha256``              (n_shards,)      what each states of its content, as one checksum
============================== ================ ==================================================

The labels of an index hold; those in a shard are those of the day on which it was written.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, first_line
from .cache_rows import (
    DAMAGED,
    FORMAT_VERSION,
    INDEX_VERSION,
    NO_ROWS,
    Rows,
    Shard,
    blocks,
    check_contained,
    hash_table,
    layer_name,
    one_file,
    read_column,
    read_index,
    row_counts,
    stamp_of,
)
from .names import FINAL_NORM, POOLINGS

#: Columns without which nothing can be fitted. Others may be there.
REQUIRED_COLUMNS = frozenset(
    {"path", "name", "corpus", "speaker", "sex", "emotion", "sha256", "seconds"}
)

Table = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Cache:
    """An opened cache: the clip table in memory, the embeddings in its file or shards.

    Attributes
    ----------
    path : Path
        The file, or the index.
    key : mapping
        All that the numbers depend on.
    provenance : mapping
        Corpus, command, versions, machine.
    clips : dict of str to ndarray, shape (n_clips,)
        The clip table by column.
    places : Rows
        Where the row of each clip lies.
    """

    path: Path
    key: Mapping[str, Any]
    provenance: Mapping[str, Any]
    clips: Table
    _stamp: tuple[int, ...]
    places: Rows = NO_ROWS

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order."""
        return tuple(self.key["layers"])

    @property
    def poolings(self) -> tuple[str, ...]:
        """Names of the poolings."""
        return tuple(self.key["poolings"])

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files that hold the rows of an index; none if the file holds them itself."""
        return tuple(shard for shard in self.places.shards if shard.path != self.path)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips["sha256"])

    def embeddings(self, layer: str, pooling: str = "mean") -> NDArray[np.float32]:
        """Read one layer of all clips.

        Parameters
        ----------
        layer : str
            ``"0"`` .. ``"L"`` or ``"final_norm"``.
        pooling : str
            ``"mean"`` or ``"std"``; joined by commas, they stand side by side.

        Returns
        -------
        ndarray of float32, shape (n_clips, width * n_poolings)

        Raises
        ------
        UserError
            If the file was written anew meanwhile, or its numbers do not have their checksum.
        """
        self._check_unchanged()
        poolings = pooling.split(",")
        width = int(self.key["width"])
        found = np.empty((len(self), width * len(poolings)), np.float32)
        for place, shard in enumerate(self.places.shards):
            clips = np.flatnonzero(self.places.shard_of == place)
            clip_of = np.full(shard.n_rows, -1)  # of a row that no clip has any more
            clip_of[self.places.row_of[clips]] = clips
            with h5py.File(shard.path, "r") as file:
                for n, part in enumerate(poolings):
                    dataset, digest = file[layer_name(part, layer)], hashlib.sha256()
                    for start, block in blocks(dataset):
                        digest.update(block.tobytes())
                        targets = clip_of[start : start + len(block)]
                        wanted = targets >= 0
                        found[targets[wanted], n * width : (n + 1) * width] = block[wanted]
                    if dataset.attrs.get("sha256") != digest.hexdigest():
                        raise UserError(
                            f"{shard.path}: layer {layer} does not have its checksum; expected a "
                            "file as it was written; make it again with `serpipe extract "
                            "--overwrite`"
                        )
        return found

    def checksums(self) -> dict[str, str]:
        """Return the checksum of each ``POOLING/LAYER``, as the file gives it."""
        self._check_unchanged()
        with h5py.File(self.path, "r") as file:
            return {
                f"{pooling}/{layer}": str(file[layer_name(pooling, layer)].attrs.get("sha256"))
                for pooling in self.poolings
                for layer in self.layers
            }

    def rows(self, pooling: str, layer: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Read some rows of one layer, as they are stored, and no others."""
        self._check_unchanged()
        return self.places[rows].read(self.key, pooling, layer)

    def _check_unchanged(self) -> None:
        """Refuse to read rows that may no longer be those of the clip table in memory."""
        files = [(self.path, self._stamp), *((shard.path, shard.stamp) for shard in self.shards)]
        for path, stamp in files:
            if stamp_of(path) != stamp:
                raise UserError(
                    f"{path}: has been written anew since it was opened; expected it to stay; "
                    "run the same command again"
                )


def open_cache(path: Path) -> Cache:
    """Open a cache and check that it is whole.

    Parameters
    ----------
    path : Path
        A file written by ``serpipe extract``.

    Returns
    -------
    Cache

    Raises
    ------
    UserError
        If the file is not there, is no HDF5 file or no cache, or lacks rows; or if a shard is not
        there, or is not the one that the index was made with.
    """
    fix = "make one with `serpipe extract`, or name another"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a cache of embeddings; {fix}")
    try:
        with h5py.File(path, "r") as file:
            check_contained(file)
            version = file.attrs.get("serpipe_cache")
            if version not in (FORMAT_VERSION, INDEX_VERSION):
                raise UserError(
                    f"{path}: cache format {version}; expected {FORMAT_VERSION} or "
                    f"{INDEX_VERSION}, those of this serpipe; {fix}"
                )
            stamp = stamp_of(path)
            key = json.loads(file.attrs["key"])
            provenance = json.loads(file.attrs["provenance"])
            _check_names(key, provenance, set(file["clips"]))
            clips = {name: read_column(column) for name, column in file["clips"].items()}
            lengths = {len(column) for column in clips.values()}
            if version == FORMAT_VERSION:
                lengths |= row_counts(file, key)
            if len(lengths) != 1:
                raise UserError(f"{path}: columns of different lengths {sorted(lengths)}; {fix}")
            if version == FORMAT_VERSION:
                places = one_file(path, lengths.pop(), stamp)
            else:
                places = read_index(path, file, key, clips["sha256"])
    except DAMAGED as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a whole cache of embeddings ({reason}); {fix}") from None
    return Cache(path, key, provenance, clips, stamp, places)


def check_table(cache: Cache) -> None:
    """Check the clip table of a cache against its checksum.

    Parameters
    ----------
    cache : Cache
        An opened cache.

    Raises
    ------
    UserError
        If a label, a speaker or anything else in the table was changed.
    """
    with h5py.File(cache.path, "r") as file:
        stated = file.attrs.get("clips_sha256")
    if stated is not None and stated != hash_table(cache.clips):
        raise UserError(
            f"{cache.path}: the clip table does not have its checksum: it was damaged or changed; "
            "run `serpipe extract` again with --overwrite"
        )


def verify_cache(path: Path) -> list[str]:
    """Check every number of a cache against its checksum, and shards against their index.

    Parameters
    ----------
    path : Path
        A file written by ``serpipe extract``.

    Returns
    -------
    list of str
        What is wrong, one line each; empty if nothing is.

    Raises
    ------
    UserError
        If it is not even a whole cache.
    """
    cache = open_cache(path)
    wrong = []
    if len(set(zip(cache.clips["corpus"], cache.clips["name"], strict=True))) != len(cache):
        wrong.append("a clip stands twice in the table")
    with h5py.File(path, "r") as file:
        if file.attrs.get("clips_sha256") != hash_table(cache.clips):
            wrong.append("clips do not have their checksum: the table has been changed")
        if cache.shards:
            return wrong + _wrong_with_shards(cache)
        for pooling in cache.poolings:
            for layer in cache.layers:
                name = layer_name(pooling, layer)
                dataset = file[name]
                digest, finite, empty = hashlib.sha256(), True, 0
                for _, block in blocks(dataset):
                    digest.update(block.tobytes())
                    finite = finite and bool(np.isfinite(block).all())
                    empty += int((~block.any(axis=1)).sum())
                if not finite:
                    wrong.append(f"{name} holds values that are not finite numbers")
                if empty and pooling == "mean":  # the deviation of a single frame is zero
                    wrong.append(f"{name} holds {empty} rows of zeros, which nothing has written")
                if dataset.attrs.get("sha256") != digest.hexdigest():
                    wrong.append(f"{name} does not have its checksum: the file is damaged")
    return wrong


def _wrong_with_shards(cache: Cache) -> list[str]:
    """Check each shard as a cache of its own, then whether all of them are what the index says."""
    wrong = [f"{s.path}: {line}" for s in cache.shards for line in verify_cache(s.path)]
    if wrong:
        return wrong
    return [
        f"{layer_name(*name.split('/'))} does not have its checksum: the index is damaged"
        for name, stated in cache.checksums().items()
        if cache.places.checksum(cache.key, *name.split("/")) != stated
    ]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Name the first field in which two keys differ, with both values; ``None`` if none does."""
    for field in (*new, *(old.keys() - new.keys())):
        if old.get(field) != new.get(field):
            return f"{field} is {_short(old.get(field))} there and {_short(new.get(field))} here"
    return None


def _check_names(key: Any, provenance: Any, columns: set[str]) -> None:
    """Check what names things: a cache may come from elsewhere, and layers become file names."""
    if not isinstance(key, dict) or not isinstance(provenance, dict):
        raise ValueError("key or provenance is not a table")
    if not isinstance(key["width"], int):
        raise ValueError("width is no whole number")
    layers = [layer for layer in key["layers"] if layer != FINAL_NORM]
    if layers != [str(number) for number in range(len(layers))]:
        raise ValueError("layers are not 0, 1, 2, ...")
    if not key["poolings"] or not set(key["poolings"]) <= set(POOLINGS):
        raise ValueError(f"poolings are not among {', '.join(POOLINGS)}")
    missing = REQUIRED_COLUMNS - columns
    if missing:
        raise KeyError(f"no column {sorted(missing)[0]}")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + '..."'
