"""Scores of out-of-fold predictions, pooled over folds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score, recall_score


@dataclass(frozen=True)
class Scores:
    """Three scores, each from 0 to 1.

    Attributes
    ----------
    uar : float
        Unweighted average recall: the mean over classes of the share of clips found. Chance is
        one over the number of classes, whatever their sizes.
    accuracy : float
        Share of clips that are right.
    macro_f1 : float
        Mean over classes of the harmonic mean of precision and recall.
    """

    uar: float
    accuracy: float
    macro_f1: float


def score(truth: NDArray[np.str_], predicted: NDArray[np.str_]) -> Scores:
    """Score predictions.

    Parameters
    ----------
    truth, predicted : ndarray of str, shape (n_clips,)
        Labels.

    Returns
    -------
    Scores
        Over the classes that stand in ``truth``; a class never predicted counts as 0.
    """
    labels = np.unique(truth)
    options = {"labels": labels, "average": "macro"}
    return Scores(
        uar=float(recall_score(truth, predicted, **options)),
        accuracy=float(accuracy_score(truth, predicted)),
        macro_f1=float(f1_score(truth, predicted, **options)),
    )
