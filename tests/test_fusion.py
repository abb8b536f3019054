"""Fusion learns its weights from training speakers alone, and its bundle is what was tested."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from serpipe.artifacts.models.bundle import load_bundle, save_bundle
from serpipe.artifacts.onnx_export.heads import head_module
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.pipeline.fit import Choice, HeadFit, Problem
from serpipe.pipeline.folds import inner_folds
from serpipe.pipeline.fusion import fuse_heads, learn_weights
from serpipe.pipeline.heads import HEADS, FusedHead, combined_heads, find_heads
from serpipe.pipeline.heads.fused import SMALLEST, FusedMember, weigh_members
from serpipe.pipeline.heads.lda import LDA

from .conftest import Command
from .messages import raises_about
from .test_bundle import bundle_fields
from .test_fit import EMOTIONS, GRIDS, clips, fit, loso

NAMES = ("lda", "svm")


def layers() -> tuple[dict[str, np.ndarray], Problem]:
    """Two layers of which each tells something else, and a third that tells nothing."""
    X, labels, speakers = clips(n_speakers=6, per_emotion=6, signal=0.5)
    noise = np.random.default_rng(1).standard_normal((len(X), 8)).astype(np.float32)
    return {"0": noise, "1": X[:, :10], "2": X[:, 10:]}, loso(labels, speakers)


def fits(embeddings: dict[str, np.ndarray], problem: Problem) -> dict[str, HeadFit]:
    return {
        name: fit(name, embeddings, problem, among_heads=True, keep_scores=True) for name in NAMES
    }


def fused(embeddings: dict[str, np.ndarray], problem: Problem) -> HeadFit:
    return fuse_heads({name: HEADS[name] for name in NAMES}, fits(embeddings, problem), problem)


def members_of(choice: Choice) -> dict[tuple[str, str], float]:
    return {member: round(weight, 5) for member, weight in choice.members.items()}


def test_the_weight_of_a_single_member_is_its_inverse_temperature() -> None:
    draw = np.random.default_rng(0)
    log_p = log_softmax(5 * draw.standard_normal((300, 3)), axis=1)
    codes = np.array([draw.choice(3, p=np.exp(row / 4) / np.exp(row / 4).sum()) for row in log_p])
    share = 1 / np.bincount(codes)[codes] / 3

    def loss(weight: float) -> float:
        chosen = log_softmax(weight * log_p, axis=1)[np.arange(300), codes]
        return float(-share @ chosen + 0.005 * weight**2)

    expected = minimize_scalar(loss, bounds=(0, 2), method="bounded").x
    assert learn_weights(log_p[None], codes) == pytest.approx(expected, abs=1e-3)


def test_equal_members_share_a_weight_and_one_that_tells_nothing_gets_none() -> None:
    draw = np.random.default_rng(0)
    codes = np.arange(300) % 3
    telling = log_softmax(draw.standard_normal((300, 3)) + 2 * np.eye(3)[codes], axis=1)
    misleading = log_softmax(-2 * np.eye(3)[codes] + draw.standard_normal((300, 3)), axis=1)
    weights = learn_weights(np.stack([telling, misleading, telling]), codes)
    assert weights[1] == 0 < weights[0]
    assert weights[0] == pytest.approx(weights[2], rel=1e-3)


def test_members_that_tell_nothing_give_nearly_uniform_probabilities() -> None:
    codes = np.arange(300) % 3
    misleading = log_softmax(-2 * np.eye(3)[codes], axis=1)[None]
    weights = learn_weights(np.concatenate([misleading, misleading]), codes)
    assert weights[0] == weights[1] > 0
    np.testing.assert_allclose(weigh_members(misleading, weights[:1]), 1 / 3, atol=1e-3)


def test_fused_predictions_are_those_of_a_plain_loop() -> None:
    embeddings, problem = layers()
    result = fuse_heads(
        {"lda": LDA},
        {"lda": fit("lda", embeddings, problem, keep_scores=True)},
        problem,
    )
    agree = []
    for fold in problem.folds:
        labels, speakers = problem.labels[fold.train], problem.speakers[fold.train]
        inner = np.empty((3, len(fold.train), 3))
        outer = np.empty((3, len(fold.test), 3))
        for index, X in enumerate(embeddings.values()):
            for part in inner_folds(labels, speakers):
                plain = LDA.estimator(3).fit(X[fold.train][part.train], labels[part.train])
                inner[index, part.test] = plain.predict_proba(X[fold.train][part.test])
            plain = LDA.estimator(3).fit(X[fold.train], labels)
            outer[index] = plain.predict_proba(X[fold.test])
        weights = learn_weights(np.log(inner.clip(SMALLEST)), np.searchsorted(EMOTIONS, labels))
        scores = np.tensordot(weights, np.log(outer.clip(SMALLEST)), axes=1)
        nested = result.nested.predicted[np.isin(problem.tested, fold.test)]
        agree += (EMOTIONS[scores.argmax(axis=1)] == nested).tolist()
    assert np.mean(agree) > 0.99
    layer = max(result.choices[0].members, key=lambda member: result.choices[0].members[member])[1]
    assert result.choices[0].layer == layer


def test_labels_of_test_speakers_have_no_part_in_the_weights() -> None:
    embeddings, problem = layers()
    fold = problem.folds[2]
    labels = problem.labels.copy()
    labels[fold.test] = np.roll(labels[fold.test], 7)
    of_fold = [
        next(c for c in fused(embeddings, each).choices if c.fold == fold.name)
        for each in (problem, replace(problem, labels=labels))
    ]
    assert members_of(of_fold[0]) == members_of(of_fold[1])


def test_a_fusion_is_better_than_its_members_and_at_chance_without_information() -> None:
    embeddings, problem = layers()
    single, both = fits(embeddings, problem), fused(embeddings, problem)

    def share_right(fitted: HeadFit) -> float:
        return float(np.mean(fitted.nested.predicted == problem.labels))

    assert share_right(both) > max(map(share_right, single.values()))
    shuffled = replace(problem, labels=np.random.default_rng(0).permutation(problem.labels))
    nothing = fused(embeddings, shuffled)
    assert np.mean(nothing.nested.predicted == shuffled.labels) == pytest.approx(1 / 3, abs=0.12)


def test_a_label_of_one_training_speaker_does_not_change_the_weights() -> None:
    embeddings, problem = layers()
    common = fused(embeddings, problem).final.members
    labels = problem.labels.astype("U8")
    labels[np.flatnonzero((problem.speakers == "00") & (labels == "sad"))[:3]] = "rare"
    result = fused(embeddings, replace(problem, labels=labels))
    assert np.isfinite(result.nested.scores).all()
    np.testing.assert_allclose(result.nested.scores.sum(axis=1), 1)
    assert sum(result.final.members.values()) > 0.7 * sum(common.values())


def fused_head(X: np.ndarray, labels: np.ndarray, speakers: np.ndarray) -> FusedHead:
    members = [
        FusedMember(HEADS[name]({**dict.fromkeys(GRIDS[name], 1.0), **first(name)}), a, b, weight)
        for name, a, b, weight in (
            ("lda", 0, 10, 0.4), ("svm", 10, 20, 0.7), ("lr", 0, 10, 0.2), ("lgbm", 10, 20, 0.1),
        )
    ]  # fmt: skip
    return FusedHead({}, 0, members).fit(X, labels, speakers)


def first(name: str) -> dict[str, float]:
    return {key: values[0] for key, values in GRIDS[name].items()}


def test_a_saved_fusion_predicts_the_same_and_is_the_same_bytes(tmp_path: Path) -> None:
    X, labels, speakers = clips()
    head = fused_head(X, labels, speakers)
    fields = bundle_fields("lda") | {"head": "fuse"}
    fields["layer"] = {"name": "concat-1-2", "layers": ["1", "2"], "how": "concat"}
    fields["encoder"] = {"width": 10}
    for number in range(2):
        again = fused_head(X, labels, speakers)
        save_bundle(tmp_path / str(number), again, **fields)
    one, other = (tmp_path / str(number) / "head.zip" for number in range(2))
    assert one.read_bytes() == other.read_bytes()
    bundle = load_bundle(tmp_path / "0")
    predicted, probabilities = bundle.predict({"1": X[:, :10], "2": X[:, 10:]})
    np.testing.assert_allclose(probabilities, head.predict_proba(X), rtol=1e-9)
    assert predicted.tolist() == head.predict(X).tolist()
    assert np.mean(predicted == labels) > 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"members": [["fuse", 0, 10, 1.0]]},
        {"members": [["../lda", 0, 10, 1.0]]},
        {"members": [["lda", 0, 10, 1.0], ["lda", 0, 10, 1.0]]},
        {"members": [["lda", 0, 10, -1.0]]},
        {"members": [["lda", 0, 10, float("nan")]]},
        {"members": [["lda", -10, -1, 1.0]]},
        {"members": 3},
        {},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_a_file_that_is_no_fusion_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    X, labels, speakers = clips()
    member = FusedMember(LDA({}), 0, 10, 1.0)
    FusedHead({}, 0, [member]).fit(X, labels, speakers).save(tmp_path / "head.zip")
    assert FusedHead.load(tmp_path / "head.zip").predict(X).tolist()
    with zipfile.ZipFile(tmp_path / "head.zip") as archive:
        about, content = json.loads(archive.read("fusion.json")), archive.read("0")
    with zipfile.ZipFile(tmp_path / "head.zip", "w") as archive:
        archive.writestr("fusion.json", json.dumps(about | change if change else {}))
        archive.writestr("0", content)
    with raises_about(UserError, tmp_path / "head.zip"):
        FusedHead.load(tmp_path / "head.zip").predict_proba(X)


def test_values_of_head_name_what_is_fused() -> None:
    assert [head.name for head in find_heads("fuse")] == ["lda", "svm"]
    assert [head.name for head in find_heads("lr,lda,fuse")] == ["lda", "lr"]
    assert combined_heads("lr,fuse,best") == ("best", "fuse")
    assert combined_heads(None) == ("fuse",) and combined_heads(None, "regression") == ()
    with pytest.raises(UserError):
        find_heads("ridge,fuse", "regression")
    with pytest.raises(UserError):
        find_heads("lda,best,fuse")  # one head to choose from


def test_a_run_without_head_fits_a_fusion_that_is_reported_and_predicts(
    serpipe: Command, extracted_once: Path, sample: Path, small_encoder: Path
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    done = serpipe("fit", "--split", "kfold:3", "--jobs", 1)
    assert done.code == 0, done.err
    run = Path(done.out.strip().splitlines()[-1])
    results = read_results(run)
    assert results.heads == ("lda", "svm", "fuse")
    report = json.loads(serpipe("report", run, "--format", "json").out)
    members = report["tables"]["members"]
    assert sum(member["mean_share"] for member in members) == pytest.approx(1)
    clip = sample / "Actor_01" / "03-01-05-01-01-02-01.flac"
    said = serpipe(
        "predict", clip, "--model", run / "bundles" / "fuse", "--encoder", small_encoder,
        "--format", "json",
    )  # fmt: skip
    assert said.code == 0, said.err
    (prediction,) = json.loads(said.out)["predictions"]
    assert max(prediction["scores"], key=prediction["scores"].get) == prediction["label"]
    fixed = serpipe("fit", "--layers", 2, "--grid", "C=1", "--split", "kfold:3", "--jobs", 1)
    assert "fuse" not in json.loads((Path(fixed.out.strip()) / "run.json").read_text())["heads"]


def test_an_exported_fusion_scores_as_the_head_does() -> None:
    X, labels, speakers = clips()
    for known in (np.full(len(X), fill_value=True), labels != "sad"):  # two labels share a vector
        head = fused_head(X[known], labels[known], speakers[known])
        scores, chosen = head_module("fuse", head)(torch.from_numpy(X))
        np.testing.assert_allclose(scores.numpy(), head.predict_proba(X), atol=1e-5)
        assert head.classes[chosen.numpy()].tolist() == head.predict(X).tolist()
