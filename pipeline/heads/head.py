"""What the pipeline asks of a head. One module per kind of head fills one of these."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..blocks import Matrix

#: Of a saved head that comes from elsewhere, in bytes.
MAX_HEAD_BYTES = 1 << 30

#: A scikit-learn classifier: ``fit(X, y)``, ``predict(X)``, ``classes_``.
Classifier = Any
#: What is said of probabilities that a fitted model gives by itself.
NOT_CALIBRATED = "not calibrated (the model's own output, usually overconfident)"
#: One value for each hyper-parameter.
Point = Mapping[str, float]
#: The values to try for each hyper-parameter.
Grid = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter, what it may be, and which values are tried.

    Attributes
    ----------
    grid : tuple of float
        The values that are tried unless the user gives others; one value fixes it.
    low, high : float
        Smallest and largest value.
    whole : bool
        Whether it must be a whole number.
    """

    grid: tuple[float, ...]
    low: float
    high: float
    whole: bool = False

    def __str__(self) -> str:
        return f"{'a whole' if self.whole else 'a'} number from {self.low:g} to {self.high:g}"

    def allows(self, value: float) -> bool:
        """Whether ``value`` is within the limits."""
        return self.low <= value <= self.high and (not self.whole or value == int(value))


@dataclass(frozen=True)
class Tested:
    """What a fitted classifier or regressor says of clips that it was not fitted on.

    Attributes
    ----------
    predicted : ndarray of str or float64, shape (n_clips,)
        Its predictions.
    scores : ndarray of float64, shape (n_clips, n_classes)
        A score per class, columns in the order of the sorted training labels; of a regressor none,
        shape (n_clips, 0).
    converged : bool
        Whether it reached its optimum.
    """

    predicted: NDArray[Any]
    scores: NDArray[np.float64]
    converged: bool


#: From positions of training clips, embeddings of test clips and hyper-parameters along one path
#: to what the classifier of each point says of the test clips. Where the positions are those of all
#: clips, in order, that is what the classifier of ``fit_final`` says.
Tester = Callable[[NDArray[np.intp], Matrix, Sequence[Point]], Iterator[Tested]]


@dataclass(frozen=True)
class Head:
    """A kind of classifier on pooled embeddings.

    Attributes
    ----------
    name : str
        Short name, as on the command line.
    title : str
        Name in tables and figures.
    parameters : mapping of str to Parameter
        Its hyper-parameters. The last of them is the one along which the search goes upwards and
        stops when it no longer pays: the simplest and cheapest classifier is at its low end.
    build : callable
        From hyper-parameters and a seed to an unfitted classifier. Whatever it learns, the scaler
        included, it learns in ``fit``: inside the fold.
    open : callable
        From training clips ``(X, labels, seed)`` to a :data:`Tester` over subsets of them: the
        place to compute once what several fits share. :func:`one_by_one` makes one that shares
        nothing.
    scores_are : str
        What the scores of a :class:`Tested` are, such as ``"probability"``. Predictions are not
        made from them.
    fit_final : callable
        From ``(X, labels, speakers, hyper-parameters, seed)`` to the classifier that is kept.
        :func:`fit_all` makes one that does no more than fit.
    converged : callable
        Whether such a classifier reached its optimum.
    predict : callable
        From such a classifier and embeddings to predictions, shape (n_clips,), and probabilities,
        shape (n_clips, n_classes).
    suffix : str
        File suffix of a saved classifier.
    save, load : callable
        To and from a file. ``load`` runs no code that the file brings along.
    probabilities_are : str
        What is said wherever the probabilities of ``predict`` are shown: whether they are
        calibrated, and how. Empty for ratings, which have none.
    task : str
        ``"classification"``, or ``"regression"`` for ratings: then labels are float64, and there
        are neither classes nor scores.
    streams : bool
        Whether ``open``, its :data:`Tester` and ``fit_final`` take
        :class:`~serpipe.pipeline.blocks.Rows` in place of arrays, and read a block at a time.
    stands_in_for : str
        The head whose place it takes where embeddings are too many for that one, and which is
        better where they are not: ``--head all`` leaves this one out.
    """

    name: str
    title: str
    parameters: Mapping[str, Parameter]
    build: Callable[[Point, int], Classifier]
    open: Callable[[Matrix, NDArray[Any], int], Tester]
    scores_are: str
    fit_final: Callable[[Matrix, NDArray[Any], NDArray[np.str_], Point, int], Classifier]
    converged: Callable[[Classifier], bool]
    predict: Callable[[Classifier, NDArray[np.float32]], tuple[NDArray[Any], NDArray[np.float64]]]
    suffix: str
    save: Callable[[Classifier, Path], None]
    load: Callable[[Path], Classifier]
    probabilities_are: str = ""
    task: str = "classification"
    streams: bool = False
    stands_in_for: str = ""

    @property
    def grid(self) -> dict[str, tuple[float, ...]]:
        """The values that are tried unless the user gives others."""
        return {name: parameter.grid for name, parameter in self.parameters.items()}


def paths(grid: Grid) -> tuple[tuple[Point, ...], ...]:
    """List all points of a grid, as paths along its last hyper-parameter, each going upwards.

    Parameters
    ----------
    grid : mapping of str to tuple of float
        The values to try.

    Returns
    -------
    tuple of tuple of mapping
        A path for each combination of the other hyper-parameters.
    """
    if not grid:
        return (({},),)
    *others, last = grid
    return tuple(
        tuple(dict(zip(grid, (*fixed, value), strict=True)) for value in sorted(grid[last]))
        for fixed in product(*(sorted(grid[name]) for name in others))
    )


def one_by_one(
    build: Callable[[Point, int], Classifier],
    scores: Callable[[Classifier, NDArray[np.float32]], NDArray[np.float64]],
    converged: Callable[[Classifier], bool],
) -> Callable[[NDArray[np.float32], NDArray[Any], int], Tester]:
    """Make an ``open`` that fits the classifier of each point by itself.

    Parameters
    ----------
    build : callable
        As in :class:`Head`.
    scores : callable
        From a fitted classifier and embeddings to scores, shape (n_clips, n_classes).
    converged : callable
        Whether a fitted classifier reached its optimum.

    Returns
    -------
    callable
        An ``open`` for :class:`Head`.
    """

    def open_clips(X: NDArray[np.float32], labels: NDArray[Any], seed: int) -> Tester:
        def test(
            train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
        ) -> Iterator[Tested]:
            for point in points:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # convergence is told by Tested
                    classifier = build(point, seed).fit(X[train], labels[train])
                    tested = Tested(
                        classifier.predict(X_test),
                        scores(classifier, X_test),
                        converged(classifier),
                    )
                yield tested

        return test

    return open_clips


def fit_all(
    build: Callable[[Point, int], Classifier],
) -> Callable[[Matrix, NDArray[Any], NDArray[np.str_], Point, int], Classifier]:
    """Make a ``fit_final`` that fits what ``build`` builds on all clips, whoever talks."""

    def fit(
        X: Matrix,
        labels: NDArray[Any],
        speakers: NDArray[np.str_],
        point: Point,
        seed: int,
    ) -> Classifier:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return build(point, seed).fit(X, labels)

    return fit


def no_scores(regressor: Classifier, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what a regressor has of scores: nothing, shape (n_clips, 0)."""
    return np.empty((len(X), 0))


def predict_ratings(
    regressor: Classifier, X: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take predictions from a regressor, which has no probabilities."""
    return np.asarray(regressor.predict(X), dtype=np.float64), no_scores(regressor, X)


def predict_own(
    classifier: Classifier, X: NDArray[np.float32]
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Take predictions and probabilities from a classifier that gives both."""
    return classifier.predict(X), np.asarray(classifier.predict_proba(X), dtype=np.float64)
