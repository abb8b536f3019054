"""What unlabelled clips of each test speaker add to a head: a table and a line of text."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import counted
from ...pipeline.enrolment_curve import ANY_LABEL
from ...pipeline.statistics import Comparison, Interval, compare, intervals
from ..run.results import RunResults
from ..score_text import difference_text, interval_text, p_text, score_text
from .result_tables import flat, flat_difference, identity
from .table import Table

#: What a score with enrolment takes for granted; shown with it.
PRESUMED = (
    "Enrolment presumes clips that are known to be of the speaker, and recorded like the clips to "
    "be recognised. Their labels are not used; whole sets, as --normalise speaker needs, are not "
    "needed."
)


@dataclass(frozen=True)
class CurvePoint:
    """The scores with a number of enrolled clips.

    Attributes
    ----------
    n_clips : int
        Number of enrolled clips of each test speaker.
    speakers : int
        Test speakers who have more clips than that.
    enrolled, plain : mapping of str to Interval
        Scores of their other clips by key, with and without enrolment.
    compared : Comparison or None
        The difference of the two; None without enrolled clips.
    adapted_folds : int
        Folds in which so many clips are enough to pay on the training speakers. In the others, the
        head without enrolment is used.
    by_label : mapping of str to tuple of float
        The first score with and without enrolment, if all enrolled clips are of one label.
    """

    n_clips: int
    speakers: int
    enrolled: Mapping[str, Interval]
    plain: Mapping[str, Interval]
    compared: Comparison | None
    adapted_folds: int
    by_label: Mapping[str, tuple[float, float]]

    @property
    def mean_of_labels(self) -> tuple[float, float]:
        """Means over the labels of ``by_label``; NaN if there is none."""
        if not self.by_label:
            return math.nan, math.nan
        first, second = np.mean(list(self.by_label.values()), axis=0).tolist()
        return first, second

    @property
    def worst_label(self) -> str:
        """The label of enrolled clips that costs most, or adds least; empty if there is none."""
        gains = {label: a - b for label, (a, b) in self.by_label.items()}
        return min(gains, key=lambda label: gains[label]) if gains else ""


def curve(results: RunResults, head: str) -> tuple[CurvePoint, ...]:
    """Return the scores of a head by number of enrolled clips, 0 first.

    p-values are corrected for all numbers by Holm's method.
    """
    measure = results.measure
    cluster_of = dict(zip(results.clips["speaker"], results.clusters, strict=True))
    enrolment = results.summary.heads[head].enrolment or {}
    # By number and label of the enrolled clips, and by speaker or group.
    sums: dict[tuple[int, str], dict[str, NDArray[np.int64]]] = {}
    speakers: dict[int, set[str]] = {}
    for each in results.enrolment[head]:
        of_draw = sums.setdefault((each.n_clips, each.drawn_from), {})
        cluster = cluster_of[each.speaker]
        both = np.stack([each.enrolled, each.plain])
        of_draw[cluster] = of_draw[cluster] + both if cluster in of_draw else both
        if each.drawn_from == ANY_LABEL:
            speakers.setdefault(each.n_clips, set()).add(each.speaker)
    stacked = {
        key: np.stack([of_draw[cluster] for cluster in sorted(of_draw)], axis=1)
        for key, of_draw in sums.items()
    }
    numbers = sorted(speakers)
    counts: dict[str, NDArray[Any]] = {}
    for number in numbers:
        counts[f"{number} enrolled"], counts[f"{number} plain"] = stacked[number, ANY_LABEL]
    pairs = [(f"{number} enrolled", f"{number} plain") for number in numbers if number]
    tests = dict(zip(filter(None, numbers), compare(counts, measure, pairs=pairs), strict=True))
    points = []
    for number in numbers:
        enrolled, plain = stacked[number, ANY_LABEL]
        by_label = {}
        for (of_number, label), both in stacked.items():
            if of_number == number and label != ANY_LABEL:
                first = [float(measure.first(each.sum(axis=0))) for each in both]
                by_label[label] = (first[0], first[1])
        choices = enrolment.get("choices", ())
        adapted = sum(0 < choice["fewest"] <= number for choice in choices)
        points.append(
            CurvePoint(
                number, len(speakers[number]), intervals(enrolled, measure),
                intervals(plain, measure), tests.get(number), adapted, by_label,
            )
        )  # fmt: skip
    return tuple(points)


def fewest_clips(results: RunResults, head: str) -> int:
    """Return the number of clips below which it is better not to enrol; 0 if it never pays."""
    final = (results.summary.heads[head].enrolment or {}).get("final", {})
    return int(final.get("fewest", 0))


def enrolment_table(results: RunResults, head: str, points: Sequence[CurvePoint]) -> Table:
    """Return the scores of a head by number of enrolled clips, which :func:`curve` returns."""
    measure, folds = results.measure, len(results.summary.heads[head].choices)
    title = measure.title
    rows, records = [], []
    for point in points:
        compared, (of_label, without) = point.compared, point.mean_of_labels
        worst = point.worst_label
        worst_gain = point.by_label[worst][0] - point.by_label[worst][1] if worst else math.nan
        rows.append((
            str(point.n_clips),
            interval_text(point.enrolled[measure.key], measure),
            score_text(point.plain[measure.key].value, measure),
            difference_text(compared.difference, measure) if compared else "",
            p_text(compared.p_holm) if compared else "",
            f"{point.adapted_folds} of {folds}" if point.n_clips else "",
            f"{score_text(of_label, measure)} ({_gain(of_label - without, measure.scale)})"
            if worst else "",
            f"{worst} ({_gain(worst_gain, measure.scale)})" if worst else "",
        ))  # fmt: skip
        records.append({
            **identity(results.summary),
            "head": head,
            "enrolled_clips": point.n_clips,
            "scored_speakers": point.speakers,
            **flat(point.enrolled),
            "not_enrolled": point.plain[measure.key].value,
            **flat_difference(compared),
            "adapted_folds": point.adapted_folds,
            "one_label": of_label,
            "one_label_not_enrolled": without,
            "worst_label": worst,
            "worst_label_difference": worst_gain,
        })  # fmt: skip
    return Table(
        f"enrolment-{head}",
        f"{head}: unlabelled clips of each test speaker enrolled [95 % interval]",
        (
            "enrolled clips", f"{title} of other clips", f"{title} not enrolled, same clips",
            "difference", "p (Holm)", "folds that adapt", f"{title} if all are of one label",
            "worst label",
        ),
        tuple(rows),
        note=_note(results, head, points),
        records=tuple(records),
    )  # fmt: skip


def _note(results: RunResults, head: str, points: Sequence[CurvePoint]) -> str:
    enrolment = results.summary.heads[head].enrolment or {}
    fewest = fewest_clips(results, head)
    advice = (
        f"On all speakers, enrolment pays from {counted(fewest, 'clip')} on, and it is better not "
        "to enrol fewer. In each fold this number is chosen on the training speakers; with fewer "
        "clips the head without enrolment is used."
        if fewest
        else "On all speakers enrolment does not pay with any of these numbers of clips; folds in "
        "which it does not pay on the training speakers use the head without enrolment."
    )
    n_speakers = len(results.summary.speakers)
    few = [p for p in points if p.speakers < n_speakers]
    scored = "; ".join(f"with {p.n_clips}, {counted(p.speakers, 'speaker')}" for p in few)
    return " ".join([
        f"{enrolment.get('draws')} draws of clips whatever their labels, and "
        f"{enrolment.get('label_draws')} from the clips of each label (the hard case: mean over "
        "labels, and the label that is worst to enrol). A difference is from the head without "
        "enrolment on the same clips.",
        advice,
        *([f"Speakers with too few clips are not scored: {scored}."] if few else []),
        PRESUMED,
    ])  # fmt: skip


def enrolment_lines(results: RunResults) -> list[str]:
    """Return a line for each head: its first score by number of enrolled clips."""
    lines = []
    for head in results.enrolment:
        scores = [
            f"{score_text(each.enrolled[results.measure.key].value, results.measure)} with "
            f"{each.n_clips}"
            for each in curve(results, head)
        ]
        fewest = fewest_clips(results, head)
        lines.append(
            f"{'enrolment':<10} {head}: {results.measure.title} {', '.join(scores)} clips of each "
            "test speaker; " + (f"pays from {fewest} on" if fewest else "does not pay")
        )
    return lines


def _gain(value: float, scale: int) -> str:
    return f"{scale * value:+.1f}"
