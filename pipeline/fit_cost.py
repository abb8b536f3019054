"""Estimate how long a fit takes, from a small fit on this machine."""

import math
import time
from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from .folds import Fold
from .heads import Grid, Head
from .search import search_fold

#: Size of the small fit.
CLIPS, SPEAKERS = 480, 8
#: The time grows with this power of the number of clips; for all other heads with the number. An
#: SVM compares pairs of clips, of which it skips most.
_POWERS = {"svm": 1.5, "svr": 1.5}


def seconds_per_fit(head: type[Head], grid: Grid, width: int, n_labels: int) -> float:
    """Return the seconds of one fit to random embeddings: one layer and fold, with inner folds.

    Parameters
    ----------
    head : subclass of Head
    grid : mapping of str to tuple of float
        The values to try.
    width : int
        Number of features.
    n_labels : int
        Number of labels; not used for ratings.

    Returns
    -------
    float
        For :data:`CLIPS` clips, on one core.
    """
    rng = np.random.default_rng(0)
    number = np.arange(CLIPS)
    label = number % max(n_labels, 2)
    X = rng.standard_normal((CLIPS, width), np.float32)
    X[:, : width // 4] += 0.3 * label[:, None]  # otherwise nothing converges early
    if head.task == "classification":
        labels = np.array([f"label {each:03d}" for each in label])
    else:
        labels = label + rng.standard_normal(CLIPS)
    speakers = np.array([f"speaker {each}" for each in number // (CLIPS // SPEAKERS)])
    test = np.flatnonzero(speakers == speakers[0])
    fold = Fold("", np.setdiff1d(number, test), test)
    began = time.perf_counter()
    with threadpool_limits(1):
        search_fold(head, grid, X, labels, speakers, fold, choose=True, seed=0)
    return time.perf_counter() - began


def seconds_of_run(
    per_fit: Sequence[tuple[type[Head], float]], n_clips: int, n_layers: int, n_folds: int
) -> float:
    """Return the seconds of a run of some heads on one core.

    Parameters
    ----------
    per_fit : sequence of (subclass of Head, float)
        Heads with the time of :func:`seconds_per_fit`.
    n_clips, n_layers, n_folds : int
        Size of the run; one more fit per layer makes the head that is kept.

    Returns
    -------
    float
    """
    scale = n_clips / CLIPS
    return sum(
        seconds * n_layers * (n_folds + 1) * math.pow(scale, _POWERS.get(head.name, 1))
        for head, seconds in per_fit
    )
