"""What can be said of scores: intervals, tests and groups, all by speaker.

The clips of a speaker are alike: to resample clips would make every interval too narrow. All that
is needed are sums over each speaker's clips, such as the counts of who was taken for whom.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from .measures import LABELS, Measure
from .metrics import recalls

DRAWS = 10_000
#: With fewer speakers an interval over speakers means nothing: their own values are told instead.
FEWEST_SPEAKERS = 5


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval, in its own unit.

    Attributes
    ----------
    value : float
        Over all clips.
    low, high : float
        NaN where there are fewer than five speakers.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two sets of predictions of the same clips.

    Attributes
    ----------
    first, second : str
        Their names.
    difference : Interval
        First score (UAR, CCC) of the first less that of the second; its interval by resampling
        speakers.
    p : float
        Of the two-sided Wilcoxon signed-rank test over the speakers' scores.
    p_holm : float
        The same, corrected for all comparisons made together.
    """

    first: str
    second: str
    difference: Interval
    p: float
    p_holm: float


def count_by_group(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    groups: NDArray[np.str_],
    labels: Sequence[str],
    measure: Measure = LABELS,
) -> dict[str, NDArray[Any]]:
    """Sum up the predictions of each group of clips.

    Parameters
    ----------
    truth, predicted : ndarray of str or float64, shape (n_clips,)
        Labels or ratings.
    groups : ndarray of str, shape (n_clips,)
        The speaker, sex or any other group of each clip.
    labels : sequence of str
        All labels, sorted; none for ratings.
    measure : Measure
        How predictions are counted: for labels, who was taken for whom.

    Returns
    -------
    dict of str to ndarray
        By group, sorted: what ``measure.count`` returns.
    """
    return {
        str(group): measure.count(truth[groups == group], predicted[groups == group], labels)
        for group in np.unique(groups)
    }


def intervals(
    by_speaker: NDArray[Any], measure: Measure = LABELS, seed: int = 0
) -> dict[str, Interval]:
    """Score predictions, with 95 % intervals by resampling speakers.

    Parameters
    ----------
    by_speaker : ndarray, shape (n_speakers, ...)
        Sums of each speaker, from :func:`count_by_group`.
    measure : Measure
        How they are scored.
    seed : int
        Of the 10 000 draws of as many speakers, with replacement.

    Returns
    -------
    dict of str to Interval
        By key of the score; percentiles 2.5 and 97.5 of the draws.

    References
    ----------
    Efron & Tibshirani (1993), *An Introduction to the Bootstrap*, chapter 13 (percentile
    intervals), with the speaker as the unit that is drawn.
    """
    value = measure.score(by_speaker.sum(axis=0))
    drawn = measure.score(_draw(by_speaker, seed)) if _enough(by_speaker) else {}
    return {key: _interval(value[key], drawn.get(key)) for key in measure.scores.values()}


def recall_intervals(by_speaker: NDArray[np.int64], seed: int = 0) -> list[Interval]:
    """Return the recall of each label, with 95 % intervals by resampling speakers.

    Parameters
    ----------
    by_speaker : ndarray of int64, shape (n_speakers, n_labels, n_labels)
        Counts of each speaker.
    seed : int
        Of the draws, as in :func:`intervals`.

    Returns
    -------
    list of Interval
        One for each label; NaN where there is no clip of it.
    """
    values = recalls(by_speaker.sum(axis=0))
    if not _enough(by_speaker):
        return [_interval(value, None) for value in values]
    drawn = recalls(_draw(by_speaker, seed))
    return [
        _interval(value, None if np.isnan(value) else drawn[:, label])
        for label, value in enumerate(values)
    ]


def compare(
    by_speaker: Mapping[str, NDArray[Any]],
    measure: Measure = LABELS,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> tuple[Comparison, ...]:
    """Compare predictions of the same clips, two at a time, over speakers.

    Parameters
    ----------
    by_speaker : mapping of str to ndarray, shape (n_speakers, ...)
        Sums of each speaker, in the same order of speakers.
    measure : Measure
        How they are scored.
    seed : int
        Of the draws.
    pairs : sequence of (str, str), optional
        What to compare; all pairs by default.

    Returns
    -------
    tuple of Comparison
        With fewer than five speakers p-values and intervals are NaN.

    References
    ----------
    Wilcoxon (1945), *Individual comparisons by ranking methods*. Holm (1979), *A simple
    sequentially rejective multiple test procedure*.
    """
    pairs = list(combinations(by_speaker, 2)) if pairs is None else pairs
    drawn: dict[str, Any] = {}
    for name in {name for pair in pairs for name in pair}:
        if _enough(by_speaker[name]):
            drawn[name] = measure.first(_draw(by_speaker[name], seed))
    found = []
    for first, second in pairs:
        a, b = by_speaker[first], by_speaker[second]
        value = float(measure.first(a.sum(axis=0)) - measure.first(b.sum(axis=0)))
        draws = drawn[first] - drawn[second] if first in drawn else None
        p = _wilcoxon(measure.first(a) - measure.first(b)) if _enough(a) else np.nan
        found.append((first, second, _interval(value, draws), p))
    corrected = holm(np.array([p for *_, p in found]))
    return tuple(Comparison(*each, q) for each, q in zip(found, corrected.tolist(), strict=True))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for being several.

    Parameters
    ----------
    p : ndarray of float64, shape (n_tests,)
        As each test gave them.

    Returns
    -------
    ndarray of float64, shape (n_tests,)
        The smallest times the number of tests, the next times one less, and so on; never smaller
        than the one before, nor larger than 1.
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p, dtype=np.float64)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def _enough(by_speaker: NDArray[Any]) -> bool:
    return len(by_speaker) >= FEWEST_SPEAKERS


@lru_cache(maxsize=1)
def _times_drawn(n: int, seed: int) -> NDArray[np.float64]:
    """Return how often each of n speakers is in each draw, shape (10 000, n)."""
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return times.astype(np.float64)


def _draw(by_speaker: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return summed counts of each draw of speakers: the same draws for the same seed."""
    n = len(by_speaker)
    flat = _times_drawn(n, seed) @ by_speaker.reshape(n, -1)
    drawn: NDArray[Any] = flat.reshape(DRAWS, *by_speaker.shape[1:])
    return drawn


def _interval(value: float, drawn: NDArray[np.float64] | None) -> Interval:
    if drawn is None:
        return Interval(float(value), np.nan, np.nan)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    differences = differences[np.isfinite(differences)]
    if not differences.any():
        return 1.0
    # Equal to a rounding is equal: ranks must not depend on the last digit.
    return float(wilcoxon(np.round(differences, 12)).pvalue)
