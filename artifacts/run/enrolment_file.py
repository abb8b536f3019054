"""``enrolment/HEAD.csv``: confusion counts of test speakers by number of enrolled clips."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...files import json_value
from ...pipeline.enrolment_curve import (
    ANY_LABEL,
    DRAWS,
    LABEL_DRAWS,
    DrawCounts,
    EnrolmentChoice,
    EnrolmentFit,
)
from .csv_files import read_table, write_csv
from .summary import RunSummary

_COLUMNS = ("enrolled", "drawn_from", "speaker", "adapted", "truth", "predicted", "count")


def describe_enrolment(fit: EnrolmentFit) -> dict[str, Any]:
    """Return the entry of a head on its enrolment in ``run.json``."""
    return {
        "numbers": list(fit.numbers),
        "draws": DRAWS,
        "label_draws": LABEL_DRAWS,
        "choices": [_describe_choice(choice) for choice in fit.choices],
        "final": _describe_choice(fit.final),
    }


def _describe_choice(choice: EnrolmentChoice) -> dict[str, Any]:
    temperatures = [json_value(temperature) for temperature in choice.temperatures]
    return {**asdict(choice), "temperatures": temperatures}


def save_enrolment(
    run: Path, head: str, counts: Sequence[DrawCounts], labels: Sequence[str]
) -> None:
    """Write the counts of a head: a row for each cell that is not 0, with and without enrolment."""
    rows = (
        [
            each.n_clips, each.drawn_from, each.speaker, adapted, labels[truth],
            labels[predicted], matrix[truth, predicted],
        ]
        for each in counts
        for adapted, matrix in (("yes", each.enrolled), ("no", each.plain))
        for truth, predicted in np.argwhere(matrix).tolist()
    )  # fmt: skip
    write_csv(run / enrolment_name(head), _COLUMNS, rows)


def read_enrolment(
    run: Path, head: str, summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]
) -> tuple[DrawCounts, ...]:
    """Read the counts of a head, and compare their names with those of the run.

    Raise UserError if the file is missing, was damaged or changed, or does not fit clips and
    labels.
    """
    path, labels = run / enrolment_name(head), list(summary.labels)
    index = {label: number for number, label in enumerate(labels)}
    speakers = set(clips["speaker"].tolist())
    counts: dict[tuple[int, str, str], DrawCounts] = {}
    try:
        for row in read_table(run, enrolment_name(head), summary):
            key = (int(row["enrolled"]), row["drawn_from"], row["speaker"])
            if key[2] not in speakers or key[1] not in (ANY_LABEL, *labels):
                raise ValueError(f"no clip is of {key[2]!r} and {key[1]!r}")
            if key not in counts:
                empty = np.zeros((2, len(labels), len(labels)), np.int64)
                counts[key] = DrawCounts(*key, empty[0], empty[1])
            of_key = counts[key]
            matrix = {"yes": of_key.enrolled, "no": of_key.plain}[row["adapted"]]
            matrix[index[row["truth"]], index[row["predicted"]]] += int(row["count"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: does not fit the run ({error}); fit again") from None
    return tuple(counts.values())


def enrolment_name(head: str) -> str:
    """Return the path of the file of a head, in the folder of its run."""
    return f"enrolment/{head}.csv"
