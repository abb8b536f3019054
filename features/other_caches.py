"""Reuse embeddings that another cache in the same folder already holds."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .cache import Cache, open_cache, wrong_with
from .cache_rows import stamp_of
from .names import NOT_IDENTIFYING

#: The newest caches of the folder are opened, which takes a third of a second each.
MOST_CACHES = 20
#: Rows that are copied at once: about 40 MB of a large encoder.
_BLOCK_ROWS = 256


def caches_beside(out: Path, key: Mapping[str, Any]) -> Iterator[Cache]:
    """Yield the caches beside ``out`` that have the embeddings of a key, the newest first.

    They may have more poolings, or another revision of the same weights, but are otherwise the
    same. Files that are damaged or no caches are skipped.
    """
    # The stamp of a file that was removed meanwhile is empty.
    stamps = {path: stamp_of(path) for path in out.parent.glob("*.h5") if path.name != out.name}
    newest = sorted(filter(stamps.get, stamps), key=lambda path: (-stamps[path][-1], path.name))
    for path in newest[:MOST_CACHES]:
        try:
            cache = open_cache(path)
        except UserError:
            continue
        if _common(cache.key) == _common(key) and set(key["poolings"]) <= set(cache.poolings):
            yield cache


def copy_rows(
    cache: Cache, poolings: Collection[str], wanted: Collection[str]
) -> Iterator[tuple[list[str], dict[str, NDArray[np.float32]]]]:
    """Yield content hashes and embeddings of some clips of a cache, a block at a time.

    ``wanted`` are content hashes. The embeddings are by pooling, shape (n_layers, n_clips, width).
    If any checksum of the cache is wrong, nothing is copied from it.
    """
    row_of = {hash_: row for row, hash_ in enumerate(cache.clips["sha256"].tolist())}
    shared = [hash_ for hash_ in wanted if hash_ in row_of]
    if not shared or wrong_with(cache):
        return
    for start in range(0, len(shared), _BLOCK_ROWS):
        hashes = shared[start : start + _BLOCK_ROWS]
        rows = np.array([row_of[hash_] for hash_ in hashes], np.intp)
        yield (
            hashes,
            {
                pooling: np.stack(
                    [cache.read_rows(pooling, layer, rows) for layer in cache.layers]
                ).astype(np.float32)
                for pooling in poolings
            },
        )


def _common(key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that must agree for copying."""
    ignored = ("poolings", *NOT_IDENTIFYING)
    return {name: value for name, value in key.items() if name not in ignored}
