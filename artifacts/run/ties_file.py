"""``ties/HEAD.csv``: the scores of clips without a majority of raters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...pipeline.fit import Problem
from ...pipeline.groups import KEPT_TOGETHER
from ...pipeline.votes import share_columns, shares_of
from ..score_columns import score_columns
from .csv_files import read_table, write_csv
from .summary import RunSummary

_CLIP = ("path", "fold", "cluster")


@dataclass(frozen=True)
class Ties:
    """The clips of a run that have no majority of raters, with the scores of a head."""

    folds: NDArray[np.str_]  #: The fold of each clip.
    clusters: NDArray[np.str_]  #: The unit of intervals: the speaker, or a group of speakers.
    shares: NDArray[np.float64]  #: The share of raters of each label, shape (n_clips, n_labels).
    scores: NDArray[np.float64]  #: Out-of-fold, shape (n_clips, n_labels).


def save_ties(
    run: Path,
    head: str,
    clips: Mapping[str, NDArray[Any]],
    problem: Problem,
    scores: NDArray[np.float64],
) -> None:
    """Write a row for each clip without a majority, with its nested scores, in their order.

    ``clips`` is the clip table of the run.
    """
    names = problem.names
    shares = shares_of(clips, len(names))
    assert problem.ties is not None
    assert shares is not None
    rows = np.flatnonzero(problem.ties)
    fold_of = {int(row): fold.name for fold in problem.folds for row in fold.test}
    columns = (
        clips["path"][rows].tolist(),
        [fold_of[row] for row in rows.tolist()],
        clips.get(KEPT_TOGETHER, clips["speaker"])[rows].tolist(),
        *shares[rows].T.tolist(),
        *scores.T.tolist(),
    )
    header = [*_CLIP, *share_columns(len(names)), *score_columns(names)]
    write_csv(run / ties_name(head), header, zip(*columns, strict=True))


def read_ties(run: Path, head: str, summary: RunSummary) -> Ties | None:
    """Read what :func:`save_ties` wrote; None if the run has no such file.

    Raise UserError if the file was damaged or changed, or does not fit the labels.
    """
    name, labels = ties_name(head), summary.labels
    if not (run / name).exists() and name not in (summary.files or {}):
        return None
    rows = read_table(run, name, summary)
    try:
        folds, clusters = (np.array([row[key] for row in rows], str) for key in _CLIP[1:])
        shares, scores = (
            np.array([[float(row[key]) for key in keys] for row in rows]).reshape(-1, len(labels))
            for keys in (share_columns(len(labels)), score_columns(labels))
        )
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{run / name}: its columns are not those of the labels of the run; fit again"
        ) from None
    return Ties(folds, clusters, shares, scores)


def ties_name(head: str) -> str:
    """Return the path of the file of a head, in the folder of its run."""
    return f"ties/{head}.csv"
