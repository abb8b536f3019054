"""Ridge regression of ratings on standardised embeddings."""

import warnings
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge as RidgeRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .head import Parameter, RegressionHead


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
