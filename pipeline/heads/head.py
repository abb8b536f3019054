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
class Head:
    """A kind of classifier on pooled embeddings.

    Attributes
    ----------
    name : str
        Short name, as on the command line.
    title : str
        Name in tables and figures.
    defaults : mapping of str to float
        Hyper-parameters and the values they have unless the user gives others.
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
    defaults: Parameters
    build: Callable[[Parameters, int], Classifier]
    scores: Callable[[Classifier, NDArray[np.float32]], NDArray[np.float64]]
    scores_are: str
    converged: Callable[[Classifier], bool]
    suffix: str
    save: Callable[[Classifier, Path], None]
    load: Callable[[Path], Classifier]
