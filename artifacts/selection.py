"""How many results there are on the same test clips, of which somebody might quote the best."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..pipeline.folds import NOTHING_TRAINED
from .results import RunResults
from .run import RunSummary, read_summary, read_table

#: Runs beside a run that are looked at, the newest first.
MOST_RUNS = 1000


@dataclass(frozen=True)
class Siblings:
    """What else is in the folder of a run.

    Attributes
    ----------
    runs : int
        Runs on the same clips, folds and target, the run itself included.
    results : int
        Heads of all these runs: numbers of which one could be picked.
    other_seeds : int
        Runs of the same split of the same corpus and target with another seed.
    """

    runs: int = 1
    results: int = 1
    other_seeds: int = 0


def count_siblings(results: RunResults) -> Siblings:
    """Count the results beside a run that are comparable with it.

    Runs with shuffled labels do not count, and neither do runs that cannot be read.

    Parameters
    ----------
    results : RunResults
        A run.

    Returns
    -------
    Siblings
    """
    own = results.summary
    if own.split == NOTHING_TRAINED:
        return Siblings(results=len(results.heads))
    tested = _digest(zip(*(results.clips[name].tolist() for name in _COLUMNS), strict=True))
    runs, heads, other_seeds = 1, len(results.heads), 0
    for summary, run in _beside(results.run):
        if summary.target != own.target or list(summary.labels) != list(own.labels):
            continue
        if summary.clips == own.clips and _tested_in(run) == tested:
            runs += 1
            heads += len(summary.heads)
        elif _same_but_seed(summary, own):
            other_seeds += 1
    return Siblings(runs, heads, other_seeds)


_COLUMNS = ("path", "label", "fold")


def _beside(run: Path) -> Iterable[tuple[RunSummary, Path]]:
    """Yield the finished runs in the folder of a run, but for those with shuffled labels."""
    own = run.resolve()
    files = sorted(own.parent.glob("*/run.json"), key=lambda file: (-file.stat().st_mtime_ns, file))
    for file in files[:MOST_RUNS]:
        if file.parent == own:
            continue
        try:
            summary = read_summary(file.parent)
        except UserError:
            continue
        permuted = any(warning.startswith("PERMUTED") for warning in summary.warnings)
        if summary.heads and not permuted:
            yield summary, file.parent


def _tested_in(run: Path) -> str:
    try:
        return _digest(_cells(row) for row in read_table(run / "clips.csv"))
    except UserError:
        return ""


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(row.get(name) or "" for name in _COLUMNS)


def _digest(rows: Iterable[tuple[str, ...]]) -> str:
    """Hash clips, labels and folds, in whatever order they are."""
    text = "\n".join(sorted(repr(tuple(map(str, row))) for row in rows))
    return hashlib.sha256(text.encode()).hexdigest()


def _same_but_seed(one: RunSummary, other: RunSummary) -> bool:
    return (
        one.seed != other.seed and one.split == other.split and one.corpus == other.corpus
        and list(one.changes) == list(other.changes)
    )  # fmt: skip
