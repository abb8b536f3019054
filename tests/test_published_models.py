"""emotion2vec+ and the Odyssey baselines score as forward passes that are written out here do."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers
from safetensors.torch import load_file, save_file
from serpipe.artifacts.models.saved_model import load_model
from serpipe.errors import UserError
from serpipe.features.encoder import load_encoder
from serpipe.pipeline.finetune.classifier import load_classifier

from .conftest import Command, made_once
from .hub import serve_hub
from .test_emotion2vec import (
    SETTINGS,
    WIDTH,
    plain_layers,
    random_weights,
    save_checkpoint,
    save_settings,
)
from .test_emotion2vec import change as change_settings
from .test_encoder import noise
from .test_evaluate import break_weights
from .test_hub import connect

TOKENS = ("生气/angry", "unuse_0", "恐惧/fearful", "开心/happy", "中立/neutral", "其他/other",
          "难过/sad", "吃惊/surprised", "<unk>")  # fmt: skip
PLUS_LABELS = ("angry", "fearful", "happy", "neutral", "other", "sad", "surprised", "<unk>")
ODYSSEY_LABELS = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
ATTRIBUTES = ("arousal", "dominance", "valence")
MEAN, STD = -8e-5, 0.085
SIZE = 32


def linear_of_labels() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    weight = 20 * torch.randn(len(TOKENS), WIDTH, generator=draw)
    # Clips differ by little from noise, and must not have the same scores.
    typical = plain_layers(noise(16000))[-1].mean(dim=0)
    return {"proj.weight": weight, "proj.bias": -weight @ typical}


def odyssey_encoder() -> Any:
    """A WavLM of the shape of ``microsoft/wavlm-large``, but narrow and of two blocks."""
    torch.manual_seed(0)
    config = transformers.WavLMConfig(
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4096,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        feat_extract_norm="layer",
        feat_extract_activation="gelu",
        conv_dim=(512,) * 7,
        conv_stride=(5, 2, 2, 2, 2, 2, 2),
        conv_kernel=(10, 3, 3, 3, 3, 2, 2),
        conv_bias=False,
        num_conv_pos_embeddings=128,
        num_conv_pos_embedding_groups=16,
        num_buckets=320,
        max_bucket_distance=800,
        do_stable_layer_norm=True,
    )
    return transformers.WavLMModel(config).eval()


def odyssey_head(n_outputs: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    shapes = {
        "pool_model.sap_linear.weight": (SIZE, SIZE),
        "pool_model.sap_linear.bias": (SIZE,),
        "pool_model.attention": (SIZE, 1),
        "ser_model.fc.0.0.weight": (SIZE, 2 * SIZE),
        "ser_model.fc.1.0.weight": (SIZE, SIZE),
        "ser_model.out.0.weight": (n_outputs, SIZE),
        "ser_model.out.0.bias": (n_outputs,),
    }
    for number in (0, 1):
        for name in ("0.bias", "1.weight", "1.bias"):
            shapes[f"ser_model.fc.{number}.{name}"] = (SIZE,)
    return {key: torch.randn(shape, generator=draw) for key, shape in shapes.items()}


def save_odyssey(folder: Path, outputs: tuple[str, ...]) -> None:
    folder.mkdir()
    config = {
        "architectures": ["SERModel"],
        "auto_map": {"AutoModelForAudioClassification": "pipeline_utils.SERModel"},
        "model_type": "ser",
        "ssl_type": "microsoft/wavlm-large",
        "sampling_rate": 16000,
        "hidden_size": SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "classifier_hidden_layers": 2,
        "classifier_dropout_prob": 0.5,
        "num_classes": len(outputs),
        "id2label": {str(number): name for number, name in enumerate(outputs)},
        "mean": MEAN,
        "std": STD,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pipeline_utils.py").write_text("raise SystemExit('was run')")
    encoder = {f"ssl_model.{key}": t for key, t in odyssey_encoder().state_dict().items()}
    weights = encoder | odyssey_head(len(outputs))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def make_model(folder: Path, name: str) -> None:
    if name == "plus":
        encoder = {f"d2v_model.{key}": value for key, value in random_weights().items()}
        save_checkpoint(folder / name, {"model": encoder | linear_of_labels()})
        (folder / name / "tokens.txt").write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    else:
        save_odyssey(folder / name, ODYSSEY_LABELS if name == "odyssey" else ATTRIBUTES)


@pytest.fixture
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model; made once."""

    def save(name: str) -> Path:
        return (
            made_once(tmp_path_factory, f"published-{name}", lambda f: make_model(f, name)) / name
        )

    return save


def decoded(clip: Path) -> np.ndarray:
    samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    resampled: np.ndarray = soxr.resample(samples.mean(axis=1), rate, 16000, quality="VHQ")
    return resampled


def plus_scores(clip: Path) -> list[float]:
    """Probabilities of an emotion2vec+, one clip at a time."""
    head = linear_of_labels()
    logits = head["proj.weight"] @ plain_layers(decoded(clip))[-1].mean(dim=0) + head["proj.bias"]
    logits[TOKENS.index("unuse_0")] = -torch.inf
    scores = logits.softmax(dim=0).tolist()
    return [score for score, token in zip(scores, TOKENS, strict=True) if token != "unuse_0"]


def odyssey_outputs(clip: Path, n_outputs: int) -> torch.Tensor:
    """Outputs of an Odyssey baseline, one clip at a time."""
    head = odyssey_head(n_outputs)
    waveform = (torch.from_numpy(decoded(clip)) - MEAN) / (STD + 1e-6)
    with torch.no_grad():
        states = odyssey_encoder()(waveform[None]).last_hidden_state[0]
    linear, bias = head["pool_model.sap_linear.weight"], head["pool_model.sap_linear.bias"]
    hidden = states @ linear.T + bias
    weights = torch.softmax(hidden.tanh() @ head["pool_model.attention"][:, 0], dim=0)
    mean = sum(weight * state for weight, state in zip(weights, states, strict=True))
    square = sum(weight * state**2 for weight, state in zip(weights, states, strict=True))
    values = torch.cat([mean, torch.clamp(square - mean**2, min=1e-5) ** 0.5])
    for number in (0, 1):
        layer = f"ser_model.fc.{number}."
        values = head[f"{layer}0.weight"] @ values + head[f"{layer}0.bias"]
        scaled = (values - values.mean()) / (values.var(unbiased=False) + 1e-5) ** 0.5
        values = torch.clamp(scaled * head[f"{layer}1.weight"] + head[f"{layer}1.bias"], min=0)
    return head["ser_model.out.0.weight"] @ values + head["ser_model.out.0.bias"]


def evaluated(serpipe: Command, model: Path, *options: object) -> tuple[Path, dict[str, Any], str]:
    """Run the command; return the run, the rows of its predictions by path, and its messages."""
    done = serpipe("evaluate", "--model", model, "--device", "cpu", "--batch-size", 5, *options)
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    with (run / "predictions" / "pretrained.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file) if row["layer"] == "nested"}
    return run, rows, done.err


@pytest.fixture
def clips(few_clips: Path, tmp_path: Path) -> tuple[Path, dict[str, Path]]:
    """A manifest of real clips of several lengths, of two speakers and five emotions; the files."""
    emotions = {"01": "neutral", "03": "happy", "04": "sad", "05": "angry", "06": "fearful"}
    files = [*(few_clips / "Actor_01").iterdir(), *(few_clips / "Actor_02").iterdir()]
    kept = {each.name: each for each in sorted(files) if each.name[6:8] in emotions}
    rows = [
        f"{path},{path.parent.name},{emotions[name[6:8]]},{number % 7}"
        for number, (name, path) in enumerate(kept.items())
    ]
    manifest = tmp_path / "clips.csv"
    manifest.write_text("\n".join(["path,speaker,emotion,Valence", *rows]) + "\n")
    return manifest, kept


@pytest.mark.parametrize("name", ["plus", "odyssey"])
def test_labels_are_scored_as_in_a_forward_pass_of_one_clip(
    saved: Callable[[str], Path],
    clips: tuple[Path, dict[str, Path]],
    serpipe: Command,
    name: str,
) -> None:
    """In padded batches; labels have the names of those of the clips, or mean the same emotion."""
    manifest, files = clips
    labels = ("angry", "fearful", "happy", "neutral", "sad")
    run, rows, _ = evaluated(serpipe, saved(name), "--manifest", manifest)
    assert len(rows) == len(files) >= 8
    mine, theirs = [], []
    for path in sorted(rows)[::3]:
        mine.append([float(rows[path][f"score_{label}"]) for label in labels])
        file = files[Path(path).name]
        if name == "plus":
            scores = dict(zip(PLUS_LABELS, plus_scores(file), strict=True))
            theirs.append([scores[label] for label in labels])
        else:
            outputs = odyssey_outputs(file, 8).double().softmax(dim=0).tolist()
            scores = dict(zip(ODYSSEY_LABELS, outputs, strict=True))
            theirs.append([scores[each] for each in ("Angry", "Fear", "Happy", "Neutral", "Sad")])
    assert np.ptp(theirs, axis=0).max() > 1e-3  # more than is allowed below
    np.testing.assert_allclose(mine, theirs, atol=2e-5, rtol=0)
    record = json.loads((run / "run.json").read_text())["encoder"]
    assert record["model_type"] == {"plus": "emotion2vec", "odyssey": "wavlm"}[name]


@pytest.mark.parametrize("name", ["plus", "odyssey"])
def test_they_are_not_exported(saved: Callable[[str], Path], serpipe: Command, name: str) -> None:
    pytest.importorskip("onnx", reason="needs serpipe[onnx]")
    exported = serpipe("export", saved(name))
    assert exported.code == 2
    assert str(saved(name)) in exported.err


def test_ratings_are_those_of_a_forward_pass_of_one_clip(
    saved: Callable[[str], Path], clips: tuple[Path, dict[str, Path]], serpipe: Command
) -> None:
    manifest, files = clips
    options = ("--manifest", manifest, "--target", "Valence")
    _, rows, said = evaluated(serpipe, saved("attributes"), *options)
    assert "CCC" in said
    model = load_model(saved("attributes"))
    assert model.labels == ()
    for path in sorted(rows)[::4]:
        file = files[Path(path).name]
        expected = odyssey_outputs(file, 3).tolist()
        assert float(rows[path]["predicted"]) == pytest.approx(expected[2], abs=1e-4)
        scores = model.predict(file).scores
        assert scores == pytest.approx(dict(zip(ATTRIBUTES, expected, strict=True)), abs=1e-4)


@pytest.mark.parametrize("name", ["plus", "odyssey"])
def test_a_recording_is_predicted_as_it_is_evaluated(
    saved: Callable[[str], Path], few_clips: Path, name: str
) -> None:
    clip = next(iter(sorted((few_clips / "Actor_01").iterdir())))
    scores = load_model(saved(name)).predict(clip).scores
    if name == "plus":
        expected = dict(zip(PLUS_LABELS, plus_scores(clip), strict=True))
    else:
        outputs = odyssey_outputs(clip, 8).softmax(dim=0).tolist()
        expected = dict(zip(ODYSSEY_LABELS, outputs, strict=True))
    assert scores == pytest.approx(expected, abs=1e-5)


def test_the_encoder_of_emotion2vec_plus_is_that_without_its_labels(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = save_checkpoint(tmp_path / "plain", random_weights())
    with_labels = load_encoder(str(saved("plus"))).identity
    assert with_labels.weights_sha256 == load_encoder(str(plain)).identity.weights_sha256
    with pytest.raises(UserError, match=r"tokens\.txt"):
        load_classifier(str(plain))
    (plain / "tokens.txt").write_text("angry\nsad\n")
    with pytest.raises(UserError, match=r"proj\.weight"):
        load_classifier(str(plain))


@pytest.mark.parametrize(
    ("folder", "corpora"),
    [("emotion2vec_plus_base", True), ("SER-Odyssey-Baseline-WavLM-Categorical-Attributes", False)],
)
def test_what_they_were_trained_on_is_known(
    saved: Callable[[str], Path], tmp_path: Path, folder: str, corpora: bool
) -> None:
    name = "plus" if corpora else "odyssey"
    copy = shutil.copytree(saved(name), tmp_path / folder)
    training = load_classifier(str(copy)).checkpoint.training
    assert training is not None
    assert ({"ravdess", "iemocap"} <= training.corpora) == corpora
    assert (training.corpora == {"msp-podcast"}) != corpora


def test_a_model_of_the_hub_needs_three_files(
    saved: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "emotion2vec/emotion2vec_plus_seed"
    with serve_hub() as hub:
        connect(monkeypatch, hub.url)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        commit = hub.push_folder(name, saved("plus"), **{"README.md": b"not needed"})
        classifier = load_classifier(name)
        files = {file for _, file in hub.requested_files()}
    assert files == {"config.yaml", "model.pt", "tokens.txt"}
    assert (classifier.checkpoint.name, classifier.checkpoint.revision) == (name, commit)
    assert classifier.outputs == PLUS_LABELS


@pytest.mark.parametrize("labels", ["angry\n", "\n".join(TOKENS[:8]), b"\xff\xfe", "x\n" * 99999])
def test_labels_that_do_not_fit_the_weights_are_refused(
    saved: Callable[[str], Path], tmp_path: Path, labels: str | bytes
) -> None:
    folder = shutil.copytree(saved("plus"), tmp_path / "plus")
    content = labels if isinstance(labels, bytes) else labels.encode()
    (folder / "tokens.txt").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(folder))):
        load_classifier(str(folder))


def test_a_configuration_that_is_not_supported_is_refused_as_for_encoders(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("plus"), tmp_path / "plus")
    save_settings(folder, change_settings(SETTINGS, "layer_norm_first", True))
    with pytest.raises(UserError, match="layer_norm_first"):
        load_classifier(str(folder))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        *((name, None) for name in ("mean", "std", "hidden_size", "num_classes")),
        *(("hidden_size", value) for value in (10**9, "32", 64)),
        *(("num_hidden_layers", value) for value in (10**9, 3)),
        *(("classifier_hidden_layers", value) for value in (0, 1, 3, 10**9)),
        *(("std", value) for value in (float("nan"), "1", 10**9)),
        *(("num_classes", value) for value in (7, 9, -1)),
        ("num_attention_heads", 5),
        ("ssl_type", "somebody/else"),
        ("sampling_rate", 8000),
        ("id2label", {"0": "x"}),
    ],
)
def test_an_odyssey_configuration_that_does_not_fit_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, entry: str, value: object
) -> None:
    folder = shutil.copytree(saved("odyssey"), tmp_path / "odyssey")
    config = json.loads((folder / "config.json").read_text())
    config[entry] = value
    if value is None:
        del config[entry]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=re.escape(str(folder))):
        load_classifier(str(folder))


@pytest.mark.parametrize("name", ["odyssey", "attributes"])
def test_outputs_without_names_are_numbered(
    saved: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(saved(name), tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    n_outputs = len(config.pop("id2label"))
    (folder / "config.json").write_text(json.dumps(config))
    classifier = load_classifier(str(folder))
    assert classifier.outputs == tuple(f"LABEL_{number}" for number in range(n_outputs))
    assert classifier.problem_type == ""
    named = load_classifier(str(saved(name))).problem_type
    assert named == {"odyssey": "single_label_classification", "attributes": "regression"}[name]


@pytest.mark.parametrize(
    ("lost", "added"),
    [
        ("pool_model.attention", None),
        ("ser_model.fc.1.1.bias", None),
        ("ser_model.out.0.weight", None),
        ("ssl_model.encoder.layers.1.attention.k_proj.weight", None),
        ("ssl_model.encoder.layers.0.attention.rel_attn_embed.weight", None),
        (None, "ser_model.fc.2.0.weight"),
        (None, "ssl_model.adapter.weight"),
        (None, "lstm.weight"),
    ],
)
def test_an_odyssey_model_that_is_not_whole_is_refused(
    saved: Callable[[str], Path], tmp_path: Path, lost: str | None, added: str | None
) -> None:
    folder = break_weights(saved("odyssey"), tmp_path / "odyssey", lost, added)
    with pytest.raises(UserError, match=re.escape(str(lost or added))):
        load_classifier(str(folder))


def test_old_names_in_a_pickled_file_give_the_same_model(
    saved: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved("odyssey"), tmp_path / "odyssey")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    renamed = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in weights.items()
    }
    assert renamed.keys() != weights.keys()
    renamed["ssl_model.masked_spec_embed"] = torch.zeros(SIZE)  # only used in training
    torch.save(renamed, folder / "pytorch_model.bin")
    old, new = (load_classifier(str(path)).checkpoint for path in (folder, saved("odyssey")))
    assert old.weights_sha256 == new.weights_sha256
    assert old.config_sha256 == new.config_sha256
