"""Texts that are spoken in test clips and in training clips."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .hold_out_column import canonical_values

if TYPE_CHECKING:
    from .folds import Fold

#: Names of columns that hold what is said, in any case; the built-in corpora use the first.
TEXT_COLUMNS = (
    "statement", "sentence", "text", "word", "transcript", "transcription", "utterance", "phrase",
    "prompt",
)  # fmt: skip


def text_column(clips: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the column that holds the text of every clip.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        A clip table.

    Returns
    -------
    str or None
        None if no such column has a value for each clip and two or more values.
    """
    by_name = {column.casefold(): column for column in clips}
    for name in TEXT_COLUMNS:
        if name in by_name:
            values = np.unique(canonical_values(clips[by_name[name]]))
            if len(values) > 1 and values[0] != "":
                return by_name[name]
    return None


def known_texts(clips: Mapping[str, NDArray[Any]], folds: "Sequence[Fold]") -> tuple[str, int]:
    """Return whether all texts of the test clips are in the training clips of their folds, too.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    folds : sequence of Fold
        Of a split.

    Returns
    -------
    column : str
        The column of the texts; empty if a text is tested that was not trained on, or no column
        has them.
    number : int
        How many texts are tested.
    """
    column = text_column(clips)
    if column is None:
        return "", 0
    code = np.unique(canonical_values(clips[column]), return_inverse=True)[1]
    for fold in folds:
        if len(np.setdiff1d(code[fold.test], code[fold.train])):
            return "", 0
    return column, len(np.unique(np.concatenate([code[fold.test] for fold in folds])))
