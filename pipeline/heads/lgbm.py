"""LightGBM: gradient-boosted trees. No scaler: trees only ask which of two values is larger."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...files import write_text
from .head import Head, Parameter, Parameters


def build(parameters: Parameters, seed: int) -> lightgbm.LGBMClassifier:
    """Small trees on a random tenth of the features each, classes weighted as for other heads.

    One thread, column-wise histograms and a fixed seed: the result does not depend on the machine.
    """
    return lightgbm.LGBMClassifier(
        n_estimators=int(parameters["n_estimators"]),
        learning_rate=parameters["learning_rate"],
        num_leaves=int(parameters["num_leaves"]),
        min_child_samples=int(parameters["min_child_samples"]),
        colsample_bytree=parameters["colsample_bytree"],
        max_bin=int(parameters["max_bin"]),
        class_weight="balanced",
        n_jobs=1,
        deterministic=True,
        force_col_wise=True,
        random_state=seed,
        verbose=-1,
    )


def scores(classifier: Any, X: NDArray[np.float32]) -> NDArray[np.float64]:
    """Probability of each class, as boosting estimates it."""
    return np.asarray(classifier.predict_proba(X), dtype=np.float64)


def converged(classifier: Any) -> bool:
    """Boosting runs a fixed number of rounds: there is no optimum to miss."""
    return True


@dataclass(frozen=True)
class SavedTrees:
    """A classifier read back from LightGBM's own text format."""

    booster: lightgbm.Booster
    classes_: NDArray[np.str_]

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_clips, n_classes)."""
        raw = np.asarray(self.booster.predict(X), dtype=np.float64)
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
    try:
        content = json.loads(path.read_text())
        booster = lightgbm.Booster(model_str=content["trees"])
        return SavedTrees(booster, np.array(content["classes"], dtype=str))
    except (OSError, KeyError, TypeError, ValueError, lightgbm.basic.LightGBMError) as error:
        raise UserError(
            f"{path}: cannot be read ({str(error).splitlines()[0]}); expected a head saved by "
            "serpipe; run `serpipe fit` again"
        ) from error


LGBM = Head(
    name="lgbm",
    title="LightGBM",
    parameters={
        "n_estimators": Parameter(100, 1, 1e5, whole=True),
        "learning_rate": Parameter(0.1, 1e-6, 1e3),
        "num_leaves": Parameter(7, 2, 131072, whole=True),
        "min_child_samples": Parameter(5, 0, 1e9, whole=True),
        "colsample_bytree": Parameter(0.1, 1e-6, 1.0),
        "max_bin": Parameter(15, 2, 65535, whole=True),
    },
    build=build,
    scores=scores,
    scores_are="probability",
    converged=converged,
    suffix=".lgbm.json",
    save=save,
    load=load,
)
