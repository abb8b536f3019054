"""Reports that compare: several runs, or the layers of one."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...pipeline.marks import MarkKind
from ...pipeline.measures import Measure
from ...pipeline.split_kind import SplitKind
from ...pipeline.statistics import Comparison, Interval, compare
from ..run.csv_files import NESTED
from ..run.results import RunResults
from ..run.summary import RunSummary
from ..score_text import interval_text, score_text
from .checks import grave, run_checks
from .frozen_probe import is_probe
from .repeats import are_repeats, spread_table, spreads
from .report import TEST_NOTE, Report, facts, score_note
from .result_tables import NOT_TESTED, comparison_table, flat, identity, mark_names
from .table import Table

BEST_OF_RUNS = (
    "To pick the best of these results is to choose on the test speakers: the best score is biased "
    "upwards, and more so the more results there are. Confirm it on other speakers, or choose "
    "inside the folds (--layers all, --head best)."
)

_CLIPS_ALONE = "the training clips alone"


@dataclass(frozen=True)
class ScoredHead:
    """One head of one run."""

    name: str  #: Name of the run, the head, and the marks of the run.
    run_name: str  #: The user's name for the run, else its number.
    run: int  #: Number of the run, from 1.
    head: str
    results: RunResults
    scores: dict[str, Interval]  #: By name of the score.
    warning: str  #: Marks and grave checks of the run.

    @property
    def counts(self) -> NDArray[Any]:
        """Sums of each speaker, shape (n_speakers, ...)."""
        return self.results.by_speaker(self.head)

    @property
    def chance(self) -> float:
        """The first score at chance."""
        return self.results.measure.chance(len(self.results.summary.labels))

    @property
    def nuisance(self) -> float:
        """The first score of the nuisance baseline; NaN if there is none."""
        scores = self.results.nuisance_scores()
        return next(iter(scores.values())).value if scores else math.nan

    @property
    def corpora(self) -> tuple[str, str]:
        """The corpora that it was trained on, and those that it is tested on."""
        summary = self.results.summary
        if summary.split_kind is SplitKind.CROSS_CORPUS:
            train, _, test = summary.split.partition(":")[2].partition(">")
            return train, test
        tested = "+".join(sorted(set(self.results.clips["corpus"].tolist())))
        return tested, tested

    @property
    def identity(self) -> dict[str, object]:
        """The columns of a CSV file that identify it."""
        of_run = {**identity(self.results.summary), "warning": self.warning}
        return {**of_run, "name": self.run_name, "run": self.run, "head": self.head}


@dataclass(frozen=True)
class RunsCompared:
    """Several runs side by side."""

    shared: str  #: What all runs have in common.
    names: tuple[str, ...]  #: The user's names for the runs, else ``"run 1"`` and so on.
    titles: tuple[str, ...]  #: How each run differs from the others.
    scored: tuple[ScoredHead, ...]  #: Every head of every run.
    pairs: tuple[Comparison, ...]  #: Of all that predict the same labels of the same clips.
    notes: tuple[str, ...]  #: What was not compared or not tested, and why.

    @property
    def measure(self) -> Measure:
        """The measure of all of them."""
        return self.scored[0].results.measure


def compare_runs(runs: Sequence[RunResults]) -> RunsCompared:
    """Score two or more runs, and test those against each other that predict the same clips.

    Raise UserError if a run is given twice, two have the same name, or the runs have different
    tasks.
    """
    first: dict[object, int] = {}
    for number, results in enumerate(runs, 1):
        if first.setdefault(results.run.resolve(), number) != number:
            raise UserError(f"{results.run}: is named twice; name each run once")
        if results.summary.task != runs[0].summary.task:
            raise UserError(
                f"{results.run}: is of {results.summary.task}, and {runs[0].run} of "
                f"{runs[0].summary.task}, whose scores differ; compare them separately"
            )
    summaries = [results.summary for results in runs]
    names = _names(summaries)
    scored = _scored_heads(runs, names)
    clips = [_clips(results) for results in runs]
    comparable = [
        (a, b)
        for a, b in combinations(scored, 2)
        if clips[a.run - 1] == clips[b.run - 1]
        # Two seeds of one run are not two methods: their spread is shown instead.
        and (a.head != b.head or not are_repeats(a.results.summary, b.results.summary))
    ]
    # To test an inflated score against an honest one would show nothing but the inflation, and
    # weaken the other tests.
    fair = [
        (a, b)
        for a, b in comparable
        if _unfair_marks(a.results.summary) == _unfair_marks(b.results.summary)
    ]
    unfair = [pair for pair in comparable if pair not in fair]
    counts = {each.name: each.counts for each in scored}
    measure = runs[0].measure
    tested = _compare(counts, fair, measure)
    shown = [replace(each, p=np.nan, p_holm=np.nan) for each in _compare(counts, unfair, measure)]
    titles = tuple(name if name != str(n) else f"run {n}" for n, name in enumerate(names, 1))
    others = [
        name for name, theirs in zip(titles[1:], clips[1:], strict=True) if theirs != clips[0]
    ]
    notes = []
    if others:
        notes.append(
            f"{', '.join(others)}: other clips or labels than {titles[0]}, not tested against it. "
            "Any two runs that predict the same are tested."
        )
    if shown:
        notes.append(NOT_TESTED)
    if len({each.results.summary.split for pair in fair for each in pair}) > 1:
        notes.append("Runs of different splits differ in their training clips, too.")
    shared, differences = _differences(summaries)
    return RunsCompared(shared, titles, differences, scored, (*tested, *shown), tuple(notes))


def _scored_heads(runs: Sequence[RunResults], names: Sequence[str]) -> tuple[ScoredHead, ...]:
    scored = []
    for number, (results, name) in enumerate(zip(runs, names, strict=True), 1):
        summary = results.summary
        marks = f" ({mark_names(summary)})" if summary.warnings else ""
        warning = "; ".join([*summary.warnings, *grave(run_checks(results))])
        scored += [
            ScoredHead(
                f"{name} {head}{marks}", name, number, head, results, results.scores(head), warning
            )
            for head in results.heads
        ]
    return tuple(scored)


def report_runs(compared: RunsCompared) -> Report:
    """Report runs side by side."""
    scored, measure = compared.scored, compared.measure
    runs = {each.run: each.results for each in scored}
    legend = tuple(zip(compared.names, compared.titles, strict=True))
    score_names = [f"{name} [95 %]" for name in measure.scores]
    table = Table(
        "runs",
        "Results",
        ("run and head", *score_names, "chance", "nuisance", "clips"),
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
            {**each.identity, **flat(each.scores), "chance": each.chance, "nuisance": each.nuisance}
            for each in scored
        ),
    )
    tables = [table, *matrices(scored)]
    over_seeds = spreads(list(runs.values()))
    if over_seeds:
        tables.append(spread_table(over_seeds))
    fewest = min((results.summary for results in runs.values()), key=lambda s: len(s.clusters))
    if compared.pairs:
        members = {each.name: each.identity for each in scored}
        tables.append(
            comparison_table(compared.pairs, "Compared", members, len(fewest.clusters), measure)
        )
    trained = [each for each in scored if each.results.summary.split_kind.trains]
    return Report(
        ((("all runs", compared.shared),) if compared.shared else ()) + legend,
        tuple(
            f"{compared.names[number - 1]}: {warning}"
            for number, results in runs.items()
            for warning in results.summary.warnings
        ),
        tuple(tables),
        (
            score_note(fewest, chance=False),
            *((TEST_NOTE,) if compared.pairs else ()),
            *((BEST_OF_RUNS,) if len(trained) > 1 else ()),
            *compared.notes,
        ),
        tuple(
            replace(check, finding=f"{compared.names[number - 1]}: {check.finding}")
            for number, results in runs.items()
            for check in run_checks(results, _probe_among(runs.values(), results))
        ),
        tuple(results.summary.provenance for results in runs.values()),
    )


def corpus_matrices(runs: Sequence[RunResults]) -> tuple[Table, ...]:
    """Return, for each head, the scores by the corpora trained on and tested on."""
    return matrices([
        ScoredHead(f"run {number}", str(number), number, head, results, results.scores(head), "")
        for number, results in enumerate(runs, 1)
        for head in results.heads
    ])  # fmt: skip


def matrices(scored: Sequence[ScoredHead]) -> tuple[Table, ...]:
    """Return a cross-corpus matrix for each head, if any run was tested on another corpus.

    Omitted are marked runs, those that trained nothing, and a head of which two runs are of the
    same pair of corpora.
    """
    honest = [
        each
        for each in scored
        if not each.results.summary.warnings and each.results.summary.split_kind.trains
    ]
    if all(train == test for train, test in (each.corpora for each in honest)):
        return ()
    by_head: dict[str, list[ScoredHead]] = {}
    for each in honest:
        by_head.setdefault(each.head, []).append(each)
    # A pair of corpora may stand twice, by two protocols: a cell cannot hold both.
    return tuple(
        _matrix(head, cells)
        for head, heads in by_head.items()
        if len(cells := {each.corpora: each for each in heads}) == len(heads)
    )


def _matrix(head: str, cells: dict[tuple[str, str], ScoredHead]) -> Table:
    measure = next(iter(cells.values())).results.measure
    trained, tested = (sorted({pair[side] for pair in cells}) for side in (0, 1))

    def cell(pair: tuple[str, str]) -> str:
        return interval_text(cells[pair].scores[measure.key], measure) if pair in cells else ""

    chances = dict.fromkeys(score_text(each.chance, measure) for each in cells.values())
    return Table(
        f"matrix-{head}",
        f"{head}: {measure.title} by the corpus trained on (rows) and tested on (columns)",
        ("trained on", *tested),
        tuple((a, *(cell((a, b)) for b in tested)) for a in trained),
        note=f"Bold: within a corpus, on held-out speakers. Chance: {', '.join(chances)}.",
        bold=frozenset(
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


def report_layers(results: RunResults, head: str) -> Report:
    """Compare the nested choice of a head with each layer held fixed.

    Raise UserError if the run has one layer.
    """
    summary = results.summary
    if len(summary.layers) < 2:
        raise UserError(
            f"{results.run}: has only the layer {summary.layers[0]}, so that nothing was chosen; "
            "fit with --layers all"
        )
    layers = {layer: results.by_speaker(head, layer) for layer in results.predicted[head]}
    pairs = [(NESTED, layer) for layer in layers if layer != NESTED]
    table = comparison_table(
        compare(layers, results.measure, pairs=pairs),
        f"{head}: nested choice against each layer held fixed",
        {layer: {**identity(summary), "head": head, "layer": layer} for layer in layers},
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


def _probe_among(runs: Iterable[RunResults], results: RunResults) -> RunResults | None:
    """Return the first of some runs that is the frozen probe of another."""
    return next((other for other in runs if is_probe(other, results)), None)


def _compare(
    counts: dict[str, NDArray[Any]],
    pairs: Sequence[tuple[ScoredHead, ScoredHead]],
    measure: Measure,
) -> tuple[Comparison, ...]:
    return compare(counts, measure, pairs=[(a.name, b.name) for a, b in pairs]) if pairs else ()


def _unfair_marks(summary: RunSummary) -> list[str]:
    """Return the marks that make a score another than that of an honest run on these clips."""
    # Restricted to the labels of the clips is every run that was trained on them.
    return [mark.name for mark in summary.marks if mark.name != MarkKind.RESTRICTED]


def _names(summaries: Sequence[RunSummary]) -> tuple[str, ...]:
    """Return the names of the runs in tables: given by the user, else their numbers."""
    names = [summary.given_name or str(n) for n, summary in enumerate(summaries, 1)]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(
            f"two runs have the name {twice[0]}; give each its own: serpipe report NAME=RUN "
            "NAME=RUN"
        )
    return tuple(names)


def _differences(summaries: Sequence[RunSummary]) -> tuple[str, tuple[str, ...]]:
    """Return what runs have in common, and how each differs from the others."""
    described = [
        {
            "corpus": summary.corpus,
            "target": ", ".join([summary.target, *summary.changes]),
            "encoder": str(summary.encoder["encoder"]),
            "pooling": f"{summary.pooling} pooling",
            "layers": f"layers {_ranges(summary.layers)}",
            "normalise": f"normalised by {summary.normalise}",
            "split": summary.split_title,
            "trained_on": f"trained on {summary.trained_on or _CLIPS_ALONE}",
            "grid": _differing_grid(summary, summaries),
        }
        for summary in summaries
    ]
    for name, usual in (
        ("normalise", "normalised by none"),
        ("trained_on", f"trained on {_CLIPS_ALONE}"),
    ):
        if all(each[name] == usual for each in described):
            for each in described:
                del each[name]
    same = {name for name in described[0] if len({each[name] for each in described}) == 1}
    shared = ", ".join(text for name, text in described[0].items() if name in same - {"grid"})
    titles = [
        ", ".join(text for name, text in each.items() if text and name not in same)
        for each in described
    ]
    # Rows show the heads, and nobody reads the names of folders: only where nothing else differs.
    for more in (
        [f"heads {', '.join(summary.heads)}" for summary in summaries],
        [summary.name for summary in summaries],
    ):
        if len(set(titles)) < len(titles):
            titles = [", ".join(filter(None, pair)) for pair in zip(titles, more, strict=True)]
    return shared, tuple(titles)


def _differing_grid(summary: RunSummary, summaries: Sequence[RunSummary]) -> str:
    """Return the hyper-parameters for which runs with the same head tried other values."""
    different = []
    for head, fitted in summary.heads.items():
        for name, values in fitted.grid.items():
            grids = {
                tuple(each.heads[head].grid.get(name, ()))
                for each in summaries
                if head in each.heads
            }
            if len(grids) > 1:
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
    """Return path, speaker and label of each clip, in one order."""
    columns = (results.clips[name].tolist() for name in ("path", "speaker", "label"))
    return tuple(sorted(zip(*columns, strict=True)))
