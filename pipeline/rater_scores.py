"""Scores of probabilities against the labels of several raters."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .statistics import Interval, jackknife_interval

#: A probability below this counts as this in a cross-entropy.
LEAST = 1e-12


@dataclass(frozen=True)
class RaterScores:
    """How well probabilities agree with the shares of raters."""

    cross_entropy: Interval  #: Mean over clips, in nats.
    entropy: float  #: Mean entropy of the shares: the cross-entropy of perfect probabilities.
    divergence: Interval  #: Mean Jensen-Shannon divergence over clips, in bits, from 0 to 1.
    #: Macro-F1 of the labels above 1 / n_labels: those that a share of raters gave, and those to
    #: which a head gives such a probability.
    f1: Interval


def score_shares(
    probabilities: NDArray[np.float64], shares: NDArray[np.float64], clusters: NDArray[np.str_]
) -> RaterScores:
    """Score probabilities against the shares of raters.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n_clips, n_labels)
        NaN counts as 0.
    shares : ndarray of float64, shape (n_clips, n_labels)
        The share of raters who gave each label; each row sums to 1.
    clusters : ndarray of str, shape (n_clips,)
        The unit of the intervals: the speaker, or a group of speakers.

    References
    ----------
    Lin (1991), *Divergence measures based on the Shannon entropy*, IEEE Transactions on Information
    Theory 37(1). Chou et al. (2024), *Embracing ambiguity and subjectivity using the all-inclusive
    aggregation rule for evaluating multi-label speech emotion recognition systems*, SLT: a label
    counts where its share is above 1 / n_labels.
    """
    p = np.nan_to_num(probabilities)
    middle = (p + shares) / 2
    divergence = (_relative(p, middle) + _relative(shares, middle)) / 2 / np.log(2)
    cross_entropy = -(shares * np.log(np.maximum(p, LEAST))).sum(axis=1)
    entropy = -(shares * np.log(np.maximum(shares, LEAST))).sum(axis=1)
    _, cluster = np.unique(clusters, return_inverse=True)
    n_labels = shares.shape[1]
    given, predicted = shares > 1 / n_labels, p > 1 / n_labels
    counts = np.stack([given & predicted, given, predicted], axis=2).astype(np.int64)
    by_cluster = np.zeros((cluster.max() + 1, *counts.shape[1:]), np.int64)
    np.add.at(by_cluster, cluster, counts)
    total = by_cluster.sum(axis=0)
    occurs = total[:, 1] > 0  # as for other scores, over the labels that occur
    value, left_out = float(_f1(total, occurs)), _f1(total - by_cluster, occurs)
    f1 = jackknife_interval(value, left_out, by_cluster[:, occurs, 1], (0.0, 1.0))
    return RaterScores(
        _mean(cross_entropy, cluster, np.inf),
        float(entropy.mean()),
        _mean(divergence, cluster, 1.0),
        f1,
    )


def _relative(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the relative entropy of each row of ``a`` to that of ``b``, in nats."""
    from scipy.special import rel_entr

    result: NDArray[np.float64] = rel_entr(a, b).sum(axis=1)
    return result


def _f1(counts: NDArray[np.int64], occurs: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean F1 over the labels that occur, from counts of shape (..., n_labels, 3)."""
    both, given, predicted = np.moveaxis(counts[..., occurs, :], -1, 0)
    result: NDArray[np.float64] = (2 * both / np.maximum(given + predicted, 1)).mean(axis=-1)
    return result


def _mean(values: NDArray[np.float64], cluster: NDArray[np.intp], highest: float) -> Interval:
    """Return the mean over clips, with its interval over clusters."""
    sums, clips = np.bincount(cluster, values), np.bincount(cluster)
    rest = np.maximum(len(values) - clips, 1)
    left_out = (values.sum() - sums) / rest
    return jackknife_interval(float(values.mean()), left_out, clips[:, None], (0.0, highest))
