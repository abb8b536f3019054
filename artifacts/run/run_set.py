"""The list of the runs of one command, which `serpipe report` takes."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ...files import read_text, write_text
from .latest import COMPARISONS

#: A line for each run: its folder, relative to that of the list.
RUN_LIST = "runs.txt"
#: A longer list was not written by serpipe.
MAX_RUNS = 10_000


def write_run_set(runs: Sequence[Path], kind: str) -> Path:
    """Write a list of runs, and return its folder: the same runs have the same folder.

    Its name begins with ``kind``, such as ``"cross-corpus"``.
    """
    names = "\n".join(run.resolve().name for run in runs)
    folder = COMPARISONS / f"{kind}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    lines = [_path_from(folder, run) for run in runs]
    write_text(folder / RUN_LIST, "\n".join([*lines, ""]))
    return folder


def read_run_set(folder: Path) -> tuple[Path, ...]:
    """Return the runs that a folder lists; none if it has no list.

    Raise UserError if the list cannot be read, is empty or too long.
    """
    path = folder / RUN_LIST
    if not path.is_file():
        return ()
    try:
        text = read_text(path, MAX_RUNS * 1000)
        lines = [line for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); name the runs instead") from None
    if not 0 < len(lines) <= MAX_RUNS:
        raise UserError(
            f"{path}: lists {len(lines)} runs; expected 1 to {MAX_RUNS}; name the runs instead"
        )
    return tuple(Path(os.path.normpath(folder / line)) for line in lines)


def _path_from(folder: Path, run: Path) -> str:
    """Return the path of a run relative to a folder, or as it is on another drive of Windows."""
    try:
        return Path(os.path.relpath(run, folder)).as_posix()
    except ValueError:
        return run.resolve().as_posix()
