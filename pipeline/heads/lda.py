"""Linear discriminant analysis with a shrunk covariance: a closed form, with nothing to tune."""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ..blocks import Matrix, by_block
from .head import Head, HeldOutResult, Params, PathFitter
from .lda_statistics import SharedProducts, class_statistics, weighted_class_statistics


class LDA(Head):
    """Linear discriminant analysis in which every class has the same prior, whatever its size."""

    name = "lda"
    title = "LDA"
    parameters = {}
    streams = True
    takes_weights = True

    @staticmethod
    def estimator(n_classes: int) -> LinearDiscriminantAnalysis:
        """Return scikit-learn's estimator of the same model, unfitted."""
        priors = np.full(n_classes, 1 / n_classes)
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)

    def fit(
        self,
        X: Matrix,
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit what :meth:`estimator` describes, up to rounding, in a tenth of the time.

        With weights, fit what :func:`weighted_class_statistics` describes.
        """
        classes, codes = np.unique(y, return_inverse=True)
        if weights is not None:
            return self._solve(classes, *weighted_class_statistics(X, codes, weights))
        shared = SharedProducts.of(X, codes)
        if shared is None:
            return self._solve(classes, *class_statistics(X, codes))
        # The sums that path_fitter uses, so that the head that is kept equals the one tested.
        return self._solve(classes, *shared.class_statistics(np.arange(len(y))))

    def _solve(
        self,
        classes: NDArray[np.str_],
        means: NDArray[np.float64],
        covariance: NDArray[np.floating],
    ) -> Self:
        """Set the model that follows from the statistics of the classes."""
        # Relative to the centre of the classes: the distance from zero to all of them tells none
        # from another, but is often so long that its rounding errors would.
        centre = means.mean(axis=0)
        coefficients = _solve(covariance, means - centre)
        intercepts = -np.einsum("ij,ij->i", (means + centre) / 2, coefficients)
        if len(classes) == 2:  # scikit-learn has one vector for both
            coefficients, intercepts = np.diff(coefficients, axis=0), np.diff(intercepts)
        self.model = self.estimator(len(classes))
        self.model.classes_, self.model.priors_ = classes, self.model.priors
        self.model.coef_, self.model.intercept_ = coefficients, intercepts
        self.model.n_features_in_ = means.shape[1]
        return self

    @classmethod
    def path_fitter(
        cls,
        X: Matrix,
        y: NDArray[np.str_],
        speakers: NDArray[np.str_],
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> PathFitter:
        """Return a function whose fits share what they can of their sums over clips.

        With weights each fit stands alone.
        """
        classes, codes = np.unique(y, return_inverse=True)
        shared = SharedProducts.of(X, codes) if weights is None else None
        if shared is None and weights is None:
            return super().path_fitter(X, y, speakers, seed)

        def statistics(
            train: NDArray[np.intp],
        ) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
            if shared is not None:
                return shared.class_statistics(train)
            assert weights is not None
            own_codes = np.unique(codes[train], return_inverse=True)[1]
            return weighted_class_statistics(X[train], own_codes, weights[train])

        def fit_path(
            train: NDArray[np.intp], X_test: Matrix, path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            fitted_on = classes[np.unique(codes[train])]
            head = cls({}, seed)._solve(fitted_on, *statistics(train))
            probabilities = by_block(head.predict_proba, X_test)
            predicted = fitted_on[probabilities.argmax(axis=1)]
            yield from (HeldOutResult(predicted, probabilities, True) for _ in path)

        return fit_path


def _solve(covariance: NDArray[np.floating], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients of each class, shape (n_classes, n_features)."""
    try:
        factor = cho_factor(covariance, lower=True, check_finite=False)
        solution = cho_solve(factor, means.T.astype(covariance.dtype), check_finite=False)
    except LinAlgError:  # singular: some direction does not vary in any class
        symmetric = covariance.astype(np.float64) + np.tril(covariance, -1).T
        solution = lstsq(symmetric, means.T)[0]
    coefficients: NDArray[Any] = solution.T
    return coefficients.astype(np.float64)
