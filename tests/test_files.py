"""What comes from elsewhere is read only from regular files, and only so much of it."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serpipe.corpora import download
from serpipe.corpora.corpus import Archive
from serpipe.corpora.iemocap import read_labels
from serpipe.corpora.manifest import read_manifest
from serpipe.errors import SerpipeError, UserError
from serpipe.features.audio import read_waveform
from serpipe.features.convert import convert
from serpipe.features.training_record import FILE_NAME, read_record
from serpipe.files import check_regular, open_regular, read_bytes, read_text
from serpipe.pipeline.finetune.network_model import load_network
from serpipe.pipeline.heads import HEADS, sklearn_file

from .messages import raises_about

#: Each could be read without end, or waited for without end, or is nothing to read.
KINDS = ("pipe", "link to a pipe", "device", "link to a device", "folder", "socket")


@pytest.fixture(autouse=True)
def no_waiting_for_ever() -> Iterator[None]:
    """A test that waits for a pipe fails instead."""

    def stop(*_: object) -> None:
        raise TimeoutError("something waits without end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_special(kind: str, path: Path) -> Path:
    """Put something that is no regular file at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # a socket's address has room for some 100 characters
        try:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path.name)
        finally:
            os.chdir(here)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "link to a device":
        path.with_suffix(".first").symlink_to("/dev/zero")
        path.symlink_to(path.with_suffix(".first").name)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(path.with_suffix(".pipe"))
        path.symlink_to(path.with_suffix(".pipe").name)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = make_special(kind, tmp_path / "x")
    for read in (open_regular, lambda path: check_regular(path, 10)):
        with pytest.raises(OSError):
            read(path)
    for most in (0, 10, 1 << 40):
        with pytest.raises(OSError) as caught:
            read_bytes(path, most)
        assert caught.value.strerror


def test_a_regular_file_is_read_whole_and_within_its_limit(tmp_path: Path) -> None:
    file, link = tmp_path / "x", tmp_path / "link"
    file.write_bytes("ü".encode() * 5)
    link.symlink_to("x")
    for path in (file, link):
        assert read_bytes(path, 10) == "ü".encode() * 5
        assert read_text(path, 10) == "ü" * 5
        assert check_regular(path, 10) == 10
    with raises_about(OSError, "9 bytes", file):
        read_bytes(file, 9)
    with raises_about(OSError, "9 bytes", file):
        check_regular(file, 9)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "nowhere", 10)
    with pytest.raises(OSError):
        read_bytes(Path("nul\0character"), 10)


def test_a_file_that_says_less_of_its_size_than_it_has_is_held_to_its_limit() -> None:
    assert Path("/proc/self/status").stat().st_size == 0
    with raises_about(OSError, "20 bytes"):
        read_bytes(Path("/proc/self/status"), 20)


def test_a_huge_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(1 << 40)
    with raises_about(OSError, "1 MiB"):
        read_bytes(tmp_path / "x", 1 << 20)


def read_archive(path: Path) -> None:
    download.download([Archive(f"http://127.0.0.1:9/{path.name}", path.name)], path.parent)


def read_network(path: Path) -> None:
    load_network(path.parent)


def read_evaluations(path: Path) -> None:
    read_labels(path.parents[3])


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a clip": ("x.wav", lambda path: read_waveform(path, 16000)),
    "a manifest": ("x.csv", read_manifest),
    "an archive": ("x.zip", read_archive),
    "labels": ("Session1/dialog/EmoEvaluation/Ses01F_impro01.txt", read_evaluations),
    "a network": ("network.json", read_network),
    "trees": ("x.lgbm.json", HEADS["lgbm"].load),
    "a head": ("x.skops", sklearn_file.load),
}


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("what", READERS)
def test_every_reader_refuses_what_is_no_regular_file(tmp_path: Path, what: str, kind: str) -> None:
    name, read = READERS[what]
    path = make_special(kind, tmp_path / name)
    with raises_about(SerpipeError):
        read(path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_conversion_neither_reads_nor_replaces_what_is_no_file(
    tmp_path: Path, sample: Path, kind: str
) -> None:
    clip = next((sample / "Actor_01").iterdir())
    make_special(kind, tmp_path / "in" / "x.wav")
    assert len(convert([tmp_path / "in"], tmp_path / "out").bad) == 1
    make_special(kind, tmp_path / "there" / f"{clip.stem}.wav")
    with raises_about(UserError, f"{clip.stem}.wav", "--overwrite"):
        convert([clip], tmp_path / "there")


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_record_that_cannot_be_read_does_not_count_as_none(
    tmp_path: Path, kind: str
) -> None:
    assert read_record(tmp_path / FILE_NAME) is None
    with raises_about(UserError, tmp_path / FILE_NAME):
        read_record(make_special(kind, tmp_path / FILE_NAME))
