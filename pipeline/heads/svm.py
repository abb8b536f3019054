"""Support vector machines, with an RBF or a linear kernel, on standardised embeddings."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from ...errors import UserError
from ..folds import inner_folds
from . import sklearn_file
from .head import Head, Parameter, Point, Tested, Tester


def build(point: Point, seed: int, *, kernel: str) -> Pipeline:
    """Scaler and SVM, classes weighted by the inverse of their size, gamma 1 / (n_features var)."""
    return make_pipeline(StandardScaler(), _machine(point, kernel))


def _machine(point: Point, kernel: str) -> SVC:
    # The cache holds the kernel of some two thousand clips: what is not in it is computed again.
    return SVC(C=point["C"], kernel=kernel, class_weight="balanced", cache_size=500)


def scores(machine: Any, X: NDArray[Any]) -> NDArray[np.float64]:
    """One-versus-rest decision values; for two classes the negative and the value itself."""
    values = machine.decision_function(X)
    if values.ndim == 1:
        values = np.stack([-values, values], axis=1)
    return values.astype(np.float64)  # type: ignore[no-any-return]


def rbf(A: NDArray[np.float32], B: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return ``exp(-gamma |a - b|^2)``, shape (len(A), len(B)), with gamma 1 / (n_features var(B)).

    That is scikit-learn's ``gamma="scale"`` for training clips B.
    """
    inner = linear(A, B)
    squares = [np.einsum("ij,ij->i", X, X, dtype=np.float64) for X in (A, B)]
    distances = squares[0][:, None] + squares[1] - 2 * inner
    np.maximum(distances, 0, out=distances)
    distances *= -1 / (B.shape[1] * (float(B.var()) or 1.0))
    kernel: NDArray[np.float64] = np.exp(distances, out=distances)
    return kernel


def linear(A: NDArray[np.float32], B: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the inner products, shape (len(A), len(B))."""
    return (A @ B.T).astype(np.float64)


def open_clips(
    X: NDArray[np.float32],
    labels: NDArray[np.str_],
    seed: int,
    *,
    gram: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]],
) -> Tester:
    """Compute the kernel of a fold once, by one product of matrices, and use it for every C.

    It cannot be shared between folds: the scaler is fitted in each, and the kernel is of the
    standardised clips.
    """

    def test(
        train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
    ) -> Iterator[Tested]:
        scaler = StandardScaler().fit(X[train])
        standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
        among, across = gram(standard, standard), gram(standard_test, standard)
        for point in points:
            machine = _machine(point, "precomputed").fit(among, labels[train])
            values = scores(machine, across)
            yield Tested(machine.predict(across), values, converged=True)

    return test


def fit_calibrated(
    X: NDArray[np.float32],
    labels: NDArray[np.str_],
    speakers: NDArray[np.str_],
    point: Point,
    seed: int,
    *,
    kernel: str,
) -> dict[str, Any]:
    """Fit on all clips; learn probabilities from decision values of speakers left out.

    Of the clips of a label that only one speaker has, the decision values are those of the fitted
    machine: no other has heard the label.

    Returns
    -------
    dict
        ``"machine"``, and ``"calibration"`` from decision values to probabilities.

    References
    ----------
    Platt (1999), *Probabilistic outputs for support vector machines*, here with one logistic
    regression over the decision values of all classes.
    """
    machine = build(point, seed, kernel=kernel).fit(X, labels)
    values = scores(machine, X)
    names = np.unique(labels)
    try:
        apart = inner_folds(labels, speakers)
    except UserError:  # one speaker has all clips of a label
        apart = ()
    for fold in apart:
        if np.array_equal(np.unique(labels[fold.train]), names):
            other = build(point, seed, kernel=kernel).fit(X[fold.train], labels[fold.train])
            values[fold.test] = scores(other, X[fold.test])
    calibration = LogisticRegression(max_iter=1000).fit(values, labels)
    return {"machine": machine, "calibration": calibration}


def predict_calibrated(
    classifier: Any, X: NDArray[np.float32]
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Predict by the machine itself: the most probable class can be another."""
    values = scores(classifier["machine"], X)
    return classifier["machine"].predict(X), classifier["calibration"].predict_proba(values)


def _head(
    name: str,
    title: str,
    kernel: str,
    gram: Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float64]],
    grid: tuple[float, ...],
) -> Head:
    return Head(
        name=name,
        title=title,
        parameters={"C": Parameter(grid, 1e-8, 1e8)},
        build=partial(build, kernel=kernel),
        open=partial(open_clips, gram=gram),
        scores_are="decision value",
        fit_final=partial(fit_calibrated, kernel=kernel),
        converged=lambda classifier: True,  # libsvm runs until it is
        predict=predict_calibrated,
        suffix=".skops",
        save=sklearn_file.save,
        load=sklearn_file.load,
        probabilities_are="calibrated by Platt scaling on held-out speakers",
    )


SVM = _head("svm", "SVM (RBF)", "rbf", rbf, (0.1, 1.0, 10.0, 100.0))
SVM_LINEAR = _head("svm-linear", "SVM (linear)", "linear", linear, (1e-4, 1e-3, 1e-2, 1e-1, 1e0))
