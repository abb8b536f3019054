"""Linear discriminant analysis with a shrunk covariance: a closed form, with nothing to tune."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, cho_factor, cho_solve, lstsq
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ..blocks import Matrix, blocks, read
from .head import Head


class LDA(Head):
    """Linear discriminant analysis in which every class has the same prior, whatever its size."""

    name = "lda"
    title = "LDA"
    parameters = {}
    streams = True

    @staticmethod
    def estimator(n_classes: int) -> LinearDiscriminantAnalysis:
        """Return scikit-learn's estimator of the same model, unfitted."""
        priors = np.full(n_classes, 1 / n_classes)
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=priors)

    def fit(self, X: Matrix, y: NDArray[np.str_], speakers: NDArray[np.str_]) -> Self:
        """Fit what :meth:`estimator` describes, up to rounding, in a tenth of the time."""
        classes, codes = np.unique(y, return_inverse=True)
        means, covariance = class_statistics(X, codes)
        if np.bincount(codes).max() > X.shape[1]:
            # Of many clips hardly anything is shrunk: in float32 small variances would drown.
            covariance = covariance.astype(np.float64)
        coefficients = _solve(covariance, means)
        intercepts = -0.5 * np.einsum("ij,ij->i", means, coefficients)
        if len(classes) == 2:  # scikit-learn has one vector for both
            coefficients, intercepts = np.diff(coefficients, axis=0), np.diff(intercepts)
        self.model = self.estimator(len(classes))
        self.model.classes_, self.model.priors_ = classes, self.model.priors
        self.model.coef_, self.model.intercept_ = coefficients, intercepts
        self.model.n_features_in_ = X.shape[1]
        return self


def class_statistics(
    X: Matrix, codes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the means of the classes and the average of their shrunk covariances.

    The correlations of each class are shrunk towards the identity by the formula of Ledoit and
    Wolf; its variances are kept. In memory are a block of clips, and the classes that have fewer
    clips than features.

    Parameters
    ----------
    X : ndarray of float32 or FileMatrix, shape (n_clips, n_features)
        Embeddings.
    codes : ndarray of int, shape (n_clips,)
        The class of each clip, counted from 0.

    Returns
    -------
    means : ndarray of float64, shape (n_classes, n_features)
    covariance : ndarray of float32, shape (n_features, n_features)
        Its lower triangle; the rest is zero.

    References
    ----------
    Ledoit & Wolf (2004), *A well-conditioned estimator for large-dimensional covariance matrices*,
    Journal of Multivariate Analysis 88.
    """
    n_features, n_classes = X.shape[1], int(codes.max()) + 1
    covariance = np.zeros((n_features, n_features), np.float32, order="F")
    means, scaled = [], []
    for code in range(n_classes):
        rows = np.flatnonzero(codes == code)
        if len(rows) <= n_features:
            mean, clips = _add_small_class(covariance, X, rows, 1 / n_classes)
            scaled.append(clips)
        else:
            mean = _add_large_class(covariance, X, rows, 1 / n_classes)
        means.append(mean)
    if scaled:
        _add_products(covariance, np.concatenate(scaled), 1.0)
    return np.stack(means), covariance


def _add_small_class(
    covariance: NDArray[np.float32], X: Matrix, rows: NDArray[np.intp], weight: float
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the mean of a class, and its clips scaled so that their products are to be added.

    The class has fewer clips than features: the norm of its correlations is computed from the
    products of clips.
    """
    clips = read(X, rows)
    mean: NDArray[np.float64] = clips.mean(axis=0, dtype=np.float64)
    clips = clips - mean.astype(np.float32)
    variance: NDArray[np.float64] = np.square(clips).mean(axis=0, dtype=np.float64)
    standard: NDArray[np.float32] = clips / _scale(variance)
    squared_norm = _sum_of_squares(standard @ standard.T)
    shrinkage = _shrinkage(_fourth_moment(standard), squared_norm, variance, len(rows))
    _add_to_diagonal(covariance, variance, shrinkage * weight)
    clips *= np.float32(np.sqrt((1 - shrinkage) * weight / len(rows)))
    return mean, clips


def _add_large_class(
    covariance: NDArray[np.float32], X: Matrix, rows: NDArray[np.intp], weight: float
) -> NDArray[np.float64]:
    """Add a class of more clips than features, a block at a time, and return its mean."""
    parts = [rows[part] for part in blocks(len(rows))]
    mean = np.zeros(X.shape[1])
    for part in parts:
        mean += read(X, part).sum(axis=0, dtype=np.float64) / len(rows)
    shift = mean.astype(np.float32)
    variance = np.zeros(X.shape[1])
    for part in parts:
        centred = read(X, part) - shift
        variance += np.square(centred).sum(axis=0, dtype=np.float64) / len(rows)
    scale = _scale(variance)
    products = np.zeros_like(covariance)
    fourth_moment = 0.0
    for part in parts:
        standard: NDArray[np.float32] = (read(X, part) - shift) / scale
        fourth_moment += _fourth_moment(standard)
        _add_products(products, standard, 1.0)
    squared_norm = 2 * _sum_of_squares(products) - _sum_of_squares(products.diagonal())
    shrinkage = _shrinkage(fourth_moment, squared_norm, variance, len(rows))
    products *= scale[:, None]
    products *= scale * np.float32((1 - shrinkage) * weight / len(rows))
    covariance += products
    _add_to_diagonal(covariance, variance, shrinkage * weight)
    return mean


def _shrinkage(
    fourth_moment: float, squared_norm: float, variance: NDArray[np.float64], n_clips: int
) -> float:
    """Return how far the correlations of a class are shrunk, from 0 to 1.

    Parameters
    ----------
    fourth_moment : float
        The sum of the fourth powers of the lengths of the standardised clips.
    squared_norm : float
        The squared Frobenius norm of the sum of their outer products.
    variance : ndarray of float64, shape (n_features,)
        Of the features before they were standardised.
    n_clips : int
        Number of clips.
    """
    n_varying, squared_norm = int(np.count_nonzero(variance)), squared_norm / n_clips**2
    spread = (fourth_moment / n_clips - squared_norm) / n_clips
    distance = squared_norm - n_varying**2 / len(variance)
    return float(np.clip(spread / distance, 0, 1)) if distance > 0 else 0.0


def _scale(variance: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the divisors that standardise features; a constant feature is left as it is."""
    return np.where(variance > 0, np.sqrt(variance), 1).astype(np.float32)


def _fourth_moment(standard: NDArray[np.float32]) -> float:
    squared_lengths = np.square(standard).sum(axis=1, dtype=np.float64)
    return float(squared_lengths @ squared_lengths)


def _sum_of_squares(array: NDArray[np.float32]) -> float:
    return float(np.vdot(array, array))


def _add_products(sums: NDArray[np.float32], clips: NDArray[np.float32], weight: float) -> None:
    """Add the products of all pairs of features, summed over clips, to a lower triangle.

    ``sums`` is in Fortran order, so BLAS writes into it.
    """
    blas.ssyrk(weight, clips.T, beta=1.0, c=sums, lower=True, overwrite_c=True)


def _add_to_diagonal(
    covariance: NDArray[np.float32], variance: NDArray[np.float64], weight: float
) -> None:
    """Add the part of a class's covariance to which its correlations are shrunk."""
    target = np.where(variance > 0, variance, 1) * np.mean(variance > 0)
    covariance[np.diag_indices_from(covariance)] += (weight * target).astype(np.float32)


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
