"""The runs of one command: a list that `serpipe report` takes, and their matrix of corpora."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ...files import read_text, write_text
from ..report.comparison import Scored, matrices
from ..report.table import Table
from .latest import COMPARISONS
from .results import RunResults

#: A line for each run: its folder, relative to that of the list.
RUN_LIST = "runs.txt"
#: Runs that are compared at once; a list of more is not one of ours.
MOST_RUNS = 10_000


def write_run_set(runs: Sequence[Path], kind: str) -> Path:
    """Write the list of some runs.

    Parameters
    ----------
    runs : sequence of Path
        Folders of runs.
    kind : str
        What the name of the set begins with, such as ``"cross-corpus"``.

    Returns
    -------
    Path
        The folder of the list, which :func:`read_run_set` takes. The same runs have the same.
    """
    names = "\n".join(run.resolve().name for run in runs)
    folder = COMPARISONS / f"{kind}-{hashlib.sha256(names.encode()).hexdigest()[:8]}"
    lines = [Path(os.path.relpath(run, folder)).as_posix() for run in runs]
    write_text(folder / RUN_LIST, "\n".join([*lines, ""]))
    return folder


def read_run_set(folder: Path) -> tuple[Path, ...]:
    """Return the runs of a list, or nothing if the folder has none.

    Raises
    ------
    UserError
        If the list cannot be read, or is longer than any that serpipe writes.
    """
    path = folder / RUN_LIST
    if not path.is_file():
        return ()
    try:
        text = read_text(path, MOST_RUNS * 1000)
        lines = [line for line in text.splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected a list of runs; name the runs instead"
        ) from None
    if not 0 < len(lines) <= MOST_RUNS:
        raise UserError(
            f"{path}: {len(lines)} runs; expected 1 to {MOST_RUNS}; name the runs instead"
        )
    return tuple(Path(os.path.normpath(folder / line)) for line in lines)


def corpus_matrices(runs: Sequence[RunResults]) -> tuple[Table, ...]:
    """Return, for each head, the scores by the corpora trained on and tested on."""
    return matrices([
        Scored(f"run {number}", str(number), number, head, results, results.scores(head), "")
        for number, results in enumerate(runs, 1)
        for head in results.heads
    ])  # fmt: skip
