"""Find clips of a table with the same recording, and check that their labels agree."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

#: A clip table: an array of shape (n_clips,) by column.
Table = Mapping[str, NDArray[Any]]

#: Columns of a clip table: the recording of a clip, equal for its copies; and the path of a clip
#: that may be a copy but could not be compared, else empty.
RECORDING, UNCONFIRMED = "recording", "unconfirmed_copy_of"


def recordings(clips: Table) -> NDArray[np.str_]:
    """Return an identifier of the recording of each clip, equal for copies: str, shape (n_clips,).

    Tables of earlier versions have no column of recordings: there copies are clips with the same
    decoded samples or, before these were hashed, with the same bytes.
    """
    column = next(name for name in (RECORDING, "audio_sha256", "sha256") if name in clips)
    ids = clips[column]
    return ids if column == "sha256" else np.where(ids == "", clips["sha256"], ids)


def copies(clips: Table) -> list[list[str]]:
    """Return the paths of each recording that has several clips in a table, ordered by path."""
    groups: dict[str, list[str]] = {}
    if not {RECORDING, "audio_sha256", "sha256"} & set(clips):
        return []
    for recording, path in zip(recordings(clips).tolist(), clips["path"].tolist(), strict=True):
        groups.setdefault(recording, []).append(path)
    return sorted(sorted(paths) for paths in groups.values() if len(paths) > 1)


def check_recordings(clips: Table) -> None:
    """Refuse a recording with two speakers or two emotions.

    The message of the UserError names both files and the difference.
    """
    ids, paths = recordings(clips).tolist(), clips["path"].tolist()
    for what in ("speaker", "emotion"):
        if what not in clips:
            continue
        values = clips[what]
        if what == "emotion" and "shared_emotion" in clips:  # corpora name emotions differently
            values = np.where(clips["shared_emotion"] == "", values, clips["shared_emotion"])
        first: dict[str, tuple[str, str]] = {}
        for recording, value, path in zip(ids, values.tolist(), paths, strict=True):
            other, where = first.setdefault(recording, (value, path))
            if other != value:
                raise contradiction(path, where, what, value, other)


def contradiction(path: str, other: str, what: str, value: str, others: str) -> UserError:
    """Return the error for two clips of a recording whose speaker or emotion differs."""
    return UserError(
        f"{path}: the same recording as {other}, of another {what} ({value} and {others}); "
        "find out which is right, remove the other file and run `serpipe extract --drop-removed` "
        "again"
    )
