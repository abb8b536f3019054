"""Scores on what a model was trained on are marked, whatever the clips and the model are called."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, load_model
from serpipe.artifacts.run.results import read_results
from serpipe.corpora.data import SAMPLE, find_data
from serpipe.errors import UserError
from serpipe.features.audio import read_waveform
from serpipe.features.cache import open_cache
from serpipe.features.checkpoint import load_checkpoint
from serpipe.features.known_models import known_training
from serpipe.features.training_record import (
    FILE_NAME,
    TrainingRecord,
    find_contamination,
    hash_speaker,
    read_record,
    record_clips,
    unite,
    write_record,
)
from serpipe.pipeline.contamination import contamination_mark
from serpipe.pipeline.finetune.model import build_model, save_model
from serpipe.pipeline.finetune.network_model import NetworkModel, save_network
from serpipe.serving.answers import answer, as_csv
from serpipe.serving.decode import Decoders
from serpipe.serving.options import ServeOptions

from .conftest import Command, write_unhashed
from .messages import assert_names, assert_refused, raises_about

EMOTIONS = ("angry", "calm", "disgust", "fearful", "happy", "neutral", "sad", "surprised")
TRAINED_ACTORS = ("01", "02", "03")
WHOLE: dict[str, object] = {
    "serpipe_training_record": 1,
    "corpora": ["calls"],
    "unlisted": [],
    "clips": ["0" * 16],
    "speakers": [],
}
QUICK = ("--layers", "1", "--head", "lr", "--grid", "lr.C=1", "--split", "kfold:2")


def record_of(files: Sequence[Path], corpus: str = "ravdess") -> TrainingRecord:
    hashes = [read_waveform(file, None)[1].audio_sha256 for file in files]
    speakers = [file.parent.name.removeprefix("Actor_") for file in files]
    return record_clips([corpus] * len(files), speakers, [""] * len(files), hashes)


def clips_of(folder: Path, actors: Sequence[str]) -> list[Path]:
    return sorted(file for actor in actors for file in (folder / f"Actor_{actor}").iterdir())


@pytest.fixture(scope="module")
def trained_model(
    small_encoder: Path, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A classifier whose record lists the clips of the first three actors."""
    checkpoint = load_checkpoint(str(small_encoder), None)
    model = build_model(checkpoint, EMOTIONS)
    with torch.no_grad():
        model.classifier.weight.mul_(30)
    model.config.serpipe = {"corpora": ["ravdess"], "target": "emotion"}
    folder = tmp_path_factory.mktemp("trained") / "model"
    save_model(model, checkpoint.front_end, folder)
    write_record(folder, record_of(clips_of(sample, TRAINED_ACTORS)))
    return folder


def renamed_manifest(folder: Path, files: Sequence[Path], speakers: Sequence[str]) -> Path:
    """Write clips as WAV files of other names, of another corpus, and of other speakers."""
    folder.mkdir()
    names = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
    emotion_of = {f"{number:02d}": name for number, name in enumerate(names, 1)}
    rows = ["path,speaker,emotion"]
    for number, (file, speaker) in enumerate(zip(files, speakers, strict=True)):
        samples, rate = soundfile.read(file, dtype="int16")
        soundfile.write(folder / f"{number}.wav", samples, rate, subtype="PCM_16")
        rows.append(f"{number}.wav,{speaker},{emotion_of[file.name.split('-')[2]]}")
    manifest = folder / "interviews.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return manifest


def extracted(serpipe: Command, *options: object) -> tuple[Path, str]:
    done = serpipe("extract", *options, "--devices", "cpu")
    assert done.code == 0, done.err
    return Path(done.out.strip()), done.err


def fitted(serpipe: Command, cache: Path, *options: object) -> tuple[Path, str]:
    done = serpipe("fit", "--cache", cache, *QUICK, *options)
    assert done.code == 0, done.err
    return Path(done.out.strip()), done.err


def marks(run: Path) -> list[str]:
    return [warning for warning in json.loads((run / "run.json").read_text())["warnings"]
            if warning.startswith("CONTAMINATED: ")]  # fmt: skip


def test_a_fit_on_clips_that_the_encoder_was_trained_on_is_marked_wherever_it_is_shown(
    serpipe: Command, few_clips: Path, trained_model: Path, small_encoder: Path
) -> None:
    cache, said = extracted(serpipe, "--data", few_clips, "--encoder", trained_model)
    (line,) = [line for line in said.splitlines() if "CONTAMINATED" in line]
    assert_names(line, "model", 24, 40)
    table = open_cache(cache).clips
    is_trained = np.isin(table["speaker"], TRAINED_ACTORS)
    assert table["contamination"].tolist() == np.where(is_trained, "clip", "").tolist()
    run, said = fitted(serpipe, cache)
    (mark,) = marks(run)
    assert_names(mark, 24, 40)
    assert mark in said
    report = serpipe("report", run)
    assert report.out.count("SER007 invalid") == 1
    for name in ("nested.csv", "nested.tex"):
        assert "CONTAMINATED" in (run / "report" / name).read_text(), name
    honest_cache, said = extracted(serpipe, "--data", few_clips, "--encoder", small_encoder)
    assert "CONTAMINATED" not in said
    assert "contamination" not in open_cache(honest_cache).clips
    honest, _ = fitted(serpipe, honest_cache)
    assert not marks(honest)
    both = serpipe("report", run, honest)
    assert both.code == 0, both.err
    (comparison,) = Path("artifacts/comparisons").glob("*/comparisons.csv")
    with comparison.open() as file:
        assert {row["p"] for row in csv.DictReader(file)} == {""}


def test_held_out_speakers_of_a_model_that_lists_its_clips_are_not_marked(
    serpipe: Command, few_clips: Path, trained_model: Path
) -> None:
    for actor in TRAINED_ACTORS:
        shutil.rmtree(few_clips / f"Actor_{actor}")
    cache, said = extracted(serpipe, "--data", few_clips, "--encoder", trained_model)
    run, more = fitted(serpipe, cache)
    assert "CONTAMINATED" not in said + more + serpipe("report", run).out
    done = serpipe("evaluate", "--model", trained_model, "--data", few_clips, "--device", "cpu")
    assert done.code == 0, done.err
    assert "CONTAMINATED" not in done.err


def test_without_the_list_of_clips_the_corpus_decides(
    serpipe: Command, few_clips: Path, trained_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained_model, tmp_path / "older")
    (model / FILE_NAME).unlink()
    cache, _ = extracted(serpipe, "--data", few_clips, "--encoder", model)
    assert set(open_cache(cache).clips["contamination"].tolist()) == {"corpus"}
    run, _ = fitted(serpipe, cache)
    assert_names(marks(run)[0], "ravdess", 40)


def test_training_clips_under_other_names_are_recognised(
    serpipe: Command, sample: Path, trained_model: Path, tmp_path: Path
) -> None:
    trained, others = clips_of(sample, ["01", "02"]), clips_of(sample, ["07", "08"])
    speakers = ["Ann"] * 8 + ["Bob"] * 8 + ["Ann"] * 8 + ["Dan"] * 8
    manifest = renamed_manifest(tmp_path / "renamed", [*trained, *others], speakers)
    done = serpipe("evaluate", "--model", trained_model, "--manifest", manifest, "--device", "cpu")
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    (mark,) = marks(run)
    assert_names(mark, 16, 8, 32)  # of the 32 clips; the 8 are others of Ann
    assert mark in done.err and serpipe("report", run).out.count("SER007 invalid") == 1
    with (run / "clips.csv").open() as file:
        levels = Counter((row["speaker"], row["contamination"]) for row in csv.DictReader(file))
    assert levels == {
        ("Ann", "clip"): 8, ("Bob", "clip"): 8, ("Ann", "speaker"): 8, ("Dan", ""): 8,
    }  # fmt: skip


def test_speakers_of_a_manifest_are_recognised_in_another(
    serpipe: Command, sample: Path, trained_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained_model, tmp_path / "model")
    record = record_clips(["calls"], ["  Zoë"], ["z.wav"], ["0" * 64])  # of a clip that is not here
    write_record(model, record)
    config = json.loads((model / "config.json").read_text())
    config["serpipe"]["corpora"] = ["calls"]
    (model / "config.json").write_text(json.dumps(config))
    files = clips_of(sample, ["07", "08"])
    manifest = renamed_manifest(tmp_path / "renamed", files, ["ZOE\u0308"] * 8 + ["Max"] * 8)
    cache, _ = extracted(serpipe, "--manifest", manifest, "--encoder", model)
    table = open_cache(cache).clips
    expected = np.where(table["speaker"] == "Max", "", "speaker")
    assert table["contamination"].tolist() == expected.tolist()


@pytest.mark.parametrize("is_listed", [True, False])
def test_clips_of_a_manifest_named_as_those_of_a_built_in_corpus_are_recognised(
    is_listed: bool,
) -> None:
    names = ["a/03-01-05-01-02-01-01.wav", "03-01-05-01-02-01-02.wav", "take-3.wav"]
    table = {
        "corpus": np.array(["interviews"] * 3),
        "speaker": np.array(["Ann", "Bob", "Cy"]),
        "path": np.array(names),
    }
    corpora = frozenset({"ravdess"})
    if is_listed:  # of actor 01
        record = record_clips(["ravdess"], ["01"], ["1.wav"], ["a" * 64])
        assert find_contamination(record, table).tolist() == ["speaker", "", ""]
        return
    record = TrainingRecord(corpora=corpora, unlisted=corpora)
    assert find_contamination(record, table).tolist() == ["corpus", "corpus", ""]
    mark = contamination_mark("iic/emotion2vec_plus_large", table)
    assert mark
    assert_names(mark.text, "iic/emotion2vec_plus_large", "ravdess", 2, 3)


def test_only_tested_clips_are_marked(
    serpipe: Command, few_clips: Path, sample: Path, trained_model: Path, tmp_path: Path
) -> None:
    files = clips_of(sample, ["07", "08", "09"])
    manifest = renamed_manifest(tmp_path / "renamed", files, ["a"] * 8 + ["b"] * 8 + ["c"] * 8)
    encoder = ("--encoder", trained_model)
    trained, _ = extracted(serpipe, "--data", few_clips, *encoder)
    other, _ = extracted(serpipe, "--manifest", manifest, *encoder)
    assert "contamination" in open_cache(trained).clips
    assert "contamination" not in open_cache(other).clips
    folds = tmp_path / "folds.csv"
    folds.write_text("fold,speaker\n" + "".join(f"{n % 2},{n:02d}\n" for n in range(1, 6)))
    run, _ = fitted(serpipe, trained, "--split", f"file:{folds}", "--keep", "angry,sad")
    assert_names(marks(run)[0], 6, 10)


@pytest.mark.parametrize(
    ("name", "corpora"),
    [
        ("iic/emotion2vec_plus_large", {"ravdess", "iemocap", "emodb"}),
        ("/models/Emotion2Vec+ Large", {"ravdess"}),
        ("EHCALABRES/wav2vec2-lg-xlsr-en-speech-emotion-recognition", {"ravdess"}),
        ("/data/wav2vec2-lg-xlsr-en-speech-emotion-recognition/checkpoint-500", {"ravdess"}),
        ("/c/models--superb--hubert-large-superb-er/snapshots/0f3a", {"iemocap"}),
        ("r-f/wav2vec-english-speech-emotion-recognition", {"savee", "ravdess", "tess"}),
        ("/c/models--Dpngtm--wav2vec2-emotion-recognition/snapshots/1", {"cremad"}),
        ("/models/wav2vec2-emotion-recognition", {"cremad"}),
        ("D:\\models\\firdhokk\\speech-emotion-recognition-with-openai-whisper-v3", {"tess"}),
    ],
)
def test_known_models_are_recognised_by_any_form_of_their_name(
    name: str, corpora: set[str]
) -> None:
    record = known_training(["facebook/wav2vec2-base", name])
    assert record is not None
    assert corpora <= record.corpora == record.unlisted


@pytest.mark.parametrize(
    "name",
    [
        "facebook/wav2vec2-base",
        "openai/whisper-large-v3",
        "iic/emotion2vec_base",
        "/home/me/speech-emotion-recognition/wav2vec2-base",
        "/home/me/wav2vec2-emotion-recognition/models/wav2vec2-base",
        "/runs/superb-error-analysis",
        "",
    ],
)
def test_other_models_are_not_confused_with_known_ones(name: str) -> None:
    assert known_training([name]) is None


@pytest.mark.parametrize("how", ["folder", "parent", "link", "origin"])
def test_an_encoder_that_is_a_copy_of_a_known_model_is_marked(
    how: str, serpipe: Command, few_clips: Path, small_encoder: Path, tmp_path: Path
) -> None:
    known = "wav2vec2-lg-xlsr-en-speech-emotion-recognition"
    if how == "parent":
        folder = f"models--ehcalabres--{known}/snapshots/0f3a"
    else:
        folder = "encoder" if how == "origin" else known
    encoder = shutil.copytree(small_encoder, tmp_path / folder)
    if how == "origin":
        config = json.loads((encoder / "config.json").read_text())
        config["_name_or_path"] = f"ehcalabres/{known}"
        (encoder / "config.json").write_text(json.dumps(config))
    if how == "link":
        (tmp_path / "encoder").symlink_to(encoder)
        encoder = tmp_path / "encoder"
    cache, said = extracted(serpipe, "--data", few_clips, "--encoder", encoder)
    assert "CONTAMINATED" in said
    run, _ = fitted(serpipe, cache)
    assert_names(marks(run)[0], "ravdess", 40)


def test_runs_and_caches_of_before_the_mark_are_marked_by_the_name_of_their_encoder(
    serpipe: Command, fitted_once: Path
) -> None:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    assert not marks(run)
    older = shutil.copytree(run, run.with_name("older"))
    summary = json.loads((older / "run.json").read_text())
    summary["encoder"]["encoder"] = "iic/emotion2vec_plus_base"
    write_unhashed(older / "run.json", summary)
    (mark,) = read_results(older).summary.warnings
    assert mark.startswith("CONTAMINATED: ")
    assert_names(mark, "iic/emotion2vec_plus_base", "ravdess")
    assert mark in serpipe("report", older).out
    both = json.loads(serpipe("report", run, older, "--format", "json").out)
    rows = both["tables"]["comparisons"]
    assert {row["p"] for row in rows if row["first_run"] != row["second_run"]} == {None}


def test_predict_marks_exactly_the_recordings_that_were_trained_on(
    serpipe: Command, few_clips: Path, sample: Path, small_encoder: Path, tmp_path: Path
) -> None:
    cache, _ = extracted(serpipe, "--data", few_clips, "--encoder", small_encoder)
    run, _ = fitted(serpipe, cache)
    files = [*clips_of(sample, ["01"]), *clips_of(sample, ["07"])]
    renamed_manifest(tmp_path / "renamed", files, ["x"] * 16)
    folder = tmp_path / "renamed"
    expected = {str(folder / f"{n}.wav"): n < 8 for n in range(16)}
    options = ("--model", run, "--encoder", small_encoder, "--device", "cpu")
    printed = {form: serpipe("predict", folder, *options, "--format", form)
            for form in ("json", "csv", "table")}  # fmt: skip
    predictions = json.loads(printed["json"].out)["predictions"]
    assert {each["source"]: each["trained_on"] for each in predictions} == expected
    rows = list(csv.DictReader(printed["csv"].out.splitlines()))
    assert {row["source"]: row["trained_on"] == "true" for row in rows} == expected
    lines = printed["table"].out.splitlines()[1:-1]  # the last says what the probabilities are
    assert {line.split()[0]: line.endswith("TRAINED ON") for line in lines} == expected
    assert printed["table"].err.count("TRAINED ON: ") == 1
    model = load_model(run, encoder=small_encoder)
    samples, rate = soundfile.read(folder / "0.wav")
    assert model.predict(samples, rate).trained_on is True
    assert model.predict(samples[:-1], rate).trained_on is False
    (unknown,) = model.predict_batch([samples.astype(np.float32)], ["x"])
    assert getattr(unknown, "trained_on", False) is None  # it may have been resampled


def test_predict_knows_what_the_encoder_of_a_head_was_trained_on(
    serpipe: Command, sample: Path, few_clips: Path, trained_model: Path
) -> None:
    for actor in TRAINED_ACTORS:
        shutil.rmtree(few_clips / f"Actor_{actor}")
    cache, _ = extracted(serpipe, "--data", few_clips, "--encoder", trained_model)
    run, _ = fitted(serpipe, cache)
    model = load_model(run, encoder=trained_model)
    for actor, is_trained in (("01", True), ("04", True), ("07", False)):
        assert model.predict(clips_of(sample, [actor])[0]).trained_on is is_trained
    (run / "bundles" / "lr" / FILE_NAME).unlink()  # as in an older bundle
    for path in (run / "run.json", run / "bundles" / "lr" / "bundle.json"):
        write_unhashed(path, json.loads(path.read_text()))
    model = load_model(run, encoder=trained_model)
    for actor, expected in (("01", True), ("04", None), ("07", None)):
        assert model.predict(clips_of(sample, [actor])[0]).trained_on is expected


def test_whole_models_and_networks_mark_what_they_were_trained_on(
    sample: Path, trained_model: Path, tmp_path: Path
) -> None:
    save_network(NetworkModel("cnn", EMOTIONS, seed=0), tmp_path / "network", {})
    shutil.copy(trained_model / FILE_NAME, tmp_path / "network")
    for folder in (trained_model, tmp_path / "network"):
        model = load_model(folder)
        assert model.predict(clips_of(sample, ["01"])[0]).trained_on is True
        assert model.predict(clips_of(sample, ["07"])[0]).trained_on is False


def test_the_bundle_that_ships_lists_the_built_in_sample(shared: Path) -> None:
    _, (scan,) = find_data([SAMPLE])
    record = read_record(DEFAULT_BUNDLE / FILE_NAME)
    assert record == record_of([clip.file for clip in scan.clips])  # type: ignore[misc]
    assert len(record.clips) == 192 and len(record.speakers) == 24
    model = load_model(DEFAULT_BUNDLE)
    folder = shared / "data" / "ravdess" / "Actor_01"
    sampled = {clip.file.name for clip in scan.clips}
    other = next(file for file in sorted(folder.glob("*.flac")) if file.name not in sampled)
    assert model.predict(other).trained_on is False


def test_the_server_says_whether_a_recording_was_trained_on(sample: Path) -> None:
    model = load_model(DEFAULT_BUNDLE)
    clip = clips_of(sample, ["01"])[0]
    decoders = Decoders(model.sampling_rate, "mean", ServeOptions(decoders=1))
    waveform, audio_sha256 = decoders.decode(clip.read_bytes())
    decoders.close()
    for hash_, expected, cell in ((audio_sha256, True, "true"), ("0" * 64, False, "false")):
        (found,) = model.predict_batch([waveform], ["x"], audio_sha256=[hash_])
        told = answer(found, model, "")  # type: ignore[arg-type]
        assert told["trained_on"] is expected
        (row,) = csv.DictReader(as_csv(told).splitlines())
        assert row["trained_on"] == cell


def test_records_unite_and_survive_a_file(tmp_path: Path) -> None:
    listed = record_clips(["emodb"] * 2, ["03", "08"], ["3.wav", "8.wav"], ["a" * 64, "b" * 64])
    by_name = TrainingRecord(corpora=frozenset({"ravdess"}), unlisted=frozenset({"ravdess"}))
    both = unite([listed, None, by_name])
    assert both is not None
    assert both.corpora == {"emodb", "ravdess"} and both.unlisted == {"ravdess"}
    write_record(tmp_path, both)
    assert read_record(tmp_path / FILE_NAME) == both
    assert read_record(tmp_path / "nothing.json") is None
    table = {
        "corpus": np.array(["emodb", "emodb", "emodb", "ravdess", "tess"]),
        "speaker": np.array(["03", "03", "09", "03", "03"]),
        "path": np.array(["1.wav", "2.wav", "3.wav", "4.wav", "5.wav"]),
        "audio_sha256": np.array(["a" * 64, "c" * 64, "d" * 64, "e" * 64, ""]),
    }
    levels = find_contamination(both, table).tolist()
    assert levels == ["clip", "speaker", "", "corpus", ""]
    del table["audio_sha256"]  # of an older cache
    assert find_contamination(both, table).tolist() == ["speaker", "speaker", "", "corpus", ""]


def test_clips_of_an_older_cache_leave_their_corpus_unlisted() -> None:
    record = record_clips(["calls"] * 2, ["a", "b"], ["a.wav", "b.wav"], ["", ""])
    assert record.unlisted == {"calls"} and not record.clips
    assert record.contains_clip("a" * 64) is None


def test_speakers_of_two_built_in_corpora_are_distinguished() -> None:
    assert hash_speaker("ravdess", "01") != hash_speaker("cremad", "01")
    assert hash_speaker("mine", " Speaker１ ") == hash_speaker("yours", "speaker1")


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[" * 100_000,
        "[]",
        json.dumps(WHOLE | {"serpipe_training_record": 2}),
        json.dumps(WHOLE | {"corpora": "calls"}),
        json.dumps(WHOLE | {"corpora": ["calls", "\x1b"]}),
        json.dumps(WHOLE | {"unlisted": ["others"]}),
        json.dumps(WHOLE | {"clips": ["x"]}),
        json.dumps(WHOLE | {"speakers": [1]}),
    ],
)
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(content)
    with raises_about(UserError, tmp_path / FILE_NAME):
        read_record(tmp_path / FILE_NAME)


def test_an_encoder_with_a_damaged_record_is_refused_in_one_line(
    serpipe: Command, few_clips: Path, trained_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(trained_model, tmp_path / "damaged")
    (model / FILE_NAME).write_text("{}")
    done = serpipe("extract", "--data", few_clips, "--encoder", model)
    assert_refused(done, model / FILE_NAME)


def test_a_record_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.truncate(65 << 20)
    with raises_about(UserError, tmp_path / FILE_NAME, "64 MiB"):
        read_record(tmp_path / FILE_NAME)
