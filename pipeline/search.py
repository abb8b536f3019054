"""One fold of one layer: choose hyper-parameters among the training speakers, then test.

This is the unit of work: one process does it independently of the others, and a run that was
stopped does not repeat it.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .augmentation import count_copies, with_copies
from .blocks import Matrix, take
from .calibration import fit_temperature
from .folds import Fold, selection_folds
from .heads import Grid, Head, PathFitter, combinations, paths
from .layers import learn_weights, weigh
from .measures import MEASURES, Measure
from .metrics import weighted_uar
from .target import stratify

#: Weights of the rows of clips, where they have one for each label that raters gave.
RowWeights = NDArray[np.float64] | None

#: A path is abandoned when so many params in a row score below its best by more than the margin:
#: a score can fall and rise again.
PATIENCE = 2
MARGIN = 0.03


@dataclass(frozen=True)
class FoldResult:
    """The result of one fold of one layer.

    Attributes
    ----------
    inner : tuple of float
        First score (UAR, CCC) over the inner folds for each combination of the grid; NaN where its
        path was abandoned, or where there was nothing to choose.
    chosen : int
        The combination with the highest of them; the first of several.
    inner_not_converged : int
        How many inner fits did not reach their optimum.
    predicted : ndarray of str or float64, shape (n_test,)
        Predictions for the test clips by the head fitted on all training clips.
    scores : ndarray of float64, shape (n_test, n_labels)
        Its scores; NaN for a label that no training clip has. For ratings (n_test, 0).
    converged : bool
        Whether it reached its optimum.
    weights : tuple of float
        Layer weights, where they were learnt.
    inner_scores : ndarray of float32, shape (n_train, n_labels)
        Scores of the training clips by the chosen combination, each fitted without the inner fold
        of the clip; NaN for clips in no inner fold and for labels that no clip was fitted on. Shape
        (0, n_labels) unless they were requested.
    temperature : float
        What calibrates the scores of the chosen combination, fitted on its scores of the training
        clips by the inner folds; NaN for ratings, and where there can be no inner folds.
    """

    inner: tuple[float, ...]
    chosen: int
    inner_not_converged: int
    predicted: NDArray[Any]
    scores: NDArray[np.float64]
    converged: bool
    weights: tuple[float, ...] = ()
    inner_scores: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    temperature: float = math.nan


def search_fold(
    head: type[Head],
    grid: Grid,
    X: Matrix,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    fold: Fold,
    *,
    choose: bool,
    seed: int,
    keep_scores: bool = False,
    weights: RowWeights = None,
) -> FoldResult:
    """Choose hyper-parameters by inner folds over the training speakers, refit, and test.

    Where the fold names validation clips, these replace the inner folds.

    Parameters
    ----------
    head : subclass of Head
        What to fit.
    grid : mapping of str to tuple of float
        The values to try.
    X : ndarray of float32, shape (n_clips, n_features) or (n_layers, n_clips, n_features)
        Embeddings of all clips; of several layers if their weights are to be learnt. For heads that
        stream, one layer can also be a FileMatrix. Those of perturbed copies may follow, for each
        perturbation in the order of the clips: they are trained on where their clips are, and never
        tested.
    labels : ndarray of str or float64, shape (n_clips,)
        Labels or ratings of all clips.
    speakers : ndarray of str, shape (n_clips,)
        Speakers of all clips.
    fold : Fold
        Which clips to train and to test on.
    choose : bool
        Whether there is anything to choose, layers included.
    seed : int
        For heads that draw random numbers.
    keep_scores : bool
        Whether to return the scores of the inner folds as well.
    weights : ndarray of float64, shape (n_clips,), optional
        Where clips have a row for each label that raters gave: the weight of each row, by which
        heads are fitted, inner scores computed and temperatures fitted. All 1 by default.

    Returns
    -------
    FoldResult
    """
    names = label_names(labels)
    candidates = combinations(grid)
    fit_path, y, flat, layer_weights = prepare_fits(
        head, X, labels, speakers, fold.train, seed, weights
    )
    inner, failed = [np.nan] * len(candidates), 0
    inner_scores = np.empty((0, len(names)))
    # Where no weights are learnt, the inner folds have the same embeddings and share the fits.
    shared = fit_path if X.ndim == 2 else None
    if choose:
        inner, failed, inner_scores = _score_grid(
            head, grid, X, labels, speakers, fold, seed, shared, weights
        )
    elif names:  # there is nothing to choose, but the scores are to be calibrated
        with contextlib.suppress(UserError):  # too few speakers for inner folds
            *_, inner_scores = _score_grid(
                head, grid, X, labels, speakers, fold, seed, shared, weights
            )
    chosen = 0 if np.isnan(inner).all() else int(np.nanargmax(inner))
    temperature = math.nan
    if names and len(inner_scores):
        codes = np.searchsorted(names, labels[fold.train])
        own = None if weights is None else weights[fold.train]
        temperature = fit_temperature(inner_scores, codes, head.scores_are, own)
    kept = (inner_scores if keep_scores else inner_scores[:0]).astype(np.float32)
    if not len(fold.test):
        empty = np.empty((0, len(names)))
        return FoldResult(
            tuple(inner), chosen, failed, labels[:0], empty, converged=True, inner_scores=kept,
            temperature=temperature,
        )  # fmt: skip
    result = next(fit_path(np.arange(len(y)), flat[fold.test], [candidates[chosen]]))
    scores = all_columns(result.scores, y, names)
    return FoldResult(
        tuple(inner), chosen, failed, result.predicted, scores, result.converged, layer_weights,
        kept, temperature,
    )  # fmt: skip


def prepare_fits(
    head: type[Head],
    X: Matrix,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    train: NDArray[np.intp],
    seed: int,
    weights: RowWeights,
) -> tuple[PathFitter, NDArray[Any], Matrix, tuple[float, ...]]:
    """Prepare the fits of a head to training clips and their copies.

    ``train`` are the rows of the clips; the other parameters are as for :func:`search_fold`. Return
    what fits a path, the labels of its training rows, and one layer of all clips with its weights
    from :func:`flatten_layers`.
    """
    rows = with_copies(train, len(labels), count_copies(X, labels))
    clips = rows % len(labels)
    flat, layer_weights = flatten_layers(X, labels, train, weights)
    fit_path = head.path_fitter(
        flat[rows], labels[clips], speakers[clips], seed, **weight_argument(weights, clips)
    )
    return fit_path, labels[clips], flat, layer_weights


def _score_grid(
    head: type[Head],
    grid: Grid,
    X: Matrix,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    fold: Fold,
    seed: int,
    shared: PathFitter | None,
    weights: RowWeights,
) -> tuple[list[float], int, NDArray[np.float64]]:
    """Return the inner score of each combination, and how many fits failed to converge.

    The inner folds follow a path side by side, so that it can be abandoned when their common score
    has fallen; the scores of the rest of it are NaN. Also return the scores of the training clips
    by the best combination, shape (n_train, n_labels).
    """
    all_names, copies = label_names(labels), count_copies(X, labels)
    X = take(X, with_copies(fold.train, len(labels), copies))
    labels, speakers = labels[fold.train], speakers[fold.train]
    weights = None if weights is None else weights[fold.train]
    n_clips = len(labels)
    names, measure = label_names(labels), MEASURES[head.task]
    inner = selection_folds(fold, stratify(labels), speakers)
    tested = np.concatenate([part.test for part in inner])
    truth, tested_weights = labels[tested], None if weights is None else weights[tested]
    embeddings = [flatten_layers(X, labels, part.train, weights)[0] for part in inner]
    every = np.tile(np.arange(n_clips), copies + 1)
    weighted = weight_argument(weights, every)
    fitters = [
        shared or head.path_fitter(flat, labels[every], speakers[every], seed, **weighted)
        for flat in embeddings
    ]
    scores: list[float] = []
    best_score, best_scores = -np.inf, np.full((len(labels), len(all_names)), np.nan)
    failed = 0
    for path in paths(grid):
        along_path = [
            fit_path(with_copies(part.train, n_clips, copies), flat[part.test], path)
            for fit_path, part, flat in zip(fitters, inner, embeddings, strict=True)
        ]
        measured: list[float] = []
        for results in zip(*along_path, strict=True):
            predicted = np.concatenate([each.predicted for each in results])
            failed += sum(not each.converged for each in results)
            measured.append(score_inner(measure, truth, predicted, names, tested_weights))
            if measured[-1] > best_score:
                best_score = measured[-1]
                for part, result in zip(inner, results, strict=True):
                    trained_on = labels[part.train]
                    best_scores[part.test] = all_columns(result.scores, trained_on, all_names)
            if len(measured) > PATIENCE and max(measured[-PATIENCE:]) < max(measured) - MARGIN:
                break
        scores += measured + [np.nan] * (len(path) - len(measured))
    return scores, failed, best_scores


def score_inner(
    measure: Measure,
    truth: NDArray[Any],
    predicted: NDArray[Any],
    names: Sequence[str],
    weights: RowWeights,
) -> float:
    """Return the score by which a choice is made: the first one, or with weights, weighted UAR."""
    if weights is None:
        return measure.first_of(truth, predicted, names)
    return weighted_uar(truth, predicted, weights)


def all_columns(
    scores: NDArray[np.float64], trained_on: NDArray[Any], names: Sequence[str]
) -> NDArray[np.float64]:
    """Give scores a column for every label: NaN for a label that no training clip has."""
    columns = np.full((len(scores), len(names)), np.nan)
    if names:
        columns[:, np.searchsorted(names, np.unique(trained_on))] = scores
    return columns


def label_names(labels: NDArray[Any]) -> list[str]:
    """Return the distinct labels, sorted; an empty list for ratings."""
    return np.unique(labels).tolist() if labels.dtype.kind == "U" else []


def weight_argument(weights: RowWeights, rows: NDArray[np.intp]) -> dict[str, Any]:
    """Return the argument by which a head takes the weights of some rows; none without weights."""
    return {} if weights is None else {"weights": weights[rows]}


def flatten_layers(
    X: Matrix, labels: NDArray[Any], train: NDArray[np.intp], row_weights: RowWeights = None
) -> tuple[Matrix, tuple[float, ...]]:
    """Sum several layers by weights learnt on the training clips; keep one layer as it is.

    ``X``, ``labels``, ``train`` and ``row_weights`` are as for :func:`search_fold`. Return one
    layer, and the weights.
    """
    if X.ndim == 2:
        return X, ()
    rows = with_copies(train, len(labels), count_copies(X, labels))
    clips = rows % len(labels)
    own = None if row_weights is None else row_weights[clips]
    weights = learn_weights(X[:, rows], labels[clips], own)
    return weigh(X, weights), tuple(map(float, weights))
