"""Scores of probabilities, and their place in the report."""

import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from serpipe.artifacts.report.probabilities import probabilities_table, read_probabilities
from serpipe.artifacts.run.results import read_results
from serpipe.artifacts.run.summary import read_summary, write_summary
from serpipe.pipeline.calibration import apply_temperature, label_weights
from serpipe.pipeline.probability_scores import (
    calibration_error,
    error_of_exact_probabilities,
    risk_area,
    risk_coverage,
    score_probabilities,
)
from sklearn.metrics import log_loss


@pytest.fixture
def simulated() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that are exact, the truth, and speakers."""
    draw = np.random.default_rng(0)
    probabilities = softmax(2 * draw.standard_normal((3000, 3)), axis=1)
    truth = (probabilities.cumsum(axis=1) < draw.random((3000, 1))).sum(axis=1)
    return probabilities, truth, np.repeat([f"{n:02d}" for n in range(20)], 150)


def test_exact_probabilities_have_the_error_that_chance_explains(
    simulated: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    probabilities, truth, speakers = simulated
    predicted = probabilities.argmax(axis=1)
    exact = score_probabilities(probabilities, predicted, truth, speakers)
    assert exact.ece == pytest.approx(exact.ece_of_exact, abs=0.015)
    sharp = apply_temperature(probabilities, 0.3, "probability")
    off = score_probabilities(sharp, predicted, truth, speakers)
    assert off.ece > 5 * off.ece_of_exact
    assert off.brier.value > exact.brier.high and off.log_loss.value > exact.log_loss.high
    assert off.risk.value == pytest.approx(exact.risk.value, abs=0.02)


def test_scores_agree_with_their_definitions_and_weigh_every_label_alike(
    simulated: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    probabilities, truth, speakers = simulated
    kept = (truth != 2) | (np.arange(3000) % 5 == 0)  # a rare label
    probabilities, truth, speakers = probabilities[kept], truth[kept], speakers[kept]
    weights = label_weights(truth)
    assert np.bincount(truth, weights) == pytest.approx(np.full(3, 1 / 3))
    predicted = probabilities.argmax(axis=1)
    scores = score_probabilities(probabilities, predicted, truth, speakers)
    squared = np.square(probabilities - np.eye(3)[truth]).sum(axis=1)
    assert scores.brier.value == pytest.approx(weights @ squared)
    assert scores.log_loss.value == pytest.approx(
        log_loss(truth, probabilities, sample_weight=weights)
    )
    for each in (scores.brier, scores.log_loss, scores.risk):
        assert each.low < each.value < each.high


def test_the_risk_falls_with_coverage_where_probabilities_rank_the_errors() -> None:
    confidence = np.linspace(0.99, 0.5, 100)
    is_right, weights = np.arange(100) < 75, np.full(100, 0.01)
    coverage, risk = risk_coverage(confidence, is_right, weights)
    assert coverage[-1] == pytest.approx(1) and risk[-1] == pytest.approx(0.25)
    assert (risk[:75] == 0).all() and (np.diff(risk[74:]) > 0).all()
    best = risk_area(confidence, is_right, weights)
    assert best == pytest.approx(risk.mean())
    assert best < risk_area(confidence[::-1], is_right, weights)


def test_one_bin_measures_the_gap_between_probability_and_accuracy() -> None:
    confidence, is_right = np.full(40, 0.9), np.arange(40) < 20
    weights = np.full(40, 1 / 40)
    assert calibration_error(confidence, is_right, weights) == pytest.approx(0.4)
    assert error_of_exact_probabilities(confidence, weights) < 0.1


def test_a_label_that_no_clip_has_does_not_spoil_the_scores() -> None:
    draw = np.random.default_rng(0)
    probabilities = softmax(draw.standard_normal((200, 3)), axis=1)
    truth, speakers = draw.integers(2, size=200), np.tile(np.arange(10).astype(str), 20)
    scores = score_probabilities(probabilities, probabilities.argmax(axis=1), truth, speakers)
    assert scores.brier.low < scores.brier.value < scores.brier.high


def test_the_report_applies_the_temperature_of_each_fold(fitted_once: Path) -> None:
    (run,) = (fitted_once / "artifacts" / "runs").iterdir()
    results = read_results(run)
    probabilities = read_probabilities(results)
    assert list(probabilities) == ["lr", "svm"]
    with (run / "predictions" / "svm.csv").open(encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    scores = np.array([[float(row[name]) for name in row if name.startswith("score_")]])
    (choice,) = (
        each for each in results.summary.heads["svm"].choices if each["fold"] == row["fold"]
    )
    np.testing.assert_allclose(
        probabilities["svm"].after[:1], softmax(scores / choice["temperature"], axis=1)
    )
    table = probabilities_table(results, probabilities)
    assert [record["head"] for record in table.records] == ["lr", "svm"]
    for record, each in zip(table.records, probabilities.values(), strict=True):
        assert record["calibrated"]
        clips = np.arange(len(each.truth))
        expected = -np.log(each.after[clips, each.truth]).mean()
        assert record["log_loss"] == pytest.approx(expected)  # as many clips of every label


def test_a_run_without_temperatures_is_reported_as_not_calibrated(
    fitted_once: Path, tmp_path: Path
) -> None:

    (made,) = (fitted_once / "artifacts" / "runs").iterdir()
    run = shutil.copytree(made, tmp_path / made.name)
    summary = read_summary(run)
    heads = {
        name: dataclasses.replace(
            head,
            choices=[{k: v for k, v in c.items() if k != "temperature"} for c in head.choices],
        )
        for name, head in summary.heads.items()
    }
    write_summary(run, dataclasses.replace(summary, heads=heads))
    for each in read_probabilities(read_results(run)).values():
        assert not each.is_calibrated
        np.testing.assert_array_equal(each.before, each.after)
