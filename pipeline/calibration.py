"""Calibrated probabilities, by temperature scaling.

Heads are trained with classes of equal weight, and temperatures are fitted in the same way: every
label counts alike, whatever its share of the corpus.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_sample_weight

#: What is said of probabilities that were calibrated here.
TEMPERATURE_SCALED = "calibrated by temperature scaling on held-out speakers"
#: Limits of a temperature. Predictions that are never wrong, or no better than chance, reach them.
LOWEST, HIGHEST = 0.05, 20.0
#: Smaller probabilities count as this one: so small that even a high temperature leaves next to
#: nothing of it.
SMALLEST = 1e-300


def fit_temperature(
    scores: NDArray[np.float64],
    codes: NDArray[np.intp],
    scores_are: str,
    row_weights: NDArray[np.float64] | None = None,
) -> float:
    """Fit the temperature that minimises the cross-entropy of held-out clips.

    Parameters
    ----------
    scores : ndarray of float64, shape (n_clips, n_labels)
        Scores of clips by heads that were not fitted on their speakers; NaN for labels that a head
        was not fitted on, and for clips that no head scored.
    codes : ndarray of int, shape (n_clips,)
        The label of each clip, as a column number.
    scores_are : str
        ``"probability"``; anything else is taken as logits.
    row_weights : ndarray of float64, shape (n_clips,), optional
        As for :func:`label_weights`.

    Returns
    -------
    float
        From 0.05 to 20; NaN if the scores tell nothing about the labels of two or more classes.

    References
    ----------
    Guo et al. (2017), *On calibration of modern neural networks*, ICML.
    """
    known = ~np.isnan(scores[np.arange(len(codes)), codes])
    scores, codes = scores[known], codes[known]
    row_weights = None if row_weights is None else row_weights[known]
    if len(np.unique(codes)) < 2:
        return math.nan
    logits, clips = _logits(scores, scores_are), np.arange(len(codes))
    weights = label_weights(codes, row_weights)

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / math.exp(log_temperature), axis=1)
        return -float(weights @ log_p[clips, codes])

    limits = (math.log(LOWEST), math.log(HIGHEST))
    fitted = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6})
    return float(math.exp(fitted.x))


def apply_temperature(
    scores: NDArray[np.float64], temperature: float, scores_are: str
) -> NDArray[np.float64]:
    """Return calibrated probabilities, shape (n_clips, n_labels), in the order of the scores.

    Parameters
    ----------
    scores : ndarray of float64, shape (n_clips, n_labels)
        Scores of a head; NaN for a label that it was not fitted on, whose probability becomes 0.
    temperature : float
        Logits are divided by it: probabilities become less extreme above 1, more extreme below.
    scores_are : str
        ``"probability"``; anything else is taken as logits.
    """
    return np.asarray(softmax(_logits(scores, scores_are) / temperature, axis=1))


def _logits(scores: NDArray[np.float64], scores_are: str) -> NDArray[np.float64]:
    missing = np.isnan(scores)
    if scores_are == "probability":
        scores = np.log(np.clip(np.nan_to_num(scores), SMALLEST, None))
    return np.where(missing, -np.inf, scores)


def label_weights(
    labels: NDArray[Any], row_weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return weights of clips, shape (n_clips,), that sum to 1 and to the same for every label.

    ``labels`` are names or column numbers. Where clips have a row for each label that raters gave,
    ``row_weights`` are the weights of these rows, and the result is proportional to them among the
    rows of a label.
    """
    balanced = balance(labels, row_weights)
    return balanced / float((balanced if row_weights is None else row_weights).sum())


def balance(
    labels: NDArray[Any], row_weights: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Return weights, shape (n_rows,), whose sum is the same for every label.

    They are proportional to ``row_weights`` among the rows of a label, and have the same sum over
    all rows. For equal ``row_weights`` of 1, the default, they are scikit-learn's ``"balanced"``
    weights.
    """
    if row_weights is None:
        return np.asarray(compute_sample_weight("balanced", labels), np.float64)
    codes = np.unique(labels, return_inverse=True)[1]
    of_label = np.bincount(codes, row_weights)
    factor = row_weights.sum() / (len(of_label) * of_label)
    balanced: NDArray[np.float64] = row_weights * factor[codes]
    return balanced
