"""Confidence intervals and comparisons of scores, over speakers.

The clips of a speaker are not independent: intervals that assumed so would be too narrow. All that
is needed are sums over each speaker's clips, such as confusion matrices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, stdtrit

from .measures import LABELS, Measure
from .metrics import recalls
from .permutation import differing_speakers, swap_p

#: With fewer speakers an interval is meaningless: each speaker's score is shown instead.
FEWEST_SPEAKERS = 5
#: A smaller standard error is rounding: all speakers score alike, which says nothing of others.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A score and its 95 % interval, in its own unit."""

    value: float  #: Over all clips.
    #: Both ends are NaN where there is no interval: with fewer than five speakers, where the score
    #: depends on at most two speakers, or where it is the same whichever speaker is left out.
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A paired comparison of two sets of predictions of the same clips."""

    first: str
    second: str
    #: First score (UAR, CCC) of the first minus that of the second, over all clips.
    difference: Interval
    #: Two-sided permutation test of that difference, which swaps the two sets of predictions of
    #: whole speakers.
    p: float
    p_holm: float  #: The same, corrected for all comparisons made together.


def count_by_group(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    groups: NDArray[np.str_],
    labels: Sequence[str],
    measure: Measure = LABELS,
) -> dict[str, NDArray[Any]]:
    """Return the sums from which the predictions of groups of clips are scored, sorted by group.

    Parameters
    ----------
    truth, predicted : ndarray of str or float64, shape (n_clips,)
        Labels or ratings. Ratings are centred on the mean of the truth over all groups, so that
        sums of groups can be added.
    groups : ndarray of str, shape (n_clips,)
        The speaker, sex or any other group of each clip.
    labels : sequence of str
        All labels, sorted; empty for ratings.
    measure : Measure
        How predictions are summed: for labels, confusion matrices.
    """
    truth, predicted = measure.centre(truth, predicted)
    names, group_of_clip = np.unique(groups, return_inverse=True)
    in_order = np.argsort(group_of_clip, kind="stable")
    ends = np.cumsum(np.bincount(group_of_clip))[:-1]
    return {
        str(name): measure.count(truth[rows], predicted[rows], labels)
        for name, rows in zip(names, np.split(in_order, ends), strict=True)
    }


def intervals(by_speaker: NDArray[Any], measure: Measure = LABELS) -> dict[str, Interval]:
    """Score predictions, with 95 % intervals for the score of other speakers like these.

    The standard error is that of the jackknife, which leaves out each speaker in turn. The interval
    is symmetric on the scale on which the score has no limits (logit of a share, Fisher's z of a
    correlation, logarithm of an error), with the quantiles of Student's t. Its degrees of freedom
    are one less than the effective number of speakers; where the score is a mean over labels, that
    of the label with the smallest. docs/method.md has the simulation that justifies it.

    Parameters
    ----------
    by_speaker : ndarray, shape (n_speakers, ...)
        Sums of each speaker, from :func:`count_by_group`.
    measure : Measure
        How they are scored.

    Returns
    -------
    dict of str to Interval
        By key of the score.

    References
    ----------
    MacKinnon, Nielsen & Webb (2023), *Fast and reliable jackknife and bootstrap methods for
    cluster-robust inference*, Journal of Applied Econometrics 38(5): the estimator CV3, which
    leaves out one cluster (here: speaker) at a time. Carter, Schnepel & Steigerwald (2017),
    *Asymptotic behavior of a t-test robust to cluster heterogeneity*, Review of Economics and
    Statistics 99(4): the effective number of clusters.
    """
    total = by_speaker.sum(axis=0)
    value, left_out = measure.score(total), measure.score(total - by_speaker)
    clips = measure.parts(by_speaker)
    return {
        key: jackknife_interval(value[key], left_out[key], clips[key], measure.limits[key])
        for key in measure.scores.values()
    }


def recall_intervals(by_speaker: NDArray[np.int64]) -> list[Interval]:
    """Return the recall of each label, with 95 % intervals as those of :func:`intervals`.

    ``by_speaker`` has the counts of each speaker, shape (n_speakers, n_labels, n_labels). An
    interval is from the speakers who have the label: there is none where they are fewer than five.
    The recall is NaN where no clip has the label.
    """
    total, clips = by_speaker.sum(axis=0), by_speaker.sum(axis=-1)
    values = recalls(total)
    result = []
    for label, value in enumerate(values):
        has_label = clips[:, label] > 0
        left_out = recalls(total - by_speaker[has_label])[:, label]
        result.append(
            jackknife_interval(value, left_out, clips[has_label, label, None], (0.0, 1.0))
        )
    return result


def compare(
    by_speaker: Mapping[str, NDArray[Any]],
    measure: Measure = LABELS,
    seed: int = 0,
    pairs: Sequence[tuple[str, str]] | None = None,
) -> tuple[Comparison, ...]:
    """Compare predictions of the same clips, two at a time, over speakers.

    Interval and test are of the difference of the first scores over all clips. The interval is that
    of the jackknife, as in :func:`intervals`; speakers for whom the two agree add no degree of
    freedom.

    Parameters
    ----------
    by_speaker : mapping of str to ndarray, shape (n_speakers, ...)
        Sums of each speaker, in the same order of speakers.
    measure : Measure
        How they are scored.
    seed : int
        Seed of the random swaps, where the test is not exact.
    pairs : sequence of (str, str), optional
        What to compare; all pairs by default.

    Returns
    -------
    tuple of Comparison
        With fewer than five speakers p-values and intervals are NaN.

    References
    ----------
    For the test see :func:`~serpipe.pipeline.permutation.swap_p`. Holm (1979), *A simple
    sequentially rejective multiple test procedure*.
    """
    pairs = list(combinations(by_speaker, 2)) if pairs is None else pairs
    uncorrected = []
    for first, second in pairs:
        a, b = by_speaker[first], by_speaker[second]
        p = swap_p(a, b, measure, seed) if len(a) >= FEWEST_SPEAKERS else np.nan
        uncorrected.append((first, second, _difference(a, b, measure), p))
    corrected = holm(np.array([p for *_, p in uncorrected])).tolist()
    return tuple(Comparison(*each, q) for each, q in zip(uncorrected, corrected, strict=True))


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for multiple tests.

    The result is the smallest times the number of tests, the next times one less, and so on; never
    smaller than the one before, nor larger than 1.
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p, dtype=np.float64)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def _difference(a: NDArray[Any], b: NDArray[Any], measure: Measure) -> Interval:
    """Return the difference of the first scores of two sets of sums, with its interval."""
    total_a, total_b = a.sum(axis=0), b.sum(axis=0)
    value = float(measure.first(total_a) - measure.first(total_b))
    left_out = measure.first(total_a - a) - measure.first(total_b - b)
    freedom = min(
        _degrees_of_freedom(measure.parts(a)[measure.key]),
        _degrees_of_freedom(measure.parts(b)[measure.key]),
        differing_speakers(a, b).sum() - 1,
    )
    return _interval_of_difference(value, _half_width(value, left_out, freedom), measure)


def _interval_of_difference(value: float, half: float, measure: Measure) -> Interval:
    """Return a difference with an interval of ``half`` on each side, within its possible range."""
    low, high = measure.limits[measure.key]
    return Interval(value, max(value - half, low - high), min(value + half, high - low))


def group_difference(a: NDArray[Any], b: NDArray[Any], measure: Measure = LABELS) -> Interval:
    """Return the difference of the first scores of two groups of clips, with its interval.

    If no speaker has clips in both groups, the variances of the two scores, each from the jackknife
    over the speakers of its group, are added, and the degrees of freedom are those of Welch's test.
    Otherwise each speaker is left out of both groups at once.

    Parameters
    ----------
    a, b : ndarray, shape (n_speakers, ...)
        Sums of each speaker's clips in the first and in the second group, in the same order of
        speakers; zeros for a speaker without clips in the group.
    measure : Measure
        How they are scored.

    Returns
    -------
    Interval
        Without ends under the conditions of :class:`Interval`, for either group.

    References
    ----------
    Welch (1947), *The generalization of Student's problem when several different population
    variances are involved*, Biometrika 34.
    """
    clips = [measure.parts(each)[measure.key] for each in (a, b)]
    in_a, in_b = (each.any(axis=1) for each in clips)
    if (in_a & in_b).any():
        either = in_a | in_b
        return _difference(a[either], b[either], measure)
    scores, errors, freedoms = [], [], []
    for sums, parts, rows in zip((a, b), clips, (in_a, in_b), strict=True):
        total, enough = sums.sum(axis=0), rows.sum() >= FEWEST_SPEAKERS
        scores.append(float(measure.first(total)))
        errors.append(_standard_error(scores[-1], measure.first(total - sums[rows])))
        freedoms.append(_degrees_of_freedom(parts[rows]) if enough else 0.0)
    value = scores[0] - scores[1]
    if min(freedoms) <= 1 or not max(errors) > _ROUNDING:
        return Interval(value, np.nan, np.nan)
    variance = errors[0] ** 2 + errors[1] ** 2
    freedom = variance**2 / sum(e**4 / f for e, f in zip(errors, freedoms, strict=True))
    half = float(np.sqrt(variance) * stdtrit(freedom, 0.975))
    return _interval_of_difference(value, half, measure)


def jackknife_interval(
    value: float, left_out: NDArray[np.float64], clips: NDArray[Any], limits: tuple[float, float]
) -> Interval:
    """Return the interval of a score, between its lowest and its highest possible value.

    ``left_out`` are the scores without each speaker, shape (n_speakers,); ``clips`` tell how many
    clips of each speaker each part of the score depends on, shape (n_speakers, n_parts).
    """
    low, high = limits
    value = float(value)
    half = _half_width(value, left_out, _degrees_of_freedom(clips))
    if np.isnan(half) or not low < value < high:
        return Interval(value, np.nan, np.nan)
    # Delta method: the derivative of the scale at the score transforms the standard error.
    half *= 1 / (value - low) + 1 / (high - value)
    ends = np.array([-half, half])
    if np.isinf(high):
        with np.errstate(over="ignore"):  # an infinite interval is valid
            ends = low + (value - low) * np.exp(ends)
    else:
        ends = low + (high - low) * expit(np.log((value - low) / (high - value)) + ends)
    return Interval(value, *ends.tolist())


def _half_width(value: float, left_out: NDArray[np.float64], freedom: float) -> float:
    """Return Student's t times the jackknife's standard error; NaN where it is meaningless."""
    error = _standard_error(value, left_out)
    if len(left_out) < FEWEST_SPEAKERS or freedom <= 1 or not error > _ROUNDING:
        return np.nan
    return float(error * stdtrit(freedom, 0.975))


def _standard_error(value: float, left_out: NDArray[np.float64]) -> float:
    """Return the jackknife's standard error of a score, from the scores without each speaker."""
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * np.sum((left_out - value) ** 2))) if n else np.nan


def _degrees_of_freedom(clips: NDArray[Any]) -> float:
    """Return one less than the effective number of speakers of the part with the fewest.

    The effective number of n speakers is n where all have the same number of clips, and smaller
    where a few of them have most of the clips.
    """
    clips = clips.astype(np.float64)
    effective = clips.sum(axis=0) ** 2 / (clips**2).sum(axis=0) if clips.any() else np.zeros(1)
    return float(effective.min()) - 1
