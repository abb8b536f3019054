"""One fold of one layer: choose hyper-parameters among the training speakers, then test.

This is the unit of work: what one process does without a word from the others, and what a stopped
run need not do again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import Matrix, take
from .folds import Fold, choosing_folds
from .heads import Grid, Head, Tested, Tester, paths
from .layers import learn_weights, weigh
from .measures import MEASURES
from .target import stratify

#: A path is left when so many points in a row score below its best, by more than the margin: a
#: score can fall and rise again.
PATIENCE = 2
MARGIN = 0.03


@dataclass(frozen=True)
class FoldResult:
    """What one fold of one layer gave.

    Attributes
    ----------
    inner : tuple of float
        First score (UAR, CCC) over the inner folds of each point of the grid; NaN where the search
        had stopped before it, or where there was nothing to choose.
    chosen : int
        The point with the highest of them; the first if several have it.
    inner_not_converged : int
        How many inner fits did not reach their optimum.
    predicted : ndarray of str or float64, shape (n_test,)
        Predictions of the test clips by a classifier fitted on all training clips.
    scores : ndarray of float64, shape (n_test, n_labels)
        Its scores; NaN for a label that was not among the training clips. Of ratings, none.
    converged : bool
        Whether it reached its optimum.
    weights : tuple of float
        Of the layers, where they were learnt.
    """

    inner: tuple[float, ...]
    chosen: int
    inner_not_converged: int
    predicted: NDArray[Any]
    scores: NDArray[np.float64]
    converged: bool
    weights: tuple[float, ...] = ()


def search_fold(
    head: Head,
    grid: Grid,
    X: Matrix,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    fold: Fold,
    *,
    choose: bool,
    seed: int,
) -> FoldResult:
    """Choose hyper-parameters by inner folds over the training speakers, refit, and test.

    Where the fold names validation clips, these take the place of the inner folds.

    Parameters
    ----------
    head : Head
        The kind of classifier.
    grid : mapping of str to tuple of float
        The values to try.
    X : ndarray of float32, shape (n_clips, n_features) or (n_layers, n_clips, n_features)
        Embeddings of all clips; of several layers if their weights are to be learnt. Of one layer
        also Rows, for heads that stream: then no more than a block is in memory.
    labels : ndarray of str or float64, shape (n_clips,)
        What is predicted of all clips.
    speakers : ndarray of str, shape (n_clips,)
        Who talks.
    fold : Fold
        Which clips to train and to test on.
    choose : bool
        Whether there is anything to choose, layers included.
    seed : int
        For heads that draw random numbers.

    Returns
    -------
    FoldResult
    """
    names = label_names(labels)
    points = [point for path in paths(grid) for point in path]
    flat, weights = _flatten(X, labels, fold.train)
    tester = head.open(flat[fold.train], labels[fold.train], seed)
    inner, failed = [np.nan] * len(points), 0
    if choose:
        # Where no weights are learnt, the inner folds see the same clips and share the tester.
        shared = tester if X.ndim == 2 else None
        inner, failed = _score_grid(head, grid, X, labels, speakers, fold, seed, shared)
    chosen = 0 if np.isnan(inner).all() else int(np.nanargmax(inner))
    if not len(fold.test):
        return FoldResult(
            tuple(inner), chosen, failed, labels[:0], np.empty((0, len(names))), converged=True
        )
    everyone = np.arange(len(fold.train))
    tested = next(tester(everyone, flat[fold.test], [points[chosen]]))
    scores = np.full((len(fold.test), len(names)), np.nan)
    if names:
        scores[:, np.searchsorted(names, np.unique(labels[fold.train]))] = tested.scores
    return FoldResult(
        tuple(inner), chosen, failed, tested.predicted, scores, tested.converged, weights
    )


def _score_grid(
    head: Head,
    grid: Grid,
    X: Matrix,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    fold: Fold,
    seed: int,
    shared: Tester | None,
) -> tuple[list[float], int]:
    """Return the inner score of each point, NaN where a path was left, and how many fits failed.

    The inner folds go along a path side by side, so that it can be left when their common score
    has fallen.
    """
    X, labels = take(X, fold.train), labels[fold.train]
    names, measure = label_names(labels), MEASURES[head.task]
    inner = choosing_folds(fold, stratify(labels), speakers[fold.train])
    truth = np.concatenate([labels[part.test] for part in inner])
    clips = [_flatten(X, labels, part.train)[0] for part in inner]
    testers = [shared or head.open(flat, labels, seed) for flat in clips]
    scores: list[float] = []
    failed = 0
    for path in paths(grid):
        streams = [
            tester(part.train, flat[part.test], path)
            for tester, part, flat in zip(testers, inner, clips, strict=True)
        ]
        measured: list[float] = []
        for tested in _side_by_side(streams):
            said = np.concatenate([each.predicted for each in tested])
            failed += sum(not each.converged for each in tested)
            measured.append(measure.first_of(truth, said, names))
            if len(measured) > PATIENCE and max(measured[-PATIENCE:]) < max(measured) - MARGIN:
                break
        scores += measured + [np.nan] * (len(path) - len(measured))
    return scores, failed


def label_names(labels: NDArray[Any]) -> list[str]:
    """Return the labels that there are, sorted; none of ratings."""
    return np.unique(labels).tolist() if labels.dtype.kind == "U" else []


def _side_by_side(streams: Sequence[Iterator[Tested]]) -> Iterator[tuple[Tested, ...]]:
    return zip(*streams, strict=True)


def _flatten(
    X: Matrix, labels: NDArray[Any], train: NDArray[np.intp]
) -> tuple[Matrix, tuple[float, ...]]:
    """Sum several layers by weights learnt on the training clips; leave one layer as it is."""
    if X.ndim == 2:
        return X, ()
    weights = learn_weights(X[:, train], labels[train])
    return weigh(X, weights), tuple(map(float, weights))
