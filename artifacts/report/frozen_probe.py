"""A fine-tuned run beside its frozen probe: what training the encoder gained, or lost."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace

from ...errors import UserError
from ...pipeline.statistics import Comparison, compare
from ..run.latest import RUNS
from ..run.results import RunResults, read_results
from ..run.run import RunSummary
from .result_tables import NOT_TESTED, comparison_table, flat, identity, marks
from .table import Table, interval_text


def read_probe(results: RunResults) -> RunResults | None:
    """Read the frozen probe that a fine-tuned run names.

    It is looked for beside the run, then where runs are by default.

    Parameters
    ----------
    results : RunResults
        Any run.

    Returns
    -------
    RunResults or None
        None if the run is not fine-tuned, names no probe, or what it names cannot be read or is
        no probe of it, as :func:`is_probe` tells.
    """
    if not results.summary.trained or results.summary.probe is None:
        return None
    for folder in (results.run.resolve().parent, RUNS):
        with contextlib.suppress(UserError):
            probe = read_results(folder / results.summary.probe)
            if is_probe(probe, results):
                return probe
    return None


def from_scratch(summary: RunSummary) -> bool:
    """Say whether what was trained began without weights: it has no frozen probe of its own."""
    return summary.encoder.get("weights_sha256") == ""


def is_probe(other: RunResults, results: RunResults) -> bool:
    """Say whether a run is a frozen probe of a fine-tuned one.

    Parameters
    ----------
    other : RunResults
        What may be the probe.
    results : RunResults
        Any run.

    Returns
    -------
    bool
        Whether ``results`` is fine-tuned and ``other`` is not, both predict the same labels of
        the same clips with the same folds, and both began with the same weights. A network that
        was trained from scratch began with none: any encoder may stand beside it.
    """
    ours, theirs = (run.summary.encoder.get("weights_sha256") for run in (results, other))
    same_weights = ours is not None and ours == theirs
    return (
        results.summary.trained is not None
        and other.summary.trained is None
        and (same_weights or from_scratch(results.summary))
        and _tested(other) == _tested(results)
    )


def against_probe(results: RunResults, probe: RunResults) -> tuple[Comparison, ...]:
    """Compare a fine-tuned run with each head of its probe, over speakers.

    Parameters
    ----------
    results, probe : RunResults
        Of which :func:`is_probe` says that they belong together.

    Returns
    -------
    tuple of Comparison
        A positive difference is a gain of training. Without p-values if one of the two is marked,
        as inflated or otherwise, and the other is not in the same way.
    """
    ours = _trained(results)
    heads = {ours: results.by_speaker(ours)}
    heads |= {head: probe.by_speaker(head) for head in probe.heads}
    pairs = [(ours, head) for head in probe.heads]
    found = compare(heads, results.measure, pairs=pairs)
    if marks(results.summary) == marks(probe.summary):
        return found
    return tuple(replace(each, p=math.nan, p_holm=math.nan) for each in found)


def probe_table(results: RunResults, probe: RunResults, found: Sequence[Comparison]) -> Table:
    """Return the score of a fine-tuned run beside those of its probe, and the paired tests.

    Parameters
    ----------
    results, probe : RunResults
        Of which :func:`is_probe` says that they belong together.
    found : sequence of Comparison
        From :func:`against_probe`.

    Returns
    -------
    Table
        A row for the fine-tuned run and for each head of the probe; a record for each pair.
    """
    measure = results.measure
    ours = _trained(results)
    trained = results.scores(ours)
    scores = {head: probe.scores(head) for head in probe.heads}
    members = {head: {**identity(probe.summary), "head": head} for head in probe.heads}
    members[ours] = {**identity(results.summary), "head": ours}
    tests = comparison_table(found, "", members, len(results.summary.clusters), measure)
    how, its = (
        (f"{ours} from scratch", "a") if from_scratch(results.summary) else ("fine-tuned", "its")
    )
    marked = f" ({told})" if (told := marks(probe.summary)) else ""
    untested = f" {NOT_TESTED}" if told != marks(results.summary) else ""
    return replace(
        tests,
        name="probe",
        title=f"Beside {its} frozen probe",
        header=("", f"{measure.title} [95 %]", *tests.header[1:]),
        rows=(
            (how, interval_text(trained[measure.key], measure), "", "", ""),
            *(
                (f"frozen {head}{marked}", interval_text(scores[head][measure.key], measure), *row)
                for head, (_, *row) in zip(probe.heads, tests.rows, strict=True)
            ),
        ),
        note=f"Difference: {how} less frozen. {tests.note}{untested} Frozen probe: "
        f"{probe.run.name}, of {probe.summary.encoder['encoder']}.",
        # What is resolved is the difference, not the score that is put in before it.
        marked=frozenset((row + 1, column + 1 if column else 0) for row, column in tests.marked),
        records=tuple(
            record
            | {f"first_{name}": value for name, value in flat(trained).items()}
            | {f"second_{name}": value for name, value in flat(scores[head]).items()}
            for head, record in zip(probe.heads, tests.records, strict=True)
        ),
    )


def _trained(results: RunResults) -> str:
    head = results.summary.trained
    assert head is not None
    return head


def _tested(results: RunResults) -> tuple[object, ...]:
    """Return all that must agree: the split, the labels, and of each clip its label and fold."""
    summary, clips = results.summary, results.clips
    if "fold" not in clips:
        return (results.run,)  # damaged: like no other
    columns = (clips[name].tolist() for name in ("path", "speaker", "label", "fold"))
    rows = sorted(zip(*columns, strict=True))
    return summary.split, summary.task, list(summary.labels), rows
