"""The base class of heads: scikit-learn-like classifiers and regressors on pooled embeddings."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..blocks import Matrix, by_block
from . import sklearn_file

#: What ``probabilities_are`` says of probabilities that a fitted model gives by itself.
NOT_CALIBRATED = "not calibrated (the model's own output, usually overconfident)"
#: One value for each hyper-parameter.
Params = Mapping[str, float]
#: The values to try for each hyper-parameter.
Grid = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter: its limits and the values that are tried.

    Attributes
    ----------
    grid : tuple of float
        The values that are tried unless the user gives others; a single value fixes it.
    low, high : float
        The smallest and the largest value allowed.
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
class HeldOutResult:
    """What a fitted head predicts for clips that it was not fitted on.

    Attributes
    ----------
    predicted : ndarray of str or float64, shape (n_clips,)
        Labels or ratings.
    scores : ndarray of float64, shape (n_clips, n_classes)
        A score per class, in the order of the sorted training labels; for ratings (n_clips, 0).
    converged : bool
        Whether the solver reached its optimum.
    """

    predicted: NDArray[Any]
    scores: NDArray[np.float64]
    converged: bool


#: From row numbers of training clips, the embeddings of held-out clips and hyper-parameters along
#: one path to the result of each. Given the row numbers of all training clips, in order, it must
#: predict what ``Head.fit`` on them predicts.
PathFitter = Callable[[NDArray[np.intp], Matrix, Sequence[Params]], Iterator[HeldOutResult]]


class Head(ABC):
    """A classifier or regressor on pooled embeddings.

    A subclass sets the class attributes and implements :meth:`fit`, which learns everything, the
    scaler included, from the clips it is given, so that nothing is learnt outside the fold.

    Parameters
    ----------
    params : mapping of str to float
        A value for each of ``parameters``.
    seed : int
        For heads that draw random numbers.

    Attributes
    ----------
    name : str
        Short name, as on the command line.
    title : str
        Name in tables and figures.
    parameters : mapping of str to Parameter
        The hyper-parameters. The search goes upwards along the last of them and stops when it no
        longer pays, so its low end should be the simplest and cheapest model.
    task : {"classification", "regression"}
        Whether labels (str) or ratings (float64) are predicted.
    scores_are : str
        What :meth:`decision_scores` returns, such as ``"probability"``; ``"none"`` for ratings.
    probabilities_are : str
        Whether the probabilities are calibrated, and how; shown beside them. Empty for ratings.
    suffix : str
        File suffix of a saved head.
    trusted : tuple of str
        Types that a saved head may contain besides those of scikit-learn and numpy.
    streams : bool
        Whether :meth:`fit` and :meth:`path_fitter` also take a
        :class:`~serpipe.pipeline.blocks.FileMatrix`, of which a block is in memory at a time.
    takes_weights : bool
        Whether :meth:`fit` and :meth:`path_fitter` also take ``weights``, float64, shape (n_rows,):
        the weight of each row of ``X``, by which the head can be trained on the labels of several
        raters. A clip then has a row for each of its labels. Classes are balanced by the sums of
        their weights.
    stands_in_for : str
        The head that this one replaces where the embeddings do not fit in memory, and which is
        better where they do: ``--head all`` omits this one.
    grid : dict of str to tuple of float
        The values of ``parameters`` that are tried unless the user gives others.
    model : object
        What :meth:`fit` learnt.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameters: ClassVar[Mapping[str, Parameter]]
    task: ClassVar[str] = "classification"
    scores_are: ClassVar[str] = "probability"
    probabilities_are: ClassVar[str] = NOT_CALIBRATED
    suffix: ClassVar[str] = ".skops"
    trusted: ClassVar[tuple[str, ...]] = ()
    streams: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = False
    stands_in_for: ClassVar[str] = ""
    grid: ClassVar[dict[str, tuple[float, ...]]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "parameters" in vars(cls):
            cls.grid = {name: parameter.grid for name, parameter in cls.parameters.items()}

    def __init__(self, params: Params, seed: int = 0) -> None:
        self.params, self.seed = params, seed
        self.model: Any = None

    @abstractmethod
    def fit(self, X: Matrix, y: NDArray[Any], speakers: NDArray[np.str_]) -> Self:
        """Fit to training clips, and return the head.

        Parameters
        ----------
        X : ndarray of float32, shape (n_clips, n_features)
            Embeddings.
        y : ndarray of str or float64, shape (n_clips,)
            Labels or ratings.
        speakers : ndarray of str, shape (n_clips,)
            For heads that hold speakers out, to calibrate.
        """

    def predict(self, X: NDArray[np.float32]) -> NDArray[Any]:
        """Return labels (str) or ratings (float64), shape (n_clips,)."""
        return np.asarray(self.model.predict(X))

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return probabilities, shape (n_clips, n_classes), of the sorted training labels."""
        return np.asarray(self.model.predict_proba(X), dtype=np.float64)

    def decision_scores(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the scores that a run records, shape (n_clips, n_classes)."""
        return self.predict_proba(X)

    def predict_and_score(self, X: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return what :meth:`predict` and :meth:`decision_scores` return.

        A head may override this to compute once what both need.
        """
        return self.predict(X), self.decision_scores(X)

    @classmethod
    def for_many_clips(cls, params: Params, seed: int = 0) -> "Head":
        """Return an unfitted head that predicts many clips in less time and is never saved.

        Its predictions equal those of the head itself, up to the tolerance of the solver. A head
        without a faster way is returned as it is.
        """
        return cls(params, seed)

    @property
    def converged(self) -> bool:
        """Whether the solver reached its optimum; heads that always do leave this as it is."""
        return True

    @classmethod
    def path_fitter(
        cls, X: Matrix, y: NDArray[Any], speakers: NDArray[np.str_], seed: int
    ) -> PathFitter:
        """Return a function that fits subsets of training clips along a path of the grid.

        Here each fit stands alone, and test clips are predicted a block at a time. A head may
        override this to compute once what several fits share, such as the kernel of an SVM.

        Parameters
        ----------
        X, y, speakers
            As :meth:`fit` takes them: all training clips of a fold.
        seed : int
            For heads that draw random numbers.
        """

        def fit_path(
            train: NDArray[np.intp], X_test: Matrix, path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            for params in path:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the result says whether it converged
                    head = cls(params, seed).fit(X[train], y[train], speakers[train])
                    result = HeldOutResult(
                        by_block(head.predict, X_test),
                        by_block(head.decision_scores, X_test),
                        head.converged,
                    )
                yield result

        return fit_path

    def save(self, path: Path) -> None:
        """Write the fitted model; equal models give equal bytes."""
        sklearn_file.save(self.model, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a head that :meth:`save` wrote; no code in the file is run.

        Raises
        ------
        UserError
            If the file is damaged, or asks for types other than those of this head.
        """
        head = cls({})
        head.model = sklearn_file.load(path, cls.trusted)
        return head


class RegressionHead(Head):
    """A head for ratings, which has neither classes nor scores."""

    task = "regression"
    scores_are = "none"
    probabilities_are = ""

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return ratings, shape (n_clips,)."""
        return np.asarray(self.model.predict(X), dtype=np.float64)

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return an array of shape (n_clips, 0)."""
        return np.empty((len(X), 0))


def paths(grid: Grid) -> tuple[tuple[Params, ...], ...]:
    """List the combinations of a grid, as paths along its last hyper-parameter, going upwards.

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


def combinations(grid: Grid) -> list[Params]:
    """List the combinations of a grid in the order of :func:`paths`, in which they are recorded."""
    return [params for path in paths(grid) for params in path]
