"""Scores of predicted labels and ratings, from sums over clips.

The sums of groups of clips can be added, so that intervals and tests over speakers need no second
pass over the clips.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import confusion, scores_of


@dataclass(frozen=True)
class Measure:
    """How predictions of one kind are scored."""

    task: str  #: ``"classification"`` or ``"regression"``.
    #: From the title of each score to its key. The first is used for choices and tests.
    scores: Mapping[str, str]
    #: From truth and predictions, shape (..., n_clips), and all labels, to sums over these clips:
    #: an array that can be added over groups of clips.
    count: Callable[[NDArray[Any], NDArray[Any], Sequence[Any]], NDArray[Any]]
    #: From such sums, stacked along the first axes or not, to scores by key.
    score: Callable[[NDArray[Any]], Mapping[str, Any]]
    #: From the sums of each speaker, shape (n_speakers, ...), to the number of clips that each
    #: score depends on, by key, shape (n_speakers, n_parts): a column for each label if the score
    #: is a mean over labels, otherwise one column.
    parts: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]
    limits: Mapping[str, tuple[float, float]]  #: The lowest and the highest possible score, by key.
    in_percent: bool  #: Whether scores are shares of 1, to be shown as percentages.
    definition: str  #: Definition of the first score.

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
        """The factor by which scores are multiplied for display."""
        return 100 if self.in_percent else 1

    @property
    def unit(self) -> str:
        """The unit of the first score on an axis, after its title."""
        return " in %" if self.in_percent else ""

    def chance(self, n_labels: int) -> float:
        """Return the first score of guessing."""
        return 1 / n_labels if n_labels else 0.0

    def first(self, sums: NDArray[Any]) -> Any:
        """Return the first score, from sums."""
        return self.score(sums)[self.key]

    def centre(
        self, truth: NDArray[Any], predicted: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Subtract the mean of the truth from ratings and predictions; return labels unchanged.

        No score of ratings depends on the origin of their scale, but sums of squares of numbers far
        from zero lose the digits in which the numbers differ. Both arrays, shape (n_clips,), must
        hold all clips whose sums will be added.
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
    return dict(vars(scores_of(counts)))


def _clips_of_labels(by_speaker: NDArray[Any]) -> dict[str, NDArray[Any]]:
    clips = by_speaker.sum(axis=-1)
    by_label = clips[:, clips.any(axis=0)]  # scores omit labels that do not occur
    return {
        "uar": by_label,
        "accuracy": clips.sum(axis=-1, keepdims=True),
        "macro_f1": by_label,
    }


def _clips_rated(by_speaker: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return dict.fromkeys(("ccc", "pearson", "mae"), by_speaker[:, :1])


def sum_ratings(
    truth: NDArray[Any], predicted: NDArray[Any], labels: Sequence[str] = ()
) -> NDArray[np.float64]:
    """Return the sums from which ratings are scored, float64, shape (..., 7).

    They are the number of clips; the sums of truth and prediction, of their squares and their
    product, and of the absolute errors. The ratings, shape (..., n_clips), are to be centred by
    :meth:`Measure.centre` if they may be far from zero; ``labels`` are not used.
    """
    t, p = np.broadcast_arrays(np.asarray(truth, np.float64), np.asarray(predicted, np.float64))
    summands = (np.ones_like(t), t, p, t * t, p * p, t * p, np.abs(t - p))
    return np.stack([each.sum(axis=-1) for each in summands], axis=-1)


def score_ratings(sums: NDArray[Any]) -> dict[str, Any]:
    """Score ratings from the sums of :func:`sum_ratings`.

    Returns
    -------
    dict of str to ndarray, shape (...)
        ``"ccc"``, the concordance correlation coefficient, ``"pearson"`` and ``"mae"``, the mean
        absolute error in units of the rating. NaN where undefined: without clips, or where nothing
        varies.

    References
    ----------
    Lin (1989), *A concordance correlation coefficient to evaluate reproducibility*, Biometrics
    45(1), equation 1, with variances over n as he estimates them.
    """
    n, t, p, tt, pp, tp, absolute = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_t, mean_p = t / n, p / n
        # A variance that is only rounding error is zero.
        var_t = _zero_if_tiny(tt / n - mean_t**2, tt / n)
        # Predictions that vary by less than a millionth of the truth count as constant.
        var_p = _zero_if_tiny(pp / n - mean_p**2, np.maximum(pp, tt) / n)
        covariance = np.where((var_t > 0) & (var_p > 0), tp / n - mean_t * mean_p, 0.0)
        bias = _zero_if_tiny((mean_t - mean_p) ** 2, (tt + pp) / n)
        return {
            "ccc": 2 * covariance / (var_t + var_p + bias),
            "pearson": covariance / np.sqrt(var_t * var_p),
            "mae": absolute / n,
        }


def _zero_if_tiny(variance: Any, square: Any) -> Any:
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
