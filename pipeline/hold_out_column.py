"""Hold out a column, such as the sentence, besides the speaker: ``--hold-out``.

A fold then tests the clips of some speakers with some values of the column, and trains on the clips
of the other speakers with the other values.
"""

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from ..errors import UserError, counted
from .groups import OF_ONE_CLIP, SPEAKER, as_text

if TYPE_CHECKING:
    from .folds import Fold, Split

#: The values of a column are divided into at most so many parts, of which one is held out at a
#: time; a column of fewer values has a part for each.
PARTS = 5
#: The same for inner folds: each of their five divisions of the speakers is fitted so many times.
INNER_PARTS = 2


@dataclass(frozen=True)
class ColumnParts:
    """The values of a column, divided into parts.

    Attributes
    ----------
    values : ndarray of str, shape (n_clips,)
        The value of each clip, as :func:`canonical_values` returns it.
    parts : ndarray of int, shape (n_clips,)
        The part that the value belongs to, from 1.
    assumptions : tuple of str
        How the values were divided, in words, if several are in one part.
    """

    values: NDArray[np.str_]
    parts: NDArray[np.intp]
    assumptions: tuple[str, ...] = ()


def canonical_values(column: NDArray[Any]) -> NDArray[np.str_]:
    """Return the values of a column such that spellings of one text are equal.

    Case, spaces and punctuation at the ends do not count.

    Parameters
    ----------
    column : ndarray of str or float, shape (n_clips,)
        A column of the clip table.

    Returns
    -------
    ndarray of str, shape (n_clips,)
        Empty where the column has no value.
    """
    texts, code = np.unique(as_text(column).astype(str), return_inverse=True)
    folded = [unicodedata.normalize("NFKC", text).casefold() for text in texts.tolist()]
    canonical = [" ".join(text.split()).strip(" .,;:!?") for text in folded]
    return np.array(canonical, dtype=str)[code]


def divide_column(
    option: str, clips: Mapping[str, NDArray[Any]], column: str, labels: NDArray[np.str_]
) -> ColumnParts:
    """Divide the values of a column into parts, of which one is held out at a time.

    Parameters
    ----------
    option : str
        The option and its value, for messages.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    column : str
        The column.
    labels : ndarray of str, shape (n_clips,)
        What will be predicted.

    Returns
    -------
    ColumnParts
        The parts do not depend on the order of the clips. They have similar numbers of clips and
        similar shares of the labels.

    Raises
    ------
    UserError
        If there is no such column, a clip has no value, all have the same one, or a label occurs
        in one part alone, so that it could not be learnt without that part.
    """
    if column not in clips or column in OF_ONE_CLIP or column == SPEAKER:
        possible = [name for name in clips if name not in OF_ONE_CLIP and name != SPEAKER]
        raise UserError(
            f"{option}: not a column that can be held out; name one of {', '.join(possible)}"
        )
    values = canonical_values(clips[column])
    missing = np.flatnonzero(values == "")
    if len(missing):
        raise UserError(
            f"{option}: {counted(len(missing), 'clip')} without a value, the first "
            f"{clips['path'][missing[0]]}; fill in the column and extract again, or name another"
        )
    number = len(np.unique(values))
    if number < 2:
        raise UserError(
            f"{option}: all clips have the value {str(values[0])!r}, so that no clips would be "
            "left to train on; name another column"
        )
    parts = _number_parts(values, labels, PARTS)
    if (label := _label_of_one_part(parts, labels)) is not None:
        examples = np.unique(clips[column][labels == label].astype(str))
        raise UserError(
            f"{option}: clips labelled {label} have no other {column} than "
            f"{', '.join(examples[:3].tolist())}, so that nothing could be trained on this label "
            "without the held-out values; omit the label with --keep, or name another column"
        )
    n_parts = len(np.unique(parts))
    grouped = f"the {number} values of {column} are divided into {n_parts} parts, held out in turn"
    return ColumnParts(values, parts, (grouped,) if n_parts < number else ())


def hold_out_column(split: "Split", column: str, divided: ColumnParts) -> "Split":
    """Return a split in which the column of a test clip, too, is not in training.

    Parameters
    ----------
    split : Split
        Whose folds keep speakers apart.
    column : str
        The column to hold out.
    divided : ColumnParts
        Its values.

    Returns
    -------
    Split
        A fold for each fold of the given split and each part of the values that it tests.

    Raises
    ------
    UserError
        If the split shares speakers, or is not divided into folds that test every clip.
    """
    if not split.kind.can_hold_out_column:
        raise UserError(
            f"--hold-out {column}: cannot be combined with --split {split.name}; use loso, "
            "kfold:N, standard, emobox or file:FOLDS.csv"
        )
    folds = cross(split.folds, column, divided.parts)
    return replace(
        split,
        title=f"{split.title}, with {column} held out as well: {len(folds)} folds",
        folds=folds,
        assumptions=(*split.assumptions, *divided.assumptions),
    )


def cross(folds: "Sequence[Fold]", column: str, parts: NDArray[np.intp]) -> "tuple[Fold, ...]":
    """Divide each fold by the parts of a column, which are omitted from its training clips.

    Parameters
    ----------
    folds : sequence of Fold
        Row numbers are among the clips of ``parts``.
    column : str
        For the names of the folds.
    parts : ndarray of int, shape (n_clips,)
        The part of each clip.

    Returns
    -------
    tuple of Fold
        In the order of the given folds, then of the parts. A part without test clips has none.
    """
    crossed = []
    for fold in folds:
        for part in np.unique(parts[fold.test]).tolist():
            train = fold.train[parts[fold.train] != part]
            crossed.append(
                replace(
                    fold,
                    name=f"{fold.name}, {column} {part}",
                    train=train,
                    test=fold.test[parts[fold.test] == part],
                    held_out=parts[train],
                )
            )
    return tuple(crossed)


def inner_parts(held_out: NDArray[np.intp], labels: NDArray[np.str_]) -> NDArray[np.intp] | None:
    """Divide the parts that are left in training again, for inner folds.

    Parameters
    ----------
    held_out : ndarray of int, shape (n_train,)
        The part of each training clip.
    labels : ndarray of str, shape (n_train,)
        What will be predicted.

    Returns
    -------
    ndarray of int, shape (n_train,), or None
        None if inner folds can hold out speakers only: one part is left, or a label would be
        missing without one of its parts.
    """
    parts = _number_parts(held_out, labels, INNER_PARTS)
    return parts if _label_of_one_part(parts, labels) is None else None


def speakers_alone_inside(folds: "Sequence[Fold]", labels: NDArray[np.str_]) -> int:
    """Count the folds whose inner folds hold out speakers only, for want of values.

    Parameters
    ----------
    folds : sequence of Fold
        Of a split that holds out a column.
    labels : ndarray of str, shape (n_clips,)
        What will be predicted.
    """
    return sum(
        fold.held_out is not None and inner_parts(fold.held_out, labels[fold.train]) is None
        for fold in folds
    )


def _number_parts(values: NDArray[Any], labels: NDArray[np.str_], most: int) -> NDArray[np.intp]:
    """Return the part of each clip, from 1: one for each value, or ``most`` balanced ones."""
    names, code = np.unique(values, return_inverse=True)
    most = max(2, min(most, int(np.unique(labels, return_counts=True)[1].max())))
    if len(names) <= most or len(np.unique(labels)) == len(labels):
        return code + 1
    parts = np.empty(len(code), dtype=int)
    with warnings.catch_warnings():  # that a label has fewer clips than there are parts
        warnings.simplefilter("ignore", UserWarning)
        divided = StratifiedGroupKFold(most).split(labels, labels, code)
        for number, (_, rows) in enumerate(divided):
            parts[rows] = number
    return np.unique(parts, return_inverse=True)[1] + 1


def _label_of_one_part(parts: NDArray[np.intp], labels: NDArray[np.str_]) -> str | None:
    """Return the first label whose clips are all in one part, if there is one."""
    names = np.unique(labels).tolist()
    return next((name for name in names if len(np.unique(parts[labels == name])) < 2), None)
