"""Train and score heads, fold by fold and layer by layer."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..progress import Track, no_track
from .folds import Fold
from .heads import Classifier, Head, Parameters


@dataclass(frozen=True)
class LayerFit:
    """One head on one layer.

    Attributes
    ----------
    layer : str
        The layer.
    predicted : ndarray of str, shape (n_clips,)
        Out-of-fold predictions: each clip by the classifier that never heard its speaker.
    scores : ndarray of float64, shape (n_clips, n_classes)
        Out-of-fold scores, columns in the order of the labels; NaN for a class that was not
        among the training clips.
    not_converged : tuple of str
        The folds in which the classifier did not reach its optimum.
    classifier : object
        Fitted on all clips afterwards: to predict new ones, not to be scored on these.
    """

    layer: str
    predicted: NDArray[np.str_]
    scores: NDArray[np.float64]
    not_converged: tuple[str, ...]
    classifier: Classifier


def fit_layers(
    head: Head,
    parameters: Parameters,
    embeddings: Callable[[str], NDArray[np.float32]],
    layers: Sequence[str],
    labels: NDArray[np.str_],
    folds: Sequence[Fold],
    *,
    seed: int = 0,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> Iterator[LayerFit]:
    """Cross-validate a head on each layer, then fit it on all clips.

    Parameters
    ----------
    head : Head
        The kind of classifier.
    parameters : mapping of str to float
        Its hyper-parameters, fixed beforehand: nothing is chosen here.
    embeddings : callable
        From a layer's name to an array of float32, shape (n_clips, n_features).
    layers : sequence of str
        The layers to fit.
    labels : ndarray of str, shape (n_clips,)
        The truth.
    folds : sequence of Fold
        From :mod:`serpipe.pipeline.folds`.
    seed : int
        For heads that draw random numbers.
    jobs : int
        Processes, each with one BLAS thread. The results do not depend on it.
    track : callable
        Shows progress.

    Yields
    ------
    LayerFit
        In the order of ``layers``, each as soon as it is done.
    """
    names = np.unique(labels)
    everything = Fold("all", np.arange(len(labels)), np.arange(0))
    each_layer = [*folds, everything]

    def tasks() -> Iterator[Any]:
        for layer in layers:
            X = embeddings(layer)
            for fold in each_layer:
                yield delayed(_fit_fold)(head.name, parameters, X, labels, fold, seed)

    with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
        results = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")(tasks())
        done = iter(track(results, f"fitting {head.title}", len(layers) * len(each_layer)))
        for layer in layers:
            predicted = np.empty(len(labels), dtype=names.dtype)
            scores = np.full((len(labels), len(names)), np.nan)
            not_converged = []
            for fold in folds:
                result = next(done)
                predicted[fold.test] = result.predicted
                columns = np.searchsorted(names, result.classifier_classes)
                scores[np.ix_(fold.test, columns)] = result.scores
                if not result.converged:
                    not_converged.append(fold.name)
            final = next(done)
            yield LayerFit(layer, predicted, scores, tuple(not_converged), final.classifier)
        next(done, None)  # lets the progress bar end


@dataclass(frozen=True)
class _FoldFit:
    predicted: NDArray[np.str_]
    scores: NDArray[np.float64]
    classifier_classes: NDArray[np.str_]
    converged: bool
    classifier: Classifier | None


def _fit_fold(
    head_name: str,
    parameters: Parameters,
    X: NDArray[np.float32],
    labels: NDArray[np.str_],
    fold: Fold,
    seed: int,
) -> _FoldFit:
    """Fit on the training clips, predict the test clips; return the classifier if none is left."""
    from .heads import HEADS  # by name: what travels to a worker process must be picklable

    head = HEADS[head_name]
    classifier = head.build(parameters, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # convergence is reported by converged()
        classifier.fit(X[fold.train], labels[fold.train])
    converged = head.converged(classifier)
    classes = np.asarray(classifier.classes_)
    if not len(fold.test):
        nothing = np.empty((0, len(classes)))
        return _FoldFit(labels[fold.test], nothing, classes, converged, classifier)
    test = X[fold.test]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        predicted, scores = classifier.predict(test), head.scores(classifier, test)
    return _FoldFit(predicted, scores, classes, converged, None)
