"""LightGBM for ratings: the trees of :mod:`lgbm`, fitted to squared errors."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ...files import write_text
from ..blocks import Matrix, Rows, by_block
from .head import Classifier, Head, Point, Tested, Tester, predict_ratings
from .lgbm import PARAMETERS, bin_values, fit_rounds, grow, read_trees, settings_of, trees_of


def build(point: Point, seed: int) -> lightgbm.LGBMRegressor:
    """Small trees on a random part of the features each, as for labels."""
    return lightgbm.LGBMRegressor(
        n_estimators=int(point["n_estimators"]), **settings_of(point, seed)
    )


def open_clips(X: Matrix, ratings: NDArray[np.float64], seed: int) -> Tester:
    """Sort the values into bins once, and go on boosting from one number of trees to the next."""
    binned: dict[int, lightgbm.Dataset] = {}

    def test(train: NDArray[np.intp], X_test: Matrix, points: Sequence[Point]) -> Iterator[Tested]:
        settings = settings_of(points[0], seed)
        bins = settings["max_bin"]
        if bins not in binned:
            binned[bins] = bin_values(X, bins)
        clips = binned[bins].subset(train.tolist()).construct()
        clips.set_label(ratings[train])
        booster = lightgbm.Booster({**settings, "objective": "regression"}, clips)
        for _ in grow(booster, points):
            predicted = SavedTrees(booster).predict(X_test)
            yield Tested(predicted, np.empty((len(X_test), 0)), converged=True)

    return test


def fit_final(
    X: Matrix, ratings: NDArray[np.float64], speakers: NDArray[np.str_], point: Point, seed: int
) -> Classifier:
    """Fit all clips, by the bins and the rounds by which heads are tested."""
    clips = bin_values(X, int(point["max_bin"]))
    clips.set_label(ratings)
    return SavedTrees(fit_rounds(clips, point, seed, {"objective": "regression"}))


@dataclass(frozen=True)
class SavedTrees:
    """Boosted trees: what LightGBM's own text format holds."""

    booster: lightgbm.Booster

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return ratings, shape (n_clips,)."""
        if isinstance(X, Rows):
            return by_block(self.predict, X)
        return np.asarray(self.booster.predict(X, num_threads=1), dtype=np.float64)


def save(regressor: Classifier, path: Path) -> None:
    """Write the trees as LightGBM's text, in a JSON file."""
    write_text(path, json.dumps({"trees": trees_of(regressor).model_to_string()}))


def load(path: Path) -> SavedTrees:
    """Read what :func:`save` wrote: text in, trees out, no code run.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    return read_trees(path, lambda booster, told: SavedTrees(booster))


LGBM_REGRESSOR = Head(
    name="lgbm-regressor",
    title="LightGBM",
    parameters=PARAMETERS,
    build=build,
    open=open_clips,
    scores_are="none",
    fit_final=fit_final,
    converged=lambda regressor: True,  # boosting runs a fixed number of rounds
    predict=predict_ratings,
    suffix=".lgbm.json",
    save=save,
    load=load,
    task="regression",
    streams=True,
)
