"""Probabilities are calibrated on speakers that were held out, in the folds and in bundles."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from serpipe.artifacts.models.bundle import load_bundle, save_bundle
from serpipe.artifacts.onnx_export.heads import head_module
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.pipeline.calibration import (
    HIGHEST,
    TEMPERATURE_SCALED,
    apply_temperature,
    fit_temperature,
)
from serpipe.pipeline.fit import ALL, fit_final
from serpipe.pipeline.heads import HEADS, Grid, combinations
from sklearn.metrics import log_loss

from .conftest import write_hashed
from .messages import raises_about
from .test_bundle import bundle_fields
from .test_fit import CLASSIFIERS, GRIDS, clips, fit, loso

FIXED: Grid = {**GRIDS["lr"], "C": (1.0,)}
(PARAMS,) = combinations(FIXED)


@pytest.mark.parametrize("scores_are", ["probability", "decision value"])
@pytest.mark.parametrize("true_temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_simulated_labels_is_recovered(
    true_temperature: float, scores_are: str
) -> None:
    draw = np.random.default_rng(0)
    logits = 3 * draw.standard_normal((20_000, 4))
    p = softmax(logits / true_temperature, axis=1)
    codes = (p.cumsum(axis=1) < draw.random((len(p), 1))).sum(axis=1)
    scores = softmax(logits, axis=1) if scores_are == "probability" else logits
    temperature = fit_temperature(scores, codes, scores_are)
    assert temperature == pytest.approx(true_temperature, rel=0.05)
    calibrated = apply_temperature(scores, temperature, scores_are)
    np.testing.assert_array_equal(calibrated.argmax(axis=1), scores.argmax(axis=1))
    np.testing.assert_allclose(calibrated, softmax(logits / temperature, axis=1), atol=1e-6)


def test_every_label_counts_alike_for_a_temperature() -> None:
    draw = np.random.default_rng(0)
    logits, codes = 2 * draw.standard_normal((300, 3)), draw.integers(3, size=300)
    repeated = np.r_[np.arange(300), *[np.flatnonzero(codes == 0)] * 9]
    once = fit_temperature(logits, codes, "decision value")
    assert fit_temperature(logits[repeated], codes[repeated], "decision value") == pytest.approx(
        once, rel=1e-3
    )


def test_clips_and_labels_without_scores_are_ignored() -> None:
    draw = np.random.default_rng(0)
    logits, codes = draw.standard_normal((200, 3)), draw.integers(2, size=200)
    logits[np.arange(200), codes] += 1
    expected = fit_temperature(logits[:100, :2], codes[:100], "decision value")
    logits[100:], logits[:, 2] = np.nan, np.nan
    assert fit_temperature(logits, codes, "decision value") == pytest.approx(expected, rel=1e-3)
    assert (apply_temperature(logits[:100], 2.0, "decision value")[:, 2] == 0).all()
    assert np.isnan(fit_temperature(logits[100:], codes[100:], "decision value"))


def test_scores_that_know_nothing_become_nearly_equal_probabilities() -> None:
    draw = np.random.default_rng(0)
    scores = softmax(10 * draw.standard_normal((400, 4)), axis=1)
    temperature = fit_temperature(scores, np.tile(np.arange(4), 100), "probability")
    assert temperature > HIGHEST / 2
    assert apply_temperature(scores, temperature, "probability").max(axis=1).mean() < 0.6


@pytest.mark.parametrize("name", ["lda", "lr", "lgbm", "sgd"])
def test_temperatures_make_the_probabilities_of_new_speakers_better(name: str) -> None:
    X, labels, speakers = clips(n_speakers=12, per_emotion=3, signal=0.6, width=60)
    problem = loso(labels, speakers)
    fitted = fit(name, {"3": X}, problem)
    codes = np.searchsorted(problem.names, labels)
    before, after = np.empty((2, len(X), 3))
    for fold, choice in zip(problem.folds, fitted.choices, strict=True):
        scores = fitted.nested.scores[fold.test]
        before[fold.test] = apply_temperature(scores, 1.0, HEADS[name].scores_are)
        after[fold.test] = apply_temperature(scores, choice.temperature, HEADS[name].scores_are)
    assert log_loss(codes, after) < log_loss(codes, before)


@pytest.mark.parametrize("grid", [(1.0,), (0.1, 1.0)])
def test_the_labels_of_test_speakers_do_not_change_their_temperature(
    grid: tuple[float, ...],
) -> None:
    """Nor does it matter whether there is anything to choose."""
    X, labels, speakers = clips()
    changed = np.where(speakers == "00", np.roll(labels, 5), labels)
    fixed: Grid = {**GRIDS["lr"], "C": grid}
    temperatures = [
        fit("lr", {"3": X}, loso(y, speakers), grid=fixed).choices[0].temperature
        for y in (labels, changed)
    ]
    assert temperatures[0] == temperatures[1] > 0


def test_with_nothing_to_choose_calibration_changes_no_score() -> None:
    X, labels, speakers = clips()
    fixed = fit("lr", {"3": X}, loso(labels, speakers), grid=FIXED)
    for fold in loso(labels, speakers).folds:
        head = HEADS["lr"](PARAMS).fit(X[fold.train], labels[fold.train], speakers[fold.train])
        np.testing.assert_allclose(fixed.nested.scores[fold.test], head.predict_proba(X[fold.test]))
    assert all(np.isnan(result.inner).all() for result in fixed.results.values())


def test_two_speakers_allow_no_calibration_in_the_folds() -> None:
    X, labels, speakers = clips(n_speakers=2)
    fixed = fit("lr", {"3": X}, loso(labels, speakers), grid=FIXED)
    assert all(np.isnan(choice.temperature) for choice in fixed.choices)
    assert fixed.final.temperature > 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_bundle_divides_logits_by_its_temperature_and_exports_so(
    name: str, tmp_path: Path
) -> None:
    X, labels, speakers = clips()
    fitted, _ = fit_final(HEADS[name], bundle_fields(name)["parameters"], X, loso(labels, speakers))
    save_bundle(tmp_path, fitted, temperature=2.5, **bundle_fields(name))
    bundle = load_bundle(tmp_path)
    predicted, probabilities = bundle.predict({"3": X})
    np.testing.assert_array_equal(predicted, fitted.predict(X))
    scores = fitted.decision_scores(X)
    logits = scores if name.startswith("svm") else np.log(scores)
    np.testing.assert_allclose(np.log(probabilities), log_softmax(logits / 2.5, axis=1), atol=1e-6)
    exported, chosen = head_module(name, bundle.fitted, 2.5)(torch.from_numpy(X))
    np.testing.assert_allclose(exported, probabilities, atol=1e-6)
    np.testing.assert_array_equal(np.unique(labels)[chosen], predicted)
    assert bundle.summary.probabilities == TEMPERATURE_SCALED


@pytest.mark.parametrize("temperature", [0, -1.0, "2", True])
def test_a_bundle_without_a_positive_temperature_is_refused(
    temperature: object, tmp_path: Path
) -> None:
    X, labels, speakers = clips()
    fitted, _ = fit_final(HEADS["lr"], PARAMS, X, loso(labels, speakers))
    save_bundle(tmp_path, fitted, **bundle_fields("lr"))
    content = json.loads((tmp_path / "bundle.json").read_text())
    write_hashed(tmp_path / "bundle.json", content | {"temperature": temperature})
    with raises_about(UserError, tmp_path / "bundle.json", "temperature"):
        load_bundle(tmp_path)


def test_a_run_records_the_temperature_of_every_fold_and_of_the_bundle(fitted_once: Path) -> None:
    for run in sorted((fitted_once / "artifacts" / "runs").iterdir()):
        results = read_results(run)
        for name, head in results.summary.heads.items():
            assert all(choice["temperature"] > 0 for choice in head.choices)
            summary = load_bundle(run / "bundles" / name).summary
            assert head.final["fold"] == ALL
            assert summary.temperature == head.final["temperature"]
            assert summary.probabilities == TEMPERATURE_SCALED
