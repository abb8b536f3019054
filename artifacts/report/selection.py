"""Count the results on the same test clips, of which somebody might quote the best."""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...pipeline.marks import MarkKind
from ..run.results import RunResults
from ..run.summary import RunSummary, read_summary
from .repeats import are_repeats

#: Limits on the neighbouring runs that are read: their number, the newest first, and the size of
#: ``run.json``.
MAX_RUNS, MAX_BYTES = 1000, 64 << 20


@dataclass(frozen=True)
class ComparableResults:
    """The results in the folder of a run that are comparable with it."""

    runs: int = 1  #: Runs on the same clips, folds and target, the run itself included.
    results: int = 1  #: Heads of all these runs.
    #: Heads of runs on the same clips and target in other folds: another split or seed.
    other_folds: int = 0
    other_seeds: int = 0  #: Runs that differ in nothing but the seed and test other clips.

    @property
    def total(self) -> int:
        """The number of results to pick from."""
        return self.results + self.other_folds + self.other_seeds


def count_comparable(results: RunResults) -> ComparableResults:
    """Count the results in the folder of a run that are comparable with it.

    Not counted are runs with shuffled labels, unreadable ones, and those of versions that did not
    record which clips were tested.
    """
    own = results.summary
    runs, heads, other_folds, other_seeds = 1, len(results.heads), 0, 0
    for _, summary in neighbours(results.run):
        if not own.tested or summary.target != own.target:
            continue
        if summary.tested != own.tested:
            other_seeds += int(are_repeats(own, summary))
        elif summary.folds == own.folds:
            runs += 1
            heads += len(summary.heads)
        else:
            other_folds += len(summary.heads)
    return ComparableResults(runs, heads, other_folds, other_seeds)


def neighbours(run: Path) -> Iterator[tuple[Path, RunSummary]]:
    """Yield the other finished runs in the folder of a run, without those of shuffled labels.

    Yields
    ------
    folder : Path
    summary : RunSummary
        The newest run first.
    """
    own = run.resolve()
    modified = {}
    for file in own.parent.glob("*/run.json"):
        try:
            folder, status = file.parent.resolve(), file.stat()
        except OSError:
            continue
        if folder != own and stat.S_ISREG(status.st_mode) and status.st_size <= MAX_BYTES:
            modified[folder] = status.st_mtime_ns
    for folder in sorted(modified, key=lambda each: (-modified[each], each))[:MAX_RUNS]:
        try:
            summary = read_summary(folder)
        except UserError:
            continue
        if summary.heads and not summary.has_mark(MarkKind.PERMUTED_LABELS):
            yield folder, summary
