"""``perturbed/HEAD.csv``: predictions for perturbed copies of the tested clips."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...features.perturbation import read_perturbations
from .csv_files import are_predictions, as_array, read_table, write_csv
from .summary import REMEDY, RunSummary, update_hashes

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
    are_known = _are_names(predicted)
    for perturbation, values in predicted.items():
        is_whole = paths[perturbation] == expected and are_predictions(values, labels)
        if not is_whole or not are_known:
            raise UserError(
                f"{run / name}, {perturbation!r}: is not a perturbation, or its clips or labels "
                f"are not those of clips.csv, in the same order; {REMEDY}"
            )
    return {name: as_array(values, labels) for name, values in predicted.items()}


def _are_names(names: Collection[str]) -> bool:
    """Return whether each text is a perturbation, as :func:`save_perturbed` writes it."""
    try:
        return [str(each) for each in read_perturbations("", names)] == list(names)
    except UserError:
        return False


def perturbed_name(head: str) -> str:
    """Return the path of the file of a head, in the folder of its run."""
    return f"perturbed/{head}.csv"
