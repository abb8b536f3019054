"""How many results there are on the same test clips, of which somebody might quote the best."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ..run.results import RunResults
from ..run.run import RunSummary, read_summary

#: Runs beside a run that are looked at, the newest first, and the largest ``run.json`` among them.
MOST_RUNS, MOST_BYTES = 1000, 64 << 20


@dataclass(frozen=True)
class ComparableResults:
    """The results in the folder of a run that are comparable with it.

    Attributes
    ----------
    runs : int
        Runs on the same clips, folds and target, the run itself included.
    results : int
        Heads of all these runs: numbers of which one could be picked.
    other_folds : int
        Heads of runs on the same clips and target in other folds: another split or seed.
    other_seeds : int
        Runs that differ in nothing but the seed and test other clips.
    """

    runs: int = 1
    results: int = 1
    other_folds: int = 0
    other_seeds: int = 0

    @property
    def total(self) -> int:
        """How many numbers there are to pick from."""
        return self.results + self.other_folds + self.other_seeds


def count_comparable(results: RunResults) -> ComparableResults:
    """Count the results beside a run that are comparable with it.

    Runs with shuffled labels do not count, and neither do runs that cannot be read or were made by
    a version that did not record which clips were tested.

    Parameters
    ----------
    results : RunResults
        A run.

    Returns
    -------
    ComparableResults
    """
    own = results.summary
    runs, heads, other_folds, other_seeds = 1, len(results.heads), 0, 0
    for summary in _beside(results.run):
        if not own.tested or summary.target != own.target:
            continue
        if summary.tested != own.tested:
            repeat = bool(own.settings) and summary.settings == own.settings
            other_seeds += int(repeat and summary.seed != own.seed)
        elif summary.folds == own.folds:
            runs += 1
            heads += len(summary.heads)
        else:
            other_folds += len(summary.heads)
    return ComparableResults(runs, heads, other_folds, other_seeds)


def _beside(run: Path) -> Iterator[RunSummary]:
    """Yield the finished runs in the folder of a run, but for those with shuffled labels."""
    own = run.resolve()
    found = {}
    for file in own.parent.glob("*/run.json"):
        try:
            folder, about = file.parent.resolve(), file.stat()
        except OSError:
            continue
        if folder != own and stat.S_ISREG(about.st_mode) and about.st_size <= MOST_BYTES:
            found[folder] = about.st_mtime_ns
    for folder in sorted(found, key=lambda each: (-found[each], each))[:MOST_RUNS]:
        try:
            summary = read_summary(folder)
        except UserError:
            continue
        permuted = any(warning.startswith("PERMUTED") for warning in summary.warnings)
        if summary.heads and not permuted:
            yield summary
