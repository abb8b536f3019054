"""Fine-tuning keeps speakers apart, goes on where it was stopped, and leaves a standard model."""

import csv
import inspect
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from serpipe.corpora import scan
from serpipe.corpora.ravdess import RAVDESS
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.training_record import hash_speaker, read_record
from serpipe.pipeline.finetune.data import ByLength, Examples, decode_clips
from serpipe.pipeline.finetune.model import build_model, head_parameters, save_model
from serpipe.pipeline.finetune.options import TrainingOptions
from serpipe.pipeline.finetune.train import class_weights, predict
from serpipe.pipeline.folds import make_split

from .conftest import Command, call_in, made_once, write_wav
from .messages import assert_names, assert_refused
from .processes import Forked

SPEAKERS = tuple("abcdef")
LABELS = {"low": 200.0, "high": 1600.0}
FAST = ("--epochs", 4, "--batch-size", 4, "--learning-rate", 1e-3, "--head-learning-rate", 3e-2,
        "--train-front-end")  # fmt: skip


@pytest.fixture(scope="session")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 48 short tones of six speakers: the pitch is the label."""
    return made_once(tmp_path_factory, "tones", write_tones) / "tones.csv"


def write_tones(folder: Path) -> None:
    draw = np.random.default_rng(0)
    rows = []
    for speaker in SPEAKERS:
        for label, hertz in LABELS.items():
            for take in range(4):
                seconds = draw.uniform(0.3, 0.5)
                time_ = np.arange(int(16000 * seconds)) / 16000
                tone = np.sin(2 * np.pi * hertz * draw.uniform(0.9, 1.1) * time_)
                path = f"{speaker}-{label}-{take}.wav"
                write_wav(folder / path, 0.3 * tone + 0.01 * draw.standard_normal(len(tone)))
                rows.append(f"{path},{speaker},{label}")
    (folder / "tones.csv").write_text("\n".join(["path,speaker,pitch", *rows]) + "\n")


@pytest.fixture(scope="session")
def trained(tones: Path, small_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a fine-tuning that nothing disturbed, with its exported model."""

    def make(folder: Path) -> None:
        call_in(folder, *options(tones, small_encoder))

    work = made_once(tmp_path_factory, "trained", make)
    (run,) = (work / "artifacts" / "runs").iterdir()
    return run


def options(tones: Path, encoder: Path) -> list[object]:
    return ["finetune", "--manifest", tones, "--target", "pitch", "--encoder", encoder,
            "--split", "kfold:3", "--device", "cpu", "--probe", "none", *FAST]  # fmt: skip


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with (run / name).open() as file:
        return list(csv.DictReader(file))


def test_pitch_is_learnt_and_predicted_for_new_speakers(trained: Path) -> None:
    predictions = rows(trained, "predictions/finetuned.csv")
    assert len(predictions) == 2 * 48
    for layer in ("nested", "end to end"):
        of_layer = [row for row in predictions if row["layer"] == layer]
        assert np.mean([row["truth"] == row["predicted"] for row in of_layer]) > 0.95
    for row in predictions:
        assert math.isclose(float(row["score_high"]) + float(row["score_low"]), 1, abs_tol=1e-6)
    assert not (trained / "parts").exists()


def test_the_epoch_is_chosen_by_speakers_who_are_neither_trained_on_nor_tested(
    trained: Path,
) -> None:
    summary = json.loads((trained / "run.json").read_text())
    tested: dict[str, set[str]] = {}
    for row in rows(trained, "clips.csv"):
        tested.setdefault(row["fold"], set()).add(row["speaker"])
    searched: dict[str, list[float]] = {}
    for row in rows(trained, "search/finetuned.csv"):
        if row["inner_score"]:
            searched.setdefault(row["fold"], []).append(float(row["inner_score"]))
    assert len(tested) == 3
    for choice in summary["heads"]["finetuned"]["choices"]:
        validation = set(choice["validation"])
        assert validation and not validation & tested[choice["fold"]]
        assert validation | tested[choice["fold"]] < set(SPEAKERS)
        scores = searched[choice["fold"]]
        assert choice["parameters"]["epoch"] == 1 + int(np.argmax(scores))
        assert choice["inner_score"] == max(scores)


def test_the_exported_model_lists_its_clips_and_passes_them_on(
    trained: Path, tones: Path, serpipe: Command, tmp_path: Path
) -> None:
    first = read_record(trained / "model" / "training_record.json")
    assert first is not None and first.corpora == {"tones"} and not first.unlisted
    assert len(first.clips) == 48 and len(first.speakers) == 6
    folder = tmp_path / "more"
    folder.mkdir()
    lines = ["path,speaker,pitch"]
    for number, row in enumerate(list(csv.DictReader(tones.open()))[:16]):  # speakers a and b
        samples, rate = soundfile.read(tones.parent / row["path"])
        higher = np.tile(samples[::2], 2)  # another recording, not a copy
        for take, (name, each) in enumerate((("old", samples), ("new", higher))):
            write_wav(folder / f"{name}{number}.wav", each, rate)
            lines.append(f"{name}{number}.wav,new-{row['speaker']}{take},{row['pitch']}")
    manifest = folder / "more.csv"
    manifest.write_text("\n".join(lines) + "\n")
    done = serpipe(*options(manifest, trained / "model"), "--split", "holdout:50/25/25",
                   "--epochs", 1)  # fmt: skip
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    tested = rows(run, "clips.csv")
    old = sum(row["path"].startswith("old") for row in tested)
    marks = [each for each in json.loads((run / "run.json").read_text())["warnings"]
             if each.startswith("CONTAMINATED")]  # fmt: skip
    assert old == len(tested) > 0  # the speaker whom this seed holds out
    (mark,) = marks
    assert_names(mark, old, len(tested))
    second = read_record(run / "model" / "training_record.json")
    assert second is not None and second.corpora == {"more", "tones"}
    assert first.clips < second.clips and first.speakers < second.speakers
    held_out = {hash_speaker("more", row["speaker"]) for row in tested}
    assert not held_out & second.speakers
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["serpipe"]["corpora"] == ["more", "tones"]


def test_a_killed_run_resumes_to_the_same_predictions(
    trained: Path, tones: Path, small_encoder: Path, serpipe: Command
) -> None:
    run = Path("artifacts") / "runs" / trained.name
    process = Forked("serpipe", *options(tones, small_encoder), err=Path("err"))
    end = time.monotonic() + 100
    while not list(run.glob("parts/training/fold-0002/checkpoint-*/trainer_state.json")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    progress = Path("err").read_text()
    assert "epoch" in progress and "Traceback" not in progress and "Warning" not in progress
    assert not (run / "predictions").exists()
    assert len(list((run / "parts" / "finetuned").glob("*.json"))) == 1
    broken = run / "parts" / "training" / "fold-0002" / "checkpoint-999"
    broken.mkdir()  # as a kill in the middle of writing leaves it
    (broken / "trainer_state.json").write_text('{"global_step": 9')
    watched = serpipe(*options(tones, small_encoder))
    assert watched.code == 0, watched.err
    assert "1 of 3: epoch" not in watched.err  # the finished fold is not trained again
    assert "2 of 3: epoch 1 " not in watched.err  # nor the epoch that was done
    assert "2 of 3: epoch" in watched.err
    for name in ("predictions/finetuned.csv", "search/finetuned.csv", "clips.csv"):
        assert (run / name).read_bytes() == (trained / name).read_bytes(), name


def score(models: list[Path], clips: list[Path]) -> list[list[dict[str, float]]]:
    """What transformers says of clips, one at a time, by model."""
    import soundfile
    import soxr
    import transformers

    scores = []
    for model in models:
        pipe = transformers.pipeline("audio-classification", str(model))
        of_model = []
        for clip in clips:
            samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
            samples = soxr.resample(samples.mean(axis=1), rate, 16000, quality="VHQ")
            of_model.append({each["label"]: each["score"] for each in pipe(samples, top_k=None)})
        scores.append(of_model)
    return scores


def score_without_serpipe(models: list[Path], clips: list[Path]) -> list[list[dict[str, float]]]:
    """The same in a process of its own, into which serpipe is not loaded."""
    code = (
        f"import json, sys\nfrom pathlib import Path\n{inspect.getsource(score)}\n"
        "print(json.dumps(score(*map(json.loads, sys.argv[1:]))))\n"
        "assert not any(name.split('.')[0] == 'serpipe' for name in sys.modules)\n"
    )
    lists = [json.dumps(list(map(str, paths))) for paths in (models, clips)]
    done = subprocess.run(
        [sys.executable, "-c", code, *lists], capture_output=True, text=True, cwd=models[0]
    )
    assert done.returncode == 0, done.stderr
    scores: list[list[dict[str, float]]] = json.loads(done.stdout)
    return scores


def test_a_padded_batch_scores_as_the_saved_model_does_alone_without_serpipe(
    family_encoder: Callable[[str], Path], sample: Path, tmp_path: Path
) -> None:
    clips = list(scan(sample, RAVDESS).clips)[:4]
    labels = ["angry", "calm", "happy"]
    ours = {}
    for family in ("wav2vec2-group", "hubert-layer-stable", "wavlm-group", "data2vec-audio",
                   "unispeech-group", "unispeech-sat-layer-stable", "whisper"):  # fmt: skip
        checkpoint = load_checkpoint(str(family_encoder(family)), None)
        model = build_model(checkpoint, labels)
        with torch.no_grad():  # as after a training: layers weigh differently, scores differ
            model.layer_weights.copy_(torch.tensor([0.5, 2.0, -1.0, 1.0]))
            model.classifier.weight.mul_(20)
        sounds, bad = decode_clips(clips, checkpoint.front_end)
        assert not bad and len({each.facts.seconds for each in sounds.clips}) == 4  # padded
        logits = predict(
            model,
            Examples(sounds, range(4), np.zeros((4, 3), np.float32)),
            TrainingOptions(),
            "cpu",
        )
        ours[family] = torch.softmax(torch.tensor(logits), dim=1).numpy()
        assert np.ptp(ours[family], axis=0).max() > 1e-4, family  # more than is allowed below
        save_model(model, checkpoint.front_end, tmp_path / family)
    files = [Path(str(each.clip.file)) for each in sounds.clips]
    plain = score_without_serpipe([tmp_path / family for family in ours], files)
    for (family, mine), theirs in zip(ours.items(), plain, strict=True):
        expected = [[each[label] for label in labels] for each in theirs]
        np.testing.assert_allclose(mine, expected, atol=1e-5, rtol=0, err_msg=family)


def test_the_exported_model_of_a_run_tells_high_from_low(trained: Path, tones: Path) -> None:
    clips = [tones.parent / f"a-{label}-0.wav" for label in LABELS]
    for label, scores in zip(LABELS, score([trained / "model"], clips)[0], strict=True):
        assert max(scores, key=lambda name: scores[name]) == label
    config = (trained / "model" / "config.json").read_text()
    assert str(Path.home()) not in config and str(tones.parent.parent) not in config


def test_folds_are_those_of_fit_and_reports_compare_with_its_probe(
    trained: Path, tones: Path, small_encoder: Path, serpipe: Command
) -> None:
    assert serpipe("extract", "--manifest", tones, "--encoder", small_encoder).code == 0
    fitted = serpipe("fit", "--head", "lr", "--target", "pitch", "--split", "kfold:3")
    assert fitted.code == 0, fitted.err
    probe = Path(fitted.out.strip())
    assert (probe / "clips.csv").read_bytes() == (trained / "clips.csv").read_bytes()
    alone = serpipe("report", trained)
    assert alone.code == 0, alone.err
    for word in ("end to end", "48 clips", "held out of the training speakers"):
        assert word in alone.out
    both = serpipe("report", trained, probe)
    assert both.code == 0, both.err
    assert "1 finetuned - 2 lr" in both.out
    out = Path("again")
    shutil.copytree(trained, out)  # finished: nothing is trained, the comparison is printed
    again = (*options(tones, small_encoder), "--random-head")
    compared = serpipe(*again, "--out", out, "--probe", probe)
    assert compared.code == 0, compared.err
    assert "epoch 1" not in compared.err
    assert "1 finetuned - 2 lr" in compared.out
    other = serpipe(
        "fit", "--head", "lr", "--target", "pitch", "--split", "kfold:3", "--map", "low=deep"
    )
    refused = serpipe(*options(tones, small_encoder), "--probe", other.out.strip())
    assert_refused(refused, "--probe", other.out.strip(), "deep")


def test_a_trial_is_marked_everywhere_and_holds_only_what_it_tested(
    tones: Path, small_encoder: Path, serpipe: Command
) -> None:
    done = serpipe(*options(tones, small_encoder), "--max-folds", 1, "--epochs", 1)
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    assert "TRIAL" in done.err
    report = serpipe("report", run)
    assert report.code == 0, report.err
    assert "TRIAL" in report.out
    clips = rows(run, "clips.csv")
    assert {row["fold"] for row in clips} == {"1"} and 0 < len(clips) < 48
    assert len({row["speaker"] for row in clips}) == 2
    assert not (run / "model").exists()


def test_a_checkpoint_that_lacks_weights_of_the_encoder_is_refused(
    tones: Path, small_encoder: Path, tmp_path: Path, serpipe: Command
) -> None:
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(small_encoder, broken)
    weights = load_file(broken / "model.safetensors")
    weights.pop("encoder.layers.1.attention.k_proj.weight")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    done = serpipe(*options(tones, broken))
    assert_refused(done, broken, 1, "encoder.layers.1.attention.k_proj.weight")


def test_the_validation_speakers_of_a_single_split_choose_the_epoch(
    tones: Path, small_encoder: Path, serpipe: Command
) -> None:
    quick = ("--split", "holdout:50/25/25", "--epochs", 1, "--no-export")
    done = serpipe(*options(tones, small_encoder), *quick)
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    (choice,) = json.loads((run / "run.json").read_text())["heads"]["finetuned"]["choices"]
    table = {"speaker": np.repeat(SPEAKERS, 2), "sha256": np.arange(12).astype(str),
             "path": np.arange(12).astype(str)}  # fmt: skip
    (fold,) = make_split("holdout:50/25/25", table, np.tile(list(LABELS), 6)).folds
    assert choice["validation"] == sorted(set(table["speaker"][fold.validation]))
    tested = {row["speaker"] for row in rows(run, "clips.csv")}
    assert tested == set(table["speaker"][fold.test])
    assert len(tested | set(choice["validation"])) == 3


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--precision", "fp16"),
        ("--batch-size", 0),
        ("--warmup", 1.5),
        ("--learning-rate", -1),
        ("--max-folds", 0),
        ("--target", "gloom"),
        ("--device", "tpu"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    option: str, value: object, tones: Path, small_encoder: Path, serpipe: Command
) -> None:
    done = serpipe(*options(tones, small_encoder), option, value)
    assert_refused(done, f"{option} {value}")


def test_only_the_requested_parts_are_trained(small_encoder: Path) -> None:
    checkpoint = load_checkpoint(str(small_encoder), None)
    for train_front_end in (False, True):
        model = build_model(checkpoint, ["a", "b"], train_front_end=train_front_end)
        convolutions = model.wav2vec2.feature_extractor.parameters()
        assert {each.requires_grad for each in convolutions} == {train_front_end}
        assert all(each.requires_grad for each in model.wav2vec2.encoder.parameters())
        new = {name.split(".")[0] for name in head_parameters(model)}
        assert new == {"layer_weights", "projector", "classifier"}
        assert model.config.layerdrop == model.config.mask_time_prob == 0


def test_batches_are_of_similar_length_and_depend_on_the_epoch_alone() -> None:
    lengths = np.random.default_rng(0).uniform(1, 10, 103).tolist()

    def order(epoch: int) -> list[int]:
        sampler = ByLength(lengths, 8, seed=1)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert sorted(order(0)) == list(range(103))
    assert order(3) == order(3) != order(4)
    spans = [np.ptp([lengths[i] for i in order(0)[start : start + 8]]) for start in range(0, 96, 8)]
    assert np.mean(spans) < 3  # drawn at random, eight of these span seven on average


def test_each_label_weighs_the_same_in_the_loss() -> None:
    targets = np.eye(4, dtype=np.float32)[[0] * 6 + [1] * 2 + [3] * 4]
    weights = class_weights(targets).numpy()
    shares = weights * targets.sum(axis=0)
    np.testing.assert_allclose(shares, [4, 4, 0, 4])
