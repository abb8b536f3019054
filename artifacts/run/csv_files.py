"""The CSV files of a run: clips, predictions, nuisance baselines and the search."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError, counted
from ...files import write_text
from ...integrity import read_checked
from ...pipeline.fit import HeadFit, Predictions
from ...pipeline.folds import Fold
from ...pipeline.heads import Grid, combinations
from ...pipeline.search import label_names
from ..score_columns import score_columns
from .identity import folds_of_tested
from .summary import REMEDY, RunSummary

#: The layer under which nested predictions are stored.
NESTED = "nested"


def save_clips(
    run: Path, clips: Mapping[str, NDArray[Any]], labels: NDArray[Any], folds: Sequence[Fold]
) -> None:
    """Write ``clips.csv``: label, fold and columns of each tested clip."""
    columns = (labels.tolist(), folds_of_tested(folds), *(clips[name].tolist() for name in clips))
    write_csv(run / "clips.csv", ["label", "fold", *clips], zip(*columns, strict=True))


def save_nuisance(
    run: Path, predicted: Mapping[str, NDArray[Any]], clips: Mapping[str, NDArray[Any]]
) -> None:
    """Write ``nuisance.csv``: the prediction of each nuisance baseline for each tested clip."""
    columns = [clips["path"].tolist(), *(each.tolist() for each in predicted.values())]
    write_csv(run / "nuisance.csv", ["path", *predicted], zip(*columns, strict=True))


def read_nuisance(
    run: Path, summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]
) -> dict[str, NDArray[Any]]:
    """Read ``nuisance.csv`` of a run, and compare it with ``clips.csv``.

    Return predictions of shape (n_clips,) by title of the baseline; none for runs without the file:
    those of earlier versions, and those in which nothing was trained. Raise UserError if the file
    was changed, or does not fit the clips and labels.
    """
    path, labels = run / "nuisance.csv", summary.labels
    if not path.exists() and path.name not in (summary.files or {}):
        return {}
    rows = read_table(run, path.name, summary)
    titles = [title for title in (rows[0] if rows else ()) if title and title != "path"]
    predicted = {title: [row.get(title) or "" for row in rows] for title in titles}
    are_known = all(are_predictions(values, labels) for values in predicted.values())
    if [row.get("path") for row in rows] != clips["path"].tolist() or not are_known:
        raise UserError(
            f"{path}: its clips or labels are not those of clips.csv, in the same order; fit again"
        )
    return {title: as_array(values, labels) for title, values in predicted.items()}


def save_predictions(
    run: Path,
    head: str,
    fit: HeadFit,
    clips: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    folds: Sequence[Fold],
) -> None:
    """Write the out-of-fold predictions of a head for the tested ``clips`` and their ``labels``."""
    clip_columns = (
        clips["path"].tolist(), clips["speaker"].tolist(), folds_of_tested(folds), labels.tolist(),
    )  # fmt: skip

    def rows() -> Iterable[Sequence[Any]]:
        by_layer: dict[str, Predictions] = {NESTED: fit.nested, **fit.layers}
        for layer, predictions in by_layer.items():
            predicted, scores = predictions.predicted.tolist(), predictions.scores.tolist()
            for *clip, clip_scores in zip(*clip_columns, predicted, scores, strict=True):
                yield [layer, *clip, *clip_scores]

    columns = ["layer", "path", "speaker", "fold", "truth", "predicted"]
    columns += score_columns(label_names(labels))
    write_csv(run / predictions_name(head), columns, rows())


def save_search(run: Path, head: str, grid: Grid, fit: HeadFit) -> None:
    """Write the inner score of every layer, fold and set of hyper-parameters of a head."""
    points = combinations(grid)
    rows = (
        [
            layer,
            fold or "final head",
            *point.values(),
            "" if math.isnan(score) else score,
            "chosen" if number == result.chosen else "not fitted" if math.isnan(score) else "",
            " ".join(map(str, result.weights)) if number == result.chosen else "",
        ]
        for (layer, fold), result in sorted(fit.results.items())
        for number, (point, score) in enumerate(zip(points, result.inner, strict=True))
    )
    columns = ["layer", "fold", *grid, "inner_score", "note", "layer_weights"]
    write_csv(run / "search" / f"{head}.csv", columns, rows)


def read_table(run: Path, name: str, summary: RunSummary) -> list[dict[str, str]]:
    """Read a CSV file of a run, as rows by column.

    Raise UserError if it is missing, or was damaged or changed.
    """
    content = read_checked(run, name, summary.files, REMEDY)
    try:
        text = io.StringIO(content.decode("utf-8"), newline="")
        return list(csv.DictReader(text, strict=True))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{run / name}: not a CSV table ({error}); {REMEDY}") from error


def read_predictions(
    run: Path, head: str, summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]
) -> dict[str, NDArray[Any]]:
    """Read the out-of-fold predictions of a head, and compare them with ``clips.csv``.

    Return predictions of shape (n_clips,), in the order of ``clips.csv``, by layer, ``"nested"``
    first. Raise UserError if the file is missing, was damaged or changed, or does not fit the clips
    and labels.
    """
    path, layers, labels = run / predictions_name(head), summary.layers, summary.labels
    expected = list(zip(clips["path"].tolist(), clips["label"].tolist(), strict=True))
    truth: dict[str, list[tuple[str, str]]] = {}
    predicted: dict[str, list[str]] = {}
    for row in read_table(run, predictions_name(head), summary):
        layer = row.get("layer") or ""
        truth.setdefault(layer, []).append((row.get("path") or "", row.get("truth") or ""))
        predicted.setdefault(layer, []).append(row.get("predicted") or "")
    n_rows = sum(map(len, predicted.values()))
    if n_rows != len(expected) * (len(layers) + 1) or list(predicted) != [NESTED, *layers]:
        raise UserError(
            f"{path}: has {n_rows} predictions; expected {len(expected)} nested ones, and as many "
            f"for each of {counted(len(layers), 'layer')}; fit again"
        )
    for layer, rows in truth.items():
        if rows != expected or not are_predictions(predicted[layer], labels):
            raise UserError(
                f"{path}, layer {layer}: its clips or labels are not those of clips.csv, in the "
                "same order; fit again"
            )
    return {layer: as_array(values, labels) for layer, values in predicted.items()}


def predictions_name(head: str) -> str:
    """Return the path of the predictions of a head, in the folder of its run."""
    return f"predictions/{head}.csv"


def are_predictions(values: Sequence[str], labels: Sequence[str]) -> bool:
    """Return whether all values are known labels; without labels, whether they are ratings."""
    return set(values) <= set(labels) if labels else all(map(_is_number, values))


def as_array(values: Sequence[str], labels: Sequence[str]) -> NDArray[Any]:
    """Return predictions as labels, or as ratings if there are no labels."""
    return np.array(values).astype(np.str_ if labels else np.float64)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as a CSV file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
