"""The calibrated probabilities of a run, and the table of how well they agree with the truth."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import UserError
from ...pipeline.calibration import apply_temperature, label_weights
from ...pipeline.heads import HEADS
from ...pipeline.probability_scores import (
    BINS,
    ProbabilityScores,
    calibration_error,
    score_probabilities,
)
from ...pipeline.statistics import Interval
from ..run.csv_files import NESTED, predictions_name, read_table
from ..run.results import RunResults
from ..run.ties_file import Ties, read_ties
from ..score_columns import score_columns
from .result_tables import flat, identity
from .table import Table

_NOTE = (
    "Of clips of left-out speakers, calibrated inside each fold where it says so; every label "
    f"counts alike. ECE: expected calibration error of the predicted label in {BINS} equal bins; "
    "exact probabilities: what it would be by chance if the probabilities were exact. Area under "
    "risk-coverage: the mean share of errors among the clips with the highest probabilities, over "
    "all shares of clips kept."
)


@dataclass(frozen=True)
class HeadProbabilities:
    """Nested out-of-fold probabilities of a head."""

    before: NDArray[np.float64]  #: Without calibration, shape (n_clips, n_labels).
    after: NDArray[np.float64]  #: Calibrated inside the folds, where it is.
    is_calibrated: bool
    predicted: NDArray[np.intp]  #: Predicted labels as column numbers, shape (n_clips,).
    truth: NDArray[np.intp]  #: True labels as column numbers, shape (n_clips,).

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Probability of the predicted label, shape (n_clips,)."""
        return np.asarray(self.after[np.arange(len(self.predicted)), self.predicted])

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """Whether the predicted label is the true one, shape (n_clips,)."""
        return np.asarray(self.predicted == self.truth)

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weights of clips by which every label counts alike, shape (n_clips,)."""
        return label_weights(self.truth)


def read_probabilities(results: RunResults) -> dict[str, HeadProbabilities]:
    """Read the scores of each head, and calibrate them by the temperature of their fold.

    Heads whose scores cannot be read as probabilities are omitted: those of a run that does not say
    what they are, and ``best``, if it chose a head of a package that is not installed.
    """
    labels = list(results.summary.labels)
    if not labels:
        return {}
    truth = np.searchsorted(labels, results.truth)
    heads = {}
    for head in results.heads:
        meanings = _meanings(results, head)
        if not meanings:
            continue
        scores = _read_scores(results, head)
        folds = results.clips["fold"]
        uncalibrated = {fold: (scores_are, None) for fold, (scores_are, _) in meanings.items()}
        before = _calibrate(scores, folds, uncalibrated)
        after = _calibrate(scores, folds, meanings)
        is_calibrated = all(temperature for _, temperature in meanings.values())
        predicted = np.searchsorted(labels, results.predicted[head][NESTED])
        heads[head] = HeadProbabilities(before, after, is_calibrated, predicted, truth)
    return heads


def read_tied_probabilities(
    results: RunResults, head: str
) -> tuple[Ties, NDArray[np.float64]] | None:
    """Read the clips without a majority of raters, and their calibrated probabilities.

    ``head`` is one of those that :func:`read_probabilities` returns. None if the run has no such
    clips.
    """
    ties = read_ties(results.run, head, results.summary)
    if ties is None:
        return None
    return ties, _calibrate(ties.scores, ties.folds, _meanings(results, head))


def _calibrate(
    scores: NDArray[np.float64],
    folds: NDArray[np.str_],
    meanings: Mapping[str, tuple[str, float | None]],
) -> NDArray[np.float64]:
    """Return probabilities from scores, given what they are, and a temperature, by fold."""
    probabilities = np.empty_like(scores)
    for fold, (scores_are, temperature) in meanings.items():
        rows = folds == fold if fold else np.ones(len(folds), bool)
        probabilities[rows] = apply_temperature(scores[rows], temperature or 1.0, scores_are)
    return probabilities


def _meanings(results: RunResults, head: str) -> dict[str, tuple[str, float | None]]:
    """Return what the scores are, and their temperature if any, by fold.

    The fold is empty if one meaning is that of all. Empty where the meaning is not known.
    """
    summary = results.summary.heads[head]
    if summary.scores_are.startswith("probabilities"):  # of a model
        return {"": ("probability", None)}
    meanings: dict[str, tuple[str, float | None]] = {}
    for choice in summary.choices:
        scores_are = summary.scores_are
        if "head" in choice:
            if choice["head"] not in HEADS:
                return {}
            scores_are = HEADS[choice["head"]].scores_are
        meanings[str(choice["fold"])] = (scores_are, choice.get("temperature"))
    folds = set(results.clips.get("fold", np.array([], str)).tolist())
    return meanings if folds <= set(meanings) else {}


def _read_scores(results: RunResults, head: str) -> NDArray[np.float64]:
    """Return the nested scores, shape (n_clips, n_labels); NaN where a label has none."""
    labels = results.summary.labels
    path = results.run / predictions_name(head)
    columns = dict(zip(labels, score_columns(labels), strict=True))
    rows = [
        [row.get(column, row.get(f"score {label}")) or "nan" for label, column in columns.items()]
        for row in read_table(results.run, predictions_name(head), results.summary)
        if row["layer"] == NESTED
    ]
    try:
        return np.array(rows, np.float64)
    except ValueError as error:
        raise UserError(f"{path}: a score is not a number ({error}); fit again") from None


def probabilities_table(
    results: RunResults, probabilities: Mapping[str, HeadProbabilities]
) -> Table:
    """Return calibration error, Brier score, log-loss and risk-coverage area of each head."""
    rows, records = [], []
    for head, each in probabilities.items():
        scores = score_probabilities(each.after, each.predicted, each.truth, results.clusters)
        predicted = each.before[np.arange(len(each.predicted)), each.predicted]
        before = calibration_error(predicted, each.is_right, each.weights)
        rows.append(_row(head, each, scores, before))
        records.append(
            {
                **identity(results.summary),
                "head": head,
                "calibrated": each.is_calibrated,
                "ece": scores.ece,
                "ece_before": before,
                "ece_of_exact": scores.ece_of_exact,
                **flat({"brier": scores.brier, "log_loss": scores.log_loss}),
                **flat({"risk_coverage_area": scores.risk}),
            }
        )
    return Table(
        "probabilities",
        f"Probabilities, {results.result_kind} [95 % interval]",
        ("head", "calibrated", "ECE", "before", "if exact", "Brier", "log-loss", "risk-coverage"),
        tuple(rows),
        note=_NOTE,
        records=tuple(records),
    )


def _row(
    head: str, each: HeadProbabilities, scores: ProbabilityScores, before: float
) -> tuple[str, ...]:
    return (
        head,
        "yes" if each.is_calibrated else "no",
        f"{scores.ece:.3f}",
        f"{before:.3f}",
        f"{scores.ece_of_exact:.3f}",
        *(interval_text(interval) for interval in (scores.brier, scores.log_loss, scores.risk)),
    )


def interval_text(interval: Interval) -> str:
    """Return a number with its interval, if it has one, with three decimals."""
    if math.isnan(interval.low):
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}-{interval.high:.3f}]"
