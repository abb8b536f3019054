"""Predictions of many recordings are lines of a file: none is lost, and none is duplicated."""

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serpipe as package
import soundfile
from filelock import FileLock
from serpipe.corpora.scan import audio_files
from serpipe.errors import UserError
from serpipe.pipeline.finetune.network_model import NetworkModel, save_network

from .conftest import Command, write_wav
from .messages import assert_names, assert_refused, raises_about
from .processes import Forked

OUT = Path("out.jsonl")
ABOUT = Path("out.jsonl.about.json")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that predicts at once."""
    return save_small_network(tmp_path_factory.mktemp("network") / "model", seed=0)


def save_small_network(folder: Path, seed: int) -> Path:
    save_network(NetworkModel("cnn", ("angry", "happy"), seed=seed), folder, {"target": "emotion"})
    return folder


@pytest.fixture
def calls(tmp_path: Path, sample: Path) -> Path:
    """Twelve short recordings at several depths, one of them damaged."""
    folder = tmp_path / "calls"
    for number, file in enumerate(sorted(sample.rglob("*.flac"))[:12]):
        clip, rate = soundfile.read(file, start=8000, frames=16000)
        write_wav(folder / "abc"[number % 3] / f"{number:02d}.wav", clip, rate)
    (folder / "b" / "04.wav").write_bytes(b"RIFF, but no more")
    return folder


def lines(path: Path = OUT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def command(network: Path, calls: Path, *more: object) -> tuple[object, ...]:
    return ("predict", calls, "--out", OUT, "--model", network, "--device", "cpu", *more)


def predict(serpipe: Command, network: Path, calls: Path, *more: object) -> str:
    done = serpipe(*command(network, calls, "--skip-bad", *more))
    assert done.code == 0, done.err
    assert done.out == ""
    return done.err


def test_each_recording_has_a_line_and_a_damaged_one_its_error(
    serpipe: Command, calls: Path, network: Path
) -> None:
    done = serpipe(*command(network, calls))
    assert_refused(done, 1, 12, OUT, "--skip-bad")
    expected = [str(path) for path in sorted(calls.rglob("*.wav"))]
    assert [line["source"] for line in lines()] == expected
    (failed,) = (line for line in lines() if "error" in line)
    assert failed["source"].endswith("04.wav")
    assert_names(failed["error"], failed["source"])
    options = ("--model", network, "--format", "jsonl", "--skip-bad", "--device", "cpu")
    printed = serpipe("predict", calls, *options).out
    assert printed.splitlines() == [
        line for line in OUT.read_text().splitlines() if '"error"' not in line
    ]
    assert_names(done.err, "12 recordings", "1 failed")
    labels = [line["label"] for line in lines() if "label" in line]
    assert_names(done.err, *(f"{label} {labels.count(label)}" for label in set(labels)))


def test_a_file_that_is_complete_is_left_as_it_is_and_new_recordings_are_added(
    serpipe: Command, calls: Path, network: Path
) -> None:
    predict(serpipe, network, calls)
    written, about = OUT.read_bytes(), ABOUT.read_bytes()
    assert_names(predict(serpipe, network, calls), "12 recordings")
    assert (OUT.read_bytes(), ABOUT.read_bytes()) == (written, about)
    shutil.copy(calls / "a" / "00.wav", calls / "a" / "00b.wav")
    assert_names(predict(serpipe, network, calls), "13 recordings")
    assert OUT.read_bytes().startswith(written)
    assert [line["source"] for line in lines()[12:]] == [str(calls / "a" / "00b.wav")]


def test_a_killed_prediction_is_continued_and_gives_the_same_bytes(
    serpipe: Command, calls: Path, network: Path
) -> None:
    predict(serpipe, network, calls, "--vad", "energy")
    whole = OUT.read_bytes()
    OUT.unlink()
    kept = 0
    for _ in range(2):  # killed twice, each time after another line
        process = Forked("serpipe", *command(network, calls, "--skip-bad", "--vad", "energy"))
        while process.poll() is None and (
            not OUT.exists() or OUT.read_bytes().count(b"\n") <= kept
        ):
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert whole.startswith(OUT.read_bytes())
        assert kept < OUT.read_bytes().count(b"\n") < 12
        kept = OUT.read_bytes().count(b"\n")
    assert_names(predict(serpipe, network, calls, "--vad", "energy"), "12 recordings")
    assert OUT.read_bytes() == whole


@pytest.mark.parametrize("n_bytes", [1, 2, 500])
def test_a_torn_last_line_is_repaired(
    n_bytes: int, serpipe: Command, calls: Path, network: Path
) -> None:
    predict(serpipe, network, calls)
    whole = OUT.read_bytes()
    os.truncate(OUT, len(whole) - n_bytes)
    predict(serpipe, network, calls)
    assert OUT.read_bytes() == whole


def test_another_model_or_other_options_are_refused_and_the_file_is_kept(
    serpipe: Command, calls: Path, network: Path, tmp_path: Path
) -> None:
    predict(serpipe, network, calls)
    written = OUT.read_bytes()
    for options, value in (
        (("--window", 0.5), "--window"),
        (("--vad", "energy"), "--vad"),
        (("--abstain",), "--abstain"),
        (("--model", save_small_network(tmp_path / "other", seed=1)), "--model"),
    ):
        done = serpipe(*command(network, calls, *options))
        assert_refused(done, OUT, value, "--out")
        assert OUT.read_bytes() == written
    OUT.unlink()
    predict(serpipe, network, calls, "--window", 0.5)  # a new file
    assert all(line.get("timeline") for line in lines() if "error" not in line)


def test_lines_of_another_origin_are_never_written_over(
    serpipe: Command, calls: Path, network: Path
) -> None:
    OUT.write_text('{"mine": 1}\n')
    again = command(network, calls)
    assert_refused(serpipe(*again), OUT, ABOUT)
    assert OUT.read_text() == '{"mine": 1}\n'
    OUT.unlink()
    predict(serpipe, network, calls)
    written = OUT.read_text().splitlines()
    for wrong in ("{", "[]", '{"seconds": 1}', '{"source": 3}', '{"source": "a", "seconds": "x"}'):
        OUT.write_text("\n".join([*written[:3], wrong, *written[3:]]) + "\n")
        assert_refused(serpipe(*again), "out.jsonl, line 4")
    ABOUT.write_text(ABOUT.read_text().replace("angry", "other"))
    assert_refused(serpipe(*again), OUT, ABOUT)


def test_two_processes_do_not_write_one_file(serpipe: Command, calls: Path, network: Path) -> None:
    with FileLock(".out.jsonl.lock"):
        done = serpipe(*command(network, calls))
    assert_refused(done, OUT, "--out")
    assert not OUT.exists()


def test_a_recording_that_is_named_twice_is_predicted_once(calls: Path, network: Path) -> None:
    out = calls.parent / "out.jsonl"
    inputs = [calls / "a", calls / "a" / "00.wav", calls, calls / "a" / ".." / "a"]
    predictions = package.predict(inputs, model=network, skip_bad=True, device="cpu")
    summary = predictions.write(out)
    assert summary.recordings == len(lines(out)) == 12
    assert summary.failed == 1
    assert summary.seconds == pytest.approx(11)
    with raises_about(UserError, "1 of 12", out):
        package.predict(calls, model=network, device="cpu").write(out)


def test_folders_are_looked_into_when_their_turn_comes_and_in_the_order_of_paths(
    tmp_path: Path, network: Path
) -> None:
    draw = np.random.default_rng(0)
    parts = ["a", "a.b", "a b", "ab", "A", "b", "1", ".hidden"]
    names = ["/".join(draw.choice(parts, draw.integers(1, 4))) for _ in range(60)]
    for name in names:
        path = tmp_path / "tree" / f"{name}x.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    expected = sorted(
        path.relative_to(tmp_path / "tree")
        for path in (tmp_path / "tree").rglob("*.wav")
        if "/." not in str(path)
    )
    found = [Path(each) for each in audio_files(tmp_path / "tree", (".wav",))]
    assert found == expected
    for folder in "ab":
        write_wav(tmp_path / "late" / folder / "1.wav", 0.1 * draw.standard_normal(16000))
    predictions = iter(package.predict(tmp_path / "late", model=network, device="cpu"))
    write_wav(tmp_path / "late" / "b" / "2.wav", 0.1 * draw.standard_normal(16000))
    assert len(list(predictions)) == 3
