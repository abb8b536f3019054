"""Multinomial logistic regression on standardised embeddings."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from . import sklearn_file
from .head import NOT_CALIBRATED, Head, Parameter, Point, Tested, Tester, predict_own
from .lr_path import Basis, follow_path, probabilities


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


def fit(
    X: NDArray[np.float32],
    labels: NDArray[np.str_],
    point: Point,
    seed: int,
    basis: Basis | None = None,
) -> Pipeline:
    """Fit the classifier that :func:`build` describes, to the optimum.

    Scikit-learn's own solver stops before it where the penalty is weak. Used for the head that is
    tested and for the one that is kept: they are fitted alike.

    Parameters
    ----------
    X : ndarray of float32, shape (n_clips, n_features)
        Embeddings of the training clips.
    labels : ndarray of str, shape (n_clips,)
        Of these.
    point : mapping of str to float
        Hyper-parameters.
    seed : int
        Not used: there is nothing to draw.
    basis : Basis, optional
        That of the standardised clips, where it has been computed.

    Returns
    -------
    Pipeline
        Scaler and logistic regression, both scikit-learn's, fitted.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    pipeline = build(point, seed)
    scaler, regression = pipeline[0], pipeline[1]
    standard = scaler.fit_transform(X)
    basis = basis or Basis.of(standard)
    (solution,) = follow_path(standard, codes, [point["C"]], basis, regression.max_iter, exact=True)
    coefficients, intercepts = solution.coefficients.T, solution.intercepts
    if len(classes) == 2:  # scikit-learn has one vector for both
        coefficients, intercepts = np.diff(coefficients, axis=0), np.diff(intercepts)
    regression.classes_ = classes
    regression.coef_ = np.ascontiguousarray(coefficients)
    regression.intercept_ = intercepts
    regression.n_features_in_ = X.shape[1]
    # All that is read of it is whether it is below the limit.
    regression.n_iter_ = np.array([0 if solution.converged else regression.max_iter], np.int32)
    return pipeline


def fit_final(
    X: NDArray[np.float32],
    labels: NDArray[np.str_],
    speakers: NDArray[np.str_],
    point: Point,
    seed: int,
) -> Pipeline:
    """Fit all clips, whoever talks."""
    return fit(X, labels, point, seed)


def converged(classifier: Any) -> bool:
    """Whether the solver stopped before its last iteration."""
    regression = classifier[-1]
    return bool(np.max(regression.n_iter_) < regression.max_iter)


def open_clips(X: NDArray[np.float32], labels: NDArray[np.str_], seed: int) -> Tester:
    """Fit parts of the clips along a path of C, in a basis that they share; all clips exactly.

    Parts are the inner folds, whose fits are only compared with each other. The classifier of all
    clips is the one that is tested, and is the one that :func:`fit_final` gives.
    """
    basis: list[Basis] = []

    def test(
        train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
    ) -> Iterator[Tested]:
        if not basis:
            basis.append(Basis.of(StandardScaler().fit_transform(X)))
        if np.array_equal(train, np.arange(len(labels))):
            for point in points:
                classifier = fit(X, labels, point, seed, basis[0])
                yield Tested(*predict_own(classifier, X_test), converged(classifier))
            return
        classes, codes = np.unique(labels[train], return_inverse=True)
        scaler = StandardScaler().fit(X[train])
        standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
        limit = int(points[0]["max_iter"])
        strengths = [point["C"] for point in points]
        for solution in follow_path(standard, codes, strengths, basis[0], limit, exact=False):
            probability = probabilities(solution, standard_test)
            yield Tested(classes[probability.argmax(axis=1)], probability, solution.converged)

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
    fit_final=fit_final,
    converged=converged,
    predict=predict_own,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
    probabilities_are=NOT_CALIBRATED,
)
