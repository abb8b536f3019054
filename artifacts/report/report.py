"""The report of a run: its tables, notes and checks; and how reports are written."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...display import Displayed, ShortTable, data_frame, html_line, html_table
from ...errors import UserError, counted
from ...files import write_text
from ...pipeline.calibration import TEMPERATURE_SCALED
from ...pipeline.heads import BEST, FUSE, HEADS, FusedHead, Head
from ...pipeline.measures import MEASURES
from ...pipeline.nuisance import ALL_OF_THEM
from ...pipeline.statistics import FEWEST_SPEAKERS, compare
from ..models.outputs import SOFTMAX
from ..run.results import RunResults
from ..run.summary import RunSummary
from ..score_text import interval_text, p_text
from .baselines import baseline_table
from .checks import Check, grave, run_checks
from .enrolment_table import CurvePoint, curve, enrolment_lines, enrolment_table
from .frozen_probe import against_probe, probe_table, read_probe
from .fusion import fusion_note, members_table
from .perturbed_table import perturbed_lines, perturbed_table
from .probabilities import HeadProbabilities, probabilities_table, read_probabilities
from .rater_table import raters_table
from .result_tables import (
    classes_table,
    comparison_table,
    confusion_table,
    gaps_table,
    groups_table,
    identity,
    layers_table,
    nested_table,
    nuisance_table,
    speakers_table,
)
from .table import Table, as_csv_file, as_latex, as_markdown, escape_markdown

TEST_NOTE = (
    "p: two-sided permutation test of the difference that is shown: the two sets of predictions of "
    "whole speakers are swapped. p (Holm): corrected for all pairs."
)
CHANCE_NOTE = (
    "p against chance: one-sided permutation test of the first score; the truth is permuted among "
    "the clips of each speaker, or among speakers whose clips all have the same. Not corrected for "
    "the number of heads."
)
_NO_BASELINE = (
    "No published result that we know agrees in corpus, split, labels and number of clips."
)
#: Tables that are written to files and not printed.
LONG = ("confusion", "speakers", "layer-scores")


@dataclass(frozen=True, repr=False)
class Report(Displayed):
    """A report, to be printed and written."""

    facts: tuple[tuple[str, str], ...]  #: Above the tables: corpus, encoder, split.
    warnings: tuple[str, ...]  #: Shown with every number.
    tables: tuple[Table, ...]  #: In reading order.
    notes: tuple[str, ...]  #: Below the tables.
    checks: tuple[Check, ...] = ()  #: Findings about the run.
    provenance: tuple[Mapping[str, Any], ...] = ()  #: Command, versions and machine of each run.
    folder: Path | None = None  #: Where it was written.
    #: What figures are drawn from, by head: the scores by number of enrolled clips, and the
    #: probabilities of all clips.
    curves: Mapping[str, tuple[CurvePoint, ...]] = field(default_factory=dict, compare=False)
    probabilities: Mapping[str, HeadProbabilities] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        """Return it as Markdown."""
        return markdown(self)

    def short_table(self) -> ShortTable:
        """Return the first table and all warnings."""
        first = self.tables[0]
        others = ", ".join(table.name for table in self.tables[1:])
        return ShortTable(
            first.title,
            first.header,
            first.rows,
            [
                *(f"WARNING: {warning}" for warning in self.warnings),
                *([f"Other tables: {others}"] if others else []),
                *([str(self.folder)] if self.folder else []),
            ],
        )

    def to_pandas(self, table: str | None = None) -> Any:
        """Return the records of a table as a pandas data frame, in full precision.

        Parameters
        ----------
        table : str, optional
            Name of a table, such as ``"classes"``; by default the first, which has the results.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        UserError
            If there is no such table, or pandas is not installed.
        """
        tables = {each.name: each for each in self.tables}
        if table is not None and table not in tables:
            raise UserError(f"table {table!r}: is not in the report; choose {', '.join(tables)}")
        return data_frame((self.tables[0] if table is None else tables[table]).records)

    def _repr_html_(self) -> str:
        """Return what a notebook displays: all tables that fit on a terminal, notes and checks."""
        parts = [html_line(f"{name}: {value}") for name, value in self.facts]
        parts += [html_line(f"{warning}.", bold=True) for warning in self.warnings]
        for table in self.printed:
            parts += [
                html_line(table.title, bold=True),
                html_table(table.header, table.rows, table.bold),
                *([html_line(table.note)] if table.note else []),
            ]
        lines = [*self.notes, *map(check_line, self.checks)]
        lines += [str(self.folder)] if self.folder else []
        return "\n".join([*parts, *map(html_line, lines)])

    def _repr_markdown_(self) -> str:
        """Return what programs display that do not display HTML."""
        return markdown(self)

    @property
    def printed(self) -> tuple[Table, ...]:
        """The tables that fit on a terminal."""
        return tuple(table for table in self.tables if table.name not in LONG)


def report_run(results: RunResults, *, baseline: bool = False) -> Report:
    """Report one run; with ``baseline`` beside comparable published results, if there are any."""
    summary = results.summary
    tables = [nested_table(results)]
    notes = [score_note(summary), CHANCE_NOTE, *probability_notes(summary)]
    warnings = list(summary.warnings)
    probe = read_probe(results)
    if probe:
        tables.append(probe_table(results, probe, against_probe(results, probe)))
        notes.append(TEST_NOTE)
        of_probe = [each for each in probe.summary.warnings if each not in warnings]
        warnings += [f"frozen probe: {warning}" for warning in of_probe]
    if baseline:
        published = baseline_table(results)
        tables += [published] if published.rows else []
        notes += [] if published.rows else [_NO_BASELINE]
    if len(results.heads) > 1:
        heads = {head: results.by_speaker(head) for head in results.heads}
        compared = compare(heads, results.measure)
        tables.append(
            comparison_table(
                compared,
                f"Heads compared, {results.result_kind}",
                {head: {**identity(summary), "head": head} for head in heads},
                len(summary.clusters),
                results.measure,
            )
        )
        notes.append(TEST_NOTE)
        if FUSE in results.heads:
            tables.append(members_table(results))
            notes.append(fusion_note(results, tuple(compared)))
        if BEST not in results.heads:
            notes.append(
                "To pick the best of these heads is to choose on the test speakers: --head best "
                "chooses inside the folds, and --head fuse combines them."
            )
    curves = {head: curve(results, head) for head in results.enrolment}
    tables += [enrolment_table(results, head, points) for head, points in curves.items()]
    tables += [perturbed_table(results, head) for head in results.perturbed]
    if results.nuisance:
        tables.append(nuisance_table(results))
    if summary.split_kind.trains:  # else there are no layers
        tables.append(layers_table(results))
    probabilities = read_probabilities(results)
    if summary.labels:
        tables.append(classes_table(results))
    if probabilities:
        tables.append(probabilities_table(results, probabilities))
        raters = raters_table(results, probabilities)
        tables += [raters] if raters else []
    if results.group_columns:
        tables.append(groups_table(results))
        gaps = gaps_table(results)
        tables += [gaps] if gaps else []
    tables.append(speakers_table(results))
    tables += [confusion_table(results)] if summary.labels else []
    checks = run_checks(results, probe)
    return Report(
        facts(summary),
        tuple(warnings),
        tuple(_with_warnings(table, grave(checks)) for table in tables),
        tuple(notes),
        checks,
        (summary.provenance, *((probe.summary.provenance,) if probe else ())),
        curves=curves,
        probabilities=probabilities,
    )


def _with_warnings(table: Table, lines: Sequence[str]) -> Table:
    """Add lines to the warnings of all records of a table."""
    records = tuple(
        {**record, "warning": "; ".join(filter(None, [record["warning"], *lines]))}
        if "warning" in record
        else record
        for record in table.records
    )
    return replace(table, records=records)


def headline(results: RunResults) -> tuple[str, ...]:
    """Return the result of a run in a few lines.

    Merged and dropped labels, assumptions, the first score of each head, all warnings, and the
    checks that are more than notes.
    """
    summary, measure = results.summary, results.measure
    lines = [f"note     {assumption}" for assumption in summary.assumptions]
    if summary.changes:
        lines.insert(0, f"target   {summary.target}: {', '.join(summary.changes)}")
    for head in results.heads:
        first = interval_text(results.scores(head)[measure.key], measure)
        p = p_text(results.p_against_chance(head))
        lines.append(
            f"{head:<10} {measure.title} {first}, "
            + (f"p against chance {p}, " if p else "")
            + f"{results.result_kind}, {summary.split_title}"
        )
    lines += enrolment_lines(results)
    lines += perturbed_lines(results)
    if results.nuisance:
        scores = results.nuisance_scores()
        title = max(scores, key=lambda name: scores[name].value)
        seen = "format, duration and loudness" if title == ALL_OF_THEM else title
        score = interval_text(scores[title], measure)
        lines.append(f"{'nuisance':<10} {measure.title} {score}, from {seen} alone, same folds")
    return (
        *lines,
        *(f"WARNING: {warning}" for warning in summary.warnings),
        *(f"CHECK    {check_line(check)}" for check in run_checks(results) if grave([check])),
    )


def write_report(folder: Path, report: Report) -> tuple[Path, ...]:
    """Write a report as Markdown and JSON, and each table as CSV and LaTeX; return the files.

    The Markdown is the first of them.
    """
    texts = {"report.md": markdown(report), "results.json": as_json(report)}
    texts |= {f"{table.name}.csv": as_csv_file(table) for table in report.tables}
    comments = [*(f"{name}: {value}" for name, value in report.facts), *report.notes]
    texts |= {
        f"{table.name}.tex": as_latex(table, (*report.warnings, *grave(report.checks)), comments)
        for table in report.tables
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return tuple(folder / name for name in texts)


def markdown(report: Report) -> str:
    """Return a report as Markdown."""
    md = escape_markdown
    parts = [f"- {md(name)}: {md(value)}" for name, value in report.facts]
    parts += ["", *(f"> **{md(warning)}.**\n" for warning in report.warnings)]
    for table in report.tables:
        parts += [f"**{md(table.title)}**\n", markdown_table(table)]
    parts += [f"{md(note)}  " for note in report.notes]
    if report.checks:
        parts += ["", *(f"- {md(check_line(check))}" for check in report.checks)]
    parts += ["", *(f"{md(line)}  " for line in made_by(report))]
    return "\n".join([*parts, ""])


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, with its note."""
    return as_markdown(table) + (f"\n{escape_markdown(table.note)}\n" if table.note else "")


def check_line(check: Check) -> str:
    """Return a check in one line."""
    return f"{check.code} {check.severity}: {check.finding}; {check.advice}"


def as_json(report: Report) -> str:
    """Return a report as JSON: facts, warnings, checks, and the records of each table."""
    content = {
        "facts": dict(report.facts),
        "warnings": report.warnings,
        "checks": [check.as_dict() for check in report.checks],
        "notes": report.notes,
        "provenance": report.provenance,
        "tables": {table.name: table.json_records for table in report.tables},
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def facts(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    """Return the lines above the tables of a run."""
    encoder = summary.encoder
    changes = f" ({', '.join(summary.changes)})" if summary.changes else ""
    kind = f"{len(summary.labels)} labels" if summary.labels else "ratings"
    tested = " (those that were tested)" if summary.split_kind.holds_out else ""
    return (
        *((("name", summary.given_name),) if summary.given_name else ()),
        (
            "corpus",
            f"{summary.corpus}: {counted(summary.clips, 'clip')}, "
            f"{counted(len(summary.speakers), 'speaker')}{tested}",
        ),
        ("target", f"{summary.target}, {kind}{changes}"),
        *_agreement(summary),
        (
            "encoder",
            f"{encoder['encoder']} ({str(encoder['revision'])[:12]}), {summary.pooling} pooling, "
            f"{encoder['precision']} on {encoder['device']}"
            + (f" with {encoder['engine']}" if encoder.get("engine") else ""),
        ),
        ("split", summary.split_title),
        *((("assumed", "; ".join(summary.assumptions)),) if summary.assumptions else ()),
        ("chosen", summary.inner),
        *((("trained on", summary.trained_on),) if summary.trained_on else ()),
    )


def _agreement(summary: RunSummary) -> tuple[tuple[str, str], ...]:
    """Return how far the raters agreed, which bounds the agreement of any head with them."""
    agreement = summary.agreement
    if agreement and agreement.get("alpha") is not None:
        return (
            (
                "raters",
                f"{agreement['raters']:.3g} for a clip, {agreement['kind']} "
                f"{agreement['alpha']:.2f}, over {agreement['clips']} clips",
            ),
        )
    if not agreement or agreement["icc_1"] is None:
        return ()
    return (
        (
            "raters",
            f"{agreement['raters']:g}, agreement {agreement['kind']}: {agreement['icc_1']:.2f} for "
            f"one, {agreement['icc_k']:.2f} for their mean, over {agreement['clips']} clips",
        ),
    )


def made_by(report: Report) -> tuple[str, ...]:
    """Return the command and the versions that made each run, a line each."""
    return tuple(
        f"Made by `{each.get('command', '')}` with "
        + ", ".join(f"{name} {version}" for name, version in each.get("versions", {}).items())
        for each in report.provenance
    )


def probability_notes(summary: RunSummary) -> list[str]:
    """Return a note on the calibration of each head's probabilities."""
    if not summary.labels:
        return []
    notes = []
    for name, fitted in summary.heads.items():
        if "temperature" in fitted.final and name != FUSE:
            notes.append(f"Probabilities of {name}: {TEMPERATURE_SCALED}.")
            continue
        head: type[Head] | None = FusedHead
        if name != FUSE:
            head = HEADS.get(str(fitted.final["head"]) if name == BEST else name)
        # None: a model, or a head of a package that is not installed here.
        if head or "softmax" in fitted.scores_are:
            notes.append(f"Probabilities of {name}: {head.probabilities_are if head else SOFTMAX}.")
    return notes


def score_note(summary: RunSummary, *, chance: bool = True) -> str:
    """Return the definition of the scores, and, for one run, chance."""
    few = len(summary.clusters) < FEWEST_SPEAKERS
    units = f"{summary.group}s"
    measure = MEASURES[summary.task]
    scale = "Scores in %" if measure.in_percent else "Scores"
    predictions = f"{'out-of-fold ' if summary.split_kind.trains else ''}predictions"
    method = "" if few else f"; 95 % intervals by the jackknife over {units}, Student's t"
    level = f", chance {100 / len(summary.labels):.1f}" if chance and summary.labels else ""
    too_few = (
        f" {len(summary.clusters)} {units} are too few for an interval: see each speaker."
        if few
        else ""
    )
    return f"{scale}, over all {predictions}{method}. {measure.definition}{level}.{too_few}"
