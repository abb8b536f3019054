"""What the pipeline asks of a head. One module per kind of head fills one of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: A scikit-learn classifier: ``fit(X, y)``, ``predict(X)``, ``classes_``.
Classifier = Any
Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter and what it may be.

    Attributes
    ----------
    default : float
        Its value unless the user gives another.
    low, high : float
        Smallest and largest value.
    whole : bool
        Whether it must be a whole number.
    """

    default: float
    low: float
    high: float
    whole: bool = False

    def __str__(self) -> str:
        return f"{'a whole' if self.whole else 'a'} number from {self.low:g} to {self.high:g}"

    def allows(self, value: float) -> bool:
        """Whether ``value`` is within the limits."""
        return self.low <= value <= self.high and (not self.whole or value == int(value))


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
        Its hyper-parameters.
    build : callable
        From hyper-parameters and a seed to an unfitted classifier. Whatever it learns, the scaler
        included, it learns in ``fit``: inside the fold.
    scores : callable
        From a fitted classifier and X to one score per class, shape (n_clips, n_classes), columns
        in the order of ``classes_``. Predictions come from ``predict``, not from these.
    scores_are : str
        What the scores are, such as ``"probability"``.
    converged : callable
        Whether a fitted classifier reached its optimum.
    suffix : str
        File suffix of a saved classifier.
    save, load : callable
        To and from a file. ``load`` runs no code that the file brings along.
    """

    name: str
    title: str
    parameters: Mapping[str, Parameter]
    build: Callable[[Parameters, int], Classifier]
    scores: Callable[[Classifier, NDArray[np.float32]], NDArray[np.float64]]
    scores_are: str
    converged: Callable[[Classifier], bool]
    suffix: str
    save: Callable[[Classifier, Path], None]
    load: Callable[[Path], Classifier]

    @property
    def defaults(self) -> dict[str, float]:
        """The hyper-parameters that it has unless the user gives others."""
        return {name: parameter.default for name, parameter in self.parameters.items()}
