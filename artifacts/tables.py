"""The tables of a report."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import counted
from ..pipeline.folds import SplitKind
from ..pipeline.measures import Measure
from ..pipeline.permutation import least_swap_p
from ..pipeline.statistics import (
    FEWEST_SPEAKERS,
    Comparison,
    Interval,
    compare,
    intervals,
    recall_intervals,
)
from .results import RunResults, chosen
from .run import RunSummary
from .table import Table, interval_text, percent_interval, score_text

#: A difference whose corrected p is below is called one.
RESOLVED = 0.05
NOT_TESTED = "Without p: not tested, as one of the two is marked and the other is not."
_NO_INTERVAL = (
    "No interval: the score rests on too few speakers (on two, or mostly on one or two, for one of "
    "its labels), or does not change whichever speaker is left out."
)


def marks(summary: RunSummary) -> str:
    """Return how a run is marked, such as ``"INFLATED"``; runs marked alike can be tested."""
    return ", ".join(warning.partition(":")[0] for warning in summary.warnings)


def identity(summary: RunSummary) -> dict[str, Any]:
    """Return what a row of a CSV file needs to stand for itself."""
    return {
        "name": summary.given_name,
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


def flat(scores: Mapping[str, Interval]) -> dict[str, float]:
    """Return scores and their limits under the names that CSV columns have."""
    return {
        f"{name}{suffix}": value
        for name, found in scores.items()
        for suffix, value in (("", found.value), ("_low", found.low), ("_high", found.high))
    }


def has_intervals(results: RunResults) -> bool:
    """Say whether there are speakers enough."""
    return len(results.summary.clusters) >= FEWEST_SPEAKERS


def _interval_note(results: RunResults, shown: Iterable[Interval], note: str) -> str:
    """Return a note if a defined score has no interval although there are speakers enough."""
    missing = any(math.isnan(each.low) and not math.isnan(each.value) for each in shown)
    return note if missing and has_intervals(results) else ""


def nested_table(results: RunResults) -> Table:
    """Return the headline: the scores of each head, a test against chance, and what was chosen."""
    heads = results.heads
    measure = results.measure
    scores = {head: results.scores(head) for head in heads}
    p = {head: results.p_against_chance(head) for head in heads}
    shown = [each for head in heads for each in scores[head].values()]
    trained = SplitKind.of(results.summary.split).trains
    choices = {head: chosen(results.summary.heads[head]) if trained else {} for head in heads}
    rows = [
        (title, *(interval_text(scores[head][key], measure) for head in heads))
        for title, key in measure.scores.items()
    ]
    if not all(map(math.isnan, p.values())):
        rows.append(("p against chance", *(p_text(p[head]) for head in heads)))
    for name in dict.fromkeys(name for head in heads for name in choices[head]):
        told = (
            ", ".join(f"{value} ({n})" for value, n in choices[head][name].most_common())
            if name in choices[head]
            else ""
            for head in heads
        )
        rows.append((f"{name} (folds)", *told))
    first = [_or_least(scores[head][measure.key].value) for head in heads]
    # Bold marks one of several: a single head is neither better nor worse.
    several = len(heads) > 1
    best = [n for n, value in enumerate(first, 1) if several and value == max(first)]
    return Table(
        "nested",
        ("Nested result" if results.kind == "nested" else f"Result, {results.kind}")
        + ("" if all(math.isnan(each.low) for each in shown) else " [95 % interval]"),
        ("", *heads),
        tuple(rows),
        note=" ".join(
            filter(
                None,
                (
                    f"Bold: the highest {measure.title}." if best else "",
                    _interval_note(results, shown, _NO_INTERVAL),
                ),
            )
        ),
        marked=frozenset((0, column) for column in best),
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
            {
                **identity(summary),
                "baseline": title,
                **flat({measure.key: score}),
                "chance": chance,
            }
            for title, score in scores.items()
        ),
    )


def layers_table(results: RunResults) -> Table:
    """Return the score of each layer held fixed; no layer is called better than it was shown."""
    heads, layers, measure = results.heads, results.summary.layers, results.measure
    counts = {(layer, head): results.by_speaker(head, layer) for layer in layers for head in heads}
    scores = {key: intervals(found, measure) for key, found in counts.items()}
    best = {
        head: max(layers, key=lambda layer: _or_least(scores[layer, head][measure.key].value))
        for head in heads
    }
    level = set()
    for head in heads:
        others = [(best[head], layer) for layer in layers if layer != best[head]]
        of_head = {layer: counts[layer, head] for layer in layers}
        for each in compare(of_head, measure, pairs=others):
            if not each.p_holm < RESOLVED:  # of NaN, with few speakers, nothing is resolved
                level.add((each.second, head))

    def cell(key: tuple[str, str]) -> str:
        text = interval_text(scores[key][measure.key], measure)
        return f"≈ {text}" if key in level else text

    note = (
        ""
        if len(layers) == 1
        else (
            "Bold: the best row of each head. It is not a result: to take it is to choose on the "
            "test speakers."
        )
    )
    if level:
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
        marked=frozenset(
            (row, column)
            for row, layer in enumerate(layers)
            for column, head in enumerate(heads, 1)
            if layer == best[head] and len(layers) > 1
        ),
        records=tuple(
            {
                **identity(results.summary),
                "result": "descriptive",
                "head": head,
                "layer": layer,
                **flat(found),
                "below_best": layer != best[head] and (layer, head) not in level,
            }
            for (layer, head), found in scores.items()
        ),
    )


def classes_table(results: RunResults) -> Table:
    """Return the recall of each label."""
    summary, heads = results.summary, results.heads
    found = {head: recall_intervals(results.by_speaker(head)) for head in heads}
    clips = [int((results.clips["label"] == label).sum()) for label in summary.labels]
    speakers = results.speakers_of_label
    return Table(
        "classes",
        f"Recall of each label, {results.kind}",
        (summary.target, "clips", "speakers", *heads),
        tuple(
            (
                label,
                str(clips[n]),
                str(speakers[label]),
                *(percent_interval(found[head][n]) for head in heads),
            )
            for n, label in enumerate(summary.labels)
        ),
        note=_interval_note(
            results,
            [each for head in heads for each in found[head]],
            f"No interval: fewer than {FEWEST_SPEAKERS} speakers hold the label, or one or two of "
            "them hold most of its clips, or the recall is the same whichever speaker is left out.",
        ),
        records=tuple(
            {
                **identity(summary),
                "head": head,
                "label": label,
                **flat({"recall": found[head][n]}),
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
        rows_of = results.clips[column] == group
        clips, labels = int(rows_of.sum()), n_labels(results, rows_of)
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
    return Table(
        "groups",
        f"{measure.title} by group of clips, {results.kind}",
        ("group", "clips", "chance", *heads),
        tuple(rows),
        note=" ".join(
            note
            for note in (
                "Over the labels that occur in the group: compare two groups only where chance is "
                "the same."
                if results.summary.labels
                else "",
                _interval_note(results, shown, _NO_INTERVAL),
            )
            if note
        ),
        records=tuple(records),
    )


def speakers_table(results: RunResults) -> Table:
    """Return the first score of each speaker."""
    heads, measure = results.heads, results.measure
    counts = {head: results.counts(head) for head in heads}
    return Table(
        "speakers" if has_intervals(results) else "few-speakers",
        f"{measure.title} of each speaker, {results.kind}",
        ("speaker", *heads),
        tuple(
            (
                speaker,
                *(
                    score_text(float(measure.first(counts[head][speaker])), measure)
                    for head in heads
                ),
            )
            for speaker in counts[heads[0]]
        ),
        records=tuple(
            {
                **identity(results.summary),
                "head": head,
                "speaker": speaker,
                measure.key: float(measure.first(count)),
            }
            for head in heads
            for speaker, count in counts[head].items()
        ),
    )


def confusion_table(results: RunResults) -> Table:
    """Return who was taken for whom, in clips."""
    labels = results.summary.labels
    counts = {head: results.by_speaker(head).sum(axis=0) for head in results.heads}
    return Table(
        "confusion",
        f"Who was taken for whom, {results.kind}: rows are the truth, columns the prediction",
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
    found: Sequence[Comparison],
    title: str,
    members: Mapping[str, Mapping[str, Any]],
    n_speakers: int,
    measure: Measure,
) -> Table:
    """Return paired comparisons as a table; those that are resolved are marked.

    Parameters
    ----------
    found : sequence of Comparison
        What was compared; one without a p was not tested.
    title : str
        What stands above.
    members : mapping of str to mapping
        By the names that are compared: what identifies each in a CSV file, ``warning`` among it.
    n_speakers : int
        Over how many speakers was tested.
    measure : Measure
        Whose first score is compared.

    Returns
    -------
    Table
    """
    tests = sum(not math.isnan(each.p) for each in found)
    note = f"Bold: resolved, p (Holm) below {RESOLVED}. The others may differ or not."
    if any(math.isnan(each.difference.low) and not math.isnan(each.p) for each in found):
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
    return Table(
        "comparisons",
        title,
        ("pair", f"{measure.title} difference [95 %]", "p", "p (Holm)"),
        tuple(
            (
                f"{each.first} - {each.second}",
                _signed(each.difference, measure),
                p_text(each.p),
                p_text(each.p_holm),
            )
            for each in found
        ),
        note=note,
        marked=frozenset(
            (row, column)
            for row, each in enumerate(found)
            for column in range(4)
            if each.p_holm < RESOLVED
        ),
        records=tuple(
            {
                **{f"first_{name}": value for name, value in members[each.first].items()},
                **{f"second_{name}": value for name, value in members[each.second].items()},
                "difference": each.difference.value,
                "low": each.difference.low,
                "high": each.difference.high,
                "p": each.p,
                "p_holm": each.p_holm,
                "warning": "; ".join(
                    dict.fromkeys(
                        str(members[name]["warning"])
                        for name in (each.first, each.second)
                        if members[name]["warning"]
                    )
                ),
            }
            for each in found
        ),
    )


def _signed(found: Interval, measure: Measure) -> str:
    digits = 1 if measure.in_percent else 3
    value, low, high = (measure.scale * x for x in (found.value, found.low, found.high))
    if math.isnan(low):
        return f"{value:+.{digits}f}"
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def n_labels(results: RunResults, rows: NDArray[np.bool_]) -> int:
    """Return how many labels some clips have; none, if they have ratings."""
    return len(np.unique(results.clips["label"][rows])) if results.summary.labels else 0


def _or_least(score: float) -> float:
    """Return a score that can be compared: one that is not defined is the least."""
    return -math.inf if math.isnan(score) else score


def p_text(value: float) -> str:
    """Return a p-value with three decimals; nothing where there was no test."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
