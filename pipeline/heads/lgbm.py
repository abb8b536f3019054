"""LightGBM: gradient-boosted trees. No scaler: trees only ask which of two values is larger."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_sample_weight

from ...errors import UserError, first_line
from ...files import read_text, write_text
from .. import blocks
from ..blocks import Matrix, Rows, by_block, read
from .head import (
    MAX_HEAD_BYTES,
    NOT_CALIBRATED,
    Classifier,
    Head,
    Parameter,
    Point,
    Tested,
    Tester,
    predict_own,
)

T = TypeVar("T")
#: Clips from which the edges of bins are taken, of those that are not all in memory: LightGBM
#: holds these as float64. Of arrays it takes 200 000.
SAMPLE = 20_000


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


def open_clips(X: Matrix, labels: NDArray[np.str_], seed: int) -> Tester:
    """Sort the values into bins once, and go on boosting from one number of trees to the next."""
    binned: dict[int, lightgbm.Dataset] = {}

    def test(train: NDArray[np.intp], X_test: Matrix, points: Sequence[Point]) -> Iterator[Tested]:
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


def fit_final(
    X: Matrix, labels: NDArray[np.str_], speakers: NDArray[np.str_], point: Point, seed: int
) -> Classifier:
    """Fit all clips, by the bins and the rounds by which heads are tested."""
    classes, codes = np.unique(labels, return_inverse=True)
    clips = bin_values(X, int(point["max_bin"]))
    clips.set_label(codes)
    clips.set_weight(compute_sample_weight("balanced", codes))
    return SavedTrees(fit_rounds(clips, point, seed, _objective(len(classes))), classes)


def fit_rounds(
    clips: lightgbm.Dataset, point: Point, seed: int, objective: Mapping[str, Any]
) -> lightgbm.Booster:
    """Boost as many rounds as a point says."""
    booster = lightgbm.Booster({**settings_of(point, seed), **objective}, clips)
    for _ in grow(booster, [point]):
        pass
    return booster


def bin_values(X: Matrix, bins: int) -> lightgbm.Dataset:
    """Sort the values of each feature into bins, for any part of the clips.

    Of clips in a file the bins alone come into memory, at most a byte for each value (half of one
    up to 16 bins), a block of clips at a time.
    """
    params = {"max_bin": bins, "feature_pre_filter": False, "n_jobs": 1, "verbose": -1}
    if isinstance(X, Rows):
        return lightgbm.Dataset(
            _Blocks(X), params={**params, "bin_construct_sample_cnt": SAMPLE}
        ).construct()
    return lightgbm.Dataset(X, params=params).construct()


class _Blocks(lightgbm.Sequence):  # type: ignore[misc]
    """Clips as LightGBM asks for them: a sample one by one, upwards, then all, by blocks."""

    def __init__(self, X: Rows) -> None:
        self.X, self.start, self.batch_size = X, 0, blocks.BLOCK
        self.block: NDArray[np.float32] = read(X, slice(0, self.batch_size))

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, asked: Any) -> NDArray[Any]:
        if isinstance(asked, slice):
            return read(self.X, asked)
        if not self.start <= asked < self.start + len(self.block):
            self.start = int(asked) // self.batch_size * self.batch_size
            self.block = read(self.X, slice(self.start, self.start + self.batch_size))
        row: NDArray[np.float64] = self.block[asked - self.start].astype(np.float64)  # it insists
        return row


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

    def predict_proba(self, X: Matrix) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_clips, n_classes)."""
        if isinstance(X, Rows):
            return by_block(self.predict_proba, X)
        raw = np.asarray(self.booster.predict(X, num_threads=1), dtype=np.float64)
        return np.stack([1 - raw, raw], axis=1) if raw.ndim == 1 else raw

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.str_]:
        """Return the most probable class, shape (n_clips,)."""
        labels: NDArray[np.str_] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels


def save(classifier: Classifier, path: Path) -> None:
    """Write the trees as LightGBM's text, with the class names, in one JSON file."""
    content = {
        "classes": [str(label) for label in classifier.classes_],
        "trees": trees_of(classifier).model_to_string(),
    }
    write_text(path, json.dumps(content))


def trees_of(fitted: Classifier) -> lightgbm.Booster:
    """Return the trees of LightGBM's own classifier or regressor, or of those saved here."""
    own = isinstance(fitted, lightgbm.LGBMModel)
    return fitted.booster_ if own else fitted.booster


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
        content = json.loads(read_text(path, MAX_HEAD_BYTES))
        return make(lightgbm.Booster(model_str=content["trees"]), content)
    except (
        *(OSError, KeyError, TypeError, ValueError, RecursionError),
        lightgbm.basic.LightGBMError,
    ) as error:
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
    fit_final=fit_final,
    converged=lambda classifier: True,  # boosting runs a fixed number of rounds
    predict=predict_own,
    suffix=".lgbm.json",
    save=save,
    load=load,
    probabilities_are=NOT_CALIBRATED,
    streams=True,
)
