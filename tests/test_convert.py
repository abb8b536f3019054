"""Recordings become 16-bit mono files: the same sound, the same bytes, nothing written over."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from serpipe.errors import UserError
from serpipe.features.audio import read_waveform
from serpipe.features.convert import convert

from .conftest import write_wav
from .messages import raises_about
from .test_audio import a_clip, contain

TONE = 0.1 * np.sin(np.arange(16000) / 10)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def tree(tmp_path: Path, sample: Path) -> Path:
    """A folder of recordings of four formats, at two depths."""
    folder = tmp_path / "in"
    (folder / "a" / "b").mkdir(parents=True)
    clip = a_clip(sample)
    high = a_clip(sample, 48000)
    soundfile.write(folder / "one.FLAC", clip, 16000, format="FLAC")
    soundfile.write(folder / "a" / "two.x.wav", np.stack([high, high / 2], axis=1), 48000)
    soundfile.write(folder / "a" / "b" / "three.ogg", clip, 16000)
    (folder / "a" / "b" / "four.m4a").write_bytes(contain(high, 48000, "ipod", "aac"))
    (folder / "a" / "notes.txt").write_text("no recording")
    write_wav(folder / "a" / "._two.x.wav", TONE)
    return folder


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_tree_becomes_a_tree_with_the_same_audio(tree: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    done = convert([tree], out, format=format)
    sources = ["a/b/four.m4a", "a/b/three.ogg", "a/two.x.wav", "one.FLAC"]
    names = [f"{source.rpartition('.')[0]}.{format}" for source in sources]
    assert sorted(contents(out)) == names
    assert done.written == tuple(out / name for name in names)
    assert (done.skipped, done.bad, done.clipped) == ((), (), ())
    for source, name in zip(sources, names, strict=True):
        info = soundfile.info(out / name)
        assert (info.format, info.subtype) == (format.upper(), "PCM_16")
        assert (info.channels, info.samplerate) == (1, 16000)
        expected, _ = read_waveform(tree / source, 16000)
        waveform, _ = read_waveform(out / name, 16000)
        assert len(waveform) == len(expected)
        assert np.abs(waveform - expected).max() <= 0.5001 / 2**15  # rounded, not cut; no gain


def test_mono_16_bit_recordings_keep_every_sample(sample: Path, tmp_path: Path) -> None:
    convert([sample / "Actor_01"], tmp_path / "out")
    for clip in sorted((sample / "Actor_01").iterdir()):
        before, _ = soundfile.read(clip, dtype="int16")
        after, _ = soundfile.read(tmp_path / "out" / f"{clip.stem}.wav", dtype="int16")
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_the_bytes_are_the_same_on_every_run_and_contain_no_path(
    tree: Path, tmp_path: Path, format: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tree, elsewhere)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1, 1))
    convert([tree], tmp_path / "x", format=format)
    convert([elsewhere], tmp_path / "y", format=format, workers=4)
    first = contents(tmp_path / "x")
    assert len(first) == 4
    assert first == contents(tmp_path / "y")


def test_the_requested_rate_and_channel_are_used(tmp_path: Path, sample: Path) -> None:
    clip = a_clip(sample)
    soundfile.write(tmp_path / "x.wav", np.stack([clip, clip[::-1]], axis=1), 16000)
    convert([tmp_path / "x.wav"], tmp_path / "out", channels="right", sampling_rate=22050)
    waveform, facts = read_waveform(tmp_path / "out" / "x.wav", 16000)
    assert facts.sampling_rate == 22050
    assert np.corrcoef(waveform, clip[::-1])[0, 1] > 0.999


def test_files_that_are_up_to_date_are_skipped_and_others_rewritten(
    tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert([tree], out)
    fresh = contents(out)
    for path in out.rglob("*.wav"):
        os.utime(path, (1, 1))
    again = convert([tree], out)
    assert (len(again.written), len(again.skipped)) == (0, 4)
    assert all(path.stat().st_mtime == 1 for path in again.skipped)
    # Other content under an old date, and a file that was cut.
    write_wav(tree / "one.wav", TONE)
    (tree / "one.wav").rename(tree / "one.FLAC")
    os.utime(tree / "one.FLAC", (0, 0))
    assert convert([tree], out).written == (out / "one.wav",)
    assert len(read_waveform(out / "one.wav", None)[0]) == 16000
    assert len(convert([tree], out, channels="left").written) == 4
    assert len(convert([tree], out, channels="left", sampling_rate=8000).written) == 4
    assert len(convert([tree], out).written) == 4
    assert len(convert([tree], out).written) == 0
    last = convert([tree], out, overwrite=True)
    assert (len(last.written), len(last.skipped)) == (4, 0)
    differing = {name for name, content in contents(out).items() if fresh[name] != content}
    assert differing == {"one.wav"}


def test_samples_beyond_full_scale_are_clipped_and_reported(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    square = 0.999 * np.sign(np.sin(np.arange(48000) / 50 + 0.01))  # resampling overshoots
    write_wav(folder / "square.wav", square, 48000)
    loud = np.resize([1.5, -1.5, 1.0, -1.0, 0.25], 16000)
    soundfile.write(folder / "loud.wav", loud, 16000, subtype="FLOAT")
    soundfile.write(folder / "full.wav", np.resize([1.0, -1.0], 16000), 16000, subtype="FLOAT")
    out = tmp_path / "out"
    done = convert([folder], out)
    assert done.clipped == (out / "loud.wav", out / "square.wav")
    samples, _ = soundfile.read(out / "loud.wav", dtype="int16")
    assert samples[:5].tolist() == [32767, -32768, 32767, -32768, 8192]
    samples, _ = soundfile.read(out / "square.wav", dtype="int16")
    assert samples.max() == 32767
    assert np.median(samples[samples > 0]) == pytest.approx(0.999 * 2**15, rel=0.02)  # no gain


def test_bad_files_are_reported_and_the_others_converted(tree: Path, tmp_path: Path) -> None:
    (tree / "a" / "broken.wav").write_bytes(b"RIFF, or not")
    write_wav(tree / "zeros.wav", np.zeros(16000))
    done = convert([tree], tmp_path / "out", workers=2)
    assert len(done.written) == 4
    assert [str(error).partition(":")[0] for error in done.bad] == [
        str(tree / "a" / "broken.wav"),
        str(tree / "zeros.wav"),
    ]
    assert len(contents(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("case", "values"),
    [
        ("same stem", ["in/a/b/three.wav", "in/a/b/three.ogg", "out/a/b/three.wav"]),
        ("same name in two folders", ["one.wav", "in/one.FLAC", "out/one.wav"]),
        ("same file twice", ["in/one.FLAC", "out/one.wav"]),
        ("only case differs", ["in/one.FLAC", "in/ONE.wav", "out/one.wav"]),
        ("out is the input", ["/in", "--out"]),
        ("out inside the input", ["in/a/converted", "/in", "--out"]),
        ("out inside the input by a link", ["link/converted", "/in", "--out"]),
        ("out above the input", ["in/a/b/four.m4a", "--out"]),
        ("over an input", ["x.wav", "--out"]),
        ("over a file of another making", ["out/a/b/three.wav", "--out", "--overwrite"]),
        ("nothing there", ["missing"]),
        ("no recordings", ["empty"]),
        ("out is a file", ["out", "--out"]),
        ("no such channel", ["channels", "middle"]),
        ("no such format", ["format", "mp3"]),
        ("no such rate", ["0 Hz", 1000, "768000 Hz"]),
        ("no rate of FLAC", ["700000 Hz", "flac"]),
    ],
)
def test_conflicts_are_refused_before_anything_is_written(
    tree: Path, tmp_path: Path, case: str, values: list[object]
) -> None:
    inputs, out = [tree], tmp_path / "out"
    more: dict[str, Any] = {}
    if case == "same stem":
        write_wav(tree / "a" / "b" / "three.wav", TONE)
    elif case == "same name in two folders":
        inputs = [tree, write_wav(tmp_path / "one.wav", TONE)]
    elif case == "same file twice":
        inputs = [tree / "one.FLAC"] * 2
    elif case == "only case differs":
        write_wav(tree / "ONE.wav", TONE)
    elif case == "out is the input":
        out = tree
    elif case == "out inside the input":
        out = tree / "a" / "converted"
    elif case == "out inside the input by a link":
        (tmp_path / "link").symlink_to(tree)
        out = tmp_path / "link" / "converted"
    elif case == "out above the input":
        out = tmp_path
    elif case == "over an input":
        inputs, out = [write_wav(tmp_path / "x.wav", TONE)], tmp_path
    elif case == "over a file of another making":
        write_wav(out / "a" / "b" / "three.wav", TONE)
    elif case == "nothing there":
        inputs = [tree, tmp_path / "missing"]
    elif case == "no recordings":
        inputs = [tree, tmp_path / "empty"]
        inputs[1].mkdir()
    elif case == "out is a file":
        out.write_text("a file")
    elif case == "no such channel":
        more = {"channels": "middle"}
    elif case == "no such format":
        more = {"format": "mp3"}
    elif case == "no such rate":
        more = {"sampling_rate": 0}
    elif case == "no rate of FLAC":
        more = {"sampling_rate": 700_000, "format": "flac"}
    before = contents(tmp_path)
    with raises_about(UserError, *values):
        convert(inputs, out, **more)
    assert contents(tmp_path) == before


def test_linked_folders_are_followed_but_not_in_circles(tree: Path, tmp_path: Path) -> None:
    write_wav(tmp_path / "aside" / "five.wav", TONE)
    (tree / "aside").symlink_to(tmp_path / "aside")
    (tree / "a" / "back").symlink_to(tree)
    done = convert([tree], tmp_path / "out")
    assert len(done.written) == 5
    assert (tmp_path / "out" / "aside" / "five.wav").is_file()
