"""The cache of embeddings, readable with h5py alone: one HDF5 file, or shards under one index.

============================== ================ ==================================================
in the file                    shape            what it is
============================== ================ ==================================================
``embeddings/POOLING/LAYER``   (n_clips, width) a row per clip; attribute ``sha256``: its checksum
``clips/COLUMN``               (n_clips,)       the clip table, in the same order
attribute ``clips_sha256``     text             checksum of the clip table
attribute ``key``              JSON             all that the numbers depend on
attribute ``provenance``       JSON             corpus, command, versions, machine
attribute ``about_sha256``     text             checksum of the texts of key and provenance
============================== ================ ==================================================

An index has the same table and attributes; its ``embeddings/POOLING/LAYER`` are empty groups with
the checksum that the layer would have in one file. The rows are in the shards,
``FILE.shards/000000.h5`` and so on, each a cache of its own:

============================== ================ ==================================================
in an index                    shape            what it is
============================== ================ ==================================================
``rows/shard``                 (n_clips,)       number of the shard that holds the clip's row
``rows/row``                   (n_clips,)       which row of the shard it is
``shards/number``              (n_shards,)      the numbers of the shards
``shards/sha256``              (n_shards,)      what each states of its content, as one checksum
============================== ================ ==================================================

The labels of the index are valid; those in a shard are as old as the shard.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..display import Displayed, ShortTable
from ..errors import UserError, counted
from .cache_child import read_contents
from .cache_rows import (
    EMPTY_ROW_MAP,
    RowMap,
    Shard,
    StoredLayer,
    hash_table,
    layer_name,
    row_map_of_file,
    stamp_of,
)
from .cache_schema import REQUIRED_COLUMNS as REQUIRED_COLUMNS
from .names import ENGINE_ERROR
from .recordings import Table


@dataclass(frozen=True, repr=False)
class Cache(Displayed):
    """An open cache: the clip table in memory, the embeddings in its file or shards."""

    #: The file, or the index.
    path: Path
    #: All that the numbers depend on.
    key: Mapping[str, Any]
    #: Corpus, command, versions, machine.
    provenance: Mapping[str, Any]
    clips: Table
    _stamp: tuple[int, ...]
    #: Where the row of each clip is stored.
    row_map: RowMap = EMPTY_ROW_MAP
    #: The checksum of the clip table that the file states; caches of early versions lack it.
    clips_sha256: str | None = None
    _checksums: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
        """The files that hold the rows of an index; empty for a single file."""
        return tuple(shard for shard in self.row_map.shards if shard.path != self.path)

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips["sha256"])

    def short_table(self) -> ShortTable:
        """Return the layers, with the poolings and the number of features of each."""
        rows = []
        for layer in self.layers:
            poolings = ",".join(self.poolings_of(layer, ",".join(self.poolings)))
            rows.append((layer, poolings, str(self.n_features(layer, poolings))))
        title = f"{self.path}: {counted(len(self), 'clip')}, {self.key['encoder']}"
        return ShortTable(title, ("layer", "pooling", "features"), rows)

    def embeddings(self, layer: str, pooling: str = "mean") -> NDArray[np.float32]:
        """Read one layer of all clips: float32, shape (n_clips, width * n_poolings).

        ``layer`` is ``"0"`` .. ``"L"`` or ``"final_norm"``; ``pooling`` is ``"mean"`` or ``"std"``;
        several, joined by commas, are concatenated. Raise UserError if the file was rewritten
        meanwhile, or the checksum of its numbers is wrong.
        """
        self._check_unchanged()
        poolings = pooling.split(",")
        width = int(self.key["width"])
        values = np.empty((len(self), width * len(poolings)), np.float32)
        for index, shard in enumerate(self.row_map.shards):
            clips = np.flatnonzero(self.row_map.shard_of == index)
            clip_of = np.full(shard.n_rows, -1)  # a row that no clip has any more
            clip_of[self.row_map.row_of[clips]] = clips
            for n, part in enumerate(poolings):
                digest = hashlib.sha256()
                for start, block in shard.blocks(part, layer):
                    digest.update(block.tobytes())
                    targets = clip_of[start : start + len(block)]
                    wanted = targets >= 0
                    values[targets[wanted], n * width : (n + 1) * width] = block[wanted]
                if shard.layers[f"{part}/{layer}"].sha256 != digest.hexdigest():
                    raise UserError(
                        f"{shard.path}: layer {layer} does not have its checksum: the file is "
                        "damaged; make it again with `serpipe extract --overwrite`"
                    )
        return values

    def poolings_of(self, layer: str, pooling: str) -> list[str]:
        """Return the poolings of a layer among some, joined by commas: all of them."""
        return pooling.split(",")

    def n_features(self, layer: str, pooling: str) -> int:
        """Return the number of features of a layer with some poolings, joined by commas."""
        return int(self.key["width"]) * len(self.poolings_of(layer, pooling))

    def checksums(self) -> dict[str, str]:
        """Return the checksum of each ``POOLING/LAYER`` that the file states."""
        return dict(self._checksums)

    def read_rows(self, pooling: str, layer: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return some rows of one layer, as they are stored, and read no others."""
        self._check_unchanged()
        return self.row_map[rows].read(self.key, pooling, layer)

    def _check_unchanged(self) -> None:
        """Refuse to read rows that may no longer match the clip table in memory."""
        files = [(self.path, self._stamp), *((shard.path, shard.stamp) for shard in self.shards)]
        for path, stamp in files:
            if stamp_of(path) != stamp:
                raise UserError(
                    f"{path}: was rewritten after it was opened; run the same command again"
                )


def open_cache(path: Path) -> Cache:
    """Open a cache that ``serpipe extract`` wrote, a file or an index, and check that it is whole.

    Raise UserError if the file does not exist, is no HDF5 file or no cache, or lacks rows; or if a
    shard is missing, or is not the one that the index was made with.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; make a cache with `serpipe extract`, or name another"
        )
    content, arrays = read_contents(path)
    key = content["key"]
    shards = tuple(
        Shard(
            path=Path(shard["path"]),
            number=shard["number"],
            n_rows=shard["n_rows"],
            stamp=tuple(shard["stamp"]),
            width=key["width"],
            dtype=key["dtype"],
            layers={name: StoredLayer(*layer) for name, layer in shard["layers"].items()},
            statement=shard["statement"],
        )
        for shard in content["shards"]
    )
    if "rows/shard" in arrays:
        row_map = RowMap(shards, arrays["rows/shard"], arrays["rows/row"])
    else:
        row_map = row_map_of_file(shards[0])
    return Cache(
        path=path,
        key=key,
        provenance=content["provenance"],
        clips={
            name.removeprefix("clips/"): column
            for name, column in arrays.items()
            if name.startswith("clips/")
        },
        _stamp=tuple(content["stamp"]),
        row_map=row_map,
        clips_sha256=content["clips_sha256"],
        _checksums=content["sha256"],
    )


def check_table(cache: Cache) -> None:
    """Raise UserError if the clip table of a cache does not have its checksum."""
    if cache.clips_sha256 is not None and cache.clips_sha256 != hash_table(cache.clips):
        raise UserError(
            f"{cache.path}: the clip table does not have its checksum: it was damaged or changed; "
            "run `serpipe extract` again with --overwrite"
        )


def verify_cache(path: Path) -> list[str]:
    """Return what is wrong with a cache, one line each, by all checksums of its files and index.

    Raise UserError if it is not even a complete cache.
    """
    return wrong_with(open_cache(path))


def wrong_with(cache: Cache) -> list[str]:
    """Return what is wrong with an open cache, one line each, as :func:`verify_cache` does."""
    wrong = []
    if len(set(zip(cache.clips["corpus"], cache.clips["name"], strict=True))) != len(cache):
        wrong.append("a clip occurs twice in the table")
    if cache.clips_sha256 != hash_table(cache.clips):
        wrong.append("clips do not have their checksum: the table has been changed")
    if cache.shards:
        return wrong + _wrong_with_shards(cache)
    cache._check_unchanged()
    for shard in cache.row_map.shards:
        wrong.extend(_wrong_with_layers(shard))
    return wrong


def _wrong_with_layers(shard: Shard) -> Iterator[str]:
    """Check each layer of a file."""
    for name, stored in shard.layers.items():
        pooling, layer = name.split("/")
        digest, finite, empty = hashlib.sha256(), True, 0
        for _, block in shard.blocks(pooling, layer):
            digest.update(block.tobytes())
            finite = finite and bool(np.isfinite(block).all())
            empty += int((~block.any(axis=1)).sum())
        name = layer_name(pooling, layer)
        if not finite:
            yield f"{name} holds values that are not finite numbers"
        if empty and pooling == "mean":  # the deviation of a single frame is zero
            yield f"{name} holds {counted(empty, 'row')} of zeros, which were never written"
        if stored.sha256 != digest.hexdigest():
            yield f"{name} does not have its checksum: the file is damaged"


def _wrong_with_shards(cache: Cache) -> list[str]:
    """Check each shard as a cache of its own, then all shards against the index."""
    wrong = [f"{s.path}: {line}" for s in cache.shards for line in verify_cache(s.path)]
    if wrong:
        return wrong
    return [
        f"{layer_name(*name.split('/'))} does not have its checksum: the index is damaged"
        for name, stated in cache.checksums().items()
        if cache.row_map.checksum(cache.key, *name.split("/")) != stated
    ]


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Name the first field in which two keys differ, with both values; ``None`` if none does.

    The error of an engine is not compared: it is measured over the requested poolings, and its
    digits depend on the processor.
    """
    for field in (*new, *(each for each in old if each not in new)):
        if field != ENGINE_ERROR and old.get(field) != new.get(field):
            return f"{field} is {_short(old.get(field))} there and {_short(new.get(field))} here"
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + '..."'
