"""LightGBM for ratings: the trees of :mod:`lgbm`, fitted to squared errors."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ...files import write_text
from .head import Head, Point, Tested, Tester, fit_all, predict_ratings
from .lgbm import PARAMETERS, bin_values, grow, read_trees, settings_of


def build(point: Point, seed: int) -> lightgbm.LGBMRegressor:
    """Small trees on a random part of the features each, as for labels."""
    return lightgbm.LGBMRegressor(
        n_estimators=int(point["n_estimators"]), **settings_of(point, seed)
    )


def open_clips(X: NDArray[np.float32], ratings: NDArray[np.float64], seed: int) -> Tester:
    """Sort the values into bins once, and go on boosting from one number of trees to the next."""
    binned: dict[int, lightgbm.Dataset] = {}

    def test(
        train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
    ) -> Iterator[Tested]:
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


@dataclass(frozen=True)
class SavedTrees:
    """Boosted trees: what LightGBM's own text format holds."""

    booster: lightgbm.Booster

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return ratings, shape (n_clips,)."""
        return np.asarray(self.booster.predict(X, num_threads=1), dtype=np.float64)


def save(regressor: lightgbm.LGBMRegressor, path: Path) -> None:
    """Write the trees as LightGBM's text, in a JSON file."""
    write_text(path, json.dumps({"trees": regressor.booster_.model_to_string()}))


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
    fit_final=fit_all(build),
    converged=lambda regressor: True,  # boosting runs a fixed number of rounds
    predict=predict_ratings,
    suffix=".lgbm.json",
    save=save,
    load=load,
    task="regression",
)
