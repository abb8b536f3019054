"""Multinomial logistic regression at several strengths of the penalty, by Newton's method.

The objective is scikit-learn's (multinomial, L2, balanced classes). Each Newton step is found by
conjugate gradients, which need products with the Hessian and not the Hessian itself. They work in
the basis in which the clips are uncorrelated, where dividing by the diagonal of the Hessian is a
good preconditioner. Rotation does not change the penalty, nor thus the optimum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import softmax

#: Length of the gradient, each coordinate divided by the square root of its curvature, at which a
#: solution has converged. The loss is then about half its square above the minimum.
OPTIMUM = 1e-6
#: The same for fits of the inner folds, which are only compared with each other: the choices are
#: those of exact fits (docs/benchmarks.md has the numbers), in less than half the time.
SEARCH = 1e-3
#: Strengths that are solved on the way to weaker penalties, so that a solution does not depend on
#: which others are requested.
LADDER = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7)
#: Limit of conjugate gradient steps per Newton step.
MAX_PRODUCTS = 500


@dataclass(frozen=True)
class Basis:
    """An orthogonal basis.

    Attributes
    ----------
    vectors : ndarray of float32, shape (n_features, n_features)
        One in each column.
    """

    vectors: NDArray[np.float32]

    @classmethod
    def of(cls, X: NDArray[np.float32]) -> "Basis":
        """Return the eigenvectors of the covariance of standardised clips."""
        return cls(eigh(X.T @ X, driver="evd", overwrite_a=True, check_finite=False)[1])


@dataclass(frozen=True)
class Solution:
    """One fitted classifier.

    Attributes
    ----------
    coefficients : ndarray of float32, shape (n_features, n_classes)
        For standardised clips.
    intercepts : ndarray of float32, shape (n_classes,)
        Added to the products.
    converged : bool
        Whether the optimum was reached within the limit of iterations.
    """

    coefficients: NDArray[np.float32]
    intercepts: NDArray[np.float32]
    converged: bool


@dataclass(frozen=True)
class _Clips:
    """Training clips; all arrays but ``codes`` have the same precision.

    Attributes
    ----------
    rotated, transposed : ndarray, shapes (n_clips, n_features) and (n_features, n_clips)
        Both are stored: products with either are twice as fast as with a view of the other.
    squared : ndarray, shape (n_clips, n_features)
        The squares of ``rotated``.
    codes : ndarray of int, shape (n_clips,)
        Classes.
    weight : ndarray, shape (n_clips,)
        Inverse frequency of the class of each clip, times its own weight; they sum to one.
    """

    rotated: NDArray[Any]
    transposed: NDArray[Any]
    squared: NDArray[Any]
    codes: NDArray[np.intp]
    weight: NDArray[Any]

    @classmethod
    def of(
        cls,
        rotated: NDArray[np.float32],
        codes: NDArray[np.intp],
        weights: NDArray[np.float64] | None,
        precision: type,
    ) -> "_Clips":
        counts = np.bincount(codes, weights)
        X: NDArray[Any] = rotated.astype(precision)
        weight = (1 / (len(counts) * counts))[codes]
        return cls(
            X,
            np.ascontiguousarray(X.T),
            X * X,
            codes,
            (weight if weights is None else weight * weights).astype(precision),
        )


def follow_path(
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    strengths: Sequence[float],
    basis: Basis,
    max_iter: int = 1000,
    weights: NDArray[np.float64] | None = None,
    *,
    exact: bool,
) -> Iterator[Solution]:
    """Fit logistic regression at each strength in turn.

    Minimises ``-sum_i w_i log p(y_i | x_i) / sum_i w_i + ||W||^2 / (2 C sum_i w_i)``, where ``w_i``
    is the inverse frequency of the clip's class, times its own weight if it has one: scikit-learn's
    ``sample_weight``. For two classes the penalty is twice that, which
    makes the difference of their coefficients the one vector that scikit-learn fits.

    Parameters
    ----------
    X : ndarray of float32, shape (n_clips, n_features)
        Standardised training clips.
    codes : ndarray of int, shape (n_clips,)
        Classes 0, 1, ...; at least two.
    strengths : sequence of float
        Values of C, from small to large.
    basis : Basis
        In which the clips are nearly uncorrelated. Another basis gives the same solutions more
        slowly.
    max_iter : int
        Limit of Newton steps for each strength.
    weights : ndarray of float64, shape (n_clips,), optional
        Weights of the clips; all 1 by default. The penalty is relative to their sum.
    exact : bool
        Whether to continue to the optimum, with gradients in float64; otherwise to :data:`SEARCH`,
        in float32.

    Yields
    ------
    Solution
        One for each strength.

    References
    ----------
    Nocedal & Wright (2006), *Numerical Optimization*, sections 5.1 (preconditioned conjugate
    gradients) and 7.1 (inexact Newton methods).
    """
    rotated = X @ basis.vectors
    clips = _Clips.of(rotated, codes, weights, np.float32)
    precise = _Clips.of(rotated, codes, weights, np.float64) if exact else clips
    n_classes = int(codes.max()) + 1
    total = len(X) if weights is None else float(weights.sum())
    scale = (2 if n_classes == 2 else 1) / total
    W = before = np.zeros((n_classes, X.shape[1] + 1), np.float32)
    converged, climbed = True, 0
    for C in strengths:
        while climbed < len(LADDER) and LADDER[climbed] <= C:
            # Extrapolated from the last two: W is nearly linear in log C.
            start, before = 2 * W - before, W
            penalty = scale / LADDER[climbed]
            W, converged = _minimise(clips, clips, penalty, start, SEARCH, max_iter)
            climbed += 1
        solution, is_optimal = W, converged
        if exact or not climbed or LADDER[climbed - 1] != C:
            tolerance = OPTIMUM if exact else SEARCH
            solution, is_optimal = _minimise(clips, precise, scale / C, W, tolerance, max_iter)
        # Only the differences between intercepts matter: like scikit-learn's, they sum to 0.
        yield Solution(
            (solution[:, :-1] @ basis.vectors.T).T.astype(np.float32),
            (solution[:, -1] - solution[:, -1].mean()).astype(np.float32),
            is_optimal,
        )


def _minimise(
    clips: _Clips,
    precise: _Clips,
    penalty: float,
    W: NDArray[Any],
    tolerance: float,
    max_iter: int,
) -> tuple[NDArray[Any], bool]:
    """Take Newton steps until the scaled gradient is shorter than ``tolerance``.

    Steps are computed from ``clips``, in float32; loss and gradient from ``precise``, whose
    precision is that of the result.

    Returns
    -------
    W : ndarray, shape (n_classes, n_features + 1)
        Coefficients in the rotated basis, and intercepts in the last column.
    converged : bool
        Whether it is that short, or no step lowers the loss in this precision.
    """
    precision = precise.rotated.dtype.type
    W = W.astype(precision)
    value, gradient, probability = _loss(precise, penalty, W)
    for _ in range(max_iter):
        spread = (precise.weight * probability * (1 - probability)).astype(np.float32)
        diagonal = np.empty(W.shape, np.float32)
        diagonal[:, :-1] = spread @ clips.squared + np.float32(penalty)
        diagonal[:, -1] = spread.sum(axis=1) + np.float32(penalty)
        length = float(np.sqrt(np.sum(gradient * gradient / diagonal, dtype=np.float64)))
        if length < tolerance:
            return W, True
        # The equation is divided by the length, as float32 cannot hold small gradients.
        step = precision(length) * _newton_step(
            clips,
            np.float32(penalty),
            probability.astype(np.float32),
            diagonal,
            (gradient / precision(-length)).astype(np.float32),
            max(0.1, 0.5 * tolerance / length),
        ).astype(precision)
        slope = float(np.vdot(gradient, step))
        rounding = float(np.finfo(precision).eps) * value
        if -slope <= rounding:
            return W, True
        share = 1.0
        while True:
            candidate = W + precision(share) * step
            new = _loss(precise, penalty, candidate)
            if new[0] <= value + 1e-4 * share * slope + rounding:
                break
            share /= 2
            if share < 1e-6:
                return W, precision is np.float32
        W = candidate
        value, gradient, probability = new
    return W, False


def _loss(
    clips: _Clips, penalty: float, W: NDArray[Any]
) -> tuple[float, NDArray[Any], NDArray[Any]]:
    """Return the loss, its gradient and the probabilities, shape (n_classes, n_clips).

    Classes are in rows: sums over few long rows are faster than over many short ones.
    """
    rows = np.arange(len(clips.codes))
    coefficients = W[:, :-1]
    logits = coefficients @ clips.transposed
    logits += W[:, -1:]
    logits -= logits.max(axis=0)
    true = logits[clips.codes, rows]
    np.exp(logits, out=logits)
    sums = logits.sum(axis=0)
    probability = logits / sums
    error = probability.copy()
    error[clips.codes, rows] -= 1
    error *= clips.weight
    shrink = W.dtype.type(penalty) * coefficients
    gradient = np.empty_like(W)
    gradient[:, :-1] = error @ clips.rotated
    gradient[:, :-1] += shrink
    gradient[:, -1] = error.sum(axis=1)
    value = np.sum(clips.weight * (np.log(sums) - true), dtype=np.float64)
    value += 0.5 * np.sum(shrink * coefficients, dtype=np.float64)
    return float(value), gradient, probability


def _newton_step(
    clips: _Clips,
    penalty: np.float32,
    probability: NDArray[np.float32],
    diagonal: NDArray[np.float32],
    downhill: NDArray[np.float32],
    tolerance: float,
) -> NDArray[np.float32]:
    """Solve Hessian x step = downhill by preconditioned conjugate gradients.

    ``tolerance`` is the share of the scaled length of ``downhill`` that may remain.
    """
    weighted = probability * clips.weight
    step = np.zeros_like(downhill)
    product = np.empty_like(downhill)
    residual = downhill.copy()
    direction = residual / diagonal
    length = float(np.vdot(residual, direction))
    enough = length * tolerance**2
    for _ in range(MAX_PRODUCTS):
        change = direction[:, :-1] @ clips.transposed
        change += direction[:, -1:]
        change -= np.einsum("kn,kn->n", probability, change)
        change *= weighted
        product[:, :-1] = change @ clips.rotated
        product[:, :-1] += penalty * direction[:, :-1]
        product[:, -1] = change.sum(axis=1)
        curvature = float(np.vdot(direction, product))
        if curvature <= 0:  # rounding, as the Hessian is positive
            break
        along = np.float32(length / curvature)
        step += along * direction
        residual -= along * product
        scaled = residual / diagonal
        before, length = length, float(np.vdot(residual, scaled))
        if length <= enough:
            break
        direction *= np.float32(length / before)
        direction += scaled
    return step


def probabilities(solution: Solution, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability of each class, shape (n_clips, n_classes), for standardised clips."""
    logits = X @ solution.coefficients + solution.intercepts
    shares: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
    return shares
