"""Multinomial logistic regression on standardised embeddings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from . import sklearn_file
from .head import Head, Parameter, Point, Tested, Tester, fit_all, one_by_one, predict_own
from .lr_path import Basis, follow_path


def build(point: Point, seed: int) -> Pipeline:
    """Scaler and logistic regression, classes weighted by the inverse of their size."""
    return make_pipeline(
        StandardScaler(),
        LogisticRegression(
            C=point["C"],
            class_weight="balanced",
            max_iter=int(point["max_iter"]),
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


def open_clips(X: NDArray[np.float32], labels: NDArray[np.str_], seed: int) -> Tester:
    """Fit along a path of C, each solution the start of the next, in a basis that all folds share.

    Two classes are left to scikit-learn, which penalises them otherwise (one vector, not two).
    """
    alone = one_by_one(build, scores, converged)(X, labels, seed)
    basis: list[Basis] = []

    def test(
        train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
    ) -> Iterator[Tested]:
        classes, codes = np.unique(labels[train], return_inverse=True)
        if len(classes) == 2:
            yield from alone(train, X_test, points)
            return
        if not basis:
            basis.append(Basis.of(StandardScaler().fit_transform(X)))
        scaler = StandardScaler().fit(X[train])
        standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
        limit = int(points[0]["max_iter"])
        strengths = [point["C"] for point in points]
        for solution in follow_path(standard, codes, strengths, basis[0], limit):
            logits = standard_test @ solution.coefficients + solution.intercepts
            predicted = classes[logits.argmax(axis=1)]
            probability = softmax(logits.astype(np.float64), axis=1)
            yield Tested(predicted, probability, solution.converged)

    return test


LR = Head(
    name="lr",
    title="logistic regression",
    parameters={
        "max_iter": Parameter((1000,), 1, 1e6, whole=True),
        "C": Parameter((1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2), 1e-8, 1e8),
    },
    build=build,
    open=open_clips,
    scores_are="probability",
    fit_final=fit_all(build),
    converged=converged,
    predict=predict_own,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
)
