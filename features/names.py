"""Names in a cache and of encoders, apart from the rest: to read one must not wait for torch."""

import re
from pathlib import Path

from ..errors import UserError

#: The norm after the last block; the other layers are numbered, see :mod:`.pooling`.
FINAL_NORM = "final_norm"
POOLINGS = ("mean", "std")
DEFAULT_ENCODER = "facebook/wav2vec2-base"
#: Encoders that ship with the package.
BUILT_IN_ENCODERS = ("whisper-tiny.en",)
#: A hub id, as a bundle may hold it that comes from anywhere: never a path out of here.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def looks_like_path(name: str) -> bool:
    """Say whether a name that is no existing path is meant as one, not as a hub id.

    Parameters
    ----------
    name : str
        What the user gave for an encoder or a model.

    Returns
    -------
    bool
        True unless the name has the form OWNER/NAME, and also if OWNER is the name of a folder here
        or of one that serpipe writes to (``artifacts``).
    """
    owner = name.partition("/")[0]
    return (
        HUB_ID.fullmatch(name) is None or owner in ("artifacts", "features") or Path(owner).is_dir()
    )


def check_checkpoint_name(name: str, option: str = "--encoder") -> None:
    """Refuse a path that leads nowhere, before the hub is asked for it.

    Parameters
    ----------
    name : str
        A built-in name, a local path, or a hub id.
    option : str
        What named it, for the message.

    Raises
    ------
    UserError
        If it is a path, and nothing is there.
    """
    if name in BUILT_IN_ENCODERS or Path(name).exists() or not looks_like_path(name):
        return
    raise UserError(
        f"{name}: no such folder; expected a local folder, a hub id such as "
        f"{DEFAULT_ENCODER}, or the built-in {', '.join(BUILT_IN_ENCODERS)}; check {option}"
    )
