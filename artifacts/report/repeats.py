"""Runs that differ in their seed alone, and by how much their scores differ."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ...pipeline.measures import Measure
from ..run.results import RunResults
from ..run.run import RunSummary
from .table import Table, score_text


@dataclass(frozen=True)
class Spread:
    """The first score of a head over several seeds.

    Attributes
    ----------
    head : str
        Name of the head.
    split : str
        Its split.
    scores : tuple of float
        By run, in the order given.
    seeds : tuple of int
        Of these runs.
    measure : Measure
        How they are scored.
    """

    head: str
    split: str
    scores: tuple[float, ...]
    seeds: tuple[int, ...]
    measure: Measure

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.scores)

    @property
    def deviation(self) -> float:
        """Standard deviation over the seeds."""
        return statistics.stdev(self.scores)

    def __str__(self) -> str:
        mean, deviation, low, high = (
            score_text(value, self.measure)
            for value in (self.mean, self.deviation, min(self.scores), max(self.scores))
        )
        return (
            f"{self.measure.title} over {len(self.scores)} seeds: mean {mean}, standard deviation "
            f"{deviation}, from {low} to {high}"
        )


def repeated(one: RunSummary, other: RunSummary) -> bool:
    """Whether two runs differ in nothing but the seed."""
    return bool(one.settings) and one.settings == other.settings and one.seed != other.seed


def spreads(runs: Sequence[RunResults]) -> tuple[Spread, ...]:
    """Return the spread over seeds of each head, for runs that differ in nothing else.

    Parameters
    ----------
    runs : sequence of RunResults
        Any runs.

    Returns
    -------
    tuple of Spread
        One for each head of two or more such runs.
    """
    alike: dict[str, dict[int, RunResults]] = {}
    for results in runs:
        if results.summary.settings:
            by_seed = alike.setdefault(results.summary.settings, {})
            by_seed.setdefault(results.summary.seed, results)
    found = []
    for by_seed in alike.values():
        if len(by_seed) < 2:
            continue
        members = list(by_seed.values())
        first = members[0]
        for head in first.heads:
            scores = [results.scores(head)[results.measure.key].value for results in members]
            seeds = tuple(results.summary.seed for results in members)
            found.append(Spread(head, first.summary.split, tuple(scores), seeds, first.measure))
    return tuple(found)


def spread_table(found: Sequence[Spread]) -> Table:
    """Return spreads as a table."""
    measure = found[0].measure
    return Table(
        "repeats",
        f"{measure.title} over seeds",
        ("head and split", "seeds", "mean", "standard deviation", "lowest", "highest"),
        tuple(
            (
                f"{each.head} {each.split}",
                str(len(each.scores)),
                *(
                    score_text(value, measure)
                    for value in (each.mean, each.deviation, min(each.scores), max(each.scores))
                ),
            )
            for each in found
        ),
        note="Runs that differ in the seed alone: in their folds, or in who was tested. Quote the "
        "mean; the highest was chosen on the test speakers.",
        records=tuple(
            {
                "head": each.head,
                "split": each.split,
                "seeds": len(each.seeds),
                "mean": each.mean,
                "standard_deviation": each.deviation,
                "lowest": min(each.scores),
                "highest": max(each.scores),
            }
            for each in found
        ),
    )
