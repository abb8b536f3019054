"""Copies in caches that were made before copies were looked for: clips with the same embedding."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cache import Cache
from .cache_rows import BLOCK_ROWS
from .recordings import Table, contradiction

#: Cosine, over standardised features, above which two embeddings are the same but for rounding.
SAME_EMBEDDING = 0.9999

#: Rows are looked up by some projections, cut into cells of half a standard deviation: equal rows
#: fall into the same cell, and those that are nearly equal do in one of several grids.
_PROJECTIONS, _GRIDS, _CELLS_PER_DEVIATION = 6, 3, 2.0
#: A row is compared with so many others of its cell.
_MOST_NEIGHBOURS = 8


def check_embeddings(cache: Cache, clips: Table, rows: NDArray[np.intp]) -> None:
    """Refuse clips of two speakers or emotions that have the same embedding.

    Parameters
    ----------
    cache : Cache
        The embeddings.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table of the clips that are used: ``path``, ``speaker`` and ``emotion``.
    rows : ndarray of int, shape (n_clips,)
        Their positions in the cache.

    Raises
    ------
    UserError
        Names both files, and in what they differ.
    """
    for first, second in find_equal_rows(cache, rows).tolist():
        for what in ("speaker", "emotion"):
            one, other = str(clips[what][first]), str(clips[what][second])
            if one != other:
                paths = str(clips["path"][second]), str(clips["path"][first])
                raise contradiction(*paths, what, other, one)


def find_equal_rows(cache: Cache, rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Find pairs of clips whose embeddings differ by no more than rounding.

    Parameters
    ----------
    cache : Cache
        The embeddings, of which the layer in the middle is read, a block at a time.
    rows : ndarray of int, shape (n_clips,)
        Positions in it.

    Returns
    -------
    ndarray of int, shape (n_pairs, 2)
        Positions among ``rows``, the lower first; sorted.
    """
    pooling, layer = cache.poolings[0], cache.layers[len(cache.layers) // 2]
    width = int(cache.key["width"])

    def blocks() -> Iterator[tuple[slice, NDArray[np.float64]]]:
        for start in range(0, len(rows), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            yield part, cache.read_rows(pooling, layer, rows[part]).astype(np.float64)

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
    directions = draw.standard_normal(
        (width, _GRIDS * _PROJECTIONS)
    )  # of a unit vector: deviation 1
    projected = np.empty((len(rows), directions.shape[1]), np.float32)
    for part, block in blocks():
        projected[part] = unit(block) @ directions
    found = [np.empty((0, 2), np.intp)]
    for grid in np.split(projected, _GRIDS, axis=1):
        cells = np.floor(grid * _CELLS_PER_DEVIATION + draw.random(_PROJECTIONS)).astype(np.int32)
        order = np.lexsort((np.arange(len(rows)), *cells.T))
        for step in range(1, min(_MOST_NEIGHBOURS, len(rows) - 1) + 1):
            one, other = order[:-step], order[step:]
            close = np.flatnonzero((cells[one] == cells[other]).all(axis=1))
            found.append(np.sort(np.stack([one[close], other[close]], axis=1), axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
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
