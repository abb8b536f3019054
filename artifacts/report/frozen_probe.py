"""A fine-tuned run beside its frozen probe: what training the encoder gained, or lost."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace

from ...errors import UserError
from ...pipeline.statistics import Comparison, compare
from ..run.latest import RUNS
from ..run.results import RunResults, read_results
from ..run.summary import RunSummary
from ..score_text import interval_text
from .result_tables import NOT_TESTED, comparison_table, flat, identity, mark_names
from .table import Table


def read_probe(results: RunResults) -> RunResults | None:
    """Read the frozen probe that a fine-tuned run names, beside the run or among the default runs.

    Return None if the run is not fine-tuned, names no probe, or the probe cannot be read or is of
    another run, see :func:`is_probe`.
    """
    if not results.summary.finetuned_head or results.summary.probe is None:
        return None
    for folder in (results.run.resolve().parent, RUNS):
        with contextlib.suppress(UserError):
            probe = read_results(folder / results.summary.probe)
            if is_probe(probe, results):
                return probe
    return None


def from_scratch(summary: RunSummary) -> bool:
    """Return whether the training began without weights: there is no frozen probe then."""
    return summary.encoder.get("weights_sha256") == ""


def is_probe(other: RunResults, results: RunResults) -> bool:
    """Return whether a run is a frozen probe of a fine-tuned one.

    Both must predict the same labels of the same clips in the same folds, and begin with the same
    weights; any encoder may stand beside a network that was trained from scratch.
    """
    ours, theirs = (run.summary.encoder.get("weights_sha256") for run in (results, other))
    same_weights = ours is not None and ours == theirs
    return (
        results.summary.finetuned_head is not None
        and other.summary.finetuned_head is None
        and (same_weights or from_scratch(results.summary))
        and _tested(other) == _tested(results)
    )


def against_probe(results: RunResults, probe: RunResults) -> tuple[Comparison, ...]:
    """Compare a fine-tuned run with each head of its probe, over speakers.

    A positive difference is a gain of training. There are no p-values if the two have different
    marks.
    """
    ours = _finetuned_head(results)
    sums = {ours: results.by_speaker(ours)}
    sums |= {head: probe.by_speaker(head) for head in probe.heads}
    comparisons = compare(sums, results.measure, pairs=[(ours, head) for head in probe.heads])
    if mark_names(results.summary) == mark_names(probe.summary):
        return comparisons
    return tuple(replace(each, p=math.nan, p_holm=math.nan) for each in comparisons)


def probe_table(results: RunResults, probe: RunResults, comparisons: Sequence[Comparison]) -> Table:
    """Return the score of a fine-tuned run beside those of its probe, with :func:`against_probe`.

    There is a row for the fine-tuned run and for each head of the probe, and a record per pair.
    """
    measure, key = results.measure, results.measure.key
    ours = _finetuned_head(results)
    trained = results.scores(ours)
    scores = {head: probe.scores(head) for head in probe.heads}
    members = {head: {**identity(probe.summary), "head": head} for head in probe.heads}
    members[ours] = {**identity(results.summary), "head": ours}
    tests = comparison_table(comparisons, "", members, len(results.summary.clusters), measure)
    is_new = from_scratch(results.summary)
    row_name, article = (f"{ours} from scratch", "a") if is_new else ("fine-tuned", "its")
    marks = mark_names(probe.summary)
    suffix = f" ({marks})" if marks else ""
    untested = f" {NOT_TESTED}" if marks != mark_names(results.summary) else ""
    return replace(
        tests,
        name="probe",
        title=f"Beside {article} frozen probe",
        header=("", f"{measure.title} [95 %]", *tests.header[1:]),
        rows=(
            (row_name, interval_text(trained[key], measure), "", "", ""),
            *(
                (f"frozen {head}{suffix}", interval_text(scores[head][key], measure), *row)
                for head, (_, *row) in zip(probe.heads, tests.rows, strict=True)
            ),
        ),
        note=f"Difference: {row_name} less frozen. {tests.note}{untested} Frozen probe: "
        f"{probe.run.name}, of {probe.summary.encoder['encoder']}.",
        # The difference is resolved, not the score that is inserted before it.
        bold=frozenset((row + 1, column + 1 if column else 0) for row, column in tests.bold),
        records=tuple(
            record
            | {f"first_{name}": value for name, value in flat(trained).items()}
            | {f"second_{name}": value for name, value in flat(scores[head]).items()}
            for head, record in zip(probe.heads, tests.records, strict=True)
        ),
    )


def _finetuned_head(results: RunResults) -> str:
    head = results.summary.finetuned_head
    assert head is not None
    return head


def _tested(results: RunResults) -> tuple[object, ...]:
    """Return what must agree: split, task and labels, and label and fold of each clip."""
    summary, clips = results.summary, results.clips
    if "fold" not in clips:
        return (results.run,)  # damaged: equal to no other
    columns = (clips[name].tolist() for name in ("path", "speaker", "label", "fold"))
    rows = sorted(zip(*columns, strict=True))
    return summary.split, summary.task, list(summary.labels), rows
