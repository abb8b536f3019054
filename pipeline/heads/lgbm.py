"""LightGBM: gradient-boosted trees. No scaler: trees only ask which of two values is larger."""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ...errors import UserError, first_line
from ...files import read_text, write_text
from .. import blocks
from ..blocks import FileMatrix, Matrix, by_block, read
from ..calibration import balance
from .head import Head, HeldOutResult, Parameter, Params, PathFitter, RegressionHead
from .sklearn_file import MAX_HEAD_BYTES

#: Clips from which the edges of bins are taken where the embeddings are in a file: LightGBM holds
#: these clips as float64. Of arrays it takes 200 000.
SAMPLE = 20_000


@dataclass(frozen=True)
class Trees:
    """Boosted trees, and the classes that they tell apart; no classes for ratings."""

    booster: lightgbm.Booster
    classes_: NDArray[np.str_] | None = None

    def outputs(self, X: Matrix) -> NDArray[np.float64]:
        """Return probabilities, shape (n_clips, n_classes), or ratings, shape (n_clips,)."""
        if isinstance(X, FileMatrix):
            return by_block(self.outputs, X)
        raw = np.asarray(self.booster.predict(X, num_threads=1), dtype=np.float64)
        if self.classes_ is None or raw.ndim == 2:
            return raw
        return np.stack([1 - raw, raw], axis=1)


class _BoostedTrees(Head):
    """Small trees, each on a random part of the features.

    One thread, column-wise histograms and a fixed seed: the result does not depend on the machine.
    ``model`` is a :class:`Trees`. Its file is JSON with the trees in LightGBM's own text format.
    """

    title = "LightGBM"
    parameters = {
        "learning_rate": Parameter((0.1,), 1e-6, 1e3),
        "num_leaves": Parameter((7,), 2, 131072, whole=True),
        "min_child_samples": Parameter((5,), 0, 1e9, whole=True),
        "colsample_bytree": Parameter((0.05,), 1e-6, 1.0),
        "max_bin": Parameter((15,), 2, 65535, whole=True),
        "n_estimators": Parameter((50, 100, 150, 200), 1, 1e5, whole=True),
    }
    suffix = ".lgbm.json"
    streams = True

    @property
    def settings(self) -> dict[str, Any]:
        """LightGBM's parameters, without the number of trees and the objective."""
        return {
            "learning_rate": self.params["learning_rate"],
            "num_leaves": int(self.params["num_leaves"]),
            "min_child_samples": int(self.params["min_child_samples"]),
            "colsample_bytree": self.params["colsample_bytree"],
            "max_bin": int(self.params["max_bin"]),
            "n_jobs": 1,
            "deterministic": True,
            "force_col_wise": True,
            "random_state": self.seed,
            "verbose": -1,
        }

    @staticmethod
    @abstractmethod
    def set_targets(
        dataset: lightgbm.Dataset, y: NDArray[Any], weights: NDArray[np.float64] | None = None
    ) -> tuple[dict[str, Any], NDArray[np.str_] | None]:
        """Give a dataset its labels or ratings; return the objective and the classes."""

    def fit(
        self,
        X: Matrix,
        y: NDArray[Any],
        speakers: NDArray[np.str_],
        weights: NDArray[np.float64] | None = None,
    ) -> Self:
        """Fit with the bins and the boosting rounds that are used where heads are tested."""
        dataset = bin_values(X, int(self.params["max_bin"]))
        for trees in self._grow(dataset, y, [self.params], weights):
            self.model = trees
        return self

    def _grow(
        self,
        dataset: lightgbm.Dataset,
        y: NDArray[Any],
        path: Sequence[Params],
        weights: NDArray[np.float64] | None,
    ) -> Iterator[Trees]:
        """Boost from one number of trees to the next, and yield at each."""
        objective, classes = self.set_targets(dataset, y, weights)
        booster = lightgbm.Booster({**self.settings, **objective}, dataset)
        rounds = 0
        for params in path:
            # Counted here: a round in which no leaf can be split adds no tree.
            for _ in range(rounds, int(params["n_estimators"])):
                booster.update()
            rounds = int(params["n_estimators"])
            yield Trees(booster, classes)

    @classmethod
    def path_fitter(
        cls,
        X: Matrix,
        y: NDArray[Any],
        speakers: NDArray[np.str_],
        seed: int,
        weights: NDArray[np.float64] | None = None,
    ) -> PathFitter:
        """Sort the values into bins once, and grow the trees along the whole path."""
        binned: dict[int, lightgbm.Dataset] = {}

        def fit_path(
            train: NDArray[np.intp], X_test: Matrix, path: Sequence[Params]
        ) -> Iterator[HeldOutResult]:
            head = cls(path[0], seed)
            bins = head.settings["max_bin"]
            if bins not in binned:
                binned[bins] = bin_values(X, bins)
            subset = binned[bins].subset(train.tolist()).construct()
            own = None if weights is None else weights[train]
            for trees in head._grow(subset, y[train], path, own):
                outputs = trees.outputs(X_test)
                if trees.classes_ is None:
                    yield HeldOutResult(outputs, np.empty((len(X_test), 0)), converged=True)
                else:
                    predicted = trees.classes_[outputs.argmax(axis=1)]
                    yield HeldOutResult(predicted, outputs, converged=True)

        return fit_path

    def save(self, path: Path) -> None:
        """Write the trees as LightGBM's text, with the names of the classes, in one JSON file."""
        classes = self.model.classes_
        named = {} if classes is None else {"classes": [str(label) for label in classes]}
        write_text(path, json.dumps({**named, "trees": self.model.booster.model_to_string()}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote: text in, trees out, no code run."""
        head = cls({})
        try:
            content = json.loads(read_text(path, MAX_HEAD_BYTES))
            booster = lightgbm.Booster(model_str=content["trees"])
            classes = None if cls.task == "regression" else np.array(content["classes"], dtype=str)
        except (
            *(OSError, KeyError, TypeError, ValueError, RecursionError),
            lightgbm.basic.LightGBMError,
        ) as error:
            raise UserError(
                f"{path}: cannot be read as a head saved by serpipe ({first_line(error)}); "
                "run `serpipe fit` again"
            ) from error
        head.model = Trees(booster, classes)
        return head


class LGBM(_BoostedTrees):
    """Boosted trees for labels; classes are weighted by the inverse of their size."""

    name = "lgbm"
    takes_weights = True

    def estimator(self) -> lightgbm.LGBMClassifier:
        """Return LightGBM's own classifier of the same trees, unfitted, to compare with."""
        number = int(self.params["n_estimators"])
        return lightgbm.LGBMClassifier(
            n_estimators=number, class_weight="balanced", **self.settings
        )

    @staticmethod
    def set_targets(
        dataset: lightgbm.Dataset, y: NDArray[Any], weights: NDArray[np.float64] | None = None
    ) -> tuple[dict[str, Any], NDArray[np.str_]]:
        """Weight classes by the inverse of their size; trees for one class only predict it."""
        classes, codes = np.unique(y, return_inverse=True)
        dataset.set_label(codes)
        dataset.set_weight(balance(codes, weights))
        if len(classes) <= 2:
            return {"objective": "binary"}, classes
        return {"objective": "multiclass", "num_class": len(classes)}, classes

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.str_]:
        """Return the most probable class, shape (n_clips,)."""
        labels: NDArray[np.str_] = self.model.classes_[self.predict_proba(X).argmax(axis=1)]
        return labels

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_clips, n_classes)."""
        outputs: NDArray[np.float64] = self.model.outputs(X)
        return outputs


class LGBMRegressor(_BoostedTrees, RegressionHead):
    """Boosted trees for ratings, fitted to squared errors."""

    name = "lgbm-regressor"

    def estimator(self) -> lightgbm.LGBMRegressor:
        """Return LightGBM's own regressor of the same trees, unfitted, to compare with."""
        number = int(self.params["n_estimators"])
        return lightgbm.LGBMRegressor(n_estimators=number, **self.settings)

    @staticmethod
    def set_targets(
        dataset: lightgbm.Dataset, y: NDArray[Any], weights: NDArray[np.float64] | None = None
    ) -> tuple[dict[str, Any], None]:
        """Give a dataset its ratings."""
        dataset.set_label(y)
        dataset.set_weight(weights)
        return {"objective": "regression"}, None

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return ratings, shape (n_clips,)."""
        ratings: NDArray[np.float64] = self.model.outputs(X)
        return ratings


def bin_values(X: Matrix, bins: int) -> lightgbm.Dataset:
    """Sort the values of each feature into bins, for any subset of the clips.

    Of clips in a file only the bins come into memory, at most a byte for each value (half of one
    up to 16 bins), a block of clips at a time.
    """
    params = {"max_bin": bins, "feature_pre_filter": False, "n_jobs": 1, "verbose": -1}
    if isinstance(X, FileMatrix):
        return lightgbm.Dataset(
            _Blocks(X), params={**params, "bin_construct_sample_cnt": SAMPLE}
        ).construct()
    return lightgbm.Dataset(X, params=params).construct()


class _Blocks(lightgbm.Sequence):  # type: ignore[misc]
    """Clips as LightGBM requests them: a sample one by one, upwards, then all, by blocks."""

    def __init__(self, X: FileMatrix) -> None:
        self.X, self.start, self.batch_size = X, 0, blocks.BLOCK
        self.block: NDArray[np.float32] = read(X, slice(0, self.batch_size))

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        if isinstance(rows, slice):
            return read(self.X, rows)
        if not self.start <= rows < self.start + len(self.block):
            self.start = int(rows) // self.batch_size * self.batch_size
            self.block = read(self.X, slice(self.start, self.start + self.batch_size))
        row: NDArray[np.float64] = self.block[rows - self.start].astype(np.float64)  # required
        return row
