"""Permutation tests over speakers: of two sets of predictions, of chance, of groups of clips."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measures import LABELS, Measure

#: All swaps are enumerated if at most so many speakers differ.
_MOST_ENUMERATED = 15
#: Otherwise so many are drawn, fewer if there are very many speakers.
SWAPS, _FEWEST_SWAPS, _MOST_SWAPPED = 20_000, 2_000, 10**8
#: Draws of the permutations of clips: from the total number of clips, within these limits.
_FEWEST_DRAWS, _MOST_DRAWS, _MOST_PERMUTED = 199, 4_999, 3_000_000
#: Numbers that are in memory at a time.
_AT_ONCE = 2**21
#: Scores that differ by less are tied, so that p does not depend on the last digit.
_TIE = 1e-10


def differing_speakers(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for which speakers two sets of sums differ by more than rounding.

    Both have the shape (n_speakers, ...).
    """
    rounding = 1e-12 * max(np.abs(a).max(initial=0), np.abs(b).max(initial=0))
    differs: NDArray[np.bool_] = (np.abs(a - b) > rounding).reshape(len(a), -1).any(axis=1)
    return differs


def swap_p(a: NDArray[Any], b: NDArray[Any], measure: Measure = LABELS, seed: int = 0) -> float:
    """Test whether two sets of predictions of the same clips differ in their first score.

    If they do not, it makes no difference which of the two a speaker's predictions come from: the
    sums of whole speakers are swapped, and the difference of the scores over all clips is computed
    each time. Exact if at most 15 speakers differ, otherwise with random swaps.

    Parameters
    ----------
    a, b : ndarray, shape (n_speakers, ...)
        Sums of each speaker, in the same order.
    measure : Measure
        How they are scored.
    seed : int
        Seed of the random swaps.

    Returns
    -------
    float
        The share of swaps with a difference at least as large, in either direction. 1 if the
        predictions are the same; NaN if a score is undefined.

    References
    ----------
    Yeh (2000), *More accurate tests for the statistical significance of result differences*,
    COLING, there over sentences. Phipson & Smyth (2010), *Permutation P-values should never be
    zero*, Statistical Applications in Genetics and Molecular Biology 9(1): adding one where swaps
    are drawn.
    """
    differs = differing_speakers(a, b)
    n = int(differs.sum())
    total_a, total_b = a.sum(axis=0), b.sum(axis=0)
    observed = abs(measure.first(total_a) - measure.first(total_b))
    if np.isnan(observed):
        return np.nan
    if n == 0:
        return 1.0
    change = (b - a)[differs].reshape(n, -1).astype(np.float64)
    reached = drawn = 0
    for swapped in _swaps(n, change.shape[1], seed):
        moved = (swapped @ change).reshape(len(swapped), *total_a.shape)
        difference = np.abs(measure.first(total_a + moved) - measure.first(total_b - moved))
        reached += int(np.sum(~(difference < observed - _TIE)))  # an undefined one counts
        drawn += len(swapped)
    one = int(n > _MOST_ENUMERATED)  # the predictions as they are, which the enumeration includes
    return (one + reached) / (one + drawn)


def least_swap_p(n_speakers: int) -> float:
    """Return the lowest p that :func:`swap_p` can give with so many speakers."""
    return 2.0 ** (1 - n_speakers) if n_speakers <= _MOST_ENUMERATED else 1 / (1 + SWAPS)


def chance_p(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    speakers: NDArray[np.str_],
    labels: Sequence[str] = (),
    measure: Measure = LABELS,
    seed: int = 0,
) -> float:
    """Test whether predictions score better than predictions unrelated to the truth.

    The truth is permuted among the clips of each speaker while the predictions stay as they are, so
    that knowing who speaks is no advantage. Speakers whose clips all have the same truth, such as
    their sex, exchange it among themselves.

    Parameters
    ----------
    truth, predicted : ndarray of str or float64, shape (n_clips,)
        Labels or ratings.
    speakers : ndarray of str, shape (n_clips,)
        The speaker of each clip.
    labels : sequence of str
        All labels, sorted; empty for ratings.
    measure : Measure
        How predictions are scored.
    seed : int
        Seed of the permutations: 4999, fewer for more than 600 clips, at least 199.

    Returns
    -------
    float
        One-sided: the share of permutations with a first score at least as high. NaN if nothing can
        be permuted, or the score is undefined.

    References
    ----------
    Ojala & Garriga (2010), *Permutation tests for studying classifier performance*, Journal of
    Machine Learning Research 11; Winkler et al. (2015), *Multi-level block permutation*,
    NeuroImage 123: within blocks, and of whole blocks. Phipson & Smyth (2010), as above.
    """
    order = np.argsort(speakers, kind="stable")
    truth, predicted = measure.centre(truth[order], predicted[order])
    if len(labels):
        truth, predicted = np.searchsorted(labels, truth), np.searchsorted(labels, predicted)
    names = range(len(labels))

    def scores(permuted: NDArray[Any]) -> NDArray[np.float64]:
        """Return the first scores, shape (n,), of truths of shape (n, n_clips)."""
        return np.asarray(measure.first(measure.count(permuted, predicted, names)))

    one_stratum = np.zeros(len(truth), np.intp)
    return _permutation_p(scores, truth, speakers[order], one_stratum, len(names) ** 2, seed)


def gap_p(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    groups: NDArray[np.str_],
    speakers: NDArray[np.str_],
    labels: Sequence[str] = (),
    measure: Measure = LABELS,
    seed: int = 0,
    draws: int | None = None,
) -> float:
    """Test whether the first score is the same in all groups of clips.

    The statistic is the largest difference between the scores of two groups. Groups are permuted
    while truth and predictions stay as they are: speakers whose clips are all in one group, such as
    their sex, exchange it among themselves, each with all of their clips; groups that differ
    between the clips of a speaker, such as an intensity, are permuted among those of them that have
    the same label, so that each group keeps its clips of every label.

    Parameters
    ----------
    truth, predicted : ndarray of str or float64, shape (n_clips,)
        Labels or ratings.
    groups, speakers : ndarray of str, shape (n_clips,)
        The group and the speaker of each clip.
    labels : sequence of str
        All labels, sorted; empty for ratings.
    measure : Measure
        How predictions are scored.
    seed : int
        Seed of the permutations.
    draws : int, optional
        Number of permutations; by default as for :func:`chance_p`.

    Returns
    -------
    float
        The share of permutations with a difference at least as large. NaN if nothing can be
        permuted, or the score of a group is undefined.

    References
    ----------
    As for :func:`chance_p`.
    """
    order = np.argsort(speakers, kind="stable")
    truth, predicted = measure.centre(truth[order], predicted[order])
    stratum = np.zeros(len(truth), np.intp)
    if len(labels):
        truth, predicted = np.searchsorted(labels, truth), np.searchsorted(labels, predicted)
        stratum = truth
    names, group = np.unique(groups[order], return_inverse=True)
    summands = measure.count(truth[:, None], predicted[:, None], range(len(labels)))
    shape, flat = summands.shape[1:], summands.reshape(len(truth), -1).astype(np.float64)

    def gaps(assigned: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the largest difference, shape (n,), of groups of shape (n, n_clips)."""
        scores = [
            measure.first(((assigned == each) @ flat).reshape(-1, *shape))
            for each in range(len(names))
        ]
        largest: NDArray[np.float64] = np.max(scores, axis=0) - np.min(scores, axis=0)
        return largest

    return _permutation_p(
        gaps, group, speakers[order], stratum, len(names) * flat.shape[1], seed, draws
    )


def _permutation_p(
    statistics: Callable[[NDArray[Any]], NDArray[np.float64]],
    values: NDArray[Any],
    speakers: NDArray[np.str_],
    strata: NDArray[np.intp],
    width: int,
    seed: int,
    draws: int | None = None,
) -> float:
    """Return the share of permutations of the values of clips with a statistic at least as high.

    Values that differ between the clips of a speaker are permuted among the speaker's clips of the
    same stratum. Speakers whose clips all have the same value exchange it among themselves.

    Parameters
    ----------
    statistics : callable
        From values, shape (n, n_clips), to the statistic of each row, shape (n,).
    values, speakers, strata : ndarray, shape (n_clips,)
        The value, the speaker and the stratum, counted from 0, of each clip, sorted by speaker.
    width : int
        How many numbers ``statistics`` holds in memory for each row, besides the row itself.
    seed, draws : int
        Seed and number of permutations; by default 4999, fewer for more than 600 clips, at least
        199.

    Returns
    -------
    float
        NaN if nothing can be permuted, or the statistic is undefined.
    """
    (observed,) = statistics(values[None])
    n_clips = len(values)
    _, first, speaker = np.unique(speakers, return_index=True, return_inverse=True)
    alike = np.minimum.reduceat(values, first) == np.maximum.reduceat(values, first)
    within, whole = np.flatnonzero(~alike[speaker]), np.flatnonzero(alike[speaker])
    of_speaker = values[first[alike]]
    _, block = np.unique(speaker[within] * n_clips + strata[within], return_inverse=True)
    # The clips of a speaker and stratum become neighbours: adding a random fraction shuffles them.
    within, block = within[np.argsort(block, kind="stable")], np.sort(block)
    codes = np.unique(values[within], return_inverse=True)[1]
    can_move = len(np.unique(block * n_clips + codes)) > len(np.unique(block))
    if np.isnan(observed) or (not can_move and len(np.unique(of_speaker)) < 2):
        return np.nan
    index = np.cumsum(alike)[speaker[whole]] - 1  # the clip's speaker among such speakers
    rng = np.random.default_rng(seed)
    if draws is None:
        draws = int(np.clip(_MOST_PERMUTED // n_clips, _FEWEST_DRAWS, _MOST_DRAWS))
    reached = 0
    for size in _portions(draws, n_clips + width):
        permuted = np.empty((size, n_clips), values.dtype)
        shuffled = np.argsort(block + rng.random((size, len(within))), axis=1)
        permuted[:, within] = values[within][shuffled]
        exchanged = rng.permuted(np.tile(of_speaker, (size, 1)), axis=1)
        permuted[:, whole] = exchanged[:, index]
        reached += int(np.sum(~(statistics(permuted) < observed - _TIE)))
    return (1 + reached) / (1 + draws)


def _swaps(n: int, width: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Yield which of n speakers are swapped, 1 or 0, shape (some swaps, n).

    Either random swaps or all, of which one half suffices: the complement changes only the sign.
    """
    if n <= _MOST_ENUMERATED:
        codes = np.arange(2 ** (n - 1))
        for some in np.array_split(codes, 1 + len(codes) * width // _AT_ONCE):
            yield ((some[:, None] >> np.arange(n)) & 1).astype(np.float64)
        return
    rng = np.random.default_rng(seed)
    draws = int(np.clip(_MOST_SWAPPED // n, _FEWEST_SWAPS, SWAPS))
    for size in _portions(draws, max(n, width)):
        yield rng.integers(0, 2, (size, n), dtype=np.int8).astype(np.float64)


def _portions(draws: int, width: int) -> Iterator[int]:
    """Divide draws into portions that fit in memory, with so many numbers per draw."""
    most = max(1, _AT_ONCE // width)
    for start in range(0, draws, most):
        yield min(most, draws - start)
