"""Folds that keep every speaker, and every recording, on one side."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import LeaveOneGroupOut

from ..errors import UserError

Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Fold:
    """One division of the clips.

    Attributes
    ----------
    name : str
        For leave-one-speaker-out, the speaker left out.
    train, test : ndarray of int
        Positions in the clip table.
    """

    name: str
    train: Indices
    test: Indices


def leave_one_speaker_out(
    speakers: NDArray[np.str_],
    content: NDArray[np.str_],
    labels: NDArray[np.str_],
    paths: NDArray[np.str_],
) -> tuple[Fold, ...]:
    """Make one fold per speaker (LOSO).

    Parameters
    ----------
    speakers : ndarray of str, shape (n_clips,)
        Who talks, unique over all corpora in the table.
    content : ndarray of str, shape (n_clips,)
        Content hash of each clip.
    labels, paths : ndarray of str, shape (n_clips,)
        Label and path of each clip.

    Returns
    -------
    tuple of Fold
        In the order of the speakers' names.

    Raises
    ------
    UserError
        If there are fewer than two speakers, or :func:`check_folds` refuses.
    """
    if len(np.unique(speakers)) < 2:
        raise UserError(
            f"{len(np.unique(speakers))} speaker in the cache; leaving one out needs at least 2; "
            "extract clips of more speakers"
        )
    splitter = LeaveOneGroupOut()
    folds = tuple(
        Fold(str(speakers[test[0]]), train, test)
        for train, test in splitter.split(speakers, groups=speakers)
    )
    check_folds(folds, speakers, content, labels, paths)
    return folds


def check_folds(
    folds: Sequence[Fold],
    speakers: NDArray[np.str_],
    content: NDArray[np.str_],
    labels: NDArray[np.str_],
    paths: NDArray[np.str_],
) -> None:
    """Refuse folds in which a speaker or a recording stands on both sides.

    Parameters
    ----------
    folds : sequence of Fold
        What to check.
    speakers, content, labels, paths : ndarray of str, shape (n_clips,)
        Of each clip; ``content`` is its hash.

    Raises
    ------
    UserError
        Names the fold and what the two sides share. Also if a fold has one label to train on, or
        a clip is not tested exactly once.
    """
    for fold in folds:
        for what, values in (("speaker", speakers), ("recording", content)):
            shared = np.intersect1d(values[fold.train], values[fold.test])
            if len(shared):
                found = paths[values == shared[0]]
                raise UserError(
                    f"fold {fold.name}: the same {what} is on both sides ({found[0]} and "
                    f"{found[-1]}); expected each {what} on one; remove or relabel its clips"
                )
        if len(np.unique(labels[fold.train])) < 2:
            raise UserError(
                f"fold {fold.name}: its training clips have one label, {labels[fold.train][0]}; "
                "expected at least 2; extract clips of more speakers"
            )
    tested = np.sort(np.concatenate([fold.test for fold in folds]))
    if not np.array_equal(tested, np.arange(len(speakers))):
        raise UserError("folds do not test every clip exactly once; expected them to; mend them")
