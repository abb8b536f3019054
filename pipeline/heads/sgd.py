"""Logistic regression by stochastic gradient descent: a block of clips in memory at a time.

What stands in for :mod:`lr` where the embeddings are too many for that: a logistic regression for
each label against the others, with the same penalty and the same weights of classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import SGDClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..blocks import Matrix, blocks, by_block, read
from . import sklearn_file
from .head import Head, Parameter, Point, Tested, Tester, fit_all


@dataclass(frozen=True)
class Unfitted:
    """What :func:`build` returns: hyper-parameters and a seed, with a ``fit``."""

    point: Point
    seed: int

    def fit(self, X: Matrix, labels: NDArray[np.str_]) -> Pipeline:
        """Return a fitted scaler and classifier, both scikit-learn's own."""
        (fitted,) = descend(X, np.arange(len(labels)), labels, [self.point], self.seed)
        return fitted


def descend(
    X: Matrix,
    train: NDArray[np.intp],
    labels: NDArray[np.str_],
    points: Sequence[Point],
    seed: int,
) -> list[Pipeline]:
    """Fit the classifiers of all points at once, so that each block is read once for all.

    The step is constant, 1 / (number of features): one over the mean squared length of a
    standardised clip. The classifier is the mean over the second half of the steps.

    Parameters
    ----------
    X : ndarray of float32 or Rows, shape (n_clips, n_features)
        Embeddings.
    train : ndarray of int, shape (n_train,)
        The rows to train on.
    labels : ndarray of str, shape (n_train,)
        Of these.
    points : sequence of mapping
        Hyper-parameters that differ in nothing but ``C``.
    seed : int
        Of the order in which clips are visited.

    Returns
    -------
    list of Pipeline
        One for each point: a StandardScaler and an SGDClassifier.

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
    epochs = int(points[0]["epochs"])
    machines = [
        SGDClassifier(
            loss="log_loss",
            alpha=1 / (point["C"] * n_clips),
            learning_rate="constant",
            eta0=1 / X.shape[1],
            average=max(1, epochs * n_clips // 2),
            shuffle=False,
            random_state=seed,
        )
        for point in points
    ]
    draw = np.random.default_rng(seed)
    for _ in range(epochs):
        order = draw.permutation(n_clips)
        for part in blocks(n_clips):
            # Read as the file has them, and then visited in the order that was drawn.
            ordered = np.sort(order[part])
            back = np.searchsorted(ordered, order[part])
            block = scaler.transform(read(X, train[ordered]))[back]
            said = codes[order[part]]
            for machine in machines:
                machine.partial_fit(block, classes[said], classes, weight[said])
    return [make_pipeline(scaler, machine) for machine in machines]


def build(point: Point, seed: int) -> Unfitted:
    """Scaler and logistic regression, classes weighted by the inverse of their size."""
    return Unfitted(point, seed)


def open_clips(X: Matrix, labels: NDArray[np.str_], seed: int) -> Tester:
    """Fit all points of a path at once."""

    def test(train: NDArray[np.intp], X_test: Matrix, points: Sequence[Point]) -> Iterator[Tested]:
        for fitted in descend(X, train, labels[train], points, seed):
            scores = by_block(fitted.decision_function, X_test)
            probability = by_block(partial(probabilities, fitted), X_test)
            chosen = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
            yield Tested(fitted.classes_[chosen], probability, converged=True)

    return test


def probabilities(classifier: Pipeline, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability of each label, shape (n_clips, n_labels), of a sum of one."""
    found = classifier.predict_proba(X).astype(np.float64)  # was added up in float32
    shares: NDArray[np.float64] = found / found.sum(axis=1, keepdims=True)
    return shares


def predict(
    classifier: Pipeline, X: NDArray[np.float32]
) -> tuple[NDArray[np.str_], NDArray[np.float64]]:
    """Take predictions and probabilities from the classifier."""
    return classifier.predict(X), probabilities(classifier, X)


SGD = Head(
    name="sgd",
    title="logistic regression (SGD)",
    parameters={
        "epochs": Parameter((5,), 1, 1e4, whole=True),
        "C": Parameter((1e-3, 1e-2, 1e-1), 1e-8, 1e8),
    },
    build=build,
    open=open_clips,
    scores_are="probability",
    fit_final=fit_all(build),
    converged=lambda classifier: True,  # it runs a fixed number of epochs
    predict=predict,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
    # One classifier for each label, each with an averaged and thus short vector: nothing is near 1.
    probabilities_are="not calibrated (the model's own output, usually underconfident)",
    streams=True,
    stands_in_for="lr",
)
