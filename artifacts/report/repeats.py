"""Runs that differ in their seed alone, and the spread of their scores."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ...pipeline.measures import Measure
from ..run.results import RunResults
from ..run.summary import RunSummary
from ..score_text import score_text
from .table import Table


@dataclass(frozen=True)
class Spread:
    """The first score of a head over several seeds."""

    head: str
    split: str
    scores: tuple[float, ...]  #: By run, in the order given.
    seeds: tuple[int, ...]  #: Of these runs.
    measure: Measure

    @property
    def values(self) -> dict[str, float]:
        """Mean, standard deviation, lowest and highest score over the seeds."""
        return {
            "mean": statistics.fmean(self.scores),
            "standard_deviation": statistics.stdev(self.scores),
            "lowest": min(self.scores),
            "highest": max(self.scores),
        }

    @property
    def texts(self) -> list[str]:
        """These values as text."""
        return [score_text(value, self.measure) for value in self.values.values()]

    def __str__(self) -> str:
        mean, deviation, low, high = self.texts
        return (
            f"{self.measure.title} over {len(self.scores)} seeds: mean {mean}, standard deviation "
            f"{deviation}, from {low} to {high}"
        )


def are_repeats(one: RunSummary, other: RunSummary) -> bool:
    """Return whether two runs differ in nothing but the seed."""
    return bool(one.settings) and one.settings == other.settings and one.seed != other.seed


def spreads(runs: Sequence[RunResults]) -> tuple[Spread, ...]:
    """Return the spread over seeds of each head of two or more runs that differ in nothing else."""
    by_settings: dict[str, dict[int, RunResults]] = {}
    for results in runs:
        if results.summary.settings:
            by_seed = by_settings.setdefault(results.summary.settings, {})
            by_seed.setdefault(results.summary.seed, results)
    found = []
    for by_seed in by_settings.values():
        if len(by_seed) < 2:
            continue
        first = next(iter(by_seed.values()))
        for head in first.heads:
            scores = tuple(each.scores(head)[each.measure.key].value for each in by_seed.values())
            found.append(Spread(head, first.summary.split, scores, tuple(by_seed), first.measure))
    return tuple(found)


def spread_table(over_seeds: Sequence[Spread]) -> Table:
    """Return spreads as a table."""
    return Table(
        "repeats",
        f"{over_seeds[0].measure.title} over seeds",
        ("head and split", "seeds", "mean", "standard deviation", "lowest", "highest"),
        tuple(
            (f"{each.head} {each.split}", str(len(each.scores)), *each.texts) for each in over_seeds
        ),
        note="Runs that differ in the seed alone: in their folds, or in the test speakers. Quote "
        "the mean; the highest was chosen on the test speakers.",
        records=tuple(
            {"head": each.head, "split": each.split, "seeds": len(each.seeds), **each.values}
            for each in over_seeds
        ),
    )
