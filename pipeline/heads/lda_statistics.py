"""The statistics that linear discriminant analysis needs: class means and a shrunk covariance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from ..blocks import Matrix, blocks, read

#: Maximum number of products of features, of all classes together, in :class:`SharedProducts`:
#: 128 MiB in each process.
MAX_SHARED_PRODUCTS = 1 << 25
#: Relative rounding error of a variance above which nothing is subtracted.
MAX_ROUNDING = 1e-3


def class_statistics(
    X: Matrix, codes: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
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
    covariance : ndarray of float32 or float64, shape (n_features, n_features)
        Its lower triangle, in Fortran order; the rest is zero.

    References
    ----------
    Ledoit & Wolf (2004), *A well-conditioned estimator for large-dimensional covariance matrices*,
    Journal of Multivariate Analysis 88.
    """
    n_features, n_classes = X.shape[1], int(codes.max()) + 1
    covariance = np.zeros((n_features, n_features), np.float32, order="F")
    means = []
    for code in range(n_classes):
        rows = np.flatnonzero(codes == code)
        add_class = _add_small_class if len(rows) <= n_features else _add_large_class
        means.append(add_class(covariance, X, rows, 1 / n_classes))
    if np.bincount(codes).max() > n_features:
        # Of many clips hardly anything is shrunk: in float32 small variances would drown.
        return np.stack(means), covariance.astype(np.float64)
    return np.stack(means), covariance


def weighted_class_statistics(
    X: Matrix, codes: NDArray[np.intp], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return what :func:`class_statistics` returns, for rows with weights.

    Means and covariances of a class are weighted, so that they do not depend on the scale of the
    weights. Covariances are shrunk by the formula of Ledoit and Wolf, in which the variance of the
    weighted sum over clips takes the place of that of a mean: the number of observations n becomes
    Kish's effective number ``sum(w) ** 2 / sum(w ** 2)``, which is n if all weights are equal.

    Parameters
    ----------
    X : ndarray of float32, shape (n_rows, n_features)
        Embeddings. A clip has at most one row for each class.
    codes : ndarray of int, shape (n_rows,)
        The class of each row, counted from 0.
    weights : ndarray of float64, shape (n_rows,)
        Weights, above 0.

    Returns
    -------
    means : ndarray of float64, shape (n_classes, n_features)
    covariance : ndarray of float64, shape (n_features, n_features)
        Its lower triangle, in Fortran order; the rest is zero.

    References
    ----------
    Kish (1965), *Survey Sampling*, section 11.7, on the effective number.
    """
    n_features, n_classes = X.shape[1], int(codes.max()) + 1
    covariance = np.zeros((n_features, n_features), order="F")
    means = []
    for code in range(n_classes):
        rows = np.flatnonzero(codes == code)
        share = weights[rows] / weights[rows].sum()
        number = 1 / float(share @ share)
        clips = read(X, rows).astype(np.float64)
        means.append(share @ clips)
        # Scaled so that plain sums over rows, divided by the number, are weighted means.
        clips = (clips - means[-1]) * np.sqrt(number * share)[:, None]
        variance = np.square(clips).sum(axis=0) / number
        standard = clips / np.where(variance > 0, np.sqrt(variance), 1)
        fourth_moment = float(np.square(np.square(standard).sum(axis=1)).sum())
        small = standard @ standard.T if len(rows) < n_features else standard.T @ standard
        shrinkage = _shrinkage(fourth_moment, float(np.vdot(small, small)), variance, number)
        covariance += (1 - shrinkage) / n_classes / number * np.tril(clips.T @ clips)
        diagonal = np.einsum("ii->i", covariance)  # a view
        diagonal += shrinkage / n_classes * _target(variance)
    return np.stack(means), covariance


@dataclass(frozen=True)
class SharedProducts:
    """Products of features, summed over the clips of each class, for fits of subsets of the clips.

    A subset subtracts the products of the clips that it omits, which are fewer than its own.

    Attributes
    ----------
    X, codes
        All clips, as for :func:`class_statistics`.
    centres : ndarray of float32, shape (n_classes, n_features)
        The mean of each class.
    products : ndarray of float32, shape (n_classes, n_features * n_features)
        Of the clips of each class, less its mean: the lower triangle of a matrix in Fortran order;
        the rest is zero.
    """

    X: Matrix
    codes: NDArray[np.intp]
    centres: NDArray[np.float32]
    products: NDArray[np.float32]

    @classmethod
    def of(cls, X: Matrix, codes: NDArray[np.intp]) -> "SharedProducts | None":
        """Sum over all clips; return None if there are too many features, or clips of a class."""
        counts, n_features = np.bincount(codes), X.shape[1]
        size = len(counts) * n_features**2
        if size > MAX_SHARED_PRODUCTS or counts.max() > n_features:
            return None
        centres = np.empty((len(counts), n_features), np.float32)
        products = np.zeros((len(counts), n_features**2), np.float32)
        for code in range(len(counts)):
            clips = read(X, np.flatnonzero(codes == code))
            centres[code] = clips.mean(axis=0, dtype=np.float64)
            clips -= centres[code]
            _add_products(products[code].reshape(n_features, n_features, order="F"), clips, 1.0)
        return cls(X, codes, centres, products)

    def class_statistics(
        self, rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.floating]]:
        """Return what :func:`class_statistics` returns for some of the clips, up to rounding."""
        n_features = self.X.shape[1]
        present, codes = np.unique(self.codes[rows], return_inverse=True)
        omitted = np.ones(len(self.codes), dtype=bool)
        omitted[rows] = False
        weights = np.zeros(len(self.centres), np.float32)
        kept, target = np.zeros(n_features), np.zeros(n_features)
        means, subtracted = [], []
        for code in present:
            clips = read(self.X, rows[self.codes[rows] == code])
            mean, variance, shrinkage = _centre(clips)
            weight = (1 - shrinkage) / len(present) / len(clips)
            shift = (mean - self.centres[code])[None]
            others = read(self.X, np.flatnonzero(omitted & (self.codes == code)))
            subtracted.append(np.float32(np.sqrt(weight)) * (others - self.centres[code]))
            subtracted.append((np.sqrt(weight * len(clips)) * shift).astype(np.float32))
            kept += weight * len(clips) * variance
            target += shrinkage / len(present) * _target(variance)
            weights[code] = weight
            means.append(mean)
        covariance = (weights @ self.products).reshape(n_features, n_features, order="F")
        _add_products(covariance, np.concatenate(subtracted), -1.0)
        if not np.allclose(covariance.diagonal(), kept, rtol=MAX_ROUNDING, atol=0):
            # A feature hardly varies but in the omitted clips.
            return class_statistics(self.X[rows], codes)
        _add_to_diagonal(covariance, target)
        return np.stack(means), covariance


def _add_small_class(
    covariance: NDArray[np.float32], X: Matrix, rows: NDArray[np.intp], weight: float
) -> NDArray[np.float64]:
    """Add a class that has no more clips than features, and return its mean."""
    clips = read(X, rows)
    mean, variance, shrinkage = _centre(clips)
    # A class at a time stays in the cache of a core, where all classes together would not.
    _add_products(covariance, clips, (1 - shrinkage) * weight / len(clips))
    _add_to_diagonal(covariance, shrinkage * weight * _target(variance))
    return mean


def _centre(
    clips: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Centre the clips of a class in place, and return mean, variance and shrinkage.

    The class has no more clips than features: the norm of its correlations is computed from the
    products of clips, which are fewer than those of features.
    """
    mean: NDArray[np.float64] = clips.mean(axis=0, dtype=np.float64)
    clips -= mean.astype(np.float32)
    variance: NDArray[np.float64] = np.square(clips).mean(axis=0, dtype=np.float64)
    standard: NDArray[np.float32] = clips / _scale(variance)
    products: NDArray[np.float32] = standard @ standard.T
    squared_lengths = products.diagonal().astype(np.float64)
    fourth_moment = float(squared_lengths @ squared_lengths)
    shrinkage = _shrinkage(fourth_moment, _sum_of_squares(products), variance, len(clips))
    return mean, variance, shrinkage


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
    _add_to_diagonal(covariance, shrinkage * weight * _target(variance))
    return mean


def _shrinkage(
    fourth_moment: float, squared_norm: float, variance: NDArray[np.float64], n_clips: float
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
    n_clips : float
        Number of clips; of weighted clips their effective number.
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


def _target(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the diagonal of the covariance of a class whose correlations are shrunk completely."""
    target: NDArray[np.float64] = np.where(variance > 0, variance, 1) * np.mean(variance > 0)
    return target


def _add_to_diagonal(covariance: NDArray[np.float32], values: NDArray[np.float64]) -> None:
    diagonal = np.einsum("ii->i", covariance)  # a view
    diagonal += values.astype(np.float32)
