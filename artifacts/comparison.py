"""Reports that compare: several runs, or the layers of one."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..pipeline.folds import SplitKind
from ..pipeline.measures import Measure
from ..pipeline.statistics import Comparison, Interval, compare
from .checks import grave, run_checks
from .probe import is_probe
from .repeats import repeated, spread_table, spreads
from .report import TEST_NOTE, Report, facts, score_note
from .results import RunResults
from .run import NESTED, RunSummary
from .table import Table, interval_text, score_text
from .tables import NOT_TESTED, comparison_table, flat, identity, marks

BEST_OF_RUNS = (
    "To pick the best of these results is to choose on the test speakers: the best score is biased "
    "upwards, and more so the more results there are. Confirm it on other speakers, or choose "
    "inside the folds (--layers all, --head best)."
)


@dataclass(frozen=True)
class Scored:
    """One head of one run.

    Attributes
    ----------
    name : str
        What the run is called, the head, and how the run is marked.
    run_name : str
        The name that the user gave to the run, else its number.
    run : int
        Number of the run, from 1.
    head : str
        Name of the head.
    results : RunResults
        The run.
    scores : dict of str to Interval
        By name of the score.
    warning : str
        What must stand beside the scores wherever they are pasted.
    """

    name: str
    run_name: str
    run: int
    head: str
    results: RunResults
    scores: dict[str, Interval]
    warning: str

    @property
    def counts(self) -> NDArray[Any]:
        """Sums of each speaker, shape (n_speakers, ...)."""
        return self.results.by_speaker(self.head)

    @property
    def chance(self) -> float:
        """The first score that chance gives."""
        return self.results.measure.chance(len(self.results.summary.labels))

    @property
    def nuisance(self) -> float:
        """The first score of the nuisance baseline; NaN where there is none."""
        scores = self.results.nuisance_scores()
        return next(iter(scores.values())).value if scores else math.nan

    @property
    def corpora(self) -> tuple[str, str]:
        """What it was trained on, and what it is tested on."""
        split = self.results.summary.split
        if SplitKind.of(split) == SplitKind.CROSS_CORPUS:
            train, _, test = split.partition(":")[2].partition(">")
            return train, test
        tested = "+".join(sorted(set(self.results.clips["corpus"].tolist())))
        return tested, tested

    @property
    def identity(self) -> dict[str, object]:
        """What tells this head of this run from the others in a CSV file."""
        known = {**identity(self.results.summary), "warning": self.warning}
        return {**known, "name": self.run_name, "run": self.run, "head": self.head}


@dataclass(frozen=True)
class RunsCompared:
    """What several runs found, side by side.

    Attributes
    ----------
    shared : str
        What all runs have in common.
    names : tuple of str
        What each run is called: the name that the user gave to it, or ``"run 1"`` for the first.
    titles : tuple of str
        How each run differs from the others.
    scored : tuple of Scored
        Every head of every run.
    pairs : tuple of Comparison
        Of all that predict the same labels of the same clips.
    apart : tuple of str
        What was not compared or not tested, and why, a line each.
    """

    shared: str
    names: tuple[str, ...]
    titles: tuple[str, ...]
    scored: tuple[Scored, ...]
    pairs: tuple[Comparison, ...]
    apart: tuple[str, ...]

    @property
    def measure(self) -> Measure:
        """How all of them are scored."""
        return self.scored[0].results.measure


def compare_runs(runs: Sequence[RunResults]) -> RunsCompared:
    """Score runs, and test those against each other that predict the same clips.

    Parameters
    ----------
    runs : sequence of RunResults
        At least two.

    Returns
    -------
    RunsCompared

    Raises
    ------
    UserError
        If a run is given twice or two have the same name, or some are of labels and some of
        ratings.
    """
    first: dict[object, int] = {}
    for number, results in enumerate(runs, 1):
        if first.setdefault(results.run.resolve(), number) != number:
            raise UserError(f"{results.run}: named twice; expected each run once; name another")
        if results.summary.task != runs[0].summary.task:
            raise UserError(
                f"{results.run}: {results.summary.task}, where {runs[0].run} is "
                f"{runs[0].summary.task}; expected the same scores; compare them apart"
            )
    names = _names([results.summary for results in runs])
    warnings = [
        "; ".join([*results.summary.warnings, *grave(run_checks(results))]) for results in runs
    ]
    scored = [
        Scored(
            f"{names[number - 1]} {head}"
            + (f" ({told})" if (told := marks(results.summary)) else ""),
            names[number - 1],
            number,
            head,
            results,
            results.scores(head),
            warnings[number - 1],
        )
        for number, results in enumerate(runs, 1)
        for head in results.heads
    ]
    clips = [_clips(results) for results in runs]
    alike = [(a, b) for a, b in combinations(scored, 2) if clips[a.run - 1] == clips[b.run - 1]]
    # Under one protocol or two honest ones: to test an inflated score against an honest one would
    # show nothing but the inflation, and weaken the tests of the others.
    # Two seeds of one run are no two methods: their spread is shown instead.
    alike = [
        (a, b)
        for a, b in alike
        if a.head != b.head or not repeated(a.results.summary, b.results.summary)
    ]
    fair = [(a, b) for a, b in alike if _unfair(a.results.summary) == _unfair(b.results.summary)]
    unfair = [pair for pair in alike if pair not in fair]
    counts = {each.name: each.counts for each in scored}
    measure = runs[0].measure
    tested = _compare(counts, fair, measure)
    shown = [replace(each, p=np.nan, p_holm=np.nan) for each in _compare(counts, unfair, measure)]
    called = tuple(name if name != str(n) else f"run {n}" for n, name in enumerate(names, 1))
    others = [
        name for name, theirs in zip(called[1:], clips[1:], strict=True) if theirs != clips[0]
    ]
    apart = []
    if others:
        apart.append(
            f"{', '.join(others)}: other clips or labels than {called[0]}, not tested against it. "
            "Any two runs that predict the same are tested."
        )
    if shown:
        apart.append(NOT_TESTED)
    if (
        len(
            {
                a.results.summary.split
                for pair in tested
                for a in scored
                if a.name in (pair.first, pair.second)
            }
        )
        > 1
    ):
        apart.append("Runs of different splits differ in their training clips, too.")
    shared, titles = _titles([results.summary for results in runs])
    return RunsCompared(shared, called, titles, tuple(scored), (*tested, *shown), tuple(apart))


def report_runs(compared: RunsCompared) -> Report:
    """Report runs side by side.

    Parameters
    ----------
    compared : RunsCompared
        From :func:`compare_runs`.

    Returns
    -------
    Report
    """
    scored, measure = compared.scored, compared.measure
    runs = {each.run: each.results for each in scored}
    legend = tuple(zip(compared.names, compared.titles, strict=True))
    table = Table(
        "runs",
        "Results",
        (
            "run and head",
            *(f"{name} [95 %]" for name in measure.scores),
            "chance",
            "nuisance",
            "clips",
        ),
        tuple(
            (
                each.name,
                *(interval_text(each.scores[key], measure) for key in measure.scores.values()),
                score_text(each.chance, measure),
                score_text(each.nuisance, measure),
                str(each.results.summary.clips),
            )
            for each in scored
        ),
        note=f"Nuisance: {measure.title} from file format, duration and loudness alone, "
        "on the folds of the run.",
        records=tuple(
            {
                **each.identity,
                **flat(each.scores),
                "chance": each.chance,
                "nuisance": each.nuisance,
            }
            for each in scored
        ),
    )
    tables = [table, *matrices(scored)]
    over_seeds = spreads(list(runs.values()))
    if over_seeds:
        tables.append(spread_table(over_seeds))
    if compared.pairs:
        members = {each.name: each.identity for each in scored}
        fewest = min(len(results.summary.clusters) for results in runs.values())
        tables.append(comparison_table(compared.pairs, "Compared", members, fewest, measure))
    fewest_run = min(runs.values(), key=lambda results: len(results.summary.clusters))
    return Report(
        ((("all runs", compared.shared),) if compared.shared else ()) + legend,
        tuple(
            f"{compared.names[number - 1]}: {warning}"
            for number, results in runs.items()
            for warning in results.summary.warnings
        ),
        tuple(tables),
        (
            score_note(fewest_run.summary, chance=False),
            *((TEST_NOTE,) if compared.pairs else ()),
            *((BEST_OF_RUNS,) if len(_comparable(scored)) > 1 else ()),
            *compared.apart,
        ),
        tuple(
            replace(check, found=f"{compared.names[number - 1]}: {check.found}")
            for number, results in runs.items()
            for check in run_checks(results, _probe_among(runs.values(), results))
        ),
        tuple(results.summary.provenance for results in runs.values()),
    )


def matrices(scored: Sequence[Scored]) -> tuple[Table, ...]:
    """Return a cross-corpus matrix for each head, if any run was tested on another corpus.

    Left out are marked runs, those that trained nothing, and a head of which two runs are of the
    same pair of corpora.
    """
    honest = [
        each
        for each in scored
        if not marks(each.results.summary) and SplitKind.of(each.results.summary.split).trains
    ]
    if all(train == test for train, test in (each.corpora for each in honest)):
        return ()
    tables = []
    for head in dict.fromkeys(each.head for each in honest):
        cells = {each.corpora: each for each in honest if each.head == head}
        if len(cells) < sum(each.head == head for each in honest):
            continue  # a pair stands twice, by two protocols: a cell cannot hold both
        measure = scored[0].results.measure
        trained, tested = (sorted({pair[side] for pair in cells}) for side in (0, 1))
        tables.append(
            Table(
                f"matrix-{head}",
                f"{head}: {measure.title} by the corpus trained on (rows) and tested on (columns)",
                ("trained on", *tested),
                tuple(
                    (
                        a,
                        *(
                            interval_text(cells[a, b].scores[measure.key], measure)
                            if (a, b) in cells
                            else ""
                            for b in tested
                        ),
                    )
                    for a in trained
                ),
                note="Bold: within a corpus, on speakers left out. Chance: "
                + ", ".join(
                    dict.fromkeys(score_text(each.chance, measure) for each in cells.values())
                )
                + ".",
                marked=frozenset(
                    (row, column)
                    for row, a in enumerate(trained)
                    for column, b in enumerate(tested, 1)
                    if a == b
                ),
                records=tuple(
                    {
                        "head": head,
                        "trained_on": a,
                        "tested_on": b,
                        **flat(each.scores),
                        "chance": each.chance,
                        "clips": each.results.summary.clips,
                        "warning": "; ".join(each.results.summary.warnings),
                    }
                    for (a, b), each in cells.items()
                ),
            )
        )
    return tuple(tables)


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
    found = compare(
        layers, results.measure, pairs=[(NESTED, layer) for layer in layers if layer != NESTED]
    )
    members = {layer: {**identity(summary), "head": head, "layer": layer} for layer in layers}
    table = comparison_table(
        found,
        f"{head}: nested choice against each layer held fixed",
        members,
        len(summary.clusters),
        results.measure,
    )
    return Report(
        facts(summary),
        tuple(summary.warnings),
        (table,),
        (score_note(summary), TEST_NOTE),
        provenance=(summary.provenance,),
    )


def _comparable(scored: Sequence[Scored]) -> list[Scored]:
    """Return the results of which one could be picked: those that trained something."""
    return [each for each in scored if SplitKind.of(each.results.summary.split).trains]


def _probe_among(runs: Iterable[RunResults], results: RunResults) -> RunResults | None:
    """Return the first of some runs that is the frozen probe of one."""
    return next((other for other in runs if is_probe(other, results)), None)


def _compare(
    counts: dict[str, NDArray[Any]], pairs: Sequence[tuple[Scored, Scored]], measure: Measure
) -> tuple[Comparison, ...]:
    return compare(counts, measure, pairs=[(a.name, b.name) for a, b in pairs]) if pairs else ()


def _unfair(summary: RunSummary) -> list[str]:
    """Return the marks by which a score is another than that of an honest run on these clips."""
    told = [warning.partition(":")[0] for warning in summary.warnings]
    # A choice among the labels that the clips have is what every run that was trained here has.
    return [mark for mark in told if mark != "RESTRICTED"]


def _names(summaries: Sequence[RunSummary]) -> tuple[str, ...]:
    """Return what rows call each run: the name that it was given, or its number."""
    names = [summary.given_name or str(n) for n, summary in enumerate(summaries, 1)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(
            f"two runs are called {twice[0]}; expected a name of its own for each; give other "
            "names: serpipe report NAME=RUN NAME=RUN"
        )
    return tuple(names)


def _titles(summaries: Sequence[RunSummary]) -> tuple[str, tuple[str, ...]]:
    """Say what runs have in common, and how each differs from the others."""
    described = [
        {
            "corpus": summary.corpus,
            "target": ", ".join([summary.target, *summary.changes]),
            "encoder": str(summary.encoder["encoder"]),
            "pooling": f"{summary.pooling} pooling",
            "layers": f"layers {_ranges(summary.layers)}",
            "normalise": f"normalised by {summary.normalise}",
            "split": summary.split_title,
            "grid": _grid_of_its_own(summary, summaries),
        }
        for summary in summaries
    ]
    if all(each["normalise"] == "normalised by none" for each in described):
        for each in described:
            del each["normalise"]
    same = {name for name in described[0] if len({each[name] for each in described}) == 1}
    shared = ", ".join(text for name, text in described[0].items() if name in same - {"grid"})
    titles = [
        ", ".join(text for name, text in each.items() if text and name not in same)
        for each in described
    ]
    # Rows name the heads, and nobody reads the names of folders: only where nothing else differs.
    for more in (
        [f"heads {', '.join(summary.heads)}" for summary in summaries],
        [summary.name for summary in summaries],
    ):
        if len(set(titles)) < len(titles):
            titles = [", ".join(filter(None, pair)) for pair in zip(titles, more, strict=True)]
    return shared, tuple(titles)


def _grid_of_its_own(summary: RunSummary, summaries: Sequence[RunSummary]) -> str:
    """Return the hyper-parameters for which runs with the same head tried other values."""
    different = []
    for head, fitted in summary.heads.items():
        for name, values in fitted.grid.items():
            tried = {
                tuple(each.heads[head].grid.get(name, ()))
                for each in summaries
                if head in each.heads
            }
            if len(tried) > 1:
                different.append(f"{head} {name} {', '.join(f'{value:g}' for value in values)}")
    return "; ".join(different)


def _ranges(layers: Sequence[str]) -> str:
    """Return names of layers with consecutive numbers as ranges, such as ``"0-12, final_norm"``."""
    parts: list[str] = []
    first = last = -1
    for layer in layers:
        if layer.isdecimal() and parts and int(layer) == last + 1:
            last = int(layer)
            parts[-1] = f"{first}-{last}"
        else:
            first = last = int(layer) if layer.isdecimal() else -2
            parts.append(layer)
    return ", ".join(parts)


def _clips(results: RunResults) -> tuple[tuple[str, ...], ...]:
    """Return the clips, whose they are and what is to be said of them, in one order."""
    columns = (results.clips[name].tolist() for name in ("path", "speaker", "label"))
    return tuple(sorted(zip(*columns, strict=True)))
