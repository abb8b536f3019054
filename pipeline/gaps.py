"""Fairness: how much a score differs between groups of clips, such as women and men."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .measures import LABELS, Measure
from .permutation import gap_p
from .statistics import FEWEST_SPEAKERS, Interval, group_difference

#: Numbers with more values than this are divided into quarters.
MOST_VALUES = 20


@dataclass(frozen=True)
class Gap:
    """The largest difference of the first score between two groups of clips."""

    highest: str  #: The group with the highest score.
    lowest: str  #: The group with the lowest score.
    #: The score of the first less that of the second. Its interval is that of these two groups, as
    #: if they had been named beforehand.
    difference: Interval
    p: float  #: From :func:`~serpipe.pipeline.permutation.gap_p`, over all groups.
    groups: int  #: Number of groups that were compared.
    labels: int  #: Number of labels that the scores are over; 0 for ratings.


def largest_gap(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    groups: NDArray[np.str_],
    speakers: NDArray[np.str_],
    clusters: NDArray[np.str_],
    labels: Sequence[str] = (),
    measure: Measure = LABELS,
) -> Gap | None:
    """Compare the first score between groups of clips.

    Clips without a group, and groups of fewer than five speakers, do not count. Scores of labels
    are over the clips of those labels that all groups have, because a UAR over other labels is
    another number.

    Parameters
    ----------
    truth, predicted : ndarray of str or float64, shape (n_clips,)
        Labels or ratings.
    groups, speakers, clusters : ndarray of str, shape (n_clips,)
        The group and the speaker of each clip, and the unit of intervals that it belongs to: the
        speaker, or a group of speakers that folds keep together.
    labels : sequence of str
        All labels, sorted; empty for ratings.
    measure : Measure
        How predictions are scored.

    Returns
    -------
    Gap or None
        None if fewer than two groups, or of labels fewer than two that all groups have, are left.
    """
    names = [
        name
        for name in np.unique(groups).tolist()
        if name and len(np.unique(speakers[groups == name])) >= FEWEST_SPEAKERS
    ]
    if len(names) < 2:
        return None
    used = np.isin(groups, names)
    if labels:
        common = set(labels).intersection(*(truth[groups == name].tolist() for name in names))
        if len(common) < 2:
            return None
        used &= np.isin(truth, sorted(common))
    truth, predicted, groups = truth[used], predicted[used], groups[used]
    centred = measure.centre(truth, predicted)
    _, cluster = np.unique(clusters[used], return_inverse=True)
    sums = {name: _by_cluster(*centred, cluster, groups == name, labels, measure) for name in names}
    scores = {name: float(measure.first(each.sum(axis=0))) for name, each in sums.items()}
    if np.isnan(list(scores.values())).any():
        return None
    highest, lowest = max(scores, key=scores.__getitem__), min(scores, key=scores.__getitem__)
    if highest == lowest:  # all scores are equal
        highest, lowest = names[0], names[1]
    return Gap(
        highest,
        lowest,
        group_difference(sums[highest], sums[lowest], measure),
        gap_p(truth, predicted, groups, speakers[used], labels, measure),
        len(names),
        len(common) if labels else 0,
    )


def _by_cluster(
    truth: NDArray[Any],
    predicted: NDArray[Any],
    cluster: NDArray[np.intp],
    rows: NDArray[np.bool_],
    labels: Sequence[str],
    measure: Measure,
) -> NDArray[Any]:
    """Return the sums over the clips of each cluster that are among ``rows``."""
    each = (rows & (cluster == number) for number in range(cluster.max() + 1))
    return np.stack([measure.count(truth[some], predicted[some], labels) for some in each])


def as_groups(values: NDArray[Any]) -> NDArray[np.str_]:
    """Return the group of each clip by its value in a column, shape (n_clips,); empty without one.

    Text is its own group. Numbers are too, if there are at most 20 different ones; otherwise they
    are divided at their quartiles.
    """
    if values.dtype.kind == "U":
        return values
    numbers = values.astype(np.float64)
    known = np.isfinite(numbers)
    distinct = np.unique(numbers[known])
    if len(distinct) > MOST_VALUES:
        edges = np.quantile(numbers[known], [0, 0.25, 0.5, 0.75, 1])
        quarter = np.clip(np.searchsorted(edges[1:-1], numbers, side="left"), 0, 3)
        digits = 4
        while len({f"{edge:.{digits}g}" for edge in edges}) < len(np.unique(edges)):
            digits += 1  # two groups of one name would be one group
        names = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in pairwise(edges)]
        return np.where(known, np.array(names)[quarter], "")
    return np.array([f"{each:g}" if ok else "" for each, ok in zip(numbers, known, strict=True)])
