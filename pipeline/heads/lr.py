"""Multinomial logistic regression on standardised embeddings."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .head import Head, HeldOutResult, Parameter, Params, PathFitter
from .lr_path import Basis, follow_path, probabilities


class LR(Head):
    """Logistic regression, fitted to the optimum.

    scikit-learn's own solver stops before it where the penalty is weak. The head that is tested and
    the one that is kept are fitted alike.
    """

    name = "lr"
    takes_weights = True
    title = "logistic regression"
    parameters = {
        "max_iter": Parameter((1000,), 1, 1e6, whole=True),
        "C": Parameter((1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2), 1e-8, 1e8),
    }

    def estimator(self) -> Pipeline:
        """Return scaler and regression, unfitted; classes are weighted inversely to their size."""
        return make_pipeline(
            StandardScaler(),
            LogisticRegression(
                C=self.params["C"],
                class_weight="balanced",
                max_iter=int(self.params["max_iter"]),
                random_state=self.seed,
            ),
        )

    def fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit what :meth:`estimator` describes, to the optimum."""
        return self._fit(X, y, None, weights)

    def _fit(
        self,
        X: NDArray[np.float32],
        y: NDArray[np.str_],
        basis: Basis | None,
        weights: NDArray[np.float64] | None,
    ) -> Self:
        """Fit, in a basis of the standardised clips that may have been computed before."""
        classes, codes = np.unique(y, return_inverse=True)
        self.model = self.estimator()
        scaler, regression = self.model
        standard = scaler.fit(X, sample_weight=weights).transform(X)
        basis = basis or Basis.of(standard)
        (solution,) = follow_path(
            standard, codes, [self.params["C"]], basis, regression.max_iter, weights, exact=True
        )
        coefficients, intercepts = solution.coefficients.T, solution.intercepts
        if len(classes) == 2:  # scikit-learn has one vector for both
            coefficients, intercepts = np.diff(coefficients, axis=0), np.diff(intercepts)
        regression.classes_ = classes
        regression.coef_ = np.ascontiguousarray(coefficients)
        regression.intercept_ = intercepts
        regression.n_features_in_ = X.shape[1]
        # All that is read of it is whether it is below the limit.
        regression.n_iter_ = np.array([0 if solution.converged else regression.max_iter], np.int32)
        return self

    @property
    def converged(self) -> bool:
        """Whether the solver stopped before its last iteration."""
        regression = self.model[-1]
        return bool(np.max(regression.n_iter_) < regression.max_iter)

    @classmethod
    def path_fitter(
        cls,
        X: NDArray[np.float32],
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> PathFitter:
        """Fit subsets of the clips along a path of C, in a basis that they share; all exactly.

        Subsets are the training clips of inner folds, whose fits are only compared with each other.
        The fit on all clips is tested, and is the same as that of :meth:`fit`.
        """
        basis: Basis | None = None

        def fit_path(
            train: NDArray[np.intp], X_test: NDArray[np.float32], path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            nonlocal basis
            if basis is None:
                basis = Basis.of(StandardScaler().fit_transform(X))
            if np.array_equal(train, np.arange(len(y))):
                for params in path:
                    head = cls(params, seed)._fit(X, y, basis, weights)
                    yield HeldOutResult(
                        head.predict(X_test), head.predict_proba(X_test), head.converged
                    )
                return
            classes, codes = np.unique(y[train], return_inverse=True)
            own = None if weights is None else weights[train]
            scaler = StandardScaler().fit(X[train], sample_weight=own)
            standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
            limit = int(path[0]["max_iter"])
            strengths = [params["C"] for params in path]
            for solution in follow_path(standard, codes, strengths, basis, limit, own, exact=False):
                probability = probabilities(solution, standard_test)
                predicted = classes[probability.argmax(axis=1)]
                yield HeldOutResult(predicted, probability, solution.converged)

        return fit_path
