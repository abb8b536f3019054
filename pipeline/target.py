"""The target: the column that is predicted, and which of its labels are kept and merged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..choices import TASKS as TASKS
from ..choices import check_choice
from ..corpora import CLIP_COLUMNS, FILLED_COLUMNS
from ..corpora.rater_rows import holds_counts
from ..errors import UserError, counted

#: Columns that identify a clip or its speaker, which cannot be predicted for a new speaker.
_NOT_TARGETS = {"path", "name", "speaker", *FILLED_COLUMNS} - {"shared_emotion"}


#: The emotion or, for clips without one, the only other column that can be predicted.
DEFAULT = ""
EMOTION = "emotion"
#: The ``--task`` for which numbers are ratings and words are labels.
AUTO = "auto"
#: A column of at most so many whole numbers may contain codes of labels.
FEW_VALUES = 10


@dataclass(frozen=True)
class Target:
    """Which clips are used, and their labels or ratings."""

    column: str  #: The column of the clip table.
    rows: NDArray[np.intp]  #: Shape (n_used,): row numbers of the clips that are used.
    labels: NDArray[Any]  #: Shape (n_used,): their labels, after merging, or their ratings.
    changes: tuple[str, ...]  #: What was merged or dropped, in words.
    assumptions: tuple[str, ...] = ()  #: What was assumed about the column, in words.


def columns_to_predict(clips: Mapping[str, NDArray[Any]]) -> list[str]:
    """Return the columns of a clip table, besides those of every corpus, that can be predicted.

    They are columns of ratings, and columns of labels that several clips share.
    """
    columns = []
    for name, values in clips.items():
        if name in CLIP_COLUMNS or name in FILLED_COLUMNS:
            continue
        if values.dtype.kind == "f":
            distinct, filled = np.unique(values[np.isfinite(values)]), len(values)
        elif values.dtype.kind == "U":
            distinct, filled = np.unique(values[values != ""]), int(np.sum(values != "")) // 2
            if holds_counts(distinct.tolist()):  # each clip has its own
                filled = len(values)
        else:
            continue
        if 2 <= len(distinct) <= filled:
            columns.append(name)
    return columns


def default_target(clips: Mapping[str, NDArray[Any]]) -> tuple[str, tuple[str, ...]]:
    """Return the target if the user names none: ``"emotion"``, or the only other column.

    The other column is used, with a note, if no clip has an emotion. Raise UserError if there are
    several other columns then.
    """
    if EMOTION in clips and (clips[EMOTION] != "").any():
        return EMOTION, ()
    others = columns_to_predict(clips)
    if len(others) > 1:
        raise UserError(
            f"the clips have no emotion; choose what to predict from {', '.join(others)}, such as "
            f"--target {others[0]}"
        )
    if not others:
        return EMOTION, ()
    return others[0], (f"{others[0]} is predicted: no other column can be",)


def choose_target(
    clips: Mapping[str, NDArray[Any]],
    column: str = "emotion",
    merge: Mapping[str, str] | None = None,
    keep: Sequence[str] = (),
    used: NDArray[np.bool_] | None = None,
    task: str = AUTO,
) -> Target:
    """Select labels of a clip table: merge, then drop those that are not kept.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    column : str
        A column of labels, or of ratings (numbers); clips where it is empty are not used.
    merge : mapping of str to str, optional
        Label to the label that replaces it.
    keep : sequence of str
        Labels to keep, after merging; all by default.
    used : ndarray of bool, shape (n_clips,), optional
        The clips to choose from; all by default.
    task : {"auto", "labels", "ratings"}
        How the column is read: by default numbers as ratings, and words as labels.

    Raises
    ------
    UserError
        If there is no such column or label, it cannot be read as ``task``, or fewer than two labels
        are left.
    """
    check_choice("--task", task, TASKS)
    if used is None:
        used = np.ones(len(clips["corpus"]), dtype=bool)
    if column in clips and clips[column].dtype.kind == "f" and column not in _NOT_TARGETS:
        if task != "labels":
            return _ratings(clips[column], column, used, bool(merge or keep), assumed=task == AUTO)
        clips = {**clips, column: number_labels(clips[column])}
    elif task == "ratings":
        raise UserError(
            f"--task ratings --target {column}: is not a column of numbers; choose another "
            "--target, or give its ratings with --ratings"
        )
    columns = [name for name in clips if name not in _NOT_TARGETS and clips[name].dtype.kind == "U"]
    possible = [name for name in columns if len(set(clips[name][used].tolist()) - {""}) > 1]
    if column not in possible:
        problem = "has fewer than two values" if column in columns else "is not a column of labels"
        raise UserError(
            f"--target {column}: {problem} in the cache; choose one of {', '.join(possible)}, or "
            "give ratings with --ratings"
        )
    labels = clips[column].astype(object)
    changes = []
    for old, new in (merge or {}).items():
        _check_label(f"--map {old}={new}", old, clips[column], column)
        labels[clips[column] == old] = new
        if old in clips[column][used]:
            changes.append(f"{old} counted as {new}")
    without = int(np.sum(used & (labels == "")))
    if without:
        changes.append(f"{counted(without, 'clip')} without {column} left out")
    used = used & (labels != "")
    if keep:
        for label in keep:
            _check_label(f"--keep {','.join(keep)}", label, labels[used], column)
        dropped = sorted(set(labels[used]) - set(keep))
        used = used & np.isin(labels.astype(str), list(keep))
        changes += [f"{label} dropped" for label in dropped]
    left = np.unique(labels[used].astype(str))
    if task == "labels" and 2 * len(left) > used.sum():
        raise UserError(
            f"--task labels --target {column}: {len(left)} different values of {int(used.sum())} "
            "clips; labels need several clips each; read it as ratings, or merge values with --map"
        )
    if len(left) < 2:
        raise UserError(
            f"--target {column}: only {', '.join(left)} is left; keep more labels or merge fewer"
        )
    rows = np.flatnonzero(used)
    return Target(column, rows, labels[used].astype(str), tuple(changes))


def number_labels(values: NDArray[np.float64]) -> NDArray[np.str_]:
    """Return numbers as labels, such as ``"1"`` and ``"2.5"``; NaN becomes an empty label."""
    return np.array(["" if np.isnan(value) else f"{value:.15g}" for value in values.tolist()])


def _ratings(
    values: NDArray[np.float64],
    column: str,
    used: NDArray[np.bool_],
    changed: bool,
    assumed: bool,
) -> Target:
    if changed:
        raise UserError(
            f"--target {column}: is a number; omit --map and --keep, which are for labels"
        )
    rows = np.flatnonzero(used & np.isfinite(values))
    if len(np.unique(values[rows])) < 2:
        raise UserError(
            f"--target {column}: the ratings of {counted(len(rows), 'clip')} are all the same; "
            "rate more clips"
        )
    left = int(used.sum()) - len(rows)
    changes = (f"{counted(left, 'clip')} without {column} left out",) if left else ()
    ratings = values[rows].astype(np.float64)
    distinct = np.unique(ratings)
    few = len(distinct) <= FEW_VALUES and (distinct == np.round(distinct)).all()
    content = f"{len(distinct)} different whole numbers" if few else "numbers"
    note = f"{column} holds {content} and was read as ratings (to read labels: --task labels)"
    return Target(column, rows, ratings, changes, (note,) if assumed else ())


def stratify(labels: NDArray[Any]) -> NDArray[np.str_]:
    """Return what folds are stratified by, shape (n_clips,): labels, or fifths of ratings."""
    if labels.dtype.kind == "U":
        return labels
    edges = np.unique(np.quantile(labels, [0.2, 0.4, 0.6, 0.8]))
    edges = edges[edges > labels.min()]
    if not len(edges):  # most have the lowest rating: it, and all others
        edges = np.unique(labels)[1:2]
    return np.searchsorted(edges, labels, side="right").astype(str)


def permute_within_speakers(
    labels: NDArray[Any], speakers: NDArray[np.str_], seed: int
) -> NDArray[Any]:
    """Shuffle the labels of each speaker's clips among themselves.

    The score of a head on these is what the protocol gives without any information: chance, if
    nothing leaks.
    """
    draw = np.random.default_rng(seed)
    permuted = labels.copy()
    for speaker in np.unique(speakers):
        rows = np.flatnonzero(speakers == speaker)
        permuted[rows] = labels[draw.permutation(rows)]
    return permuted


def _check_label(option: str, label: str, labels: NDArray[Any], column: str) -> None:
    present = sorted(set(labels.tolist()) - {""})
    if label not in present:
        hint = (
            f"; {column} has the words that all corpora share; for those of one corpus use "
            "--train-on CORPUS --target emotion"
            if column == "shared_emotion"
            else ""
        )
        raise UserError(f"{option}: no clip is {label!r}; choose from {', '.join(present)}{hint}")
