"""One table of what each protocol gives on the same cache: ``serpipe report --matrix``."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import UserError
from ...pipeline.marks import MarkKind
from ...pipeline.measures import Measure
from ...pipeline.split_kind import SplitKind
from ...pipeline.statistics import Comparison, compare
from ...pipeline.texts import text_column
from ...provenance import join_words
from ..run.latest import by_age
from ..run.results import RunResults, read_results
from ..run.summary import RunKind, RunSummary, read_summary
from ..score_text import difference_text, interval_text, p_text
from .report import CHANCE_NOTE, TEST_NOTE, Report, facts, score_note
from .result_tables import flat, identity, mark_names
from .table import Table

#: Options of a command that are replaced when it is shown for another protocol.
_OF_ONE_RUN = ("--split", "--hold-out", "--out", "--name", "--format")


@dataclass(frozen=True)
class ProtocolRow:
    """A row of the table: a protocol, and the runs that belong to it.

    Attributes
    ----------
    title : str
        What is new in a test clip.
    options : tuple of str
        The options of ``serpipe fit`` for it.
    split_kind : SplitKind
        The kind of split of its runs.
    hold_out : str
        The column that its runs hold out besides; empty for none.
    column : str
        The column that its runs are divided by; empty for none.
    permuted : bool
        Whether labels are shuffled.
    """

    title: str
    options: tuple[str, ...]
    split_kind: SplitKind
    hold_out: str = ""
    column: str = ""
    permuted: bool = False

    def protocol(self, split: str = "") -> str:
        """Return the options as a cell, with the split of a run where it is another one."""
        words = [split or self.options[1], *self.options[2:]]
        return " ".join(words)

    def has(self, summary: RunSummary) -> bool:
        """Return whether a run belongs to the row."""
        column = summary.split.partition(":")[2] if summary.split_kind is SplitKind.COLUMN else ""
        return (
            summary.split_kind is self.split_kind
            and summary.hold_out == self.hold_out
            and column == self.column
            and summary.has_mark(MarkKind.PERMUTED_LABELS) == self.permuted
        )


#: The protocol that the others are compared with.
NEW_SPEAKER = ProtocolRow("new speaker", ("--split", "loso"), SplitKind.LOSO)


def protocol_rows(text: str | None) -> tuple[ProtocolRow, ...]:
    """Return the rows of the table, from what inflates a score to chance.

    Parameters
    ----------
    text : str, optional
        The column that holds what is said; without one the rows of new texts are omitted.
    """
    of_texts = {
        "shared": ProtocolRow(
            "new text, speakers shared", ("--split", f"column:{text}"), SplitKind.COLUMN,
            column=text,
        ),
        "new": ProtocolRow(
            "new speaker and text", ("--split", "loso", "--hold-out", text), SplitKind.LOSO,
            hold_out=text,
        ),
    } if text else {}  # fmt: skip
    # A protocol that adapts to a new speaker (enrolment) belongs after those of new speakers.
    rows = (
        ProtocolRow(
            "random clips, speakers and texts shared",
            ("--split", "random:5"),
            SplitKind.RANDOM_FOLDS,
        ),
        of_texts.get("shared"),
        NEW_SPEAKER,
        of_texts.get("new"),
        ProtocolRow(
            "new speaker, labels shuffled",
            ("--split", "loso", "--permute-labels"),
            SplitKind.LOSO,
            permuted=True,
        ),
    )
    return tuple(filter(None, rows))


def runs_of_newest_cache(folder: Path) -> tuple[RunResults, ...]:
    """Read the runs in a folder that were fitted on the clips and the cache of the newest one.

    Returns
    -------
    tuple of RunResults
        The newest last.

    Raises
    ------
    UserError
        If there is no fitted run.
    """
    fitted: list[tuple[Path, RunSummary]] = []
    for path in by_age(folder, "*/run.json"):
        try:
            summary = read_summary(path.parent)
        except UserError:  # of another version, or damaged
            continue
        if summary.heads and summary.kind is RunKind.FITTED and summary.content:
            fitted.append((path.parent, summary))
    if not fitted:
        raise UserError(f"{folder}: there is no fitted run here; run `serpipe fit`, or name runs")
    newest = fitted[-1][1]
    return tuple(read_results(run) for run, summary in fitted if _comparable(newest, summary))


def report_protocols(runs: Sequence[RunResults]) -> Report:
    """Report what each protocol gives, for each head of the leave-one-speaker-out run.

    Parameters
    ----------
    runs : sequence of RunResults
        Fitted on the same clips of the same cache. Of several runs of one protocol and head, the
        last is shown.

    Returns
    -------
    Report
        A table for each head. Protocols without a run are followed by the command that makes one.

    Raises
    ------
    UserError
        If the runs are of different caches, clips, labels, layers or poolings.
    """
    plain = [each for each in runs if NEW_SPEAKER.has(each.summary)]
    reference = (plain or list(runs))[-1]
    for each in runs:
        if not _comparable(reference.summary, each.summary):
            raise UserError(
                f"{each.run}: differs from {reference.run} in its cache, clips, labels, layers, "
                "pooling or normalisation; name runs that differ in their protocol alone"
            )
    rows = protocol_rows(text_column(reference.clips))
    tables, notes, shown = [], [], []
    for head, fitted in reference.summary.heads.items():
        by_row: dict[ProtocolRow, RunResults] = {}
        for row in rows:
            for each in runs:
                same_grid = head in each.heads and each.summary.heads[head].grid == fitted.grid
                if row.has(each.summary) and same_grid:
                    by_row[row] = each
        tables.append(_table(head, rows, by_row, reference.measure))
        shown += [each for each in by_row.values() if each not in shown]
        notes += [
            f"To fit {head} by the protocol '{row.title}': `{_command(reference, head, row)}`"
            for row in rows
            if row not in by_row
        ]
    omitted = [each.run.name for each in runs if each not in shown]
    if omitted:
        notes.append(
            f"Not shown, as a later run or no row is of the same protocol: {', '.join(omitted)}."
        )
    of_run = ("name", "split", "assumed", "chosen")
    return Report(
        tuple((name, value) for name, value in facts(reference.summary) if name not in of_run),
        tuple(dict.fromkeys(warning for each in shown for warning in each.summary.warnings)),
        tuple(tables),
        (score_note(reference.summary), CHANCE_NOTE, TEST_NOTE, *notes),
        provenance=tuple(each.summary.provenance for each in shown),
    )


def _comparable(one: RunSummary, other: RunSummary) -> bool:
    """Return whether two runs may differ in their protocol, but not in data and settings."""
    same = ("content", "pooling", "target", "changes", "normalise", "layers", "task")
    return all(getattr(one, name) == getattr(other, name) for name in same)


def _table(
    head: str,
    rows: Sequence[ProtocolRow],
    by_row: Mapping[ProtocolRow, RunResults],
    measure: Measure,
) -> Table:
    reference = by_row.get(NEW_SPEAKER)
    differences = _differences(head, reference, by_row) if reference else {}
    cells, records = [], []
    for row in rows:
        results = by_row.get(row)
        if results is None:
            cells.append((row.title, row.protocol(), "not fitted", "", "", "", ""))
            continue
        summary, scores = results.summary, results.scores(head)
        compared = differences.get(row)
        chance = results.p_against_chance(head)
        cells.append((
            row.title,
            row.protocol(summary.split),
            interval_text(scores[measure.key], measure),
            p_text(chance),
            difference_text(compared.difference, measure) if compared else "",
            p_text(compared.p_holm) if compared else "",
            mark_names(summary),
        ))  # fmt: skip
        records.append({
            "protocol": row.title,
            **identity(summary),
            "head": head,
            **flat(scores),
            "p_chance": chance,
            "difference": compared.difference.value if compared else math.nan,
            "difference_low": compared.difference.low if compared else math.nan,
            "difference_high": compared.difference.high if compared else math.nan,
            "p": compared.p if compared else math.nan,
            "p_holm": compared.p_holm if compared else math.nan,
        })  # fmt: skip
    return Table(
        f"matrix-{head}",
        f"{head}: what each protocol gives",
        (
            "what is new in a test clip", "protocol", f"{measure.title} [95 %]",
            "p against chance", f"difference from {NEW_SPEAKER.title} [95 %]", "p (Holm)", "mark",
        ),
        tuple(cells),
        note="Differences without p are of marked runs: they show what the mark is worth, and are "
        "not tested. Those of shuffled labels are of other labels, and are not shown.",
        records=tuple(records),
    )  # fmt: skip


def _differences(
    head: str, reference: RunResults, by_row: Mapping[ProtocolRow, RunResults]
) -> dict[ProtocolRow, Comparison]:
    """Compare the protocols that predict the same labels of the same clips; test unmarked ones."""
    rows = [
        row
        for row, results in by_row.items()
        if results is not reference and results.summary.tested == reference.summary.tested
    ]
    counts = {row.title: by_row[row].by_speaker(head) for row in (NEW_SPEAKER, *rows)}
    marks, measure = mark_names(reference.summary), reference.measure
    fair = [row for row in rows if mark_names(by_row[row].summary) == marks]
    differences: dict[ProtocolRow, Comparison] = {}
    for group in (fair, [row for row in rows if row not in fair]):
        pairs = [(row.title, NEW_SPEAKER.title) for row in group]
        compared = compare(counts, measure, pairs=pairs) if pairs else ()
        differences |= dict(zip(group, compared, strict=True))
    return {row: each if row in fair else _untested(each) for row, each in differences.items()}


def _untested(compared: Comparison) -> Comparison:
    return replace(compared, p=math.nan, p_holm=math.nan)


def _command(reference: RunResults, head: str, row: ProtocolRow) -> str:
    """Return the command that fits a head by another protocol, with all other options alike."""
    try:
        words = shlex.split(str(reference.summary.provenance.get("command", "")))
    except ValueError:
        words = []
    if words[:2] != ["serpipe", "fit"]:  # fitted from Python
        words = ["serpipe", "fit", "..."]
    kept, skip = words[:2], False
    for word in words[2:]:
        name, equals, _ = word.partition("=")
        is_dropped = name in (*_OF_ONE_RUN, "--head")
        if not skip and not is_dropped and word != "--permute-labels":
            kept.append(word)
        skip = not skip and is_dropped and not equals
    return join_words([*kept, "--head", head, *row.options])
