"""Logistic regression by stochastic gradient descent: a block of clips in memory at a time.

It stands in for :mod:`lr` where the embeddings do not fit in memory: one logistic regression for
each label against the others, with the same penalty and the same class weights.
"""

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..blocks import Matrix, blocks, by_block, read
from .head import Head, HeldOutResult, Parameter, Params, PathFitter


class SGD(Head):
    """One logistic regression per label, classes weighted by the inverse of their size."""

    name = "sgd"
    title = "logistic regression (SGD)"
    parameters = {
        "epochs": Parameter((5,), 1, 1e4, whole=True),
        "C": Parameter((1e-3, 1e-2, 1e-1), 1e-8, 1e8),
    }
    # The coefficients of each label are averages, and thus short vectors: nothing is near 1.
    probabilities_are = "not calibrated (the model's own output, usually underconfident)"
    streams = True
    stands_in_for = "lr"

    def fit(self, X: Matrix, y: NDArray[np.str_], speakers: NDArray[np.str_]) -> Self:
        """Fit scaler and regressions."""
        (self.model,) = descend(X, np.arange(len(y)), y, [self.params], self.seed)
        return self

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each label, shape (n_clips, n_labels), which sum to one."""
        each = self.model.predict_proba(X).astype(np.float64)  # these sum to one in float32
        shares: NDArray[np.float64] = each / each.sum(axis=1, keepdims=True)
        return shares

    @classmethod
    def path_fitter(
        cls, X: Matrix, y: NDArray[np.str_], speakers: NDArray[np.str_], seed: int
    ) -> PathFitter:
        """Fit all models of a path at once."""

        def fit_path(
            train: NDArray[np.intp], X_test: Matrix, path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            models = descend(X, train, y[train], path, seed)
            for params, model in zip(path, models, strict=True):
                head = cls(params, seed)
                head.model = model
                scores = by_block(model.decision_function, X_test)
                probability = by_block(head.predict_proba, X_test)
                codes = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
                yield HeldOutResult(model.classes_[codes], probability, converged=True)

        return fit_path


def descend(
    X: Matrix,
    train: NDArray[np.intp],
    labels: NDArray[np.str_],
    path: Sequence[Params],
    seed: int,
) -> list[Pipeline]:
    """Fit the models of a path at once, so that each block is read once for all.

    The step is constant, 1 / (number of features): one over the mean squared length of a
    standardised clip. The result is the mean over the second half of the steps.

    Parameters
    ----------
    X : ndarray of float32 or FileMatrix, shape (n_clips, n_features)
        Embeddings.
    train : ndarray of int, shape (n_train,)
        The rows to train on.
    labels : ndarray of str, shape (n_train,)
        The labels of these rows.
    path : sequence of mapping
        Hyper-parameters that differ in nothing but ``C``.
    seed : int
        Of the order in which clips are visited.

    Returns
    -------
    list of Pipeline
        For each a StandardScaler and an SGDClassifier.

    References
    ----------
    Bottou (2012), *Stochastic gradient descent tricks*, section 5, on averaging; Bach & Moulines
    (2013), *Non-strongly-convex smooth stochastic approximation with convergence rate O(1/n)*,
    NeurIPS, on averaging at a constant step.
    """
    n_clips = len(train)
    scaler = StandardScaler()
    for part in blocks(n_clips):
        scaler.partial_fit(read(X, train[part]))
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weight = n_clips / len(classes) / counts
    epochs = int(path[0]["epochs"])
    regressions = [
        SGDClassifier(
            loss="log_loss",
            alpha=1 / (params["C"] * n_clips),
            learning_rate="constant",
            eta0=1 / X.shape[1],
            average=max(1, epochs * n_clips // 2),
            shuffle=False,
            random_state=seed,
        )
        for params in path
    ]
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(n_clips)
        for part in blocks(n_clips):
            # Read in the order of the file, then visit the clips in the order that was drawn.
            ordered = np.sort(order[part])
            back = np.searchsorted(ordered, order[part])
            block = scaler.transform(read(X, train[ordered]))[back]
            block_codes = codes[order[part]]
            for regression in regressions:
                regression.partial_fit(block, classes[block_codes], classes, weight[block_codes])
    return [make_pipeline(scaler, regression) for regression in regressions]
