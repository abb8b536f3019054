"""What perturbations of the audio, such as a telephone line, cost a head: a table and a line."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...pipeline.statistics import Comparison, Interval, compare, intervals
from ..run.csv_files import NESTED
from ..run.results import RunResults
from ..score_text import difference_text, interval_text, p_text, percent, score_text, signed_text
from .result_tables import RESOLVED, flat, flat_difference, identity
from .table import Table

#: The row of the clips as they are.
UNPERTURBED = "none"


@dataclass(frozen=True)
class PerturbedScore:
    """The scores of a head under a perturbation.

    Attributes
    ----------
    perturbation : str
        Such as ``"noise:10"``; :data:`UNPERTURBED` for the clips as they are.
    scores : mapping of str to Interval
        Scores by key.
    compared : Comparison or None
        The first score minus that of the clips as they are; None for these.
    changed : float
        Share of the clips whose predicted label changes; NaN for ratings.
    groups : mapping of (str, str) to float
        The first score by column and group of clips, such as ``("sex", "female")``.
    """

    perturbation: str
    scores: dict[str, Interval]
    compared: Comparison | None
    changed: float
    groups: dict[tuple[str, str], float]


def perturbed_scores(results: RunResults, head: str) -> tuple[PerturbedScore, ...]:
    """Return the scores of a head, without perturbation first.

    p-values are corrected for all perturbations by Holm's method.
    """
    measure = results.measure
    predicted = {UNPERTURBED: results.predicted[head][NESTED], **results.perturbed[head]}
    sums = {name: results.count_by_cluster(each) for name, each in predicted.items()}
    pairs = [(name, UNPERTURBED) for name in results.perturbed[head]]
    compared = {each.first: each for each in compare(sums, measure, pairs=pairs)}
    is_label = bool(results.summary.labels)
    group_of_clip = {column: results.group_of_clip(column) for column in results.group_columns}

    def of_groups(of_clips: NDArray[Any]) -> dict[tuple[str, str], float]:
        return {
            (column, group): _first_score(results, of_clips, of_column == group)
            for column, of_column in group_of_clip.items()
            for group in np.unique(of_column).tolist()
        }

    return tuple(
        PerturbedScore(
            name,
            intervals(sums[name], measure),
            compared.get(name),
            float(np.mean(of_clips != predicted[UNPERTURBED])) if is_label else math.nan,
            of_groups(of_clips),
        )
        for name, of_clips in predicted.items()
    )


def perturbed_table(results: RunResults, head: str) -> Table:
    """Return the scores of a head by perturbation."""
    measure, scores = results.measure, perturbed_scores(results, head)
    groups = list(scores[0].groups)
    is_label = bool(results.summary.labels)
    rows, records, bold = [], [], set()
    for number, each in enumerate(scores):
        compared = each.compared
        if compared and compared.p_holm < RESOLVED:
            bold.add((number, 2))
        rows.append((
            each.perturbation,
            interval_text(each.scores[measure.key], measure),
            difference_text(compared.difference, measure) if compared else "",
            p_text(compared.p_holm) if compared else "",
            *([percent(each.changed) if compared else ""] if is_label else []),
            *(score_text(each.groups[group], measure) for group in groups),
        ))  # fmt: skip
        records.append({
            **identity(results.summary),
            "head": head,
            "perturbation": each.perturbation,
            **flat(each.scores),
            **flat_difference(compared),
            "changed": each.changed,
            **{f"{measure.key}_{column}_{group}": each.groups[column, group]
               for column, group in groups},
        })  # fmt: skip
    return Table(
        f"perturbed-{head}",
        f"{head}: what to expect of degraded recordings, such as those of a telephone line",
        (
            "perturbation", f"{measure.title} [95 %]", "difference [95 %]", "p (Holm)",
            *(["% changed"] if is_label else []),
            *(f"{column} {group or '(none)'}" for column, group in groups),
        ),
        tuple(rows),
        note=_note(results),
        bold=frozenset(bold),
        records=tuple(records),
    )  # fmt: skip


def _note(results: RunResults) -> str:
    trains = results.summary.split_kind.trains
    return " ".join([
        "The test clips are perturbed; differences from the unperturbed clips are paired. "
        f"Bold: resolved, p (Holm) below {RESOLVED}.",
        *(["% changed: the share of predictions that change."] if results.summary.labels else []),
        *([
            "In each fold, the head is the one that was fitted there"
            f", to {results.summary.trained_on or 'clips that are not perturbed'}."
        ] if trains else []),
        "Real devices, rooms and networks differ: see docs/how-to/test-robustness.md.",
    ])  # fmt: skip


def perturbed_lines(results: RunResults) -> list[str]:
    """Return a line for each head: the change of its first score by perturbation."""
    measure = results.measure
    lines = []
    for head, by_perturbation in results.perturbed.items():
        unperturbed = _first_score(results, results.predicted[head][NESTED])
        changes = [
            f"{name} {signed_text(_first_score(results, predicted) - unperturbed, measure)}"
            for name, predicted in by_perturbation.items()
        ]
        lines.append(f"{'perturbed':<10} {head}: {measure.title} {', '.join(changes)}")
    return lines


def _first_score(
    results: RunResults, predicted: NDArray[Any], rows: NDArray[np.bool_] | slice = slice(None)
) -> float:
    """Return the first score of predictions, or of some rows of them."""
    return float(results.measure.first(results.count_by_cluster(predicted, rows).sum(axis=0)))
