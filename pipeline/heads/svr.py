"""Support vector regression of ratings, with an RBF kernel, on standardised embeddings."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import svm
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from . import sklearn_file
from .head import Head, Parameter, Point, Tested, Tester, fit_all, predict_ratings
from .svm import rbf


def build(point: Point, seed: int) -> Pipeline:
    """Scalers of embeddings and ratings, and SVR: epsilon is in standard deviations of a rating."""
    return make_pipeline(
        StandardScaler(),
        TransformedTargetRegressor(_machine(point, "rbf"), transformer=StandardScaler()),
    )


def _machine(point: Point, kernel: str) -> svm.SVR:
    return svm.SVR(C=point["C"], epsilon=point["epsilon"], kernel=kernel, cache_size=500)


def open_clips(X: NDArray[np.float32], ratings: NDArray[np.float64], seed: int) -> Tester:
    """Compute the kernel of a fold once, and use it for every point."""

    def test(
        train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
    ) -> Iterator[Tested]:
        scaler = StandardScaler().fit(X[train])
        standard, standard_test = scaler.transform(X[train]), scaler.transform(X_test)
        among, across = rbf(standard, standard), rbf(standard_test, standard)
        mean, spread = ratings[train].mean(), ratings[train].std() or 1.0
        for point in points:
            machine = _machine(point, "precomputed").fit(among, (ratings[train] - mean) / spread)
            predicted = machine.predict(across) * spread + mean
            yield Tested(predicted, np.empty((len(X_test), 0)), converged=True)

    return test


SVR = Head(
    name="svr",
    title="SVR (RBF)",
    parameters={
        "epsilon": Parameter((0.1,), 0.0, 1e3),
        "C": Parameter((0.1, 1.0, 10.0, 100.0), 1e-8, 1e8),
    },
    build=build,
    open=open_clips,
    scores_are="none",
    fit_final=fit_all(build),
    converged=lambda regressor: True,  # libsvm runs until it is
    predict=predict_ratings,
    suffix=".skops",
    save=sklearn_file.save,
    load=sklearn_file.load,
    task="regression",
)
