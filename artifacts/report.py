"""What a report of runs says: its tables, its notes, and what must be said with every number."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import json_value, write_text
from ..pipeline.metrics import recalls, scores_of
from ..pipeline.statistics import (
    DRAWS,
    FEWEST_SPEAKERS,
    Comparison,
    Interval,
    compare,
    intervals,
)
from .baselines import baseline_table
from .checks import Check, run_checks
from .results import GROUPS, RunResults, chosen
from .run import NESTED, RunSummary
from .table import Table, as_csv, as_latex, as_markdown, percent, percent_interval

METRICS = {"UAR": "uar", "accuracy": "accuracy", "macro-F1": "macro_f1"}
#: Tables that are written to files and not printed.
LONG = ("confusion", "speakers")


@dataclass(frozen=True)
class Report:
    """What is printed and written.

    Attributes
    ----------
    facts : tuple of (str, str)
        What stands above: corpus, encoder, split.
    warnings : tuple of str
        What must be said with every number.
    tables : tuple of Table
        In the order in which they are read.
    notes : tuple of str
        What stands below.
    checks : tuple of Check
        What was found wrong, or is to be known.
    """

    facts: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    @property
    def printed(self) -> tuple[Table, ...]:
        """The tables that fit on a terminal."""
        return tuple(table for table in self.tables if table.name not in LONG)


def report_run(results: RunResults, *, baseline: bool = False) -> Report:
    """Report one run.

    Parameters
    ----------
    results : RunResults
        From :func:`~serpipe.artifacts.results.read_results`.
    baseline : bool
        Whether published results stand beside it, where there are any that may.

    Returns
    -------
    Report
    """
    summary = results.summary
    tables = [_nested(results)]
    if baseline:
        tables.append(baseline_table(results))
    if len(results.heads) > 1:
        heads = {head: results.by_speaker(head) for head in results.heads}
        tables.append(_comparisons(compare(heads), "Heads compared, nested", [results]))
    tables += [_layers(results), _classes(results), _groups(results), _speakers(results)]
    tables.append(_confusion(results))
    return Report(
        _facts(summary),
        tuple(summary.warnings),
        tuple(table for table in tables if table.rows),
        _notes(summary) + ((_NO_BASELINE,) if baseline and not tables[1].rows else ()),
        run_checks(results),
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
    """
    if len(results.summary.layers) < 2:
        raise UserError(
            f"{results.run}: one layer, {results.summary.layers[0]}; expected several, of which "
            "one was chosen; fit with --layers all"
        )
    layers = {layer: results.by_speaker(head, layer) for layer in results.predicted[head]}
    pairs = [(NESTED, layer) for layer in layers if layer != NESTED]
    found = compare(layers, pairs=pairs)
    table = _comparisons(found, f"{head}: nested choice against each layer held fixed", [results])
    return Report(
        _facts(results.summary), tuple(results.summary.warnings), (table,), _test_notes(results)
    )


def report_runs(runs: Sequence[RunResults]) -> Report:
    """Compare runs on the same clips.

    Parameters
    ----------
    runs : sequence of RunResults
        At least two.

    Returns
    -------
    Report

    Raises
    ------
    UserError
        If they do not predict the same labels of the same clips.
    """
    first = runs[0]
    order = _clip_order(first)
    named: dict[str, NDArray[np.int64]] = {}
    rows, records = [], []
    for number, results in enumerate(runs, 1):
        here = _clip_order(results)
        if here != order:
            raise UserError(
                f"{results.run}: other clips or labels than {first.run}; expected the same, to "
                "compare clip by clip; fit both with the same --target, --map, --keep and "
                "--permute-labels"
            )
        marks = ", ".join(warning.partition(":")[0] for warning in results.summary.warnings)
        for head in results.heads:
            name = f"{number} {head}" + (f" ({marks})" if marks else "")
            named[name] = results.by_speaker(head)
            scores = intervals(named[name])
            rows.append((name, *(percent_interval(scores[key]) for key in METRICS.values())))
            records.append(
                {**_identity(results.summary), "run": number, "head": head, **_flat(scores)}
            )
    table = Table(
        "runs", "Nested results", ("run and head", *(f"{name} [95 %]" for name in METRICS)),
        tuple(rows), records=tuple(records),
    )  # fmt: skip
    facts = tuple(
        (
            f"run {number}",
            f"{results.run.name}: {results.summary.encoder['encoder']}, "
            f"{results.summary.split_title}",
        )
        for number, results in enumerate(runs, 1)
    )
    warnings = tuple(
        f"run {number}: {warning}"
        for number, results in enumerate(runs, 1)
        for warning in results.summary.warnings
    )
    compared = _comparisons(compare(named), "Compared, nested", runs)
    checks = tuple(
        replace(check, found=f"run {number}: {check.found}")
        for number, results in enumerate(runs, 1)
        for check in run_checks(results)
    )
    return Report(facts, warnings, (table, compared), _test_notes(first), checks)


def headline(results: RunResults) -> tuple[str, ...]:
    """Return the nested UAR of each head, and all warnings, a line each."""
    lines = []
    for head in results.heads:
        uar = percent_interval(intervals(results.by_speaker(head))["uar"])
        lines.append(f"{head:<10} UAR {uar}, nested, {results.summary.split_title}")
    return (*lines, *(f"WARNING: {warning}" for warning in results.summary.warnings))


def write_report(folder: Path, report: Report) -> tuple[Path, ...]:
    """Write a report as Markdown and JSON, and each table as CSV and LaTeX.

    Parameters
    ----------
    folder : Path
        Where to.
    report : Report
        What to write.

    Returns
    -------
    tuple of Path
        What was written, the Markdown first.
    """
    texts = {"report.md": markdown(report), "results.json": as_json(report)}
    texts |= {f"{table.name}.csv": as_csv(table) for table in report.tables}
    texts |= {f"{table.name}.tex": as_latex(table, report.warnings) for table in report.tables}
    for name, text in texts.items():
        write_text(folder / name, text)
    return tuple(folder / name for name in texts)


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    parts = [f"- {name}: {value}" for name, value in report.facts]
    parts += ["", *(f"> **{warning}.**\n" for warning in report.warnings)]
    for table in report.tables:
        parts += [f"**{table.title}**\n", markdown_table(table)]
    parts += [f"{note}  " for note in report.notes]
    if report.checks:
        parts += ["", *(f"- {check_line(check)}" for check in report.checks)]
    return "\n".join([*parts, ""])


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, with its note."""
    return as_markdown(table) + (f"\n{table.note}\n" if table.note else "")


def check_line(check: Check) -> str:
    """Return a check in one line."""
    return f"{check.code} {check.severity}: {check.found}; {check.advice}"


def as_json(report: Report) -> str:
    """Return a report as JSON: facts, warnings, checks, and the records of each table."""
    content = {
        "facts": dict(report.facts),
        "warnings": report.warnings,
        "checks": [asdict(check) for check in report.checks],
        "tables": {
            table.name: [
                {name: json_value(value) for name, value in record.items()}
                for record in table.records
            ]
            for table in report.tables
        },
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _facts(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    encoder = summary.encoder
    changes = f" ({', '.join(summary.changes)})" if summary.changes else ""
    facts = [
        (
            "corpus",
            f"{summary.corpus}: {summary.clips} clips, {len(summary.speakers)} speakers",
        ),
        ("target", f"{summary.target}, {len(summary.labels)} labels{changes}"),
        (
            "encoder",
            f"{encoder['encoder']} ({str(encoder['revision'])[:12]}), {summary.pooling} pooling, "
            f"{encoder['precision']} on {encoder['device']}",
        ),
        ("split", summary.split_title),
        ("chosen", summary.inner),
    ]
    return tuple(facts)


def _identity(summary: RunSummary) -> dict[str, Any]:
    """Return what a row of a CSV file needs to stand for itself."""
    return {
        "corpus": summary.corpus,
        "encoder": summary.encoder["encoder"],
        "revision": summary.encoder["revision"],
        "pooling": summary.pooling,
        "target": summary.target,
        "split": summary.split,
        "normalise": summary.normalise,
        "clips": summary.clips,
        "speakers": len(summary.speakers),
        "warning": "; ".join(summary.warnings),
    }


def _nested(results: RunResults) -> Table:
    heads = results.heads
    scores = {head: intervals(results.by_speaker(head)) for head in heads}
    counted = {head: chosen(results.summary.heads[head]) for head in heads}
    rows = [
        (title, *(percent_interval(scores[head][key]) for head in heads))
        for title, key in METRICS.items()
    ]
    for name in dict.fromkeys(name for head in heads for name in counted[head]):
        told = (
            ", ".join(f"{value} ({n})" for value, n in counted[head][name].most_common())
            if name in counted[head]
            else ""
            for head in heads
        )
        rows.append((f"{name} (folds)", *told))
    return Table(
        "nested",
        ("Nested result" if _anything_chosen(results) else "Result, nothing chosen")
        + (" [95 % interval]" if _has_intervals(results) else ""),
        ("", *heads),
        tuple(rows),
        marked=frozenset((0, place) for place in range(1, len(heads) + 1)),
        records=tuple(
            {**_identity(results.summary), "result": "nested", "head": head, **_flat(scores[head])}
            for head in heads
        ),
    )


def _layers(results: RunResults) -> Table:
    heads = results.heads
    scores = {
        (layer, head): intervals(results.by_speaker(head, layer))
        for layer in results.summary.layers
        for head in heads
    }
    best = {head: max(scores[layer, head]["uar"].value for layer in results.summary.layers)
            for head in heads}  # fmt: skip
    rows, marked = [], set()
    for number, layer in enumerate(results.summary.layers):
        found = [scores[layer, head]["uar"] for head in heads]
        rows.append((layer, *map(percent_interval, found)))
        marked |= {
            (number, place)
            for place, head in enumerate(heads, 1)
            if found[place - 1].value == best[head]
        }
    return Table(
        "layers",
        "UAR of each layer held fixed: descriptive",
        ("layer", *heads),
        tuple(rows),
        note="Bold: the best row of each head. It is not a result: to take it is to choose on the "
        "test speakers.",
        marked=frozenset(marked),
        records=tuple(
            {**_identity(results.summary), "result": "descriptive", "head": head, "layer": layer,
             **_flat(found)}
            for (layer, head), found in scores.items()
        ),
    )  # fmt: skip


def _classes(results: RunResults) -> Table:
    summary, heads = results.summary, results.heads
    found = {head: recalls(results.by_speaker(head).sum(axis=0)) for head in heads}
    said = results.clips["label"]
    clips = [int((said == label).sum()) for label in summary.labels]
    return Table(
        "classes",
        "Recall of each label, nested",
        (summary.target, "clips", *heads),
        tuple(
            (label, str(clips[n]), *(percent(found[head][n]) for head in heads))
            for n, label in enumerate(summary.labels)
        ),
        records=tuple(
            {**_identity(summary), "head": head, "label": label, "recall": float(found[head][n]),
             "n": clips[n]}
            for head in heads
            for n, label in enumerate(summary.labels)
        ),
    )  # fmt: skip


def _groups(results: RunResults) -> Table:
    heads = results.heads
    rows, records = [], []
    for column in GROUPS:
        values = results.clips.get(column, np.array([]))
        if len(set(values.tolist())) < 2 or column == results.summary.target:
            continue
        counts = {head: results.counts(head, by=column) for head in heads}
        for group in counts[heads[0]]:
            each = [counts[head][group] for head in heads]
            uar = [float(scores_of(count).uar) for count in each]
            labels = int((each[0].sum(axis=1) > 0).sum())
            rows.append((f"{column} {group or '(none)'}", str(int(each[0].sum())), str(labels),
                         *map(percent, uar)))  # fmt: skip
            records += [
                {**_identity(results.summary), "head": head, "column": column, "group": group,
                 "n": int(each[0].sum()), "labels": labels, "uar": value}
                for head, value in zip(heads, uar, strict=True)
            ]  # fmt: skip
    return Table(
        "groups",
        "UAR by group of clips, nested",
        ("group", "clips", "labels", *heads),
        tuple(rows),
        note="Over the labels that occur in the group.",
        records=tuple(records),
    )


def _speakers(results: RunResults) -> Table:
    heads = results.heads
    counts = {head: results.counts(head) for head in heads}
    few = not _has_intervals(results)
    return Table(
        "few-speakers" if few else "speakers",
        "UAR of each speaker, nested",
        ("speaker", *heads),
        tuple(
            (speaker, *(percent(float(scores_of(counts[head][speaker]).uar)) for head in heads))
            for speaker in counts[heads[0]]
        ),
        records=tuple(
            {**_identity(results.summary), "head": head, "speaker": speaker,
             "uar": float(scores_of(count).uar)}
            for head in heads
            for speaker, count in counts[head].items()
        ),
    )  # fmt: skip


def _confusion(results: RunResults) -> Table:
    labels = results.summary.labels
    counts = {head: results.by_speaker(head).sum(axis=0) for head in results.heads}
    return Table(
        "confusion",
        "Who was taken for whom, nested: rows are the truth, columns the prediction",
        ("head and truth", *labels),
        tuple(
            (f"{head} {label}", *map(str, row.tolist()))
            for head, count in counts.items()
            for label, row in zip(labels, count, strict=True)
        ),
        records=tuple(
            {**_identity(results.summary), "head": head, "truth": truth, "predicted": predicted,
             "n": int(count[i, j])}
            for head, count in counts.items()
            for i, truth in enumerate(labels)
            for j, predicted in enumerate(labels)
        ),
    )  # fmt: skip


def _comparisons(found: Sequence[Comparison], title: str, runs: Sequence[RunResults]) -> Table:
    warning = "; ".join(dict.fromkeys(w for results in runs for w in results.summary.warnings))
    return Table(
        "comparisons",
        title,
        ("pair", "UAR difference [95 %]", "p", "p (Holm)"),
        tuple(
            (f"{each.first} - {each.second}", _signed(each.difference), _p(each.p), _p(each.p_holm))
            for each in found
        ),
        note="Bold: resolved, p (Holm) below 0.05. The others may differ or not.",
        marked=frozenset(
            (row, column)
            for row, each in enumerate(found)
            for column in range(4)
            if each.p_holm < 0.05
        ),
        records=tuple(
            {"first": each.first, "second": each.second, "difference": each.difference.value,
             "low": each.difference.low, "high": each.difference.high, "p": each.p,
             "p_holm": each.p_holm, "warning": warning}
            for each in found
        ),
    )  # fmt: skip


def _notes(summary: RunSummary) -> tuple[str, ...]:
    notes = [_score_note(summary)]
    if len(summary.heads) > 1:
        notes.append(_TEST_NOTE)
    return tuple(notes)


_NO_BASELINE = (
    "No published result that we know agrees in corpus, split, labels and number of clips."
)
_TEST_NOTE = (
    "p: two-sided Wilcoxon signed-rank test over the speakers' UAR, and corrected by Holm for all "
    "pairs."
)


def _score_note(summary: RunSummary) -> str:
    chance = f"UAR: unweighted average recall, chance {100 / len(summary.labels):.1f}"
    if len(summary.speakers) < FEWEST_SPEAKERS:
        return (
            f"Scores in %, over all out-of-fold predictions. {chance}. "
            f"{len(summary.speakers)} speakers are too few for an interval: see each of them."
        )
    return (
        f"Scores in %, over all out-of-fold predictions; intervals by resampling speakers ({DRAWS} "
        f"draws). {chance}."
    )


def _test_notes(results: RunResults) -> tuple[str, ...]:
    return (_score_note(results.summary), _TEST_NOTE)


def _has_intervals(results: RunResults) -> bool:
    return len(results.summary.speakers) >= FEWEST_SPEAKERS


def _anything_chosen(results: RunResults) -> bool:
    grids = [told.grid for told in results.summary.heads.values()]
    several = any(len(values) > 1 for grid in grids for values in grid.values())
    return several or len(results.summary.layers) > 1


def _clip_order(results: RunResults) -> list[tuple[str, str]]:
    columns = (results.clips["path"].tolist(), results.clips["label"].tolist())
    return sorted(zip(*columns, strict=True))


def _flat(scores: Mapping[str, Interval]) -> dict[str, float]:
    """Return scores and their limits under the names that CSV columns have."""
    return {
        f"{name}{suffix}": value
        for name, found in scores.items()
        for suffix, value in (("", found.value), ("_low", found.low), ("_high", found.high))
    }


def _signed(found: Interval) -> str:
    if math.isnan(found.low):
        return f"{100 * found.value:+.1f}"
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _p(value: float) -> str:
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
