"""How predictions are counted and scored: of labels, and of ratings.

What is kept of a group of clips is a sum that can be added to those of other groups: so intervals
by resampling speakers cost no second look at the clips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import confusion, scores_of


@dataclass(frozen=True)
class Measure:
    """How predictions of one kind are scored.

    Attributes
    ----------
    task : str
        ``"classification"`` or ``"regression"``.
    scores : mapping of str to str
        From the title of each score to its key. The first is what is chosen by and tested.
    count : callable
        From truth and predictions, shape (n_clips,), and all labels, to what is kept of these
        clips: an array that adds up over groups of clips.
    score : callable
        From such sums, stacked along the first axes or not, to scores by key.
    in_percent : bool
        Whether scores are shares of 1, to be shown as percentages.
    definition : str
        What the first score is.
    """

    task: str
    scores: Mapping[str, str]
    count: Callable[[NDArray[Any], NDArray[Any], Sequence[str]], NDArray[Any]]
    score: Callable[[NDArray[Any]], Mapping[str, Any]]
    in_percent: bool
    definition: str

    @property
    def title(self) -> str:
        """Title of the first score."""
        return next(iter(self.scores))

    @property
    def key(self) -> str:
        """Key of the first score."""
        return self.scores[self.title]

    @property
    def scale(self) -> int:
        """By what scores are multiplied to be shown."""
        return 100 if self.in_percent else 1

    @property
    def unit(self) -> str:
        """What stands after the title of the first score on an axis."""
        return " in %" if self.in_percent else ""

    def chance(self, n_labels: int) -> float:
        """Return the first score that guessing gives."""
        return 1 / n_labels if n_labels else 0.0

    def first(self, sums: NDArray[Any]) -> Any:
        """Return the first score of sums."""
        return self.score(sums)[self.key]


def _score_labels(counts: NDArray[Any]) -> dict[str, Any]:
    found = scores_of(counts)
    return {"uar": found.uar, "accuracy": found.accuracy, "macro_f1": found.macro_f1}


def sum_ratings(
    truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str] = ()
) -> NDArray[np.float64]:
    """Sum what the scores of ratings are made of.

    Parameters
    ----------
    truth, predicted : ndarray of float64, shape (n_clips,)
        Ratings.
    labels : sequence of str
        Not used.

    Returns
    -------
    ndarray of float64, shape (7,)
        Number of clips; sums of truth and prediction, of their squares and their product, and of
        the absolute errors.
    """
    t, p = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    return np.array([len(t), t.sum(), p.sum(), t @ t, p @ p, t @ p, np.abs(t - p).sum()])


def score_ratings(sums: NDArray[Any]) -> dict[str, Any]:
    """Score ratings.

    Parameters
    ----------
    sums : ndarray of float64, shape (..., 7)
        From :func:`sum_ratings`.

    Returns
    -------
    dict of str to ndarray, shape (...)
        ``"ccc"``, the concordance correlation coefficient, ``"pearson"`` and ``"mae"``, the mean
        absolute error in units of the rating. NaN where they are not defined: without clips, or
        where nothing varies.

    References
    ----------
    Lin (1989), *A concordance correlation coefficient to evaluate reproducibility*, Biometrics
    45(1), equation 1, with variances over n as he estimates them.
    """
    n, t, p, tt, pp, tp, absolute = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_t, mean_p = t / n, p / n
        # A variance of rounding errors is none.
        var_t = _none_if_tiny(tt / n - mean_t**2, tt / n)
        var_p = _none_if_tiny(pp / n - mean_p**2, pp / n)
        covariance = np.where((var_t > 0) & (var_p > 0), tp / n - mean_t * mean_p, 0.0)
        apart = _none_if_tiny((mean_t - mean_p) ** 2, (tt + pp) / n)
        return {
            "ccc": 2 * covariance / (var_t + var_p + apart),
            "pearson": covariance / np.sqrt(var_t * var_p),
            "mae": absolute / n,
        }


def _none_if_tiny(variance: Any, square: Any) -> Any:
    return np.where(variance <= 1e-12 * square, 0.0, variance)


LABELS = Measure(
    "classification",
    {"UAR": "uar", "accuracy": "accuracy", "macro-F1": "macro_f1"},
    confusion,
    _score_labels,
    in_percent=True,
    definition="UAR: unweighted average recall",
)
RATINGS = Measure(
    "regression",
    {"CCC": "ccc", "Pearson": "pearson", "MAE": "mae"},
    sum_ratings,
    score_ratings,
    in_percent=False,
    definition="CCC: concordance correlation, 1 for perfect agreement, 0 for none; MAE: mean "
    "absolute error, in units of the rating",
)
MEASURES = {measure.task: measure for measure in (LABELS, RATINGS)}
