"""The partitions that a corpus publishes, such as those of MSP-Podcast: ``--split partition:TEST``.

The column ``split`` of the clip table says which partition a clip belongs to.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .split_kind import SplitKind

#: The column that names the partition of a clip.
COLUMN = "split"
#: Names of the partitions to train on, and to choose layer and hyper-parameters by, in lower case.
_TRAINING = frozenset({"train", "training"})
_VALIDATION = frozenset({"dev", "development", "val", "valid", "validation"})


def partition_masks(
    split: str, clips: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which clips train, validate and are tested.

    Parameters
    ----------
    split : str
        As on the command line, such as ``"partition:Test1"``: the name of the partition to test
        on, in any case.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.

    Returns
    -------
    tuple of ndarray of bool, shape (n_clips,)
        For training, validation and test; a clip of any other partition is in none.

    Raises
    ------
    UserError
        If the clip table has no partitions, none to train on, or not the one to test on.
    """
    test = split.partition(":")[2].lower()
    if COLUMN not in clips or clips[COLUMN].dtype.kind != "U":
        raise UserError(
            f"--split {split}: the clips have no column {COLUMN}, which names the partition of "
            "each clip; use a corpus that publishes partitions, or --split loso or kfold:N"
        )
    names = np.char.lower(clips[COLUMN])
    training, validation = (np.isin(names, list(each)) for each in (_TRAINING, _VALIDATION))
    tested = names == test
    if test in _TRAINING or not test or not tested.any() or not training.any():
        known = np.unique(clips[COLUMN][clips[COLUMN] != ""]).tolist()
        raise UserError(
            f"--split {split}: the clips are of the partitions {', '.join(known) or 'none'}; "
            "expected Train and the one to test on, such as partition:Test"
        )
    return training, validation & ~tested, tested


def in_partition(split: str, clips: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
    """Return which clips a split uses, shape (n_clips,): all, unless it is one of partitions.

    Raise UserError as :func:`partition_masks` does.
    """
    if SplitKind.of(split) != SplitKind.PARTITION:
        return np.ones(len(clips["path"]), dtype=bool)
    training, validation, tested = partition_masks(split, clips)
    return training | validation | tested
