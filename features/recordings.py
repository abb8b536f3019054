"""Which clips of a table hold the same recording, and whether they contradict each other."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Table = Mapping[str, NDArray[Any]]

#: Columns of a clip table: the recording that a clip holds, equal for its copies; and the path of
#: a clip that may be a copy of this one but could not be compared with it, else empty.
RECORDING, UNCONFIRMED = "recording", "unconfirmed_copy_of"


def recordings(clips: Table) -> NDArray[np.str_]:
    """Return an identifier of the recording that each clip holds, equal for copies.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        A clip table. Tables of earlier versions have no column of recordings: there copies are
        clips with the same decoded samples, or, before these were hashed, with the same bytes.

    Returns
    -------
    ndarray of str, shape (n_clips,)
    """
    column = next(name for name in (RECORDING, "audio_sha256", "sha256") if name in clips)
    ids = clips[column]
    return ids if column == "sha256" else np.where(ids == "", clips["sha256"], ids)


def copies(clips: Table) -> list[list[str]]:
    """Return the paths of clips that hold the same recording, by recording.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        A clip table.

    Returns
    -------
    list of list of str
        Only recordings that stand under several paths; ordered by path. None if the table does not
        tell.
    """
    groups: dict[str, list[str]] = {}
    if not {RECORDING, "audio_sha256", "sha256"} & set(clips):
        return []
    for recording, path in zip(recordings(clips).tolist(), clips["path"].tolist(), strict=True):
        groups.setdefault(recording, []).append(path)
    return sorted(sorted(paths) for paths in groups.values() if len(paths) > 1)


def check_recordings(clips: Table) -> None:
    """Refuse a recording that stands under two speakers or two emotions.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_clips,)
        A clip table: ``path``, ``speaker``, and ``emotion`` where there is one.

    Raises
    ------
    UserError
        Names both files, and in what they differ.
    """
    ids, paths = recordings(clips).tolist(), clips["path"].tolist()
    for what in ("speaker", "emotion"):
        if what not in clips:
            continue
        values = clips[what]
        if what == "emotion" and "shared_emotion" in clips:  # corpora have words of their own
            values = np.where(clips["shared_emotion"] == "", values, clips["shared_emotion"])
        first: dict[str, tuple[str, str]] = {}
        for recording, value, path in zip(ids, values.tolist(), paths, strict=True):
            other, where = first.setdefault(recording, (value, path))
            if other != value:
                raise contradiction(path, where, what, value, other)


def contradiction(path: str, other: str, what: str, value: str, others: str) -> UserError:
    """Return the error for a recording under two speakers or emotions.

    Parameters
    ----------
    path, other : str
        The two clips.
    what : str
        In what they differ: ``"speaker"`` or ``"emotion"``.
    value, others : str
        Of the first clip and of the other.

    Returns
    -------
    UserError
    """
    return UserError(
        f"{path}: the same recording as {other}, of another {what} ({value} and {others}); "
        f"expected one {what} for each recording; find out which is right, remove the other file "
        "and run `serpipe extract --drop-removed` again"
    )
