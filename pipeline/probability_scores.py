"""How well probabilities agree with the truth, over clips of speakers that were left out.

Every label counts alike, whatever its share of the clips: heads are trained and calibrated so.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .calibration import label_weights
from .statistics import Interval, jackknife_interval

#: Bins of equal width in which probabilities are compared with shares of right predictions.
BINS = 15
#: Smaller probabilities of the truth count as this one in the log-loss, which is finite then.
_SMALLEST = 1e-12


@dataclass(frozen=True)
class ProbabilityScores:
    """Scores of the probabilities of a head."""

    ece: float  #: Expected calibration error of the predicted label.
    #: The mean of the same for simulated outcomes that follow the probabilities: with few clips it
    #: is far from zero.
    ece_of_exact: float
    brier: Interval  #: Brier score: from 0 to 2, 1 - 1/n for equal probabilities of n labels.
    log_loss: Interval  #: In nats: log n for equal probabilities of n labels.
    risk: Interval  #: Area under the risk-coverage curve.


def score_probabilities(
    probabilities: NDArray[np.float64],
    predicted: NDArray[np.intp],
    truth: NDArray[np.intp],
    speakers: NDArray[np.str_],
) -> ProbabilityScores:
    """Score probabilities, with 95 % intervals over speakers.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n_clips, n_labels)
        Of every label.
    predicted, truth : ndarray of int, shape (n_clips,)
        Labels as column numbers.
    speakers : ndarray of str, shape (n_clips,)
        The units of the intervals.

    References
    ----------
    Brier (1950), *Verification of forecasts expressed in terms of probability*, Monthly Weather
    Review 78. Geifman, Uziel & El-Yaniv (2019), *Bias-reduced uncertainty estimation for deep
    neural classifiers*, ICLR, on the area under the risk-coverage curve.
    """
    clips, weights = np.arange(len(truth)), label_weights(truth)
    confidence, is_right = probabilities[clips, predicted], predicted == truth
    names, speaker = np.unique(speakers, return_inverse=True)
    n_labels = probabilities.shape[1]
    is_true = np.zeros_like(probabilities)
    is_true[clips, truth] = 1
    squared = np.square(probabilities - is_true).sum(axis=1)
    logs = -np.log(np.maximum(probabilities[clips, truth], _SMALLEST))
    counts = _sums(np.ones(len(truth)), speaker, truth, len(names), n_labels)
    occurs = counts.any(axis=0)
    counts = counts[:, occurs]
    intervals = {}
    for name, losses, limit in (("brier", squared, 2.0), ("log_loss", logs, np.inf)):
        sums = _sums(losses, speaker, truth, len(names), n_labels)[:, occurs]
        value = _mean_over_labels(sums.sum(axis=0), counts.sum(axis=0))
        left_out = _mean_over_labels(sums.sum(axis=0) - sums, counts.sum(axis=0) - counts)
        intervals[name] = jackknife_interval(float(value), left_out, counts, (0.0, limit))
    areas = [
        risk_area(confidence[rows], is_right[rows], label_weights(truth[rows]))
        for rows in (speaker != number for number in range(len(names)))
        if rows.any()
    ]
    area = risk_area(confidence, is_right, weights)
    return ProbabilityScores(
        calibration_error(confidence, is_right, weights),
        error_of_exact_probabilities(confidence, weights),
        intervals["brier"],
        intervals["log_loss"],
        jackknife_interval(area, np.array(areas), counts, (0.0, 1.0)),
    )


def _sums(
    losses: NDArray[np.float64],
    speaker: NDArray[np.intp],
    truth: NDArray[np.intp],
    n_speakers: int,
    n_labels: int,
) -> NDArray[np.float64]:
    """Return the sum of each speaker and label, shape (n_speakers, n_labels)."""
    cells = speaker * n_labels + truth
    sums = np.bincount(cells, losses, n_speakers * n_labels)
    return np.asarray(sums.reshape(n_speakers, n_labels), np.float64)


def _mean_over_labels(
    sums: NDArray[np.float64], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean over labels of their mean losses; NaN if one has no clips."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((sums / counts).mean(axis=-1))


@dataclass(frozen=True)
class Reliability:
    """Bins of probabilities of the predicted label; only bins that hold clips."""

    confidence: NDArray[np.float64]  #: Mean probability, shape (n_bins,).
    share_right: NDArray[np.float64]  #: Share of right predictions, shape (n_bins,).
    weight: NDArray[np.float64]  #: Share of all clips, every label counting alike.
    clips: NDArray[np.intp]  #: Number of clips.


def reliability(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> Reliability:
    """Sort clips into equal bins by the probability of their predicted label.

    Parameters
    ----------
    confidence : ndarray of float64, shape (n_clips,)
        Probability of the predicted label.
    is_right : ndarray of bool, shape (n_clips,)
        Whether that is the true one.
    weights : ndarray of float64, shape (n_clips,)
        Of the clips; they sum to 1.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    clips = np.bincount(bins, minlength=BINS)
    filled = clips > 0
    weight = np.asarray(np.bincount(bins, weights, BINS)[filled], np.float64)
    return Reliability(
        np.bincount(bins, weights * confidence, BINS)[filled] / weight,
        np.bincount(bins, weights * is_right, BINS)[filled] / weight,
        weight,
        clips[filled],
    )


def calibration_error(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> float:
    """Return the expected calibration error; the parameters are those of :func:`reliability`.

    References
    ----------
    Guo et al. (2017), *On calibration of modern neural networks*, ICML.
    """
    bins = reliability(confidence, is_right, weights)
    return float(bins.weight @ np.abs(bins.confidence - bins.share_right))


def error_of_exact_probabilities(
    confidence: NDArray[np.float64], weights: NDArray[np.float64], draws: int = 200
) -> float:
    """Return the mean calibration error of simulated outcomes that follow the probabilities.

    It is above zero, as a bin has few clips: an error of this size shows no lack of calibration.
    """
    chance = np.random.default_rng(0)
    outcomes = (chance.random(len(confidence)) < confidence for _ in range(draws))
    return float(np.mean([calibration_error(confidence, each, weights) for each in outcomes]))


def risk_coverage(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the curve of errors among the clips with the highest probabilities.

    The parameters are those of :func:`reliability`.

    Returns
    -------
    coverage : ndarray of float64, shape (n_clips,)
        Shares of the clips that are kept, from the first to all of them.
    risk : ndarray of float64, shape (n_clips,)
        The share of wrong predictions among them.
    """
    order = np.argsort(-confidence, kind="stable")
    coverage = np.cumsum(weights[order])
    return coverage, np.cumsum((weights * ~is_right)[order]) / coverage


def risk_area(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], weights: NDArray[np.float64]
) -> float:
    """Return the area under the risk-coverage curve: the mean risk over all coverages."""
    coverage, risk = risk_coverage(confidence, is_right, weights)
    return float(np.diff(coverage, prepend=0) @ risk)
