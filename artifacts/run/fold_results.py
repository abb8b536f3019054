"""What a run that was stopped has done so far: one small file per head, layer and fold."""

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import MachineError
from ...files import create_file, json_value, write_all
from ...integrity import read_sealed_json, seal_json
from ...pipeline.fit import Results
from ...pipeline.folds import Fold
from ...pipeline.search import FoldResult

#: By head, layer and fold, numbered: names from outside never become paths.
FOLDER = "parts"


def part_writer(
    run: Path, head: str, layers: Sequence[str], folds: Sequence[str], labels: Sequence[str]
) -> Callable[[str, str, FoldResult], None]:
    """Return a function that keeps the result of a layer and fold.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : str
        Name of the head.
    layers, folds, labels : sequence of str
        Their names.

    Returns
    -------
    callable
        Takes layer, fold and result.
    """

    def keep(layer: str, fold: str, result: FoldResult) -> None:
        path = _path(run, head, layers.index(layer), folds.index(fold))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "inner": [json_value(value) for value in result.inner],
            "chosen": result.chosen,
            "inner_not_converged": result.inner_not_converged,
            "predicted": (
                np.searchsorted(labels, result.predicted) if labels else result.predicted
            ).tolist(),
            "scores": [[json_value(value) for value in row] for row in result.scores.tolist()],
            "converged": result.converged,
            "weights": list(result.weights),
        }
        # Whole or not at all, but not synced: what a power cut takes is a fold to do again.
        unfinished = path.with_suffix(".unfinished")
        try:
            with create_file(unfinished) as file:
                write_all(file, seal_json(content).encode())
            unfinished.replace(path)
        except OSError as error:
            raise MachineError(
                f"{path}: cannot be written ({error.strerror}); make room and run the same command "
                "again: what is done is kept"
            ) from None

    return keep


def read_parts(
    run: Path,
    head: str,
    layers: Sequence[str],
    folds: Sequence[Fold],
    labels: NDArray[np.str_],
    n_points: int,
) -> Results:
    """Read what is there; what is damaged is as if it were not.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : str
        Name of the head.
    layers : sequence of str
        Their names.
    folds : sequence of Fold
        The folds.
    labels : ndarray of str, shape (n_labels,)
        All labels, sorted; none of ratings.
    n_points : int
        Points of the grid.

    Returns
    -------
    mapping of (str, str) to FoldResult
        By layer and fold.
    """
    there = {}
    for place, layer in enumerate(layers):
        for number, fold in enumerate(folds):
            try:
                content, is_sealed = read_sealed_json(_path(run, head, place, number))
                if not is_sealed:
                    continue
                result = FoldResult(
                    inner=tuple(_number(value) for value in content["inner"]),
                    chosen=int(content["chosen"]),
                    inner_not_converged=int(content["inner_not_converged"]),
                    predicted=labels[np.array(content["predicted"], dtype=int)]
                    if len(labels)
                    else np.array(content["predicted"], dtype=np.float64),
                    scores=np.array(
                        [[_number(value) for value in row] for row in content["scores"]]
                    ).reshape(len(content["predicted"]), len(labels)),
                    converged=bool(content["converged"]),
                    weights=tuple(map(float, content["weights"])),
                )
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                continue
            if (
                len(result.inner) == n_points
                and 0 <= result.chosen < n_points
                and len(result.scores) == len(result.predicted) == len(fold.test)
            ):
                there[layer, fold.name] = result
    return there


def remove_parts(run: Path, head: str | None = None) -> None:
    """Remove the parts of a head, or of all."""
    shutil.rmtree(run / FOLDER / (head or ""), ignore_errors=True)
    if head and (run / FOLDER).is_dir() and not any((run / FOLDER).iterdir()):
        (run / FOLDER).rmdir()


def _path(run: Path, head: str, layer: int, fold: int) -> Path:
    return run / FOLDER / head / f"layer-{layer:03d}-fold-{fold:04d}.json"


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
