"""Support vector machines, with an RBF or a linear kernel, on standardised embeddings."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from ..calibration import balance
from .head import Head, HeldOutResult, Parameter, Params, PathFitter


def decision_values(machine: Any, X: NDArray[Any]) -> NDArray[np.float64]:
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


_KERNELS = {"rbf": rbf, "linear": linear}


def _machine(params: Params, kernel: str) -> SVC:
    # The cache holds the kernel of some two thousand clips; the rest is computed again.
    return SVC(C=params["C"], kernel=kernel, class_weight="balanced", cache_size=500)


def _row_weights(
    y: NDArray[np.str_], weights: NDArray[np.float64] | None
) -> NDArray[np.float64] | None:
    """Return weights to fit a machine with, by which classes are balanced by the sums of weights.

    scikit-learn balances classes by their numbers of rows, which is undone here.
    """
    if weights is None:
        return None
    undone: NDArray[np.float64] = balance(y, weights) / balance(y)
    return undone


class SVM(Head):
    """An SVM with an RBF kernel; ``model`` is a dict with ``"machine"``, a scaler and an SVC."""

    name = "svm"
    takes_weights = True
    title = "SVM (RBF)"
    parameters = {"C": Parameter((0.1, 1.0, 10.0, 100.0), 1e-8, 1e8)}
    scores_are = "decision value"
    kernel: ClassVar[str] = "rbf"

    def estimator(self) -> Pipeline:
        """Return scaler and SVM, unfitted; classes are weighted by the inverse of their size."""
        return make_pipeline(StandardScaler(), _machine(self.params, self.kernel))

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit scaler and SVM."""
        machine = self.estimator().fit(
            X, y, standardscaler__sample_weight=weights, svc__sample_weight=_row_weights(y, weights)
        )
        self.model = {"machine": machine}
        return self

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.str_]:
        """Predict by the machine itself: the most probable class can be another."""
        return np.asarray(self.model["machine"].predict(X))

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the softmax of the decision values, shape (n_clips, n_classes).

        Heads that earlier versions saved have a logistic regression of the decision values instead.
        """
        values = self.decision_scores(X)
        if "calibration" in self.model:
            return np.asarray(self.model["calibration"].predict_proba(values))
        return np.asarray(softmax(values, axis=1))

    def decision_scores(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return one-versus-rest decision values, shape (n_clips, n_classes)."""
        return decision_values(self.model["machine"], X)

    @classmethod
    def path_fitter(
        cls,
        X: NDArray[np.float32],
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> PathFitter:
        """Compute the kernel of a fold once, as one matrix product, and use it for every C.

        Folds cannot share it: each has its own scaler, and the kernel is of standardised clips.
        """

        def fit_path(
            train: NDArray[np.intp], X_test: NDArray[np.float32], path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            own = None if weights is None else weights[train]
            scaler = StandardScaler().fit(X[train], sample_weight=own)
            row_weights = _row_weights(y[train], own)
            standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
            kernel = _KERNELS[cls.kernel]
            among, across = kernel(standard, standard), kernel(standard_test, standard)
            for params in path:
                machine = _machine(params, "precomputed").fit(among, y[train], row_weights)
                values = decision_values(machine, across)
                yield HeldOutResult(machine.predict(across), values, converged=True)

        return fit_path

    @classmethod
    def for_many_clips(cls, params: Params, seed: int = 0) -> Head:
        """Return an SVM that computes its kernel as a matrix product, as :meth:`path_fitter`."""
        return _KernelSVM(params, seed, cls.kernel)


class LinearSVM(SVM):
    """An SVM with a linear kernel."""

    name = "svm-linear"
    title = "SVM (linear)"
    parameters = {"C": Parameter((1e-4, 1e-3, 1e-2, 1e-1, 1e0), 1e-8, 1e8)}
    kernel = "linear"


class _KernelSVM(SVM):
    """An SVM fitted to a kernel matrix. It holds all training clips, so it is not saved.

    The machine in ``model`` is a pipeline of the scaler, the kernel with the training clips, and
    the SVC.
    """

    def __init__(self, params: Params, seed: int, kernel: str) -> None:
        super().__init__(params, seed)
        self._kernel = _KERNELS[kernel]

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit scaler and SVM."""
        scaler = StandardScaler().fit(X, sample_weight=weights)
        standard = scaler.transform(X)
        kernel = partial(self._kernel, B=standard)
        machine = _machine(self.params, "precomputed")
        machine.fit(kernel(standard), y, _row_weights(y, weights))
        self.model = {"machine": make_pipeline(scaler, FunctionTransformer(kernel), machine)}
        return self

    def predict_and_score(
        self, X: NDArray[np.float32]
    ) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
        """Predict and score clips, with their kernel computed once."""
        *steps, machine = self.model["machine"]
        for step in steps:
            X = step.transform(X)
        return np.asarray(machine.predict(X)), decision_values(machine, X)
