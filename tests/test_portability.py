"""What Windows does with names and streams is right, as far as another system can show it."""

import ntpath
import os
import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
from serpipe.artifacts.run import run_set
from serpipe.corpora import clip_paths
from serpipe.corpora.clip_paths import ClipFolder
from serpipe.features.names import cache_name
from serpipe.files import put_in_place
from serpipe.integrity import is_file_name
from serpipe.mirror import _is_plain

from .conftest import ROOT


@pytest.fixture
def on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute paths as Windows does in the modules under test."""
    for module in (clip_paths, run_set):
        monkeypatch.setattr(module, "os", SimpleNamespace(path=ntpath))
        monkeypatch.setattr(module, "Path", PureWindowsPath)


@pytest.mark.parametrize(
    "written, relative",
    [
        ("a/1.wav", "a/1.wav"),
        ("a\\1.wav", "a/1.wav"),
        ("D:\\corpus\\a\\1.wav", "a/1.wav"),
        ("..\\secret.wav", "../secret.wav"),
        ("a\\..\\..\\secret.wav", "../secret.wav"),
        ("D:/secret.wav", "../secret.wav"),
        ("C:\\secret.wav", "../C:\\secret.wav"),
        ("C:secret.wav", "../C:secret.wav"),
        ("\\\\server\\share\\secret.wav", "../\\\\server\\share\\secret.wav"),
    ],
)
def test_a_path_of_a_table_is_below_its_folder_on_windows_or_known_to_lead_out(
    on_windows: None, written: str, relative: str
) -> None:
    folder = ClipFolder(PureWindowsPath("D:\\corpus"))  # type: ignore[arg-type]
    path = clip_paths.ClipPath(folder._relative(written), is_file=False)
    assert path.relative == relative
    assert path.leads_out == relative.startswith("../")


@pytest.mark.parametrize(
    "name", ["..", "../a", "a/../../b", "/a", "C:/a", "a/C:/b", "a\\..\\b", "\\\\server\\a", "a//b"]
)
def test_no_name_from_a_store_or_a_run_leads_out_of_its_folder_on_windows(name: str) -> None:
    assert not _is_plain(name, "nt")
    assert not is_file_name(name)


def test_an_accepted_name_from_a_store_or_a_run_is_below_its_folder_on_windows() -> None:
    for name in ("run.json", "predictions/lr.csv", "c.h5.shards/000001.h5"):
        assert _is_plain(name, "nt") and is_file_name(name)
        assert (PureWindowsPath("D:\\runs") / name).is_relative_to("D:\\runs")


@pytest.mark.parametrize(
    "encoder", ["facebook/wav2vec2-base", "opensmile:eGeMAPSv02", "whisper-tiny.en"]
)
def test_the_name_of_a_cache_is_one_file_name_on_windows(encoder: str) -> None:
    name = cache_name("ravdess+emodb", encoder)
    assert PureWindowsPath(name).name == name and ":" not in name


def test_runs_on_another_drive_are_listed_by_their_whole_path(on_windows: None) -> None:
    class Run(PureWindowsPath):
        def resolve(self) -> "Run":
            return self

    folder = PureWindowsPath("D:\\comparisons\\x")
    assert run_set._path_from(folder, Run("D:\\runs\\a")) == "../../runs/a"  # type: ignore[arg-type]
    assert run_set._path_from(folder, Run("C:\\runs\\a")) == "C:/runs/a"  # type: ignore[arg-type]


def test_a_file_is_open_for_writing_when_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses to sync a file that is only open for reading."""
    fcntl = pytest.importorskip("fcntl", reason="asks for the mode of an open file")
    modes = []

    def sync(descriptor: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)

    monkeypatch.setattr(os, "fsync", sync)
    (tmp_path / "new").write_bytes(b"x")
    put_in_place(tmp_path / "new", tmp_path / "old")
    assert modes[0] == os.O_RDWR
    assert (tmp_path / "old").read_bytes() == b"x"


def test_what_is_printed_into_a_pipe_is_utf_8_whatever_the_locale() -> None:
    script = "from serpipe.cli import _use_utf8; _use_utf8(); print(chr(0x3BA), chr(0x2265))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={
            **{name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"},
            **{"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        },
    )
    assert done.returncode == 0
    assert done.stdout.decode("utf-8").strip() == "κ ≥"


@pytest.mark.skipif(os.name != "posix" or not shutil.which("make"), reason="needs make and sh")
def test_without_a_supported_python_make_fails_in_one_line(tmp_path: Path) -> None:
    for name in ("python3", "python3.11"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    make = shutil.which("make")
    for name in ("sh", "sed", "echo"):
        if program := shutil.which(name):
            (tmp_path / name).symlink_to(program)
    done = subprocess.run(
        [str(make), "--file", ROOT / "Makefile", ".venv/bin/python"],
        cwd=tmp_path,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "***" not in line]
    assert len(lines) == 1 and "3.11" in lines[0]
    assert not (tmp_path / ".venv").exists()
