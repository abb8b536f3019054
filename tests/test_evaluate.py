"""A trained classifier is loaded whole or refused, and scores as it does without serpipe."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers
from safetensors.torch import load_file, save_file
from serpipe.artifacts.models.outputs import label_probabilities, match_labels
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE
from serpipe.features.checkpoint import load_checkpoint
from serpipe.pipeline.finetune.model import build_model, save_model

from .conftest import Command
from .messages import assert_names, assert_refused, names
from .test_finetune import score  # which says the same without serpipe, as is proven there

EMOTIONS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")


@pytest.fixture(scope="module")
def make_classifier(
    family_encoder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Save a standard classifier around a small encoder, of which scores differ by clip."""

    def make(family: str = "wav2vec2-group", labels: tuple[str, ...] = EMOTIONS) -> Path:
        checkpoint = load_checkpoint(str(family_encoder(family)), None)
        model = build_model(checkpoint, labels)
        with torch.no_grad():
            model.layer_weights.copy_(torch.tensor([0.5, 2.0, -1.0, 1.0]))
            model.classifier.weight.mul_(30)
        folder = tmp_path_factory.mktemp("classifiers") / f"model-{family}"
        save_model(model, checkpoint.front_end, folder)
        return folder

    return make


@pytest.fixture(scope="module")
def standard(make_classifier: Callable[..., Path]) -> Path:
    """The usual one: eight emotions, a group norm."""
    return make_classifier()


def change(model: Path, folder: Path, **settings: object) -> Path:
    """Copy a model with another config.json."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def odd_head(encoder: Path, folder: Path, last: str, outputs: tuple[str, ...]) -> Path:
    """Save what m3hrdadfi's class saves: an encoder, a dense layer and an output layer."""
    names = {str(n): name for n, name in enumerate(outputs)}
    labels = {"id2label": names, "label2id": {name: int(n) for n, name in names.items()}}
    change(encoder, folder, **labels, architectures=["Wav2Vec2ForSpeechClassification"])
    weights = {f"wav2vec2.{key}": t for key, t in load_file(encoder / "model.safetensors").items()}
    draw = torch.Generator().manual_seed(0)
    for name, rows in (("dense", 32), (last, len(outputs))):
        weights[f"classifier.{name}.weight"] = torch.randn(rows, 32, generator=draw)
        weights[f"classifier.{name}.bias"] = torch.randn(rows, generator=draw)
    (folder / "model.safetensors").unlink()
    old = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for key, tensor in weights.items()
    }
    assert old.keys() != weights.keys()  # as the models of that time are named
    torch.save(old, folder / "pytorch_model.bin")
    return folder


def evaluate(serpipe: Command, model: Path, clips: Path, *options: object) -> tuple[Path, str]:
    """Run the command, and return the run and what was said."""
    done = serpipe("evaluate", "--model", model, "--data", clips, "--device", "cpu", *options)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return Path(done.out.strip()), done.err


def notes(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("note ")]


def predictions(run: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a run by the path of the clip."""
    with (run / "predictions" / "pretrained.csv").open() as file:
        return {row["path"]: row for row in csv.DictReader(file) if row["layer"] == "nested"}


def scores(run: Path, labels: tuple[str, ...] = EMOTIONS) -> dict[str, list[float]]:
    """Return what each clip scored."""
    rows = predictions(run)
    return {path: [float(row[f"score_{label}"]) for label in labels] for path, row in rows.items()}


def score_by_hand(last: str, model: Path, clips: list[Path]) -> list[list[float]]:
    """The logits of a dense head, one clip at a time, from what transformers' encoder says."""
    weights = torch.load(model / "pytorch_model.bin", weights_only=True)
    head = {key: t for key, t in weights.items() if key.startswith("classifier.")}
    encoder = transformers.Wav2Vec2Model.from_pretrained(model).eval()
    extract = transformers.Wav2Vec2FeatureExtractor.from_pretrained(model)
    scored = []
    for clip in clips:
        samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
        heard = soxr.resample(samples.mean(axis=1), rate, 16000, quality="VHQ")
        inputs = extract(heard, sampling_rate=16000, return_tensors="pt").input_values
        with torch.no_grad():
            mean = encoder(inputs).last_hidden_state[0].mean(dim=0)
        dense = head["classifier.dense.weight"] @ mean + head["classifier.dense.bias"]
        logits = head[f"classifier.{last}.weight"] @ dense.tanh() + head[f"classifier.{last}.bias"]
        scored.append(logits.tolist())
    return scored


def test_a_bundle_of_fit_is_refused_with_the_command_that_tests_it(
    serpipe: Command, few_clips: Path
) -> None:
    done = serpipe("evaluate", "--model", DEFAULT_BUNDLE, "--data", few_clips)
    assert_refused(done, DEFAULT_BUNDLE, "serpipe robustness")


@pytest.mark.parametrize("family", ["wav2vec2-group", "wavlm-group", "whisper"])
def test_a_standard_model_scores_as_transformers_does_alone(
    family: str, make_classifier: Callable[..., Path], few_clips: Path, serpipe: Command
) -> None:
    model = make_classifier(family)
    run, _ = evaluate(serpipe, model, few_clips, "--batch-size", 5)
    mine = scores(run)
    assert len(mine) == 40
    assert np.ptp(list(mine.values()), axis=0).max() > 1e-3  # more than is allowed below
    some = sorted(mine)[::8]
    (plain,) = score([model], [few_clips / path for path in some])
    theirs = [[each[label] for label in EMOTIONS] for each in plain]
    np.testing.assert_allclose([mine[path] for path in some], theirs, atol=1e-5, rtol=0)
    for path in some:
        assert predictions(run)[path]["predicted"] == EMOTIONS[int(np.argmax(mine[path]))]


@pytest.mark.parametrize("last", ["output", "out_proj"])
def test_a_head_of_dense_tanh_and_output_scores_as_computed_by_hand(
    last: str, small_encoder: Path, few_clips: Path, tmp_path: Path, serpipe: Command
) -> None:
    model = odd_head(small_encoder, tmp_path / "odd", last, EMOTIONS)
    run, output = evaluate(serpipe, model, few_clips)
    assert "RESTRICTED" not in output
    mine = scores(run)
    some = sorted(mine)[::8]
    logits = score_by_hand(last, model, [few_clips / path for path in some])
    theirs = torch.softmax(torch.tensor(logits, dtype=torch.float64), dim=1).numpy()
    assert np.ptp(theirs, axis=0).max() > 1e-3
    np.testing.assert_allclose([mine[path] for path in some], theirs, atol=1e-5, rtol=0)
    identity = json.loads((run / "run.json").read_text())["encoder"]
    assert identity["head"] == "mean, dense, tanh, linear"


def test_ratings_are_read_from_the_output_of_their_name(
    small_encoder: Path, few_clips: Path, tmp_path: Path, serpipe: Command
) -> None:
    outputs = ("arousal", "dominance", "valence")
    model = odd_head(small_encoder, tmp_path / "vad", "out_proj", outputs)
    change(model, tmp_path / "rated", problem_type="regression")
    paths = sorted(path.relative_to(few_clips) for path in few_clips.rglob("*.flac"))
    rows = [f"{path},{path.parts[0]},{n % 7},x{n % 2}" for n, path in enumerate(paths)]
    manifest = tmp_path / "rated.csv"
    manifest.write_text("\n".join(["path,speaker,Valence,take", *rows]) + "\n")
    options = ("--data", few_clips, "--manifest", manifest, "--device", "cpu")
    done = serpipe("evaluate", "--model", tmp_path / "rated", *options, "--target", "Valence")
    assert done.code == 0, done.err
    assert "CCC" in done.err
    rated = predictions(Path(done.out.strip()))
    some = sorted(rated)[::8]
    theirs = score_by_hand("out_proj", model, [few_clips / path for path in some])
    mine = [float(rated[path]["predicted"]) for path in some]
    np.testing.assert_allclose(mine, [each[2] for each in theirs], atol=1e-4)
    assert "CCC" in serpipe("report", done.out.strip()).out
    refused = serpipe("evaluate", "--model", tmp_path / "rated", *options, "--target", "take")
    assert_refused(refused, "--target take", "rated", "--model")


def break_weights(model: Path, folder: Path, lost: str | None, added: str | None) -> Path:
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    if lost:
        del weights[lost]
    if added:
        weights[added] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("lost", "added"),
    [
        ("classifier.weight", None),
        ("projector.bias", None),
        ("layer_weights", None),
        ("wav2vec2.encoder.layers.1.attention.k_proj.weight", None),
        (None, "classifier.dense.weight"),
        (None, "lstm.weight"),
    ],
)
def test_a_model_that_is_not_whole_is_refused(
    lost: str | None,
    added: str | None,
    standard: Path,
    few_clips: Path,
    tmp_path: Path,
    serpipe: Command,
) -> None:
    broken = break_weights(standard, tmp_path / "broken", lost, added)
    done = serpipe("evaluate", "--model", broken, "--data", few_clips)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith(f"serpipe: {broken}: ") and str(lost or added) in last
    assert not Path("artifacts").exists()


def test_an_encoder_without_a_head_is_refused(
    small_encoder: Path, few_clips: Path, tmp_path: Path, serpipe: Command
) -> None:
    done = serpipe("evaluate", "--model", small_encoder, "--data", few_clips)
    assert_refused(done, small_encoder, "classifier.bias")
    odd = odd_head(small_encoder, tmp_path / "odd", "output", EMOTIONS)
    weights = torch.load(odd / "pytorch_model.bin", weights_only=True)
    del weights["classifier.dense.bias"]
    torch.save(weights, odd / "pytorch_model.bin")
    done = serpipe("evaluate", "--model", odd, "--data", few_clips)
    assert_refused(done, odd, "classifier.dense.bias")


def test_labels_match_by_name_or_as_the_same_emotion_and_their_probabilities_are_added() -> None:
    outputs = ("Angry", "sadness", "joy", "HAPPY", "calm")
    places = match_labels(outputs, ["anger", "happy", "sad"])
    assert places.tolist() == [0, 2, 1, 1, -1]
    logits = np.log([[0.1, 0.15, 0.2, 0.25, 0.3]])
    np.testing.assert_allclose(label_probabilities(logits, places, 3), [[0.1, 0.45, 0.15]])


def test_labels_that_no_clip_has_cannot_be_chosen_and_the_run_says_so(
    make_classifier: Callable[..., Path], few_clips: Path, serpipe: Command
) -> None:
    model = make_classifier(labels=("ang", "anger", "fear", "joy", "neutral", "sadness"))
    options = ("--keep", "angry,happy,sad", "--model-map", "ang=angry")
    run, output = evaluate(serpipe, model, few_clips, *options)
    (warning,) = json.loads((run / "run.json").read_text())["warnings"]
    assert warning.startswith("RESTRICTED: ") and warning in output
    assert_names(warning, "fear, neutral")
    rows = predictions(run)
    assert {row["predicted"] for row in rows.values()} <= {"angry", "happy", "sad"}
    (plain,) = score([model], [few_clips / path for path in sorted(rows)[:3]])
    for path, each in zip(sorted(rows)[:3], plain, strict=True):
        added = each["ang"] + each["anger"]
        assert abs(float(rows[path]["score_angry"]) - added) < 1e-5
    shown = serpipe("report", run).out
    assert warning in shown
    unsaid = serpipe("evaluate", "--model", model, "--data", few_clips, "--map", "calm=neutral")
    assert_refused(unsaid, "label disgust", "sadness", "--keep", "--map", "--model-map")
    assert not names(unsaid.err.splitlines()[-1], "angry")  # anger is the same emotion


def test_the_report_says_that_nothing_was_trained_and_compares_with_a_probe(
    standard: Path, few_clips: Path, small_encoder: Path, serpipe: Command
) -> None:
    run, output = evaluate(serpipe, standard, few_clips)
    assert any(names(note, standard.name) for note in notes(output))
    alone = serpipe("report", run)
    assert alone.code == 0, alone.err
    for word in ("nothing trained, every clip tested", "40 clips, 5 speakers", "pretrained"):
        assert word in alone.out
    for word in ("held fixed", "SER006", "SER010", "out-of-fold", "CONTAMINATED"):
        assert word not in alone.out, word
    assert (run / "report" / "index.html").is_file()
    assert serpipe("extract", "--data", few_clips, "--encoder", small_encoder).code == 0
    fitted = serpipe("fit", "--layers", "1", "--head", "lr")
    assert fitted.code == 0, fitted.err
    both = serpipe("report", run, fitted.out.strip())
    assert both.code == 0, both.err
    assert re.search(r"1 pretrained - 2 lr .*\d\.\d{3}", both.out)
    before = (run / "predictions" / "pretrained.csv").stat().st_mtime_ns
    again, _ = evaluate(serpipe, standard, few_clips)
    assert again == run  # the same command is the same run, and nothing is scored again
    assert (run / "predictions" / "pretrained.csv").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("own", {"serpipe": {"corpora": ["ravdess"]}}),
        ("copy", {"_name_or_path": "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition"}),
        ("emotion2vec_plus", {}),
    ],
)
def test_a_model_that_has_heard_the_corpus_is_marked_once_beside_every_number(
    name: str,
    settings: dict[str, object],
    standard: Path,
    few_clips: Path,
    tmp_path: Path,
    serpipe: Command,
) -> None:
    model = change(standard, tmp_path / name, **settings)
    run, output = evaluate(serpipe, model, few_clips)
    assert output.count("CONTAMINATED: ") == 1
    assert not any(names(note, name) for note in notes(output))
    (mark,) = json.loads((run / "run.json").read_text())["warnings"]
    assert_names(mark, name, "ravdess")
    assert serpipe("report", run).out.count("SER007 invalid") == 1
    with (run / "report" / "nested.csv").open() as file:
        assert "CONTAMINATED" in next(csv.DictReader(file))["warning"]


def test_a_model_that_tells_other_corpora_is_not_marked(
    standard: Path, few_clips: Path, tmp_path: Path, serpipe: Command
) -> None:
    model = change(standard, tmp_path / "other", serpipe={"corpora": ["emodb"]})
    run, output = evaluate(serpipe, model, few_clips)
    assert "CONTAMINATED" not in output
    assert not any(names(note, model.name) for note in notes(output))
    assert "SER007" not in serpipe("report", run).out


@pytest.mark.parametrize(
    ("wrong", "values"),
    [
        (("--precision", "fp16"), ["bf16"]),
        (("--precision", "int8"), ["float32", "bf16", "fp16"]),
        (("--batch-size", 0), [1]),
        (("--target", "gloom"), ["emotion"]),
        (("--device", "tpu"), ["auto", "cpu", "cuda"]),
        (("--model-map", "furious=angry"), ["'furious'", "happy"]),
        (("--model-map", "angry"), ["LABEL=LABEL"]),
        (("--model", "nowhere"), []),
    ],
)
def test_mistakes_are_one_line(
    wrong: tuple[str, object],
    values: list[object],
    standard: Path,
    few_clips: Path,
    serpipe: Command,
) -> None:
    options = ("--model", standard, "--data", few_clips, "--device", "cpu")
    done = serpipe("evaluate", *options, *wrong)
    option, value = wrong
    assert_refused(done, value if option == "--model" else f"{option} {value}", *values)


def test_outputs_that_nobody_has_named_are_asked_for(
    make_classifier: Callable[..., Path], few_clips: Path, serpipe: Command
) -> None:
    model = make_classifier(labels=tuple(f"LABEL_{n}" for n in range(8)))
    done = serpipe("evaluate", "--model", model, "--data", few_clips)
    assert_refused(done, "LABEL_0", 8, "--model-map LABEL_0=angry")
    named = [
        word
        for n, emotion in enumerate(EMOTIONS)
        for word in ("--model-map", f"LABEL_{n}={emotion}")
    ]
    _, output = evaluate(serpipe, model, few_clips, *named)
    assert "RESTRICTED" not in output
