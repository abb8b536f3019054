"""``perturbed/HEAD.csv``: predictions for perturbed copies of the tested clips."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from .csv_files import are_predictions, as_array, read_table, write_csv
from .summary import RunSummary, update_hashes

#: Predictions by perturbation, such as ``"noise:10"``; each of shape (n_clips,).
Perturbed = Mapping[str, NDArray[Any]]


def save_perturbed(
    run: Path, head: str, perturbed: Perturbed, clips: Mapping[str, NDArray[Any]]
) -> None:
    """Write the predictions of a head for each perturbation, and update the hashes of the run.

    ``clips`` is the table of the tested clips, in whose order the predictions are.
    """
    rows = (
        [name, path, value]
        for name, predicted in perturbed.items()
        for path, value in zip(clips["path"].tolist(), predicted.tolist(), strict=True)
    )
    write_csv(run / perturbed_name(head), ("perturbation", "path", "predicted"), rows)
    update_hashes(run)


def read_perturbed(
    run: Path, head: str, summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]
) -> dict[str, NDArray[Any]]:
    """Read the predictions of a head by perturbation; none if nothing was perturbed.

    Raise UserError if the file was damaged or changed, or does not fit clips and labels.
    """
    name, labels = perturbed_name(head), summary.labels
    if not (run / name).exists() and name not in (summary.files or {}):
        return {}
    paths: dict[str, list[str]] = {}
    predicted: dict[str, list[str]] = {}
    for row in read_table(run, name, summary):
        perturbation = row.get("perturbation") or ""
        paths.setdefault(perturbation, []).append(row.get("path") or "")
        predicted.setdefault(perturbation, []).append(row.get("predicted") or "")
    expected = clips["path"].tolist()
    for perturbation, values in predicted.items():
        if paths[perturbation] != expected or not are_predictions(values, labels):
            raise UserError(
                f"{run / name}, {perturbation}: its clips or labels are not those of clips.csv, in "
                "the same order; remove the file and run the same command again"
            )
    return {name: as_array(values, labels) for name, values in predicted.items()}


def perturbed_name(head: str) -> str:
    """Return the path of the file of a head, in the folder of its run."""
    return f"perturbed/{head}.csv"
