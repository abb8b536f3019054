"""A model says of a recording what its bundle says of its embedding; nothing is lost or spoilt."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serpipe as package
import soundfile
import torch
from safetensors.torch import load_file, save_file
from serpipe.artifacts.models.bundle import load_bundle
from serpipe.artifacts.models.prediction import Prediction, csv_columns
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, Model, load_model
from serpipe.artifacts.models.windows import equal_windows, windows
from serpipe.artifacts.score_columns import score_columns
from serpipe.errors import BadClipError, UserError
from serpipe.features.audio import SILENCE_PEAK, read_waveform
from serpipe.features.cache import open_cache
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.front_end import prepare
from serpipe.pipeline.finetune.model import build_model, save_model
from serpipe.pipeline.finetune.network_model import NetworkModel, save_network

from .conftest import Command, run_python, write_hashed, write_wav
from .messages import assert_names, assert_refused, raises_about

EMOTIONS = ("angry", "calm", "happy")


@pytest.fixture(scope="module")
def built_in() -> Model:
    """The bundle that ships."""
    return load_model(DEFAULT_BUNDLE)


@pytest.fixture
def clips(sample: Path) -> list[Path]:
    """Four clips of the sample, of different lengths."""
    return sorted(sample.glob("Actor_0[1-4]/*-01-05-*.flac"))[:4]


def the(pattern: str, folder: Path) -> Path:
    (path,) = folder.glob(pattern)
    return path


def told(prediction: Prediction | BadClipError) -> list[float]:
    assert isinstance(prediction, Prediction), prediction
    return list(prediction.scores.values())


def check_against_cache(cache_file: Path, bundle: Path, encoder: Path, corpus: Path) -> None:
    """What a model says of files is what its bundle says of their rows of the cache."""
    cache, head = open_cache(cache_file), load_bundle(bundle)
    model = load_model(bundle, encoder=encoder)
    paths = [corpus / path for path in cache.clips["path"].tolist()][:12]
    together = model.predict_batch([model.read(path) for path in paths], list(map(str, paths)))
    layers = {
        layer: cache.embeddings(layer, head.summary.pooling) for layer in head.candidate.layers
    }
    for row, path in enumerate(paths):
        labels, scores = head.predict({layer: X[[row]] for layer, X in layers.items()})
        for said in (model.predict(path), together[row]):
            assert isinstance(said, Prediction)
            assert said.label == labels[0]
            assert tuple(said.scores) == tuple(head.summary.labels)
            np.testing.assert_array_equal(told(said), scores[0])


@pytest.mark.parametrize("head", ["lr", "svm"])
def test_a_clip_scores_as_its_row_of_the_cache_to_the_last_bit(
    head: str, fitted_once: Path, extracted_once: Path, small_encoder: Path
) -> None:
    cache = the("features/cache/*.h5", fitted_once)
    bundle = the(f"artifacts/runs/*/bundles/{head}", fitted_once)
    check_against_cache(cache, bundle, small_encoder, extracted_once.parent / "ravdess")


def test_what_was_done_to_the_clips_of_the_cache_is_done_again(
    serpipe: Command, few_clips: Path, family_encoder: Callable[[str], Path]
) -> None:
    for path in few_clips.rglob("*.flac"):  # a second channel that is not to be heard
        samples, rate = soundfile.read(path, always_2d=True)
        soundfile.write(path, np.hstack([samples, samples[::-1]]), rate)
    encoder = family_encoder("wavlm-layer-stable")
    done = serpipe("extract", "--data", few_clips, "--encoder", encoder, "--pool", "mean,std",
                   "--trim", 30, "--channels", "left", "--dtype", "float16",
                   "--max-seconds", 2)  # fmt: skip
    assert done.code == 0, done.err
    fitted = serpipe("fit", "--head", "lr", "--layers", "weighted", "--grid", "lr.C=1")
    assert fitted.code == 0, fitted.err
    bundle = Path(fitted.out.strip()) / "bundles" / "lr"
    check_against_cache(Path(done.out.strip()), bundle, encoder, few_clips)


def test_ratings_are_predicted_without_a_label(
    serpipe: Command, extracted_once: Path, small_encoder: Path, clips: list[Path]
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    cache = open_cache(the("features/cache/*.h5", Path()))
    lines = [f"{name},{n % 7}" for n, name in enumerate(cache.clips["name"].tolist())]
    Path("r.csv").write_text("\n".join(["name,valence", *lines]) + "\n")
    fitted = serpipe("fit", "--target", "valence", "--ratings", "r.csv", "--split", "kfold:3")
    assert fitted.code == 0, fitted.err
    done = serpipe("predict", clips[0], "--encoder", small_encoder, "--window", 1, "--format",
                   "json", "--device", "cpu")  # fmt: skip
    assert done.code == 0, done.err
    assert "CCC" in done.err
    assert json.loads(done.out)["model"]["probabilities"] == ""
    (said,) = json.loads(done.out)["predictions"]
    assert said["label"] == "" and set(said["scores"]) == {"valence"}
    of_windows = [each["scores"]["valence"] for each in said["timeline"]]
    assert said["scores"]["valence"] == pytest.approx(np.mean(of_windows))
    table = serpipe("predict", clips[0], "--encoder", small_encoder, "--device", "cpu").out
    header, row = table.splitlines()  # ratings have no probabilities to say anything of
    assert header.split() == ["file", "seconds", "valence"]
    assert 0 < float(row.split()[2]) < 6


def test_every_format_says_the_same(
    serpipe: Command, clips: list[Path], fitted_once: Path, small_encoder: Path
) -> None:
    clips, bundle = clips[:2], the("artifacts/runs/*/bundles/lr", fitted_once)
    model = load_model(bundle, encoder=small_encoder)
    expected = [model.predict(clip, window=2, hop=1.5) for clip in clips]
    options = ("--model", bundle, "--encoder", small_encoder, "--window", 2, "--hop", 1.5)
    out = {}
    for form in ("table", "json", "jsonl", "csv"):
        done = serpipe("predict", *clips, *options, "--format", form, "--device", "cpu")
        assert done.code == 0, done.err
        out[form] = done.out
    whole = json.loads(out["json"])
    assert whole["model"]["licence"] == "CC BY-NC-SA 4.0"
    assert [json.loads(line) for line in out["jsonl"].splitlines()] == whole["predictions"]
    rows = list(csv.DictReader(out["csv"].splitlines()))
    assert list(rows[0]) == csv_columns(model.labels)
    assert {row["part"] for row in rows} == {"whole", "window"}
    *lines, footer = out["table"].splitlines()[1:]
    assert "held-out speakers" in footer and whole["model"]["probabilities"] in footer
    assert len(rows) == len(lines) == sum(1 + len(each.timeline) for each in expected)
    for each, printed in zip(expected, whole["predictions"], strict=True):
        assert printed["source"] == each.source and printed["scores"] == each.scores
        assert [s["scores"] for s in printed["timeline"]] == [s.scores for s in each.timeline]
    wholes = [(row, line) for row, line in zip(rows, lines, strict=True) if row["part"] == "whole"]
    for each, (row, line) in zip(expected, wholes, strict=True):
        assert {name: float(row[f"score_{name}"]) for name in each.scores} == each.scores
        assert line.split()[2:4] == [each.label, f"{each.scores[each.label]:.2f}"]


@pytest.mark.parametrize("name", ["anna.flac", "Jürgen.flac"])
def test_csv_has_a_byte_order_mark_only_where_a_spreadsheet_needs_it(
    serpipe: Command, clips: list[Path], fitted_once: Path, small_encoder: Path, name: str
) -> None:
    shutil.copy(clips[0], name)
    bundle = the("artifacts/runs/*/bundles/lr", fitted_once)
    command = ("predict", name, "--model", bundle, "--encoder", small_encoder, "--device", "cpu")
    assert serpipe(*command, "--out", "said.csv").code == 0
    written = Path("said.csv").read_text(encoding="utf-8")
    assert written.startswith("\ufeff") is not name.isascii()
    # What reads a pipe would take the mark for a part of the first name.
    piped = serpipe(*command, "--format", "csv").out
    assert piped == written.removeprefix("\ufeff")
    (row,) = csv.DictReader(piped.splitlines())
    assert row["source"] == name


def test_columns_of_scores_are_ascii_words_and_all_different() -> None:
    labels = ["angry", "müde", "mude", "very tired", "怒", "5", "score"]
    columns = score_columns(labels)
    assert len(set(columns)) == len(labels)
    assert all(re.fullmatch(r"score_[A-Za-z0-9_]+", column) for column in columns)
    assert columns[:2] == ["score_angry", "score_mude"] and columns[3] == "score_very_tired"


def test_bad_files_are_told_and_the_others_predicted(
    serpipe: Command, clips: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(clips[0], folder / "a.flac")
    (folder / "b.wav").write_bytes(b"RIFF, but no more")
    write_wav(folder / "c.wav", np.zeros(16000))
    write_wav(folder / "d\x1b[2J.wav", np.full(100, 0.5))
    shutil.copy(clips[1], folder / "e.flac")
    (folder / "notes.txt").write_text("no audio")
    assert serpipe("predict", folder, folder / "nowhere.wav").out == ""  # before any work
    done = serpipe("predict", folder, "--format", "csv", "--device", "cpu")
    assert done.code == 2
    assert "NOT FOR USE ON PEOPLE" in done.err and "UAR 63.0" in done.err
    assert [row["source"] for row in csv.DictReader(done.out.splitlines())] == [
        str(folder / "a.flac"),
        str(folder / "e.flac"),
    ]
    bad = [line for line in done.err.splitlines() if line.startswith("bad ")]
    for line, name in zip(bad, ("b.wav", "c.wav", "d"), strict=True):
        assert_names(line, folder / name)
    assert_refused(done, 3, 5, "--skip-bad")
    assert "\x1b" not in done.out + done.err
    missing = folder / "nowhere.wav"
    skipped = serpipe(
        "predict", folder, missing, "--skip-bad", "--format", "jsonl", "--device", "cpu"
    )
    assert skipped.code == 0
    assert len(skipped.out.splitlines()) == 2 and skipped.err.count("skipped ") == 4
    refused = serpipe("predict", tmp_path / "work")
    assert_refused(refused, tmp_path / "work")


def test_one_bad_recording_spoils_no_other(built_in: Model, clips: list[Path]) -> None:
    good = [built_in.read(clip) for clip in clips[:2]]
    shapes: list[tuple[float, int | tuple[int, int]]] = [
        (np.nan, 16000), (0, 16000), (1, 10), (1, (9000, 2)), (1, 0),
    ]  # fmt: skip
    bad = [np.full(shape, value, np.float32) for value, shape in shapes]
    mixed = built_in.predict_batch([good[0], *bad, good[1]], list("abcdefg"))
    for each, name in zip(mixed[1:-1], "bcdef", strict=True):
        assert isinstance(each, BadClipError) and each.parts[0] == name
    alone = [built_in.predict_batch([each], ["x"])[0] for each in good]
    assert [told(mixed[0]), told(mixed[-1])] == [told(each) for each in alone]


def test_windows_cover_the_whole_recording() -> None:
    draw = np.random.default_rng(0)
    for _ in range(300):
        n, rate = int(draw.integers(1, 200_000)), int(draw.choice([8000, 16000, 44100]))
        window = float(draw.uniform(0.05, 3))
        cut = windows(n, rate, window, float(draw.uniform(0.05, window)))
        assert cut[0][0] == 0 and cut[-1][1] == n
        assert {end - start for start, end in cut} == {min(n, round(window * rate))}
        starts = [start for start, _ in cut]
        assert starts == sorted(set(starts))
        assert all(later[0] <= sooner[1] for sooner, later in pairwise(cut))
        parts = equal_windows(n, 30_000)
        assert sum(end - start for start, end in parts) == n
        assert len(parts) == -(-n // 30_000) and max(e - s for s, e in parts) <= 30_000
    for wrong in ((1.0, 2.0), (1.0, 0.001), (-1.0, -1.0), (np.inf, 1.0), (np.nan, 1.0)):
        with raises_about(UserError, "--window", "--hop", "0.05 s"):
            windows(100, 10, *wrong)


def test_a_window_scores_as_the_cut_alone_and_silence_counts_for_nothing(
    small_encoder: Path, fitted_once: Path, clips: list[Path], built_in: Model
) -> None:
    normalising = load_model(the("artifacts/runs/*/bundles/lr", fitted_once), encoder=small_encoder)
    for model, window, hop, min_silent in (
        (built_in, 3, 2, 1),
        (normalising, 1.5, 0.7, 3),
    ):
        speech = [model.read(clip) for clip in clips[:2]]
        silence = np.zeros(5 * 16000, np.float32)
        recording = np.concatenate([speech[0], silence, speech[1]])
        whole = model.predict(recording, 16000, window=window, hop=hop)
        assert whole.timeline[0].start == 0
        assert whole.timeline[-1].end == whole.seconds == len(recording) / 16000
        scores, silent = [], 0
        for segment in whole.timeline:
            cut = recording[round(segment.start * 16000) : round(segment.end * 16000)]
            if np.abs(cut).max() < SILENCE_PEAK:
                assert segment.label == "" and not segment.scores
                silent += 1
                continue
            alone = model.predict(cut, 16000)
            assert (segment.label, segment.scores) == (alone.label, alone.scores)
            scores.append(list(alone.scores.values()))
        assert silent >= min_silent and len(scores) >= 3
        np.testing.assert_allclose(told(whole), np.mean(scores, axis=0), rtol=1e-12)
        assert whole.scores[whole.label] == max(whole.scores.values())
        for wrong in ({"hop": 1.0}, {"window": 0.01}, {"window": 1, "hop": 2}):
            with pytest.raises(UserError):
                model.predict(recording, 16000, **wrong)
    assert normalising.card["normalises"] and not built_in.card["normalises"]
    with raises_about(UserError, "--window 31", "30 s"):
        built_in.predict(recording, 16000, window=31)


def test_a_recording_too_long_for_whisper_is_cut_into_equal_windows(
    serpipe: Command, clips: list[Path], built_in: Model, tmp_path: Path
) -> None:
    speech = np.concatenate([built_in.read(clip) for clip in clips])
    long = write_wav(tmp_path / "long.wav", np.tile(speech, 5)[: 61 * 16000])
    done = serpipe("predict", long, "--format", "json", "--device", "cpu")
    assert done.code == 0, done.err
    (said,) = json.loads(done.out)["predictions"]
    spans = [(each["start"], each["end"]) for each in said["timeline"]]
    np.testing.assert_allclose(spans, [(0, 61 / 3), (61 / 3, 122 / 3), (122 / 3, 61)], atol=1e-3)
    assert serpipe("predict", long, "--device", "cpu").out.count("\n") == 3


def test_samples_say_what_their_file_says(built_in: Model, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    samples = 0.1 * draw.standard_normal((44100, 2))
    path = write_wav(tmp_path / "two-channels.wav", samples, 44100)
    read, rate = soundfile.read(path)
    assert built_in.predict(path).scores == built_in.predict(read, rate).scores
    assert built_in.predict(path).scores != built_in.predict(read[:, 0], rate).scores
    for wrong, given, values in (
        (read, None, ("rate", "None")),
        ((read * 1000).astype(int), rate, ("int64", "(44100, 2)")),
        (read[:0], rate, ("(0, 2)",)),
    ):
        with raises_about(UserError, *values):
            built_in.predict(wrong, given)


@pytest.mark.parametrize("family", ["wav2vec2-group", "whisper"])
def test_a_fine_tuned_directory_predicts_as_the_model_does(
    family: str, family_encoder: Callable[[str], Path], clips: list[Path], tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(str(family_encoder(family)), None)
    built = build_model(checkpoint, EMOTIONS)
    with torch.no_grad():
        built.classifier.weight.mul_(30)
    built.config.serpipe = {"target": "emotion", "warnings": ["INFLATED: so it is"]}
    save_model(built, checkpoint.front_end, tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.labels == EMOTIONS and model.target == "emotion"
    assert model.card["warnings"] == ["INFLATED: so it is"]
    assert "not calibrated" in model.card["probabilities"]
    check_whole_model(model, built, clips)


@pytest.mark.parametrize("name", ["cnn", "s4"])
def test_a_network_folder_predicts_as_the_network_does(
    name: str, clips: list[Path], tmp_path: Path
) -> None:
    network = NetworkModel(name, EMOTIONS, seed=0).eval()
    save_network(network, tmp_path / "model", {"target": "emotion"})
    check_whole_model(load_model(tmp_path / "model"), network, clips)


def check_whole_model(model: Model, module: Any, clips: list[Path]) -> None:
    front_end = model.predictor.front_end
    together = model.predict_batch([model.read(clip) for clip in clips], list(map(str, clips)))
    different = set()
    for clip, said in zip(clips, together, strict=True):
        waveform = prepare(front_end, read_waveform(clip, 16000)[0])
        with torch.inference_mode():
            logits = module.eval()(**front_end.inputs([waveform]))["logits"]
        expected = torch.softmax(logits[0].double(), dim=0).numpy()
        np.testing.assert_allclose(told(said), expected, rtol=1e-6)
        assert model.predict(clip) == said
        different.add(said.scores["angry"])
    assert len(different) == len(clips)


def test_another_encoder_is_refused_and_one_of_a_folder_must_be_named(
    fitted_once: Path, small_encoder: Path, tmp_path: Path
) -> None:
    bundle = the("artifacts/runs/*/bundles/lr", fitted_once)
    with raises_about(UserError, bundle, "'wav2vec2-group'", "--encoder DIR"):
        load_model(bundle)
    other = tmp_path / small_encoder.name  # the very name that the bundle records
    shutil.copytree(small_encoder, other)
    weights = load_file(other / "model.safetensors")
    weights["encoder.layers.1.attention.k_proj.bias"] += 1e-3
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with raises_about(UserError, other, bundle, "weights_sha256"):
        load_model(bundle, encoder=other)
    assert load_model(bundle, encoder=small_encoder).card["warnings"] == []


@pytest.mark.parametrize("revision", ["built-in", "local", "main"])
def test_what_a_bundle_calls_its_encoder_is_never_a_path(
    revision: str, fitted_once: Path, small_encoder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shutil.copytree(small_encoder, tmp_path / "here" / "encoder")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(the("artifacts/runs/*/bundles/lr", fitted_once), "bundle")
    content = json.loads(Path("bundle/bundle.json").read_text())
    for name in ("here/encoder", "./here/encoder", str(tmp_path / "here" / "encoder"), "../x"):
        content["encoder"] |= {"encoder": name, "revision": revision}
        write_hashed(Path("bundle/bundle.json"), content)
        with raises_about(UserError, "bundle", repr(name), "--encoder DIR"):
            load_model("bundle")


def test_a_head_that_needs_many_clips_of_a_speaker_is_refused(
    serpipe: Command, extracted_once: Path, small_encoder: Path, clips: list[Path]
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    fitted = serpipe(
        "fit", "--head", "lr", "--normalise", "speaker", "--layers", "2", "--grid", "lr.C=1"
    )
    assert fitted.code == 0, fitted.err
    done = serpipe("predict", clips[0], "--model", fitted.out.strip(), "--encoder", small_encoder)
    assert done.out == ""
    assert_refused(done, fitted.out.strip(), "--normalise none")


def test_the_newest_run_is_taken_and_a_run_stands_for_its_first_bundle(
    serpipe: Command, fitted_once: Path, small_encoder: Path, clips: list[Path]
) -> None:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    run = the("artifacts/runs/*", Path())
    said = {}
    for options in ((), ("--model", run), ("--model", run / "bundles" / "lr")):
        done = serpipe("predict", clips[0], "--encoder", small_encoder, "--device", "cpu", *options)
        assert done.code == 0, done.err
        assert f"{run}/bundles/lr" in done.err
        said[options] = done.out
    assert len(set(said.values())) == 1


def test_the_bundle_that_ships_predicts_in_an_empty_folder(
    sample: Path, tmp_path: Path, built_in: Model
) -> None:
    clip = next(sample.rglob("*.flac"))
    code = (
        "import sys, serpipe\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
        "said = serpipe.load().predict(sys.argv[1])\n"
        "print(said.label, *said.scores.values())\n"
    )
    done = run_python("-c", code, clip, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = built_in.predict(clip)
    assert done.stdout.split() == [expected.label, *map(str, expected.scores.values())]
    files = list(DEFAULT_BUNDLE.iterdir())
    assert sum(file.stat().st_size for file in files) < 200_000
    card = (DEFAULT_BUNDLE / "README.md").read_text() + json.dumps(built_in.card)
    for word in ("192 acted clips", "24 speakers", "CC BY-NC-SA 4.0", "63.0", "OT FOR USE ON"):
        assert word in card
    assert "machine" not in (DEFAULT_BUNDLE / "bundle.json").read_text()


@pytest.mark.parametrize(
    ("wrong", "values"),
    [
        ((), ["--mic"]),
        (("a.wav", "--model", "/no/such"), ["/no/such", "--model"]),
        (("a.wav", "--device", "tpu"), ["--device tpu", "auto", "cpu", "cuda"]),
        (("a.wav", "--hop", 1), ["--hop 1", "--window"]),
        (("a.wav", "--window", 1, "--hop", 2), ["--window 1", "--hop 2"]),
        (("a.wav", "--model", "."), ["serpipe: .:", "--model"]),
    ],
)
def test_mistakes_are_one_line(
    wrong: tuple[object, ...], values: list[str], serpipe: Command
) -> None:
    write_wav(Path("a.wav"), 0.1 * np.random.default_rng(0).standard_normal(8000))
    assert_refused(serpipe("predict", *wrong), *values)


def test_a_bad_recording_fails_the_command_after_all_results_are_written(
    serpipe: Command, clips: list[Path]
) -> None:
    Path("bad.wav").write_bytes(b"x" * 1000)
    Path("results.csv").write_text("of an earlier command")
    done = serpipe("predict", clips[0], "bad.wav", "--out", "results.csv", "--device", "cpu")
    assert_refused(done, 1, 2, "--skip-bad")
    assert_names(done.err, "bad.wav")
    assert [path.name for path in Path().iterdir() if path.suffix == ".csv"] == ["results.csv"]
    header, row = Path("results.csv").read_text(encoding="utf-8-sig").splitlines()
    (prediction,) = package.predict([clips[0], "bad.wav"], device="cpu", skip_bad=True)
    written = dict(zip(header.split(","), row.split(","), strict=True))
    assert written["label"] == prediction.label
    with pytest.raises(UserError):
        list(package.predict([clips[0], "bad.wav"], device="cpu"))


def test_without_sounddevice_the_microphone_is_one_line(serpipe: Command) -> None:
    try:
        import sounddevice  # noqa: F401
    except (ImportError, OSError):
        done = serpipe("predict", "--mic", 1)
        assert done.out == ""
        assert_refused(done, "--mic", "'serpipe[mic]'")
    else:
        pytest.skip("sounddevice is installed")
