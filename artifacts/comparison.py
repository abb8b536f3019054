"""Reports that compare: several runs, or the layers of one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..pipeline.statistics import Comparison, Interval, compare, intervals
from .checks import run_checks
from .report import TEST_NOTE, Report, facts, score_note
from .results import RunResults
from .run import NESTED
from .table import Table, percent_interval
from .tables import METRICS, comparison_table, flat, identity


@dataclass(frozen=True)
class RunsCompared:
    """What several runs found, side by side.

    Attributes
    ----------
    titles : tuple of str
        What each run is.
    scores : dict of str to dict of str to Interval
        Of each run and head, by name of the score.
    chance : dict of str to float
        UAR that chance gives each.
    pairs : tuple of Comparison
        Of all runs and heads that predict the same labels of the same clips.
    apart : tuple of str
        Which runs could not be compared clip by clip, a line each.
    """

    titles: tuple[str, ...]
    scores: dict[str, dict[str, Interval]]
    chance: dict[str, float]
    pairs: tuple[Comparison, ...]
    apart: tuple[str, ...]


def compare_runs(runs: Sequence[RunResults]) -> RunsCompared:
    """Score runs, and test those against each other that predict the same clips.

    Parameters
    ----------
    runs : sequence of RunResults
        At least two.

    Returns
    -------
    RunsCompared
    """
    counts: dict[str, NDArray[np.int64]] = {}
    chance: dict[str, float] = {}
    #: Runs and heads by the clips and labels that they predict.
    alike: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    first_of: dict[tuple[tuple[str, ...], ...], int] = {}
    titles, apart = [], []
    for number, results in enumerate(runs, 1):
        summary = results.summary
        clips = _clips(results)
        if first_of.setdefault(clips, number) == number and number > 1:
            apart.append(
                f"Run {number} predicts other clips or labels than run 1"
                f"{'' if number == 2 else ' and the others before it'}: shown beside, not tested "
                "against them."
            )
        titles.append(
            f"{summary.corpus}, {summary.target}, {summary.encoder['encoder']}, "
            f"{summary.split_title}"
        )
        marks = ", ".join(warning.partition(":")[0] for warning in summary.warnings)
        for head in results.heads:
            name = f"{number} {head}" + (f" ({marks})" if marks else "")
            counts[name] = results.by_speaker(head)
            chance[name] = 1 / len(summary.labels)
            alike.setdefault(clips, []).append(name)
    pairs = [pair for names in alike.values() for pair in combinations(names, 2)]
    return RunsCompared(
        tuple(titles),
        {name: intervals(found) for name, found in counts.items()},
        chance,
        compare(counts, pairs=pairs) if pairs else (),
        tuple(apart),
    )


def report_runs(runs: Sequence[RunResults], compared: RunsCompared) -> Report:
    """Report runs side by side.

    Parameters
    ----------
    runs : sequence of RunResults
        At least two.
    compared : RunsCompared
        From :func:`compare_runs`.

    Returns
    -------
    Report
    """
    of_run = [(number, results) for number, results in enumerate(runs, 1) for _ in results.heads]
    heads = [head for results in runs for head in results.heads]
    scores = compared.scores
    table = Table(
        "runs",
        "Nested results",
        ("run and head", *(f"{name} [95 %]" for name in METRICS), "chance", "clips"),
        tuple(
            (name, *(percent_interval(found[key]) for key in METRICS.values()),
             f"{100 * compared.chance[name]:.1f}", str(results.summary.clips))
            for (name, found), (_, results) in zip(scores.items(), of_run, strict=True)
        ),
        records=tuple(
            {**identity(results.summary), "run": number, "head": head, **flat(found),
             "chance": compared.chance[name]}
            for (name, found), (number, results), head in zip(
                scores.items(), of_run, heads, strict=True)
        ),
    )  # fmt: skip
    warnings = tuple(
        f"run {number}: {warning}"
        for number, results in enumerate(runs, 1)
        for warning in results.summary.warnings
    )
    checks = tuple(
        replace(check, found=f"run {number}: {check.found}")
        for number, results in enumerate(runs, 1)
        for check in run_checks(results)
    )
    tables = [table]
    if compared.pairs:
        tables.append(comparison_table(compared.pairs, "Compared, nested", runs))
    return Report(
        tuple(
            (f"run {number}", f"{title} ({results.run.name})")
            for number, (title, results) in enumerate(zip(compared.titles, runs, strict=True), 1)
        ),
        warnings,
        tuple(tables),
        (
            score_note(runs[0].summary, chance=False),
            *((TEST_NOTE,) if compared.pairs else ()),
            *compared.apart,
        ),
        checks,
        tuple(results.summary.provenance for results in runs),
    )


def report_layers(results: RunResults, head: str) -> Report:
    """Compare each layer with the nested choice of a head.

    Parameters
    ----------
    results : RunResults
        A run.
    head : str
        One of its heads.

    Returns
    -------
    Report

    Raises
    ------
    UserError
        If the run has one layer.
    """
    summary = results.summary
    if len(summary.layers) < 2:
        raise UserError(
            f"{results.run}: one layer, {summary.layers[0]}; expected several, of which "
            "one was chosen; fit with --layers all"
        )
    layers = {layer: results.by_speaker(head, layer) for layer in results.predicted[head]}
    pairs = [(NESTED, layer) for layer in layers if layer != NESTED]
    found = compare(layers, pairs=pairs)
    table = comparison_table(
        found, f"{head}: nested choice against each layer held fixed", [results]
    )
    return Report(
        facts(summary), tuple(summary.warnings), (table,), (score_note(summary), TEST_NOTE),
        provenance=(summary.provenance,),
    )  # fmt: skip


def _clips(results: RunResults) -> tuple[tuple[str, ...], ...]:
    """Return the clips, whose they are and what is to be said of them, in one order."""
    columns = (results.clips[name].tolist() for name in ("path", "speaker", "label"))
    return tuple(sorted(zip(*columns, strict=True)))
