"""LightGBM: gradient-boosted trees. No scaler: trees only ask which of two values is larger."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from ...errors import UserError, first_line
from ...files import write_text
from .head import Head, Parameter, Point, Tested, Tester, fit_all, predict_own

T = TypeVar("T")


def build(point: Point, seed: int) -> lightgbm.LGBMClassifier:
    """Small trees on a random part of the features each, classes weighted as for other heads.

    One thread, column-wise histograms and a fixed seed: the result does not depend on the machine.
    """
    return lightgbm.LGBMClassifier(
        n_estimators=int(point["n_estimators"]), class_weight="balanced", **settings_of(point, seed)
    )


def settings_of(point: Point, seed: int) -> dict[str, Any]:
    """Return what trees for labels and for ratings have in common."""
    return {
        "learning_rate": point["learning_rate"],
        "num_leaves": int(point["num_leaves"]),
        "min_child_samples": int(point["min_child_samples"]),
        "colsample_bytree": point["colsample_bytree"],
        "max_bin": int(point["max_bin"]),
        "n_jobs": 1,
        "deterministic": True,
        "force_col_wise": True,
        "random_state": seed,
        "verbose": -1,
    }


def open_clips(X: NDArray[np.float32], labels: NDArray[np.str_], seed: int) -> Tester:
    """Sort the values into bins once, and go on boosting from one number of trees to the next."""
    binned: dict[int, lightgbm.Dataset] = {}

    def test(
        train: NDArray[np.intp], X_test: NDArray[np.float32], points: Sequence[Point]
    ) -> Iterator[Tested]:
        settings = settings_of(points[0], seed)
        bins = settings["max_bin"]
        if bins not in binned:
            binned[bins] = bin_values(X, bins)
        classes, codes = np.unique(labels[train], return_inverse=True)
        clips = binned[bins].subset(train.tolist()).construct()
        clips.set_label(codes)
        clips.set_weight(compute_sample_weight("balanced", codes))
        booster = lightgbm.Booster({**settings, **_objective(len(classes))}, clips)
        for _ in grow(booster, points):
            trees = SavedTrees(booster, classes)
            probability = trees.predict_proba(X_test)
            yield Tested(classes[probability.argmax(axis=1)], probability, converged=True)

    return test


def bin_values(X: NDArray[np.float32], bins: int) -> lightgbm.Dataset:
    """Sort the values of each feature into bins, for any part of the clips."""
    return lightgbm.Dataset(
        X, params={"max_bin": bins, "feature_pre_filter": False, "n_jobs": 1, "verbose": -1}
    ).construct()


def grow(booster: lightgbm.Booster, points: Sequence[Point]) -> Iterator[Point]:
    """Boost from one number of trees to the next, and yield at each."""
    rounds = 0
    for point in points:
        # Counted here: a round in which nothing can be parted adds no tree.
        for _ in range(rounds, int(point["n_estimators"])):
            booster.update()
        rounds = int(point["n_estimators"])
        yield point


def _objective(n_classes: int) -> dict[str, Any]:
    if n_classes == 2:
        return {"objective": "binary"}
    return {"objective": "multiclass", "num_class": n_classes}


@dataclass(frozen=True)
class SavedTrees:
    """Boosted trees and the classes they tell apart: what LightGBM's own text format holds."""

    booster: lightgbm.Booster
    classes_: NDArray[np.str_]

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_clips, n_classes)."""
        raw = np.asarray(self.booster.predict(X, num_threads=1), dtype=np.float64)
        return np.stack([1 - raw, raw], axis=1) if raw.ndim == 1 else raw

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.str_]:
        """Return the most probable class, shape (n_clips,)."""
        labels: NDArray[np.str_] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels


def save(classifier: lightgbm.LGBMClassifier, path: Path) -> None:
    """Write the trees as LightGBM's text, with the class names, in one JSON file."""
    content = {
        "classes": [str(label) for label in classifier.classes_],
        "trees": classifier.booster_.model_to_string(),
    }
    write_text(path, json.dumps(content))


def load(path: Path) -> SavedTrees:
    """Read what :func:`save` wrote: text in, trees out, no code run.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    return read_trees(
        path,
        lambda booster, told: SavedTrees(booster, np.array(told["classes"], dtype=str)),
    )


def read_trees(path: Path, make: Callable[[lightgbm.Booster, Any], T]) -> T:
    """Read trees in LightGBM's text format, and what stands beside them, from a JSON file.

    Parameters
    ----------
    path : Path
        The file.
    make : callable
        From the trees and the content of the file to what is returned.

    Raises
    ------
    UserError
        If the file is damaged.
    """
    try:
        content = json.loads(path.read_text())
        return make(lightgbm.Booster(model_str=content["trees"]), content)
    except (OSError, KeyError, TypeError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise UserError(
            f"{path}: cannot be read ({first_line(error)}); expected a head saved by "
            "serpipe; run `serpipe fit` again"
        ) from error


PARAMETERS = {
    "learning_rate": Parameter((0.1,), 1e-6, 1e3),
    "num_leaves": Parameter((7,), 2, 131072, whole=True),
    "min_child_samples": Parameter((5,), 0, 1e9, whole=True),
    "colsample_bytree": Parameter((0.05,), 1e-6, 1.0),
    "max_bin": Parameter((15,), 2, 65535, whole=True),
    "n_estimators": Parameter((50, 100, 150, 200), 1, 1e5, whole=True),
}

LGBM = Head(
    name="lgbm",
    title="LightGBM",
    parameters=PARAMETERS,
    build=build,
    open=open_clips,
    scores_are="probability",
    fit_final=fit_all(build),
    converged=lambda classifier: True,  # boosting runs a fixed number of rounds
    predict=predict_own,
    suffix=".lgbm.json",
    save=save,
    load=load,
)
