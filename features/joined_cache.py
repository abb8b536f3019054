"""Several caches of the same clips as one, with the layers of all their encoders."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, counted
from .cache import Cache
from .names import POOLINGS
from .recordings import Table
from .training_record import COLUMN

#: Between the names of encoders; none contains it.
SEPARATOR = " + "
#: Columns that must be the same in all caches, where they have them.
_SAME_COLUMNS = ("speaker", "emotion")


#: What encoders must have in common to predict the same recordings.
_AUDIO = ("sampling_rate", "channels", "trim_decibels")


def takes_one_audio(key: Mapping[str, Any]) -> bool:
    """Whether all encoders of a key take the same samples, so that one bundle can hold them."""
    parts = key.get("joined", [key])
    return all(part.get(name) == parts[0].get(name) for part in parts for name in _AUDIO)


@dataclass(frozen=True, repr=False)
class JoinedCache(Cache):
    """The clips that several caches have in common.

    A layer is called ``ENCODER:LAYER``, and has those poolings that its cache has. The clip table
    is that of the first cache.
    """

    parts: tuple[Cache, ...] = ()
    #: For each part, the row number of every clip.
    rows: tuple[NDArray[np.intp], ...] = ()

    def embeddings(self, layer: str, pooling: str = "mean") -> NDArray[np.float32]:
        """Read one layer of all clips, as :meth:`Cache.embeddings` does."""
        part, rows, name = self._find(layer)
        own = self.poolings_of(layer, pooling)
        return part.embeddings(name, ",".join(own))[rows]

    def poolings_of(self, layer: str, pooling: str) -> list[str]:
        """Return those poolings that the cache of a layer has, as :meth:`Cache.poolings_of`."""
        part, _, _ = self._find(layer)
        own = [each for each in pooling.split(",") if each in part.poolings]
        if not own:
            raise UserError(
                f"--pool {pooling}: {part.path} holds {','.join(part.poolings)} pooling; add that, "
                "or omit --pool"
            )
        return own

    def n_features(self, layer: str, pooling: str) -> int:
        """Return the number of features of a layer, as :meth:`Cache.n_features` does."""
        part, _, name = self._find(layer)
        return part.n_features(name, ",".join(self.poolings_of(layer, pooling)))

    def read_rows(self, pooling: str, layer: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Return some rows of one layer, as :meth:`Cache.read_rows` does."""
        part, own, name = self._find(layer)
        return part.read_rows(pooling, name, own[rows])

    def _find(self, layer: str) -> tuple[Cache, NDArray[np.intp], str]:
        number = self.key["layers"].index(layer)
        for part, rows in zip(self.parts, self.rows, strict=True):
            if number < len(part.layers):
                return part, rows, part.layers[number]
            number -= len(part.layers)
        raise AssertionError(layer)


def join_caches(caches: Sequence[Cache]) -> tuple[JoinedCache, str]:
    """Join caches of the same clips, matched by the hash of their content.

    Returns
    -------
    joined : JoinedCache
        Clips that occur several times in a cache are matched in the order of their paths.
    note : str
        What is not in all of them; empty if nothing is.

    Raises
    ------
    UserError
        If they have no clips in common, or disagree on the speaker or the emotion of
        a clip.
    """
    files = ", ".join(str(cache.path) for cache in caches)
    indices = [_index(cache.clips) for cache in caches]
    common = set.intersection(*(set(index) for index in indices))
    first = caches[0]
    keys = [key for key in indices[0] if key in common]
    rows = tuple(np.array([index[key] for key in keys], np.intp) for index in indices)
    order = np.argsort(rows[0])
    rows = tuple(each[order] for each in rows)
    if not common:
        raise UserError(f"--cache {files}: have no clips in common; extract the same for all")
    held = {each for cache in caches for each in cache.poolings}
    poolings = [each for each in POOLINGS if each in held]
    clips = {name: column[rows[0]] for name, column in first.clips.items()}
    for cache, own in zip(caches[1:], rows[1:], strict=True):
        _check_same(first, cache, clips, own)
    if any(COLUMN in cache.clips for cache in caches):
        clips[COLUMN] = _strongest(
            [cache.clips.get(COLUMN, np.full(len(cache), ""))[own]
             for cache, own in zip(caches, rows, strict=True)]
        )  # fmt: skip
    names = _names(caches)
    checksums = {
        _joined_name(name, key): value
        for name, cache in zip(names, caches, strict=True)
        for key, value in cache.checksums().items()
    }
    key = {
        **first.key,
        "encoder": SEPARATOR.join(str(cache.key["encoder"]) for cache in caches),
        "revision": "several",
        "weights_sha256": hashlib.sha256(
            "".join(str(cache.key.get("weights_sha256")) for cache in caches).encode()
        ).hexdigest(),
        "layers": [
            f"{name}:{layer}" for name, c in zip(names, caches, strict=True) for layer in c.layers
        ],
        "poolings": poolings,
        "width": max(int(cache.key["width"]) for cache in caches),
        "joined": [dict(cache.key) for cache in caches],
    }
    omitted = [
        f"{counted(len(cache) - len(keys), 'clip')} of {cache.path.name}"
        for cache in caches
        if len(cache) > len(keys)
    ]
    note = f"{', '.join(omitted)} omitted: not in all caches" if omitted else ""
    stem = "+".join(cache.path.stem for cache in caches)
    joined = JoinedCache(
        path=Path(f"{stem[:80]}.h5"),
        key=key,
        provenance={**first.provenance, "caches": [dict(cache.provenance) for cache in caches]},
        clips=clips,
        _stamp=(),
        _checksums=checksums,
        parts=tuple(caches),
        rows=rows,
    )
    return joined, note


def _index(clips: Table) -> dict[tuple[str, int], int]:
    """Return the row number of each clip by its hash and how often that occurred before it."""
    seen: Counter[str] = Counter()
    index = {}
    for row in np.argsort(clips["path"], kind="stable").tolist():
        sha256 = str(clips["sha256"][row])
        index[sha256, seen[sha256]] = row
        seen[sha256] += 1
    return index


def _check_same(first: Cache, other: Cache, clips: Table, rows: NDArray[np.intp]) -> None:
    """Refuse caches that disagree on a clip."""
    for column in _SAME_COLUMNS:
        if column not in clips or column not in other.clips:
            continue
        differs = clips[column] != other.clips[column][rows]
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            raise UserError(
                f"{other.path}: {clips['path'][row]} has the {column} "
                f"{other.clips[column][rows[row]]}, but {clips[column][row]} in {first.path}; "
                "extract both from the same table of clips"
            )


def _strongest(levels: Sequence[NDArray[np.str_]]) -> NDArray[np.str_]:
    """Return, for each clip, the closest relation to the training data of any encoder."""
    result = np.full(len(levels[0]), "", "U16")
    for level in ("corpus", "speaker", "clip"):
        for column in levels:
            result[column == level] = level
    return result


def _names(caches: Sequence[Cache]) -> list[str]:
    """Return a short name for each encoder; equal ones are numbered."""
    short = [str(cache.key["encoder"]).rstrip("/").rpartition("/")[2] for cache in caches]
    return [
        f"{name}-{short[: n + 1].count(name)}" if short.count(name) > 1 else name
        for n, name in enumerate(short)
    ]


def _joined_name(encoder: str, stored: str) -> str:
    pooling, _, layer = stored.partition("/")
    return f"{pooling}/{encoder}:{layer}"
