"""Scores of predicted labels, from confusion matrices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Scores:
    """Three scores from 0 to 1: numbers, or arrays for stacked confusion matrices."""

    #: Unweighted average recall: the mean over classes of the share of their clips that are right.
    #: Chance is one over the number of classes, whatever their sizes.
    uar: Any
    accuracy: Any  #: Share of clips that are right.
    macro_f1: Any  #: Mean over classes of the harmonic mean of precision and recall.


def confusion(
    truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[Any]
) -> NDArray[np.int64]:
    """Return the confusion matrix, shape (..., n_labels, n_labels): rows are the truth.

    Truth and predictions have the shape (..., n_clips): several sets may be stacked. ``labels`` are
    all labels, sorted.
    """
    n = len(labels)
    cells = np.searchsorted(labels, truth) * n + np.searchsorted(labels, predicted)
    sets = math.prod(cells.shape[:-1])
    offset = cells.reshape(sets, cells.shape[-1]) + n * n * np.arange(sets)[:, None]
    counts = np.bincount(offset.ravel(), minlength=sets * n * n)
    return counts.reshape(*cells.shape[:-1], n, n)


def weighted_uar(
    truth: NDArray[np.str_], predicted: NDArray[np.str_], weights: NDArray[np.float64]
) -> float:
    """Return the UAR of rows with weights, all of shape (n_rows,): recalls are shares of weight."""
    codes = np.unique(truth, return_inverse=True)[1]
    right = np.bincount(codes, weights * (truth == predicted))
    return float((right / np.bincount(codes, weights)).mean())


def recalls(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Return the recall of each class, shape (..., n_labels); NaN for a class without clips.

    ``counts`` are confusion matrices, stacked or not.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    recall: NDArray[np.float64] = _ratio(right, counts.sum(axis=-1))
    return recall


def scores_of(counts: NDArray[Any]) -> Scores:
    """Compute the scores from confusion matrices, stacked or not.

    They are over the classes that occur in the truth; a class that is never predicted counts as 0.
    NaN without clips.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    occurs = true > 0
    n_classes = occurs.sum(axis=-1)
    f1 = _ratio(2 * right, true + predicted)
    return Scores(
        uar=_ratio(np.where(occurs, _ratio(right, true), 0).sum(axis=-1), n_classes),
        accuracy=_ratio(right.sum(axis=-1), true.sum(axis=-1)),
        macro_f1=_ratio(np.where(occurs, f1, 0).sum(axis=-1), n_classes),
    )


def score(
    truth: NDArray[np.str_], predicted: NDArray[np.str_], labels: Sequence[str] | None = None
) -> Scores:
    """Score predictions; ``labels`` are all labels, sorted, by default those that occur."""
    if labels is None:
        labels = np.union1d(truth, predicted).tolist()
    return scores_of(confusion(truth, predicted, labels))


def _ratio(part: Any, whole: Any) -> Any:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.true_divide(part, whole)
