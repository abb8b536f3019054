"""The tables of a report on one run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import counted
from ...pipeline.measures import Measure
from ...pipeline.permutation import least_swap_p
from ...pipeline.statistics import (
    FEWEST_SPEAKERS,
    Comparison,
    Interval,
    compare,
    holm,
    intervals,
    recall_intervals,
)
from ..run.results import RunResults, chosen
from ..run.summary import RunSummary
from ..score_text import difference_text, interval_text, p_text, percent_interval, score_text
from .table import Table

#: Corrected p below which a difference is called resolved.
RESOLVED = 0.05
NOT_TESTED = "Without p: not tested, as one of the two is marked and the other is not."
_NO_INTERVAL = (
    "No interval: the score rests on too few speakers (on two, or mostly on one or two, for one of "
    "its labels), or does not change whichever speaker is left out."
)


def mark_names(summary: RunSummary) -> str:
    """Return the marks of a run, such as ``"INFLATED"``; only runs with equal marks are tested."""
    return ", ".join(mark.name for mark in summary.marks)


def identity(summary: RunSummary) -> dict[str, Any]:
    """Return the columns of a CSV file that identify a run."""
    return {
        "name": summary.given_name,
        "corpus": summary.corpus,
        "encoder": summary.encoder["encoder"],
        "revision": summary.encoder["revision"],
        "pooling": summary.pooling,
        "target": summary.target,
        "split": summary.split,
        "hold_out": summary.hold_out,
        "normalise": summary.normalise,
        "trained_on": summary.trained_on,
        "clips": summary.clips,
        "speakers": len(summary.speakers),
        "warning": "; ".join(summary.warnings),
    }


def flat(scores: Mapping[str, Interval]) -> dict[str, float]:
    """Return scores and the limits of their intervals under the names of CSV columns."""
    return {
        f"{name}{suffix}": value
        for name, interval in scores.items()
        for suffix, value in (
            ("", interval.value),
            ("_low", interval.low),
            ("_high", interval.high),
        )
    }


def flat_difference(compared: Comparison | None) -> dict[str, float]:
    """Return the columns of a comparison in a record; NaN where nothing was compared."""
    undefined = Interval(math.nan, math.nan, math.nan)
    return {
        **flat({"difference": compared.difference if compared else undefined}),
        "p": compared.p if compared else math.nan,
        "p_holm": compared.p_holm if compared else math.nan,
    }


def has_intervals(results: RunResults) -> bool:
    """Return whether there are enough speakers for intervals."""
    return len(results.summary.clusters) >= FEWEST_SPEAKERS


def _interval_note(results: RunResults, shown: Iterable[Interval], note: str) -> str:
    """Return a note if a defined score has no interval although there are enough speakers."""
    missing = any(math.isnan(each.low) and not math.isnan(each.value) for each in shown)
    return note if missing and has_intervals(results) else ""


def nested_table(results: RunResults) -> Table:
    """Return the headline: the scores of each head, a test against chance, and the choices."""
    heads, measure = results.heads, results.measure
    scores = {head: results.scores(head) for head in heads}
    p = {head: results.p_against_chance(head) for head in heads}
    shown = [each for head in heads for each in scores[head].values()]
    trains = results.summary.split_kind.trains
    choices = {head: chosen(results.summary.heads[head]) if trains else {} for head in heads}
    rows = [
        (title, *(interval_text(scores[head][key], measure) for head in heads))
        for title, key in measure.scores.items()
    ]
    if not all(map(math.isnan, p.values())):
        rows.append(("p against chance", *(p_text(p[head]) for head in heads)))
    for name in dict.fromkeys(name for head in heads for name in choices[head]):
        cells = (
            ", ".join(f"{value} ({n})" for value, n in choices[head][name].most_common())
            if name in choices[head]
            else ""
            for head in heads
        )
        rows.append((f"{name} (folds)", *cells))
    first = [_or_least(scores[head][measure.key].value) for head in heads]
    # Bold marks one of several: a single head is neither better nor worse.
    several = len(heads) > 1
    best = [n for n, value in enumerate(first, 1) if several and value == max(first)]
    notes = (
        f"Bold: the highest {measure.title}." if best else "",
        _interval_note(results, shown, _NO_INTERVAL),
    )
    title = "Nested result" if results.result_kind == "nested" else f"Result, {results.result_kind}"
    return Table(
        "nested",
        title + ("" if all(math.isnan(each.low) for each in shown) else " [95 % interval]"),
        ("", *heads),
        tuple(rows),
        note=" ".join(filter(None, notes)),
        bold=frozenset((0, column) for column in best),
        records=tuple(
            {
                **identity(results.summary),
                "result": "nested",
                "head": head,
                **flat(scores[head]),
                "p_chance": p[head],
            }
            for head in heads
        ),
    )


def nuisance_table(results: RunResults) -> Table:
    """Return what properties of the recordings alone predict, on the folds of the run."""
    summary, measure = results.summary, results.measure
    scores = results.nuisance_scores()
    chance = measure.chance(len(summary.labels))
    return Table(
        "nuisance",
        "Nuisance baselines: what properties of the recordings alone predict",
        ("seen by the baseline", measure.title),
        (
            *((title, interval_text(score, measure)) for title, score in scores.items()),
            ("chance", score_text(chance, measure)),
        ),
        note="Boosted trees on sampling rate, channels, file type, duration and loudness, and on "
        "the corpus with columns such as session, on the folds of the run. Duration and loudness "
        "carry emotion, too; a sampling rate does not.",
        records=tuple(
            {**identity(summary), "baseline": title, **flat({measure.key: score}), "chance": chance}
            for title, score in scores.items()
        ),
    )


def layers_table(results: RunResults) -> Table:
    """Return the score of each layer held fixed; no layer is called better than the tests show."""
    heads, layers, measure = results.heads, results.summary.layers, results.measure
    counts = {(layer, head): results.by_speaker(head, layer) for layer in layers for head in heads}
    scores = {key: intervals(sums, measure) for key, sums in counts.items()}
    best = {
        head: max(layers, key=lambda layer: _or_least(scores[layer, head][measure.key].value))
        for head in heads
    }
    unresolved = set()
    for head in heads:
        pairs = [(best[head], layer) for layer in layers if layer != best[head]]
        of_head = {layer: counts[layer, head] for layer in layers}
        for each in compare(of_head, measure, pairs=pairs):
            if not each.p_holm < RESOLVED:  # with NaN, for few speakers, nothing is resolved
                unresolved.add((each.second, head))

    def cell(key: tuple[str, str]) -> str:
        text = interval_text(scores[key][measure.key], measure)
        return f"≈ {text}" if key in unresolved else text

    several = len(layers) > 1
    note = (
        "Bold: the best row of each head. It is not a result: to take it is to choose on the "
        "test speakers."
        if several
        else ""
    )
    if unresolved:
        note += (
            f" ≈: not resolved from it, p (Holm) not below {RESOLVED}. It was picked among them: "
            "other rows, too, may be no worse."
        )
    return Table(
        "layers",
        f"{measure.title} of each layer held fixed: descriptive",
        ("layer", *heads),
        tuple((layer, *(cell((layer, head)) for head in heads)) for layer in layers),
        note=note,
        bold=frozenset(
            (row, column)
            for row, layer in enumerate(layers)
            for column, head in enumerate(heads, 1)
            if layer == best[head] and several
        ),
        records=tuple(
            {
                **identity(results.summary),
                "result": "descriptive",
                "head": head,
                "layer": layer,
                **flat(of_layer),
                "below_best": layer != best[head] and (layer, head) not in unresolved,
            }
            for (layer, head), of_layer in scores.items()
        ),
    )


def classes_table(results: RunResults) -> Table:
    """Return the recall of each label."""
    summary, heads = results.summary, results.heads
    recalls = {head: recall_intervals(results.by_speaker(head)) for head in heads}
    clips = [int((results.clips["label"] == label).sum()) for label in summary.labels]
    speakers = results.speakers_of_label
    return Table(
        "classes",
        f"Recall of each label, {results.result_kind}",
        (summary.target, "clips", "speakers", *heads),
        tuple(
            (
                label,
                str(clips[n]),
                str(speakers[label]),
                *(percent_interval(recalls[head][n]) for head in heads),
            )
            for n, label in enumerate(summary.labels)
        ),
        note=_interval_note(
            results,
            [each for head in heads for each in recalls[head]],
            f"No interval: fewer than {FEWEST_SPEAKERS} speakers hold the label, or one or two of "
            "them hold most of its clips, or the recall is the same whichever speaker is left out.",
        ),
        records=tuple(
            {
                **identity(summary),
                "head": head,
                "label": label,
                **flat({"recall": recalls[head][n]}),
                "n": clips[n],
                "label_speakers": speakers[label],
            }
            for head in heads
            for n, label in enumerate(summary.labels)
        ),
    )


def groups_table(results: RunResults) -> Table:
    """Return the first score of each group of clips, such as a sex or an intensity."""
    heads, measure = results.heads, results.measure
    groups = {head: results.groups(head) for head in heads}
    rows, records = [], []
    shown: list[Interval] = []
    for column, group in groups[heads[0]]:
        counts = {head: groups[head][column, group] for head in heads}
        first = {head: intervals(counts[head], measure)[measure.key] for head in heads}
        shown += first.values()
        in_group = results.group_of_clip(column) == group
        clips, labels = int(in_group.sum()), n_labels(results, in_group)
        chance = measure.chance(labels)
        rows.append(
            (
                f"{column} {group or '(none)'}",
                str(clips),
                score_text(chance, measure),
                *(interval_text(first[head], measure) for head in heads),
            )
        )
        records += [
            {
                **identity(results.summary),
                "head": head,
                "column": column,
                "group": group,
                "n": clips,
                "labels": labels,
                "chance": chance,
                **flat({measure.key: first[head]}),
            }
            for head in heads
        ]
    notes = (
        "Over the labels that occur in the group: compare two groups only where chance is the same."
        if results.summary.labels
        else "",
        _interval_note(results, shown, _NO_INTERVAL),
    )
    return Table(
        "groups",
        f"{measure.title} by group of clips, {results.result_kind}",
        ("group", "clips", "chance", *heads),
        tuple(rows),
        note=" ".join(filter(None, notes)),
        records=tuple(records),
    )


def gaps_table(results: RunResults) -> Table | None:
    """Return the largest gap between the groups of each column; None if there are no two groups."""
    measure = results.measure
    gaps = {(column, head): gap for head in results.heads for column, gap in
            results.gaps(head).items()}  # fmt: skip
    if not gaps:
        return None
    p = np.array([gap.p for gap in gaps.values()])
    corrected = np.full_like(p, np.nan)
    corrected[~np.isnan(p)] = holm(p[~np.isnan(p)])
    rows, records = [], []
    for ((column, head), gap), p_holm in zip(gaps.items(), corrected.tolist(), strict=True):
        rows.append(
            (
                column, head, f"{gap.highest} - {gap.lowest}", str(gap.groups),
                difference_text(gap.difference, measure), p_text(gap.p), p_text(p_holm),
            )
        )  # fmt: skip
        records.append(
            {
                **identity(results.summary), "column": column, "head": head,
                "highest": gap.highest, "lowest": gap.lowest, "groups": gap.groups,
                "labels": gap.labels, **flat({"gap": gap.difference}), "p": gap.p,
                "p_holm": p_holm,
            }
        )  # fmt: skip
    note = (
        f"The difference of {measure.title} between the groups with the highest and the lowest, "
        f"among those of {FEWEST_SPEAKERS} speakers or more"
        + (", over the labels that all groups have" if results.summary.labels else "")
        + ". p: permutation test of the largest difference. Groups are exchanged between speakers "
        "where all clips of a speaker have the same, otherwise between the clips of a speaker"
        + (" and label" if results.summary.labels else "")
        + (", if these are in different groups" if np.isnan(p).any() else "")
        + ". p (Holm): corrected for all rows. Of more than two groups, the interval is that of a "
        "difference that was chosen for its size."
    )
    return Table(
        "gaps",
        f"Largest gap between groups of clips, {results.result_kind}",
        ("column", "head", "groups", "compared", f"difference of {measure.title}", "p", "p (Holm)"),
        tuple(rows),
        note=note,
        bold=frozenset((row, 4) for row, each in enumerate(corrected) if each < RESOLVED),
        records=tuple(records),
    )


def speakers_table(results: RunResults) -> Table:
    """Return the first score of each speaker."""
    heads, measure = results.heads, results.measure
    scores = {
        head: {
            speaker: float(measure.first(sums)) for speaker, sums in results.counts(head).items()
        }
        for head in heads
    }
    return Table(
        "speakers" if has_intervals(results) else "few-speakers",
        f"{measure.title} of each speaker, {results.result_kind}",
        ("speaker", *heads),
        tuple(
            (speaker, *(score_text(scores[head][speaker], measure) for head in heads))
            for speaker in scores[heads[0]]
        ),
        records=tuple(
            {**identity(results.summary), "head": head, "speaker": speaker, measure.key: score}
            for head in heads
            for speaker, score in scores[head].items()
        ),
    )


def confusion_table(results: RunResults) -> Table:
    """Return the confusion matrices, in clips."""
    labels = results.summary.labels
    counts = {head: results.by_speaker(head).sum(axis=0) for head in results.heads}
    return Table(
        "confusion",
        f"Confusion matrix, {results.result_kind}: rows are the truth, columns the prediction",
        ("head and truth", *labels),
        tuple(
            (f"{head} {label}", *map(str, row.tolist()))
            for head, count in counts.items()
            for label, row in zip(labels, count, strict=True)
        ),
        records=tuple(
            {
                **identity(results.summary),
                "head": head,
                "truth": truth,
                "predicted": predicted,
                "n": int(count[i, j]),
            }
            for head, count in counts.items()
            for i, truth in enumerate(labels)
            for j, predicted in enumerate(labels)
        ),
    )


def comparison_table(
    comparisons: Sequence[Comparison],
    title: str,
    members: Mapping[str, Mapping[str, Any]],
    n_speakers: int,
    measure: Measure,
) -> Table:
    """Return paired comparisons as a table, with resolved ones in bold.

    A comparison without a p was not tested. ``members`` holds, for each compared name, its
    identifying columns of a CSV file, ``warning`` among them; ``n_speakers`` is the number of
    speakers of the tests.
    """
    tests = sum(not math.isnan(each.p) for each in comparisons)
    note = f"Bold: resolved, p (Holm) below {RESOLVED}. The others may differ or not."
    if any(math.isnan(each.difference.low) and not math.isnan(each.p) for each in comparisons):
        note += (
            " No interval: the difference rests on two speakers or fewer, or is the same whichever "
            "speaker is left out."
        )
    least = tests * least_swap_p(n_speakers)
    if tests and least >= RESOLVED:
        note += (
            f" With {counted(n_speakers, 'speaker')} and {counted(tests, 'test')} p (Holm) is at "
            f"least {p_text(least)}."
        )

    def record(each: Comparison) -> dict[str, Any]:
        first, second = members[each.first], members[each.second]
        warnings = dict.fromkeys(str(member["warning"]) for member in (first, second))
        return {
            **{f"first_{name}": value for name, value in first.items()},
            **{f"second_{name}": value for name, value in second.items()},
            "difference": each.difference.value,
            "low": each.difference.low,
            "high": each.difference.high,
            "p": each.p,
            "p_holm": each.p_holm,
            "warning": "; ".join(filter(None, warnings)),
        }

    return Table(
        "comparisons",
        title,
        ("pair", f"{measure.title} difference [95 %]", "p", "p (Holm)"),
        tuple(
            (
                f"{each.first} - {each.second}",
                difference_text(each.difference, measure),
                p_text(each.p),
                p_text(each.p_holm),
            )
            for each in comparisons
        ),
        note=note,
        bold=frozenset(
            (row, column)
            for row, each in enumerate(comparisons)
            for column in range(4)
            if each.p_holm < RESOLVED
        ),
        records=tuple(map(record, comparisons)),
    )


def n_labels(results: RunResults, rows: NDArray[np.bool_]) -> int:
    """Return the number of labels of some clips; 0 for ratings."""
    return len(np.unique(results.clips["label"][rows])) if results.summary.labels else 0


def _or_least(score: float) -> float:
    """Return a score for comparison: an undefined one is the least."""
    return -math.inf if math.isnan(score) else score
