"""One table of what each protocol gives on the same cache: ``serpipe report --matrix``."""

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import UserError, counted
from ...pipeline.heads import BEST, FUSE, HEADS
from ...pipeline.marks import MarkKind
from ...pipeline.measures import Measure
from ...pipeline.options import Protocol
from ...pipeline.split_kind import SplitKind
from ...pipeline.statistics import Comparison, compare
from ...pipeline.texts import text_column
from ...provenance import join_words
from ..run.latest import by_age
from ..run.results import RunResults, read_results
from ..run.summary import RunKind, RunSummary, read_summary
from ..score_text import difference_text, interval_text, p_text
from .enrolment_table import curve
from .report import CHANCE_NOTE, TEST_NOTE, Report, facts, score_note
from .result_tables import flat, flat_difference, identity, mark_names
from .table import Table

#: Options of a command that are replaced when it is shown for another protocol.
_REPLACED = ("--split", "--hold-out", "--enrol", "--head", "--out", "--name", "--format")
#: Number of enrolled clips that is shown, if it was measured.
_ENROLLED = 8
_ENROLMENT_NOTE = (
    "the other clips of each speaker are scored, and the difference is from no enrolment on the "
    "same clips, with p corrected for all numbers of clips that were tried."
)
#: The row that the others are compared with.
NEW_SPEAKER = "new speaker"


@dataclass(frozen=True)
class ProtocolRow:
    """A row of the table: a protocol, and the runs that belong to it.

    Attributes
    ----------
    title : str
        What is new in a test clip.
    split : str
        The split of its runs; for random folds their number does not matter.
    hold_out : str
        The column that its runs hold out besides; empty for none.
    permuted : bool
        Whether labels are shuffled.
    enrolled : int
        Number of clips of each test speaker that heads are adapted to; 0 for none.
    """

    title: str
    split: str
    hold_out: str = ""
    permuted: bool = False
    enrolled: int = 0

    @property
    def options(self) -> list[str]:
        """The options of ``serpipe fit`` for it."""
        return [
            *("--split", self.split),
            *(("--hold-out", self.hold_out) if self.hold_out else ()),
            *(("--permute-labels",) if self.permuted else ()),
            *(("--enrol", str(self.enrolled)) if self.enrolled else ()),
        ]

    def has(self, results: RunResults, head: str) -> bool:
        """Return whether a run belongs to the row, for a head."""
        summary = results.summary
        if self.enrolled and self.enrolled not in _numbers_enrolled(results, head):
            return False
        both_random = SplitKind.of(self.split) is summary.split_kind is SplitKind.RANDOM_FOLDS
        return (
            (both_random or summary.split == self.split)
            and summary.hold_out == self.hold_out
            and summary.has_mark(MarkKind.PERMUTED_LABELS) == self.permuted
        )


def _numbers_enrolled(results: RunResults, head: str) -> AbstractSet[int]:
    """Return the numbers of clips with which a head of a run was scored."""
    return {each.n_clips for each in results.enrolment.get(head, ()) if each.n_clips}


def protocol_rows(
    split: str, text: str | None, held_out: Sequence[str] = (), enrolled: int = 0
) -> tuple[ProtocolRow, ...]:
    """Return the rows of the table, from what inflates a score to chance.

    Parameters
    ----------
    split : str
        The split that keeps speakers apart, such as ``"loso"``.
    text : str, optional
        The column that holds what is said; without one the rows of new texts are omitted.
    held_out : sequence of str
        Other columns that runs hold out.
    enrolled : int
        Number of clips of new speakers that heads are adapted to; 0 omits the row.
    """
    rows = [ProtocolRow("random clips, speakers and texts shared", "random:5")]
    if text:
        rows.append(ProtocolRow("new text, speakers shared", f"column:{text}"))
    rows.append(ProtocolRow(NEW_SPEAKER, split))
    if text:
        rows.append(ProtocolRow("new speaker and text", split, hold_out=text))
    others = [column for column in dict.fromkeys(held_out) if column not in ("", text)]
    rows += [ProtocolRow(f"new speaker and {each}", split, hold_out=each) for each in others]
    if enrolled:
        title = f"{NEW_SPEAKER}, {counted(enrolled, 'unlabelled clip')} enrolled"
        rows.append(ProtocolRow(title, split, enrolled=enrolled))
    rows.append(ProtocolRow("new speaker, labels shuffled", split, permuted=True))
    return tuple(rows)


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
    return tuple(read_results(run) for run, summary in fitted if not _differ(newest, summary))


def report_protocols(runs: Sequence[RunResults]) -> Report:
    """Report what each protocol gives, for each head of the run that keeps speakers apart.

    Of several such runs it is the last by leave-one-speaker-out, else the last.

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
    by_speaker = [each for each in runs if _keeps_speakers_apart(each.summary)]
    by_one = [each for each in by_speaker if each.summary.split_kind is SplitKind.LOSO]
    reference = (by_one or by_speaker or list(runs))[-1]
    split = reference.summary.split if by_speaker else Protocol.split
    for each in runs:
        if names := _differ(reference.summary, each.summary):
            raise UserError(
                f"{each.run}: differs from {reference.run} in its {', '.join(names)}; name runs "
                "that differ in their protocol alone"
            )
    held_out = [each.summary.hold_out for each in runs]
    text = text_column(reference.clips)
    tables: list[Table] = []
    notes: list[str] = []
    shown: dict[Path, RunSummary] = {}
    for head, fitted in reference.summary.heads.items():
        by_row: dict[ProtocolRow, RunResults] = {}
        rows = protocol_rows(split, text, held_out, _enrolled(runs, head, reference))
        for row in rows:
            for each in runs:
                same_grid = head in each.heads and each.summary.heads[head].grid == fitted.grid
                if row.has(each, head) and same_grid:
                    by_row[row] = each
        if not by_row:
            continue
        tables.append(_table(head, rows, by_row, reference.measure))
        shown |= {each.run: each.summary for each in by_row.values()}
        notes += [
            f"To fit {head} by the protocol '{row.title}': `{_command(reference, head, row)}`"
            for row in rows
            if row not in by_row
        ]
    if not tables:
        raise UserError(
            f"{reference.run}: is of no protocol of the table; fit by one of them first: serpipe "
            "fit --split loso"
        )
    omitted = [each.run.name for each in runs if each.run not in shown]
    if omitted:
        notes.append(
            "Not shown, as they are of other protocols, heads or grids, or there is a later run of "
            f"the same: {', '.join(omitted)}."
        )
    of_run = ("name", "split", "assumed", "chosen")
    return Report(
        tuple((name, value) for name, value in facts(reference.summary) if name not in of_run),
        tuple(dict.fromkeys(warning for each in shown.values() for warning in each.warnings)),
        tuple(tables),
        (score_note(reference.summary), CHANCE_NOTE, TEST_NOTE, *notes),
        provenance=tuple(each.provenance for each in shown.values()),
    )


def _enrolled(runs: Sequence[RunResults], head: str, reference: RunResults) -> int:
    """Return the number of enrolled clips that is shown; 0 if a head is not adapted to speakers.

    It is 8, or the largest below that was measured, or the smallest.
    """
    if head not in (*HEADS, BEST, FUSE) or reference.summary.task != "classification":
        return 0
    most = max(Counter(reference.clips["speaker"].tolist()).values())
    measured = {n for each in runs for n in _numbers_enrolled(each, head)}
    up_to = [number for number in measured if number <= _ENROLLED]
    return max(up_to, default=min(measured, default=min(_ENROLLED, most - 1)))


def _keeps_speakers_apart(summary: RunSummary) -> bool:
    """Return whether a run is what the others are compared with: honest, and nothing held out."""
    return (
        summary.split_kind.can_hold_out_column
        and not summary.hold_out
        and not summary.has_mark(MarkKind.PERMUTED_LABELS)
    )


def _differ(one: RunSummary, other: RunSummary) -> list[str]:
    """Return in what two runs differ besides the protocol and the heads."""
    same = {
        "content": "cache or clips",
        "pooling": "pooling",
        "target": "target",
        "changes": "labels",
        "normalise": "normalisation",
        "layers": "layers",
        "trained_on": "what heads are trained on",
    }
    return [title for name, title in same.items() if getattr(one, name) != getattr(other, name)]


def _table(
    head: str,
    rows: Sequence[ProtocolRow],
    by_row: Mapping[ProtocolRow, RunResults],
    measure: Measure,
) -> Table:
    reference = next((each for row, each in by_row.items() if row.title == NEW_SPEAKER), None)
    differences = _differences(head, reference, by_row) if reference else {}
    cells, records = [], []
    for row in rows:
        results = by_row.get(row)
        if results is None:
            cells.append((row.title, " ".join(row.options[1:]), "not fitted", "", "", "", ""))
            continue
        summary, scores = results.summary, results.scores(head)
        compared = differences.get(row)
        chance = results.p_against_chance(head)
        if row.enrolled:
            (point,) = (each for each in curve(results, head) if each.n_clips == row.enrolled)
            scores, compared, chance = dict(point.enrolled), point.compared, math.nan
        cells.append((
            row.title,
            " ".join([summary.split, *row.options[2:]]),
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
            **flat_difference(compared),
        })  # fmt: skip
    return Table(
        f"matrix-{head}",
        f"{head}: what each protocol gives",
        (
            "what is new in a test clip", "protocol", f"{measure.title} [95 %]",
            "p against chance", f"difference from {NEW_SPEAKER} [95 %]", "p (Holm)", "mark",
        ),
        tuple(cells),
        note="Differences without p are of marked runs: they show what the mark is worth, and are "
        "not tested. Those of shuffled labels are of other labels, and are not shown."
        + (f" With enrolled clips: {_ENROLMENT_NOTE}" if any(r.enrolled for r in by_row) else ""),
        records=tuple(records),
    )  # fmt: skip


def _differences(
    head: str, reference: RunResults, by_row: Mapping[ProtocolRow, RunResults]
) -> dict[ProtocolRow, Comparison]:
    """Compare the protocols that predict the same labels of the same clips; test unmarked ones."""
    rows = [
        row
        for row, results in by_row.items()
        if not row.enrolled  # its difference is on the clips that are not enrolled
        and results is not reference
        and results.summary.tested == reference.summary.tested
    ]
    counts = {row.title: by_row[row].by_speaker(head) for row in rows}
    counts[NEW_SPEAKER] = reference.by_speaker(head)
    marks, measure = mark_names(reference.summary), reference.measure
    fair = [row for row in rows if mark_names(by_row[row].summary) == marks]
    differences: dict[ProtocolRow, Comparison] = {}
    for group in (fair, [row for row in rows if row not in fair]):
        pairs = [(row.title, NEW_SPEAKER) for row in group]
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
        is_dropped = name in _REPLACED
        if not skip and not is_dropped and word != "--permute-labels":
            kept.append(word)
        skip = not skip and is_dropped and not equals
    return join_words([*kept, "--head", head, *row.options])
