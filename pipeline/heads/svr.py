"""Support vector regression of ratings, with an RBF kernel, on standardised embeddings."""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn import svm
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .head import HeldOutResult, Parameter, Params, PathFitter, RegressionHead
from .svm import rbf


def _machine(params: Params, kernel: str) -> svm.SVR:
    return svm.SVR(C=params["C"], epsilon=params["epsilon"], kernel=kernel, cache_size=500)


class SVR(RegressionHead):
    """SVR of standardised ratings: epsilon is in standard deviations of a rating."""

    name = "svr"
    title = "SVR (RBF)"
    parameters = {
        "epsilon": Parameter((0.1,), 0.0, 1e3),
        "C": Parameter((0.1, 1.0, 10.0, 100.0), 1e-8, 1e8),
    }

    def estimator(self) -> Pipeline:
        """Return scalers of embeddings and ratings, and the SVR, unfitted."""
        regressor = TransformedTargetRegressor(
            _machine(self.params, "rbf"), transformer=StandardScaler()
        )
        return make_pipeline(StandardScaler(), regressor)

    def fit(
        self, X: NDArray[np.float32], y: NDArray[np.float64], speakers: NDArray[np.str_]
    ) -> Self:
        """Fit scalers and SVR."""
        self.model = self.estimator().fit(X, y)
        return self

    @classmethod
    def path_fitter(
        cls,
        X: NDArray[np.float32],
        y: NDArray[np.float64],
        speakers: NDArray[np.str_],
        seed: int,
    ) -> PathFitter:
        """Compute the kernel of a fold once, and use it along the whole path."""

        def fit_path(
            train: NDArray[np.intp], X_test: NDArray[np.float32], path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            scaler = StandardScaler().fit(X[train])
            standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
            among, across = rbf(standard, standard), rbf(standard_test, standard)
            mean, deviation = y[train].mean(), y[train].std() or 1.0
            for params in path:
                machine = _machine(params, "precomputed").fit(among, (y[train] - mean) / deviation)
                predicted = machine.predict(across) * deviation + mean
                yield HeldOutResult(predicted, np.empty((len(X_test), 0)), converged=True)

        return fit_path
