"""Results of single folds, from which a stopped run resumes: a file per head, layer and fold."""

import math
import shutil
from base64 import b64decode, b64encode
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

FOLDER = "parts"


def fold_writer(
    run: Path, head: str, layers: Sequence[str], folds: Sequence[str], labels: Sequence[str]
) -> Callable[[str, str, FoldResult], None]:
    """Return a function that stores a result, given its layer and fold.

    Layers and folds are numbered: no name from outside becomes part of a path.
    """

    def store(layer: str, fold: str, result: FoldResult) -> None:
        path = _path(run, head, layers.index(layer), folds.index(fold))
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "inner": [json_value(value) for value in result.inner],
            "chosen": result.chosen,
            "inner_not_converged": result.inner_not_converged,
            "predicted": (
                np.searchsorted(labels, result.predicted) if labels else result.predicted
            ).tolist(),
            "scores": _rows(result.scores),
            "inner_scores": b64encode(result.inner_scores.astype("<f4").tobytes()).decode(),
            "converged": result.converged,
            "weights": list(result.weights),
            "temperature": json_value(result.temperature),
        }
        # Atomic, but not synced: a power cut costs a fold, which is computed again.
        unfinished = path.with_suffix(".unfinished")
        try:
            with create_file(unfinished) as file:
                write_all(file, seal_json(content).encode())
            unfinished.replace(path)
        except OSError as error:
            raise MachineError(
                f"{path}: cannot be written ({error.strerror}); free some space and run the same "
                "command again: finished folds are kept"
            ) from None

    return store


def read_fold_results(
    run: Path,
    head: str,
    layers: Sequence[str],
    folds: Sequence[Fold],
    labels: NDArray[np.str_],
    n_points: int,
    *,
    with_inner_scores: bool = False,
) -> Results:
    """Read the stored results by layer and fold; damaged ones are treated as missing.

    ``labels`` are all labels, sorted, or none for ratings; ``n_points`` is the number of sets of
    hyper-parameters in the grid. ``with_inner_scores``: results without the scores of the inner
    folds are missing, too.
    """
    results = {}
    for layer_index, layer in enumerate(layers):
        for fold_index, fold in enumerate(folds):
            try:
                content, is_sealed = read_sealed_json(_path(run, head, layer_index, fold_index))
                if not is_sealed:
                    continue
                predicted = content["predicted"]
                result = FoldResult(
                    inner=tuple(_number(value) for value in content["inner"]),
                    chosen=int(content["chosen"]),
                    inner_not_converged=int(content["inner_not_converged"]),
                    predicted=labels[np.array(predicted, dtype=int)]
                    if len(labels)
                    else np.array(predicted, dtype=np.float64),
                    scores=_array(content["scores"], len(labels)),
                    inner_scores=np.frombuffer(
                        b64decode(content.get("inner_scores", "")), "<f4"
                    ).reshape(-1, max(len(labels), 1)),
                    converged=bool(content["converged"]),
                    weights=tuple(map(float, content["weights"])),
                    temperature=_number(content["temperature"]),
                )
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                continue
            if (
                len(result.inner) == n_points
                and 0 <= result.chosen < n_points
                and len(result.scores) == len(result.predicted) == len(fold.test)
                and len(result.inner_scores) == (len(fold.train) if with_inner_scores else 0)
            ):
                results[layer, fold.name] = result
    return results


def remove_fold_results(run: Path, head: str | None = None) -> None:
    """Remove the results of a head, or of all heads."""
    shutil.rmtree(run / FOLDER / (head or ""), ignore_errors=True)
    if head and (run / FOLDER).is_dir() and not any((run / FOLDER).iterdir()):
        (run / FOLDER).rmdir()


def _path(run: Path, head: str, layer: int, fold: int) -> Path:
    return run / FOLDER / head / f"layer-{layer:03d}-fold-{fold:04d}.json"


def _rows(scores: NDArray[np.float64]) -> list[list[float | None]]:
    """Return a table of scores as JSON values."""
    return [[json_value(value) for value in row] for row in scores.tolist()]


def _array(rows: Sequence[Sequence[float | None]], width: int) -> NDArray[np.float64]:
    values = [[_number(value) for value in row] for row in rows]
    return np.array(values, np.float64).reshape(len(rows), width)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
