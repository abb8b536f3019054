"""Support vector machine with an RBF kernel on standardised embeddings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from . import sklearn_file
from .head import Head, Parameter, Parameters


def build(parameters: Parameters, seed: int) -> Pipeline:
    """Scaler and SVM, classes weighted by the inverse of their size, gamma 1 / (n_features var)."""
    return make_pipeline(
        StandardScaler(), SVC(C=parameters["C"], kernel="rbf", class_weight="balanced")
    )


def scores(classifier: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """One-versus-rest decision values; for two classes the negative and the value itself."""
    values = classifier.decision_function(X)
    if values.ndim == 1:
        values = np.stack([-values, values], axis=1)
    return values.astype(np.float64)  # type: ignore[no-any-return]


def converged(classifier: Any) -> bool:
    """Whether libsvm says that it reached the optimum."""
    return bool(np.all(classifier[-1].fit_status_ == 0))


SVM = Head(
    name="svm",
    title="SVM (RBF)",
    parameters={"C": Parameter(10.0, 1e-8, 1e8)},
    build=build,
    scores=scores,
    scores_are="decision value",
    converged=converged,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
)
