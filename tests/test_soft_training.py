"""Fine-tuning on the share of raters of each label."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.run.results import read_results
from serpipe.corpora.manifest import read_manifest
from serpipe.features.cache import Cache
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.extract import clip_columns
from serpipe.pipeline.finetune.data import decode_clips
from serpipe.pipeline.finetune.fold_training import FoldTraining, end_to_end_key, validation_clips
from serpipe.pipeline.finetune.kinds import EncoderWithHead
from serpipe.pipeline.finetune.options import TrainingOptions
from serpipe.pipeline.finetune.probe import ProbeChoice
from serpipe.pipeline.finetune.train import make_loss
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.plan import make_plan
from serpipe.progress import say_nothing

from .conftest import Command, write_wav

SPEAKERS = tuple("abcdef")


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """A manifest of 36 short tones of six speakers, each with three raters; two are undecided."""
    draw = np.random.default_rng(0)
    with (tmp_path / "rated.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "speaker", "rater", "pitch"])
        for speaker in SPEAKERS:
            for take in range(6):
                label, other = ("low", "high") if take % 2 else ("high", "low")
                path = f"{speaker}-{take}.wav"
                time = np.arange(int(16000 * draw.uniform(0.3, 0.4))) / 16000
                hertz = 200.0 if label == "low" else 1600.0
                tone = 0.3 * np.sin(2 * np.pi * hertz * draw.uniform(0.9, 1.1) * time)
                write_wav(tmp_path / path, tone + 0.01 * draw.standard_normal(len(tone)))
                heard = [label, label, other if take < 3 else label]
                if speaker in "ab" and take == 0:
                    heard = [label, other]
                for rater, each in enumerate(heard):
                    writer.writerow([path, speaker, f"rater {rater}", each])
    return tmp_path / "rated.csv"


def training_of(manifest: Path, encoder: Path) -> FoldTraining:
    checkpoint = load_checkpoint(str(encoder), None)
    sounds, bad = decode_clips(read_manifest(manifest).clips, checkpoint.front_end)
    assert not bad
    table = dict(sorted(clip_columns(sounds.clips, None).items()))
    protocol = Protocol(target="pitch", split="kfold:3", labels="soft")
    options = TrainingOptions()
    kind = EncoderWithHead(checkpoint, options, str(encoder))
    key = end_to_end_key(kind.identity, "float32", "cpu")
    plan = make_plan(Cache(Path("tones"), key, {}, table, ()), protocol)
    choices = {
        name: ProbeChoice("lr", "1", {"C": 1.0, "max_iter": 1000.0})
        for name in [*(fold.name for fold in plan.split.folds), ""]
    }
    return FoldTraining(
        plan=plan, sounds=sounds, kind=kind,
        options=options, folder=manifest.parent, logs=None, say=say_nothing, choices=choices,
        validation={fold.name: validation_clips(plan, fold) for fold in plan.split.folds},
    )  # fmt: skip


def test_the_targets_of_a_clip_are_the_shares_of_its_raters(
    rated: Path, small_encoder: Path
) -> None:
    training = training_of(rated, small_encoder)
    names = training.names
    heard: dict[str, list[str]] = {}
    for row in csv.DictReader(rated.read_text().splitlines()):
        heard.setdefault(row["path"], []).append(row["pitch"])
    for fold in training.plan.problem.folds:
        rows = training.once(fold.train)
        examples = training.examples(rows, (0.0, 1.0))
        paths = [training.sounds.clips[row].clip.path for row in examples.rows]
        assert len(set(paths)) == len(paths) == 24
        shares = [[heard[path].count(name) / len(heard[path]) for name in names] for path in paths]
        np.testing.assert_allclose(examples.targets, shares, atol=1e-6)


def test_the_loss_of_shares_is_their_cross_entropy_balanced_by_their_sums() -> None:
    draw = np.random.default_rng(0)
    targets = draw.dirichlet(np.ones(3), 20).astype(np.float32)
    logits = draw.standard_normal((20, 3)).astype(np.float32)
    loss = make_loss(targets, 0.0)({"logits": torch.tensor(logits)}, torch.tensor(targets))
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    weights = 20 / (3 * targets.sum(axis=0))
    assert float(loss) == pytest.approx(-(weights * targets * log_p).sum(axis=1).mean(), rel=1e-5)


def test_a_model_starts_with_the_probe_of_all_raters(rated: Path, small_encoder: Path) -> None:
    training = training_of(rated, small_encoder).with_states("cpu")
    states, problem = training.states, training.plan.problem
    assert states is not None
    assert problem.weights is not None
    assert states.shape[1] == 36
    fold = problem.folds[0]
    clips = np.searchsorted(training.plan.target.rows[:36], training.plan.target.rows[fold.train])
    probe = HEADS["lr"](training.choices[fold.name].params, 0)
    given = states[1][clips], problem.labels[fold.train], problem.speakers[fold.train]
    probe.fit(*given, weights=problem.weights[fold.train])  # type: ignore[call-arg]
    model = training.model(fold.name, fold.train)
    bias = model.projector.bias.detach().numpy()[:2]
    scaler, regression = probe.model
    expected = regression.intercept_ - (regression.coef_ / scaler.scale_) @ scaler.mean_
    assert bias[1] - bias[0] == pytest.approx(float(expected[0]), rel=1e-3, abs=1e-3)


def test_training_on_shares_is_recorded_and_scored_against_all_raters(
    serpipe: Command, rated: Path, small_encoder: Path
) -> None:
    command = (
        "finetune", "--manifest", rated, "--target", "pitch", "--encoder", small_encoder,
        "--split", "kfold:3", "--epochs", 1, "--batch-size", 8,
    )  # fmt: skip
    done = serpipe(*command, "--labels", "soft")
    assert done.code == 0, done.err
    results = read_results(Path(done.out.strip().splitlines()[-1]))
    probe = read_results(Path("artifacts/runs", str(results.summary.probe)))
    assert probe.summary.protocol["labels"] == "soft"
    assert len(results.truth) == 34
    assert any(each.name == "raters" for each in report_run(results).tables)
    done = serpipe(*command, "--labels", "all", "--probe", "none")
    assert done.code == 2
    assert "--labels all" in done.err.splitlines()[-1]
