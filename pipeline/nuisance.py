"""Baselines that predict without the speech: from format, duration, loudness and conditions.

If such properties predict the labels of a corpus, its scores say little about emotion. The
baselines are trained and tested on the folds of the run.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .folds import Fold
from .groups import recorded_together

if TYPE_CHECKING:
    from .heads.lgbm import LGBM, LGBMRegressor, Trees

ALL_OF_THEM = "all of them"
#: The baseline that uses nothing of the speech.
FORMAT = "sampling rate, channels, file type"
#: The baseline that uses the corpus, and columns of when, where or with whom it was recorded.
CONDITIONS = "corpus and recording conditions"
#: Above this number, several folds are tested with one model.
MOST_FOLDS = 50
#: Boosting rounds of each model.
ROUNDS = 50
#: More training clips do not help a baseline of four numbers.
MOST_CLIPS = 20_000


def predict_from_nuisance(
    clips: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    folds: Sequence[Fold],
    seed: int = 0,
) -> dict[str, NDArray[Any]]:
    """Predict labels or ratings from properties of the recordings, on the given folds.

    The model is a small gradient-boosted ensemble of trees, with classes weighted by the inverse of
    their frequency. More than 50 folds are pooled, so that about 50 models are fitted; ``seed``
    draws training clips where there are more than 20 000.

    Return, by title of the baseline, its out-of-fold predictions, shape (n_tested,), in the order
    of the clips. A baseline whose columns are missing, or the same for all clips, is omitted.
    """
    predictions = {}
    folds = _pool(folds)
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    for title, columns in _columns(clips, labels).items():
        varying = [column for column in columns if len(np.unique(column)) > 1]
        if not varying:
            continue
        X = np.stack(varying, axis=1)
        predicted = np.empty_like(labels)
        for fold in folds:
            predicted[fold.test] = _predict(X, labels, fold, seed)
        predictions[title] = predicted[tested]
    return predictions


def _columns(
    clips: Mapping[str, NDArray[Any]], labels: NDArray[Any]
) -> dict[str, list[NDArray[np.float64]]]:
    """Return the features of each baseline, by its title; words are numbered."""
    known = {
        name: [clips[name].astype(np.float64)] if name in clips else []
        for name in ("sampling_rate", "channels", "seconds", "loudness")
    }
    suffixes = [PurePosixPath(path).suffix.lower() for path in clips.get("path", ())]
    file_type = [_numbered(np.array(suffixes))] if suffixes else []
    of_format = [*known["sampling_rate"], *known["channels"], *file_type]
    conditions = [
        _numbered(column)
        for name, column in clips.items()
        if name == "corpus"
        or (recorded_together(name) and not np.array_equal(column.astype(str), labels.astype(str)))
    ]
    return {
        ALL_OF_THEM: [*of_format, *known["seconds"], *known["loudness"]],
        FORMAT: of_format,
        "duration": known["seconds"],
        "loudness": known["loudness"],
        CONDITIONS: conditions,
    }


def _numbered(column: NDArray[Any]) -> NDArray[np.float64]:
    return np.unique(column.astype(str), return_inverse=True)[1].astype(np.float64)


def _pool(folds: Sequence[Fold]) -> list[Fold]:
    """Pool folds, so that there are about ``MOST_FOLDS`` at most.

    A pool trains on the clips that all of its folds train on. Folds that hold out different values
    of a column are not pooled, as these may be all of its values.
    """
    size = -(-len(folds) // MOST_FOLDS)
    if size == 1:
        return list(folds)
    by_training_parts: dict[tuple[int, ...], list[Fold]] = {}
    for fold in folds:
        parts = () if fold.held_out is None else tuple(np.unique(fold.held_out).tolist())
        by_training_parts.setdefault(parts, []).append(fold)
    pooled = []
    for alike in by_training_parts.values():
        for start in range(0, len(alike), size):
            group = alike[start : start + size]
            test = np.concatenate([fold.test for fold in group])
            train = reduce(np.intersect1d, [fold.train for fold in group])
            pooled.append(Fold(group[0].name, train, test))
    return pooled


def _predict(X: NDArray[np.float64], labels: NDArray[Any], fold: Fold, seed: int) -> NDArray[Any]:
    """Train on the training clips of a fold, and return predictions for its test clips."""
    from .heads.lgbm import LGBM, LGBMRegressor

    train = fold.train
    if len(train) > MOST_CLIPS:
        train = np.random.default_rng(seed).choice(train, MOST_CLIPS, replace=False)
    if labels.dtype.kind == "f":
        origin = labels[train].mean()  # trees keep ratings in 32 bits
        regressor = _boost(LGBMRegressor, X[train], labels[train] - origin, seed)
        return np.asarray(regressor.outputs(X[fold.test]) + origin)
    classifier = _boost(LGBM, X[train], labels[train], seed)
    columns = classifier.outputs(X[fold.test]).argmax(axis=1)
    predicted: NDArray[Any] = np.asarray(classifier.classes_)[columns]
    return predicted


def _boost(
    head: "type[LGBM] | type[LGBMRegressor]", X: NDArray[np.float64], y: NDArray[Any], seed: int
) -> "Trees":
    """Train the trees that LightGBM's own estimator for the task of a head would train.

    Those estimators copy the trained trees through their text format, which takes as long as
    training so few.
    """
    from lightgbm import Booster, Dataset

    from .heads.lgbm import Trees

    settings: dict[str, Any] = {
        "num_leaves": 7,
        "min_child_samples": 5,
        "random_state": seed,
        "n_jobs": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }
    dataset = Dataset(X, params=settings)
    objective, classes = head.set_targets(dataset, y)
    booster = Booster({**settings, **objective}, dataset)
    for _ in range(ROUNDS):
        booster.update()
    return Trees(booster, classes)
