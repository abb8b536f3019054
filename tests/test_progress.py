"""A long work says what it counts and how far it is, and does nothing twice."""

import contextlib
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import serpipe as package
from serpipe import progress
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE, load_model, predict_files

from .conftest import Command, write_wav
from .messages import assert_names


class Watched(io.StringIO):
    """A stream that is no terminal, and says when a line has come."""

    def __init__(self) -> None:
        super().__init__()
        self.line = threading.Event()

    def write(self, text: str) -> int:
        if "\n" in text:
            self.line.set()
        return super().write(text)


class Recorder:
    """Shows nothing, and records what was to be shown."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def __call__(self, items: Iterable[Any], what: object, total: int) -> Iterable[Any]:
        self.told.append((str(what), total))
        return items


def test_a_file_gets_lines_even_while_one_item_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Watched()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.01)

    def items() -> Iterator[int]:
        for number in range(2):
            stream.line.clear()
            assert stream.line.wait(timeout=30)
            yield number

    assert list(progress.track(items(), "embedding clips", 2)) == [0, 1]
    lines = stream.getvalue().splitlines()
    assert lines[0].startswith("embedding clips: 0 of 2, ")
    assert lines[-1].startswith("embedding clips: 2 of 2, ")


def test_a_short_work_says_nothing_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress.track(range(3), "embedding clips", 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_on_a_terminal_what_is_printed_stands_above_the_bar() -> None:
    pty = pytest.importorskip("pty")
    code = (
        "from serpipe import progress\n"
        "from serpipe.commands import output\n"
        "for number in progress.track(range(2), 'embedding clips', 2):\n"
        "    output.print_line(f'row {number}')\n"
        "    output.say(f'note {number}')\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # how the end of a terminal is told
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    # What a terminal has cleared is not seen any more.
    seen = [line.rpartition("\x1b[2K")[2].strip() for line in shown.decode().split("\n")]
    assert [line for line in seen if line[:3] in ("row", "not")] == [
        "row 0", "note 0", "row 1", "note 1",
    ]  # fmt: skip
    assert "embedding clips" in shown.decode()


def test_what_is_counted_is_named(few_clips: Path, small_encoder: Path, serpipe: Command) -> None:
    shown = Recorder()
    package.extract(few_clips, package.ExtractOptions(small_encoder), track=shown)
    assert 40 in [total for _, total in shown.told]
    shown = Recorder()
    protocol = package.Protocol(layers="1-2", split="kfold:2")
    package.fit(head="lr", protocol=protocol, grid=["C=1"], track=shown)
    ((what, total),) = shown.told
    assert total == 2 * 3
    assert_names(what, "logistic regression")


def test_predicting_shows_recordings_or_the_windows_of_one(sample: Path) -> None:
    model = load_model(DEFAULT_BUNDLE)
    files = sorted(sample.rglob("*.flac"))[:2]
    shown = Recorder()
    several = list(predict_files(model, files, 2, track=shown))
    assert [total for _, total in shown.told] == [2]
    shown = Recorder()
    (alone,) = predict_files(model, files[:1], 1, window=1, hop=0.5, track=shown)
    assert not isinstance(alone, Exception)
    heard = sum(bool(segment.label) for segment in alone.timeline)
    assert [total for _, total in shown.told] == [heard]
    (plain,) = predict_files(model, files[:1], 1, track=Recorder())
    assert plain == several[0]


def test_clips_whose_bytes_the_cache_knows_are_not_opened_again(
    few_clips: Path, small_encoder: Path, serpipe: Command
) -> None:
    def extract() -> tuple[list[str], Any]:
        shown = Recorder()
        done = package.extract(
            few_clips, package.ExtractOptions(small_encoder), track=shown, provenance={}
        )
        return [what for what, total in shown.told if total], done

    of_new_clips, first = extract()
    content = first.cache.path.read_bytes()
    said, again = extract()
    assert len(said) == 1 and len(of_new_clips) > 1
    assert again.cache.path.read_bytes() == content
    assert (again.computed, again.reused) == (0, 40)
    assert again.same_recording == first.same_recording
    changed = sorted(few_clips.rglob("*.flac"))[0]
    other = sorted(few_clips.rglob("*.flac"))[-1]
    samples = __import__("soundfile").read(changed)[0]
    write_wav(changed.with_suffix(".wav"), samples[: len(samples) // 2], 48000)
    changed.unlink()
    said, third = extract()
    assert len(said) > 1
    assert (third.computed, third.reused) == (1, 39)
    other.write_bytes(b"no audio")
    with pytest.raises(package.errors.UserError):
        extract()
