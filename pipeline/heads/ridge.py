"""Ridge regression of ratings on standardised embeddings."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, lstsq, solve
from sklearn.linear_model import Ridge as RidgeRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .head import HeldOutResult, Parameter, Params, PathFitter, RegressionHead


class Ridge(RegressionHead):
    """Ridge regression, solved by Cholesky: the same for any seed."""

    name = "ridge"
    title = "ridge regression"
    # The squares of a standardised feature sum to the number of clips: alpha is on that scale.
    parameters = {"alpha": Parameter((1e0, 1e1, 1e2, 1e3, 1e4, 1e5), 1e-8, 1e12)}

    def estimator(self) -> Pipeline:
        """Return scaler and regression, unfitted."""
        regression = RidgeRegression(alpha=self.params["alpha"], solver="cholesky")
        return make_pipeline(StandardScaler(), regression)

    def fit(
        self, X: NDArray[np.float32], y: NDArray[np.float64], speakers: NDArray[np.str_]
    ) -> Self:
        """Fit scaler and regression."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the matrix is nearly singular
            self.model = self.estimator().fit(X, y)
        return self

    @classmethod
    def path_fitter(
        cls, X: NDArray[np.float32], y: NDArray[np.float64], speakers: NDArray[np.str_], seed: int
    ) -> PathFitter:
        """Compute the products of a subset once, of clips or of features, for every alpha.

        The steps are those of scikit-learn, so that the predictions are the same bits.
        """

        def fit_path(
            train: NDArray[np.intp], X_test: NDArray[np.float32], path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            scaler = StandardScaler().fit(X[train])
            clips, tested = scaler.transform(X[train]), scaler.transform(X_test)
            offset = np.average(clips, axis=0).astype(clips.dtype)
            clips -= offset
            target = y[train].astype(clips.dtype)
            mean = np.average(target)
            target = (target - mean).astype(clips.dtype)[:, None]
            is_wide = clips.shape[1] > len(clips)
            products = clips @ clips.T if is_wide else clips.T @ clips
            right = target if is_wide else clips.T @ target
            for params in path:
                solution = _solve(products, right, params["alpha"])
                weights = np.ravel(clips.T @ solution if is_wide else solution)
                predicted = tested @ weights + (mean - offset @ weights)
                scores = np.empty((len(tested), 0))
                yield HeldOutResult(predicted.astype(np.float64), scores, converged=True)

        return fit_path


def _solve(
    products: NDArray[np.float32], right: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """Solve the normal equations, or their dual."""
    penalised = products.copy()
    penalised.flat[:: len(penalised) + 1] += alpha
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the matrix is nearly singular
        try:
            return np.asarray(solve(penalised, right, assume_a="pos"))
        except LinAlgError:
            return np.asarray(lstsq(penalised, right)[0])
