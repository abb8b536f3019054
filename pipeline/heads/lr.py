"""Multinomial logistic regression on standardised embeddings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from . import sklearn_file
from .head import Head, Parameter, Parameters


def build(parameters: Parameters, seed: int) -> Pipeline:
    """Scaler and logistic regression, classes weighted by the inverse of their size."""
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=parameters["C"],
            class_weight="balanced",
            max_iter=int(parameters["max_iter"]),
            random_state=seed,
        ),
    )


def scores(classifier: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability of each class."""
    probabilities: NDArray[np.float64] = classifier.predict_proba(X).astype(np.float64)
    return probabilities


def converged(classifier: Any) -> bool:
    """Whether the solver stopped before its last iteration."""
    regression = classifier[-1]
    return bool(np.max(regression.n_iter_) < regression.max_iter)


LR = Head(
    name="lr",
    title="logistic regression",
    parameters={
        "C": Parameter(0.01, 1e-8, 1e8),
        "max_iter": Parameter(1000, 1, 1e6, whole=True),
    },
    build=build,
    scores=scores,
    scores_are="probability",
    converged=converged,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
)
