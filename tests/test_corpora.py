"""RAVDESS is read from its names, whole, and nothing else is taken for it."""

import os
from collections import Counter
from pathlib import Path, PurePosixPath

import pytest
from serpipe.corpora import CORPORA, find_data, missing, scan
from serpipe.corpora.corpus import NameOutsideSchemeError
from serpipe.corpora.ravdess import RAVDESS, read_name
from serpipe.errors import UserError


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_name_tells_all_seven_parts() -> None:
    assert read_name(PurePosixPath("x/03-01-06-02-01-02-12.wav")) == {
        "name": "03-01-06-02-01-02-12",
        "speaker": "12",
        "sex": "female",
        "emotion": "fearful",
        "intensity": "strong",
        "statement": "Kids are talking by the door",
        "repetition": "2",
    }
    told = read_name(PurePosixPath("03-01-01-01-02-01-23.FLAC"))
    assert isinstance(told, dict)
    assert (told["sex"], told["emotion"]) == ("male", "neutral")


@pytest.mark.parametrize(
    "name",
    ["happy.wav", "03-01-06-01-02-01.wav", "03-01-09-01-02-01-12.wav", "03-01-06-01-02-01-25.wav",
     "03-01-01-02-01-01-01.wav", "3-1-6-1-2-1-12.wav", "03-01-06-01-02-01-12 (1).wav"],
)  # fmt: skip
def test_a_name_outside_the_scheme_is_refused(name: str) -> None:
    with pytest.raises(NameOutsideSchemeError):
        read_name(PurePosixPath(name))


def test_a_folder_that_names_another_actor_is_refused() -> None:
    read_name(PurePosixPath("Actor_12/03-01-06-01-02-01-12.wav"))
    read_name(PurePosixPath("whatever/03-01-06-01-02-01-12.wav"))
    with pytest.raises(NameOutsideSchemeError, match="actor 12 in the folder Actor_03"):
        read_name(PurePosixPath("Actor_03/03-01-06-01-02-01-12.wav"))


def test_song_and_video_are_left_out_and_counted(tmp_path: Path) -> None:
    for name in (
        "03-01-06-01-02-01-12.wav",
        "03-02-06-01-02-01-12.wav",
        "01-01-06-01-02-01-12.wav",
    ):
        touch(tmp_path / name)
    found = scan(tmp_path, RAVDESS)
    assert [clip.name for clip in found.clips] == ["03-01-06-01-02-01-12"]
    assert found.left_out == {"audio-video recording": 1, "song": 1}


def test_the_sample_has_one_clip_per_actor_and_emotion() -> None:
    data = find_data("sample")
    found = scan(data.folder, data.corpus)
    assert not found.bad
    pairs = Counter((clip.speaker, clip.emotion) for clip in found.clips)
    assert len(pairs) == 24 * 8
    assert set(pairs.values()) == {1}


def test_the_release_is_found_whole(shared: Path) -> None:
    found = scan(shared / "data" / "ravdess", RAVDESS)
    assert Counter(clip.emotion for clip in found.clips) == RAVDESS.expected
    assert len(found.clips) == 1440
    assert missing(found.clips, RAVDESS) == {}
    assert missing(found.clips[1:], RAVDESS) == {"neutral": (95, 96)}


def test_wav_and_flac_at_any_depth_and_through_links_each_once(tmp_path: Path) -> None:
    touch(tmp_path / "03-01-06-01-02-01-12.WAV")
    touch(tmp_path / "a" / "b" / "c" / "03-01-06-01-02-01-11.flac")
    touch(tmp_path / "elsewhere" / "03-01-06-01-02-01-10.wav")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "linked").symlink_to(tmp_path / "elsewhere")
    (corpus / "loop").symlink_to(corpus)
    assert [clip.speaker for clip in scan(corpus, RAVDESS).clips] == ["10"]
    (corpus / "linked").unlink()
    (corpus / "loop").unlink()
    assert [clip.speaker for clip in scan(tmp_path, RAVDESS).clips] == ["10", "11", "12"]


def test_files_that_only_look_hidden_are_not_read(tmp_path: Path) -> None:
    touch(tmp_path / "03-01-06-01-02-01-12.wav")
    touch(tmp_path / "._03-01-06-01-02-01-12.wav")
    touch(tmp_path / "__MACOSX" / "03-01-06-01-02-01-12.wav")
    found = scan(tmp_path, RAVDESS)
    assert (len(found.clips), found.bad) == (1, ())


def test_a_corpus_in_which_every_clip_stands_twice_is_refused_clip_by_clip(tmp_path: Path) -> None:
    for actor in range(1, 25):
        name = f"03-01-06-01-02-01-{actor:02d}.wav"
        touch(tmp_path / f"Actor_{actor:02d}" / name)
        touch(tmp_path / "audio_speech_actors_01-24" / f"Actor_{actor:02d}" / name)
    found = scan(tmp_path, RAVDESS)
    assert (len(found.clips), len(found.bad)) == (24, 24)
    assert "stands twice" in str(found.bad[0])


@pytest.mark.parametrize("make", ["nothing", "a file", "an empty folder"])
def test_a_folder_without_clips_is_refused(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "data"
    if make == "a file":
        folder.write_text("x")
    elif make == "an empty folder":
        folder.mkdir()
    with pytest.raises(UserError, match="--data"):
        scan(folder, RAVDESS)


def test_every_corpus_says_what_it_is() -> None:
    for name, corpus in CORPORA.items():
        assert name == corpus.name
        assert corpus.licence
        assert corpus.citation
        assert corpus.homepage.startswith("https://")


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Act\xe9ur"))
    touch(folder / "03-01-06-01-02-01-12.wav")
    found = scan(tmp_path, RAVDESS)
    assert not found.clips
    assert "not UTF-8" in str(found.bad[0])
    str(found.bad[0]).encode()
