"""How predictions are counted and scored: of labels, and of ratings.

What is kept of a group of clips is a sum that can be added to those of other groups: so intervals
and tests over speakers need no second pass over the clips.
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
        From truth and predictions, shape (..., n_clips), and all labels, to what is kept of these
        clips: an array that adds up over groups of clips.
    score : callable
        From such sums, stacked along the first axes or not, to scores by key.
    parts : callable
        From the sums of each speaker, shape (n_speakers, ...), to the clips that each score rests
        on, by key, shape (n_speakers, n_parts): a column for each label, where the score is a mean
        over labels, else one column.
    limits : mapping of str to (float, float)
        The least and the greatest value of each score, by key.
    in_percent : bool
        Whether scores are shares of 1, to be shown as percentages.
    definition : str
        What the first score is.
    """

    task: str
    scores: Mapping[str, str]
    count: Callable[[NDArray[Any], NDArray[Any], Sequence[Any]], NDArray[Any]]
    score: Callable[[NDArray[Any]], Mapping[str, Any]]
    parts: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]
    limits: Mapping[str, tuple[float, float]]
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

    def centre(
        self, truth: NDArray[Any], predicted: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Subtract the mean of the truth from ratings and predictions; leave labels as they are.

        No score of ratings depends on the origin of their scale, but sums of squares of numbers
        far from zero lose the digits that tell the numbers apart.

        Parameters
        ----------
        truth, predicted : ndarray of str or float, shape (n_clips,)
            Of all clips whose sums are to be added up.

        Returns
        -------
        truth, predicted : ndarray of str or float64, shape (n_clips,)
        """
        if self.task == "classification":
            return truth, predicted
        exact = np.asarray(truth, np.float64)
        origin = exact.mean() if len(exact) else 0.0
        return exact - origin, np.asarray(predicted, np.float64) - origin

    def first_of(
        self, truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str] = ()
    ) -> float:
        """Return the first score of predictions, shape (n_clips,)."""
        return float(self.first(self.count(*self.centre(truth, predicted), labels)))


def _score_labels(counts: NDArray[Any]) -> dict[str, Any]:
    found = scores_of(counts)
    return {"uar": found.uar, "accuracy": found.accuracy, "macro_f1": found.macro_f1}


def _clips_of_labels(by_speaker: NDArray[Any]) -> dict[str, NDArray[Any]]:
    clips = by_speaker.sum(axis=-1)
    of_labels = clips[:, clips.any(axis=0)]  # scores leave out labels that do not occur
    return {
        "uar": of_labels,
        "accuracy": clips.sum(axis=-1, keepdims=True),
        "macro_f1": of_labels,
    }


def _clips_rated(by_speaker: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return dict.fromkeys(("ccc", "pearson", "mae"), by_speaker[:, :1])


def sum_ratings(
    truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str] = ()
) -> NDArray[np.float64]:
    """Sum what the scores of ratings are made of.

    Parameters
    ----------
    truth, predicted : ndarray of float64, shape (..., n_clips)
        Ratings, centred by :meth:`Measure.centre` where they may lie far from zero.
    labels : sequence of str
        Not used.

    Returns
    -------
    ndarray of float64, shape (..., 7)
        Number of clips; sums of truth and prediction, of their squares and their product, and of
        the absolute errors.
    """
    t, p = np.broadcast_arrays(np.asarray(truth, np.float64), np.asarray(predicted, np.float64))
    summands = (np.ones_like(t), t, p, t * t, p * p, t * p, np.abs(t - p))
    return np.stack([each.sum(axis=-1) for each in summands], axis=-1)


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
        # Predictions that vary by less than a millionth of the truth are constant, too.
        var_p = _none_if_tiny(pp / n - mean_p**2, np.maximum(pp, tt) / n)
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
    _clips_of_labels,
    {"uar": (0.0, 1.0), "accuracy": (0.0, 1.0), "macro_f1": (0.0, 1.0)},
    in_percent=True,
    definition="UAR: unweighted average recall",
)
RATINGS = Measure(
    "regression",
    {"CCC": "ccc", "Pearson": "pearson", "MAE": "mae"},
    sum_ratings,
    score_ratings,
    _clips_rated,
    {"ccc": (-1.0, 1.0), "pearson": (-1.0, 1.0), "mae": (0.0, np.inf)},
    in_percent=False,
    definition="CCC: concordance correlation, 1 for perfect agreement, 0 for none; MAE: mean "
    "absolute error, in units of the rating",
)
MEASURES = {measure.task: measure for measure in (LABELS, RATINGS)}
