"""Write files whole or not at all."""

import contextlib
import math
import os
from pathlib import Path
from typing import Any

from .errors import MachineError, UserError


def put_in_place(unfinished: Path, path: Path) -> None:
    """Give a written file its final name so that a power cut leaves the old file or the new one.

    Parameters
    ----------
    unfinished : Path
        The written file, in the folder of ``path``.
    path : Path
        Its final name.
    """
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    unfinished.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.

    Raises
    ------
    UserError
        If something that is no folder stands in the way, or it may not be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made a folder ({error.strerror}); expected a place that you may "
            "write to; choose another --out"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole, with the folders it needs.

    Raises
    ------
    MachineError
        If the disk does not take it; what stood there before stays.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        put_in_place(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); expected a folder with room that you "
            "may write to; make room and run the same command again: what is there is kept"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as UTF-8, with the folders it needs."""
    write_bytes(path, text.encode("utf-8"))


def json_value(value: Any) -> Any:
    """Return what JSON can say: it has neither NaN nor infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
