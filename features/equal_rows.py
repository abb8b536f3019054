"""Find copies in caches of early versions, by clips with the same embedding."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cache import Cache
from .cache_rows import BLOCK_ROWS
from .recordings import Table, contradiction

#: Cosine of standardised features above which two embeddings are equal except for rounding.
SAME_EMBEDDING = 0.9999

#: Rows are looked up by random projections, divided into cells of half a standard deviation: equal
#: rows fall into the same cell, and nearly equal rows do so in one of several grids.
_PROJECTIONS, _GRIDS, _CELLS_PER_DEVIATION = 6, 3, 2.0
#: Other rows of its cell with which a row is compared.
_MOST_NEIGHBOURS = 8


def check_embeddings(cache: Cache, clips: Table, rows: NDArray[np.intp]) -> None:
    """Refuse clips of two speakers or emotions that have the same embedding.

    ``rows`` are the rows in the cache of the clips of the table. The message of the UserError names
    both files and the difference.
    """
    for first, second in find_equal_rows(cache, rows).tolist():
        for what in ("speaker", "emotion"):
            one, other = str(clips[what][first]), str(clips[what][second])
            if one != other:
                paths = str(clips["path"][second]), str(clips["path"][first])
                raise contradiction(*paths, what, other, one)


def find_equal_rows(cache: Cache, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return pairs of clips whose embeddings differ only by rounding: int, shape (n_pairs, 2).

    They are indices in ``rows``, the lower first, sorted. The middle layer is read, a block at a
    time.
    """
    pooling, layer = cache.poolings[0], cache.layers[len(cache.layers) // 2]
    width = cache.read_rows(pooling, layer, rows[:1]).shape[1]

    def blocks() -> Iterator[tuple[slice, NDArray[np.float64]]]:
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            yield block, cache.read_rows(pooling, layer, rows[block]).astype(np.float64)

    total, squares = np.zeros(width), np.zeros(width)
    for _, block in blocks():
        total += block.sum(axis=0)
        squares += np.square(block).sum(axis=0)
    mean = total / max(len(rows), 1)
    deviation = np.sqrt(np.maximum(squares / max(len(rows), 1) - mean**2, 0))
    scale = np.divide(1, deviation, out=np.zeros(width), where=deviation > 0)

    def unit(block: NDArray[np.float64]) -> NDArray[np.float64]:
        standardised = (block - mean) * scale
        norms = np.linalg.norm(standardised, axis=1, keepdims=True)
        out: NDArray[np.float64] = np.zeros_like(block)
        np.divide(standardised, norms, out=out, where=norms > 0)
        return out

    draw = np.random.default_rng(0)
    # The projections of a unit vector have a standard deviation of 1.
    directions = draw.standard_normal((width, _GRIDS * _PROJECTIONS))
    projected = np.empty((len(rows), directions.shape[1]), np.float32)
    for part, block in blocks():
        projected[part] = unit(block) @ directions
    candidates = [np.empty((0, 2), np.intp)]
    for grid in np.split(projected, _GRIDS, axis=1):
        cells = np.floor(grid * _CELLS_PER_DEVIATION + draw.random(_PROJECTIONS)).astype(np.int32)
        order = np.lexsort((np.arange(len(rows)), *cells.T))
        for step in range(1, min(_MOST_NEIGHBOURS, len(rows) - 1) + 1):
            one, other = order[:-step], order[step:]
            close = np.flatnonzero((cells[one] == cells[other]).all(axis=1))
            candidates.append(np.sort(np.stack([one[close], other[close]], axis=1), axis=1))
    pairs = np.unique(np.concatenate(candidates), axis=0)
    same = np.zeros(len(pairs), np.bool_)
    for start in range(0, len(pairs), BLOCK_ROWS):
        some = slice(start, start + BLOCK_ROWS)
        first, second = (
            unit(cache.read_rows(pooling, layer, rows[pairs[some, side]]).astype(np.float64))
            for side in (0, 1)
        )
        same[some] = (first * second).sum(axis=1) > SAME_EMBEDDING
    equal: NDArray[np.intp] = pairs[same]
    return equal
