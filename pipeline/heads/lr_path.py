"""Logistic regression at several strengths of penalty, each solution the start of the next.

The objective is scikit-learn's (multinomial, L2, balanced classes), and so is the minimiser
(L-BFGS). What makes it faster: it works in the basis in which the clips are uncorrelated, where
each coordinate is scaled by its own curvature, measured anew at the start of each strength. The
penalty does not change under rotation, so the optimum is the same; the way to it is shorter.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import minimize

#: Largest component of the scaled gradient at which a solution counts as found. At this value
#: solutions are as near to the exact one as scikit-learn's at its default tolerance, if each
#: starts from that of a stronger penalty.
TOLERANCE = 3e-4
#: Strengths that are passed through on the way to weaker penalties: a solution is the same whether
#: others were asked for or not.
LADDER = (1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3)
#: Steps that L-BFGS remembers: more cost more than they save here.
MEMORY = 5


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
        Whether the optimum was found within the limit of iterations.
    """

    coefficients: NDArray[np.float32]
    intercepts: NDArray[np.float32]
    converged: bool


def follow_path(
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    strengths: Sequence[float],
    basis: Basis,
    max_iter: int = 1000,
) -> Iterator[Solution]:
    """Fit multinomial logistic regression at each strength in turn.

    Minimises ``sum_i w_i log p(y_i | x_i) / sum_i w_i`` with the sign turned, plus
    ``||W||^2 / (2 C sum_i w_i)``, where ``w_i`` is the inverse frequency of the clip's class.

    Parameters
    ----------
    X : ndarray of float32, shape (n_clips, n_features)
        Standardised training clips.
    codes : ndarray of int, shape (n_clips,)
        Classes 0, 1, ...; at least three.
    strengths : sequence of float
        Values of C, from small to large.
    basis : Basis
        In which the clips are nearly uncorrelated. Another basis gives the same solutions more
        slowly.
    max_iter : int
        Limit of iterations for each strength.

    Yields
    ------
    Solution
        One for each strength.

    References
    ----------
    Nocedal & Wright (2006), *Numerical Optimization*, sections 5.1 (preconditioning) and 7.2
    (L-BFGS).
    """
    n_clips, n_features = X.shape
    n_classes = int(codes.max()) + 1
    everyone = np.arange(n_clips)
    weight = (n_clips / n_classes / np.bincount(codes))[codes].astype(np.float32)
    total = float(weight.sum())
    weight /= np.float32(total)
    rotated = X @ basis.vectors
    # Classes stand in rows throughout: sums over few long rows are fast, over many short ones not.
    turned = np.ascontiguousarray(rotated.T)
    squared = rotated * rotated
    probability = np.full((n_classes, n_clips), 1 / n_classes, np.float32)
    W = np.zeros((n_classes, n_features + 1))

    asked = set(strengths)
    for C in sorted(asked | {step for step in LADDER if step < max(asked)}):
        penalty = np.float32(1 / (C * total))
        scale = np.empty_like(W, dtype=np.float32)
        curvature = (weight * probability * (1 - probability)) @ squared
        scale[:, :-1] = 1 / np.sqrt(curvature + penalty)
        scale[:, -1] = np.sqrt(n_classes)

        def loss(
            flat: NDArray[np.float64],
            penalty: np.float32 = penalty,
            scale: NDArray[np.float32] = scale,
        ) -> tuple[float, NDArray[np.float64]]:
            scaled = flat.reshape(scale.shape).astype(np.float32) * scale
            coefficients = scaled[:, :-1]
            logits = coefficients @ turned
            logits += scaled[:, -1:]
            logits -= logits.max(axis=0)
            true = logits[codes, everyone]
            np.exp(logits, out=logits)
            sums = logits.sum(axis=0)
            np.divide(logits, sums, out=probability)
            error = probability.copy()
            error[codes, everyone] -= 1
            error *= weight
            shrink = penalty * coefficients
            gradient = np.empty_like(scale)
            gradient[:, :-1] = error @ rotated
            gradient[:, :-1] += shrink
            gradient[:, -1] = error.sum(axis=1)
            gradient *= scale
            value = float(weight @ (np.log(sums) - true)) + 0.5 * float(
                np.sum(shrink * coefficients, dtype=np.float64)
            )
            return value, gradient.ravel().astype(np.float64)

        found = minimize(
            loss,
            (W / scale).ravel(),
            jac=True,
            method="L-BFGS-B",
            options={
                "gtol": TOLERANCE,
                "ftol": 64 * np.finfo(np.float64).eps,
                "maxiter": max_iter,
                "maxfun": 10 * max_iter,
                "maxcor": MEMORY,
            },
        )
        W = found.x.reshape(W.shape) * scale
        if C not in asked:
            continue
        coefficients = (W[:, :-1] @ basis.vectors.T).T.astype(np.float32)
        # Only the differences between intercepts matter: sum to 0, as scikit-learn's do.
        intercepts = (W[:, -1] - W[:, -1].mean()).astype(np.float32)
        # 1: the limit of iterations. 2: no step goes lower in 32 bits, which is as good as found.
        yield Solution(coefficients, intercepts, bool(found.status != 1))
