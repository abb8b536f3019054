"""Tables of clips, ratings and folds are read as spreadsheets and other machines write them."""

import json
import math
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pytest
from serpipe.artifacts.report.page import hardest_clips
from serpipe.artifacts.run.results import read_results
from serpipe.corpora import scan
from serpipe.corpora.clip_paths import ClipFolder
from serpipe.corpora.csv_table import read_numbers, read_table
from serpipe.corpora.manifest import Manifest, read_manifest
from serpipe.corpora.ravdess import RAVDESS
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.folds import make_split
from serpipe.pipeline.ratings import join_ratings, read_ratings

from .conftest import Command, write_unhashed
from .messages import assert_names, raises_about
from .test_corpora import touch

KNOWN = ("path", "speaker", "emotion")
PLAIN = "path,speaker,mood,fatigue\na/1.wav,Jürgen,müde,3.5\na/2.wav,Zoë,wach,\n"
SEMICOLONS = "path;speaker;mood;fatigue\na/1.wav;Jürgen;müde;3,5\na/2.wav;Zoë;wach;\n"


def nfd(text: str) -> str:
    return unicodedata.normalize("NFD", text)


def write(folder: Path, content: str | bytes, name: str = "clips.csv") -> Path:
    """Write a table beside the two clips that it lists."""
    for clip in ("a/1.wav", "a/2.wav"):
        touch(folder / clip)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def facts(read: Manifest) -> list[tuple[object, ...]]:
    return [
        (clip.path, clip.speaker, clip.more["mood"], str(clip.more["fatigue"]))
        for clip in read.clips
    ]


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (PLAIN.encode(), ()),
        (PLAIN.encode("utf-8-sig"), ()),
        (SEMICOLONS.encode("cp1252"), ("semicolons", "cp1252", "decimal commas")),
        (SEMICOLONS.encode("utf-16"), ("semicolons", "UTF-16", "decimal commas")),
        (SEMICOLONS.encode("utf-16-be"), ("semicolons", "UTF-16", "decimal commas")),
        (PLAIN.replace(",", "\t").encode("utf-16-le"), ("tabs", "UTF-16")),
        (PLAIN.replace(",", "|").encode(), ("vertical bars",)),
        (f"sep=;\r\n{SEMICOLONS}".encode("utf-8-sig"), ("semicolons", "decimal commas")),
        (SEMICOLONS.replace("\n", "\r\n").encode() + b";;;\r\n\r\n", ("semicolons",)),
        (PLAIN.replace("\n", ",,\n").encode(), ()),
        (PLAIN.replace(",", ", ").replace("Zoë", '"Zoë"').encode(), ()),
        (PLAIN.replace("path,speaker", "File,SPEAKER").encode(), ("File as path",)),
        (PLAIN.replace("speaker", "Speaker_ID").encode(), ("speaker_id as speaker",)),
        (nfd(PLAIN).encode(), ()),
    ],
)
def test_the_same_table_is_read_from_every_form(
    tmp_path: Path, content: bytes, notes: tuple[str, ...]
) -> None:
    read = read_manifest(write(tmp_path, content))
    assert facts(read) == [
        ("a/1.wav", "Jürgen", "müde", "3.5"),
        ("a/2.wav", "Zoë", "wach", "nan"),
    ]
    assert bool(read.description) is bool(notes)
    assert all(note in read.description for note in notes)


def test_a_cell_may_hold_delimiters_quotes_and_line_breaks(tmp_path: Path) -> None:
    text = 'path;speaker;mood\na/1.wav;"Meyer; Anna";"""so, so"""\na/2.wav;x,y;"a\r\nb"\n'
    first, second = read_manifest(write(tmp_path, text)).clips
    assert (first.speaker, first.more["mood"]) == ("Meyer; Anna", '"so, so"')
    assert (second.speaker, second.more["mood"]) == ("x,y", "a\r\nb")


@pytest.mark.parametrize("number", ["1e300", "1e16", "-1e307", "nan", "inf"])
def test_a_number_that_single_precision_cannot_square_is_refused(
    tmp_path: Path, number: str
) -> None:
    rows = "".join(f"a/1.wav,x,n{n},{n}\n" for n in range(4))
    table = f"path,speaker,name,score\n{rows}a/2.wav,x,last,{number}\n"
    with raises_about(UserError, "line 6", "score"):
        read_manifest(write(tmp_path, table))


def test_a_table_of_very_many_columns_is_refused(tmp_path: Path) -> None:
    names = ",".join(f"c{n}" for n in range(1001))
    values = ",".join("1" for _ in range(1001))
    with raises_about(UserError, 1003, 1000):
        read_table(write(tmp_path, f"path,speaker,{names}\na/1.wav,x,{values}\n"), KNOWN)


def test_line_numbers_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "sep=;\npath;speaker;mood\na/1.wav;x;1\n\na/3.wav;x;2\n")
    with raises_about(UserError, path, "line 5", "a/3.wav"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("header", "column"),
    [("path,Path,speaker,mood", "path"), ("path,speaker,Mood,mood", "mood"),
     ("file,filename,speaker,mood", "path"), ("path,speaker,,mood", "3"),
     ("path,speaker,speaker_id,mood", "speaker_id"), ("path,speaker,Seconds,mood", "seconds")],
)  # fmt: skip
def test_a_header_that_could_mean_two_things_is_refused(
    tmp_path: Path, header: str, column: str
) -> None:
    with raises_about(UserError, tmp_path / "clips.csv", column):
        read_manifest(write(tmp_path, f"{header}\na/1.wav,a/1.wav,x,y\n"))


def test_known_columns_are_read_in_any_case_and_others_as_they_are_spelled(tmp_path: Path) -> None:
    text = "PATH,Speaker,Emotion,Mood,Übung\na/1.wav,x,Angry,tired,1\na/2.wav,y,sad,awake,2\n"
    first, _ = read_manifest(write(tmp_path, text)).clips
    assert (first.emotion, first.shared_emotion) == ("Angry", "anger")
    assert first.more == {"Mood": "tired", "Übung": 1.0}


def test_commas_are_decimal_signs_in_columns_of_numbers_alone(tmp_path: Path) -> None:
    text = "path;speaker;take;text;score\na/1.wav;1,5;1,2;ja, 5;-0,25\na/2.wav;1,6;b;nein;2\n"
    table = read_table(write(tmp_path, text), KNOWN)
    assert read_numbers(table, "score") == [-0.25, 2.0]
    first, _ = read_manifest(write(tmp_path, text.replace("1,2", "a"))).clips
    assert (first.speaker, first.more["text"], first.more["take"]) == ("1,5", "ja, 5", "a")
    with raises_about(UserError, "line 4", "score", "'1.234'", lines=2):
        read_manifest(write(tmp_path, "path;speaker;score\na/1.wav;x;1,5\na/2.wav;x;2,5\n"
                                      "a/2.wav;x;1.234\n"))  # fmt: skip
    # Where commas separate cells, none is a decimal sign.
    assert read_numbers(read_table(write(tmp_path, 'path,speaker,x\na,b,"1,5"\n'), KNOWN), "x") == [
        None
    ]


@pytest.mark.parametrize(
    ("content", "form"),
    [(b"path,speaker,mood\na/1.wav,\x81\x8d,x\n", "UTF-8"),
     (b"PK\x03\x04\x14\x00\x06\x00workbook", "CSV")],
)  # fmt: skip
def test_bytes_that_are_not_text_are_refused(tmp_path: Path, content: bytes, form: str) -> None:
    path = write(tmp_path, content)
    with raises_about(UserError, path, form):
        read_table(path, KNOWN)


@pytest.mark.parametrize(
    ("written", "note"),
    [("a\\1.wav", "backslashes"), (".\\a\\1.wav", "backslashes"),
     ("C:\\corpus\\a\\1.wav", "C:\\corpus replaced by"), ("d:/x/y/a/1.wav", "d:\\x\\y replaced by"),
     ("\\\\server\\share\\a\\1.wav", "\\\\server\\share\\ replaced by")],
)  # fmt: skip
def test_paths_of_windows_name_the_clips_below_the_folder(
    tmp_path: Path, written: str, note: str
) -> None:
    read = read_manifest(write(tmp_path, f"path,speaker,mood\n{written},x,tired\n"))
    (clip,) = read.clips
    assert (clip.path, clip.name, clip.file) == ("a/1.wav", "1", tmp_path / "a" / "1.wav")
    assert note in read.description


def test_the_longest_tail_of_a_path_counts_and_one_folder_stands_for_all(tmp_path: Path) -> None:
    touch(tmp_path / "1.wav")
    text = "path,speaker,mood\nC:\\corpus\\a\\1.wav,x,tired\n"
    (clip,) = read_manifest(write(tmp_path, text)).clips
    assert clip.path == "a/1.wav"  # and not the 1.wav of the folder itself
    # b\1.wav is missing: that 1.wav is another clip.
    with raises_about(UserError, "line 3", "C:\\corpus\\b\\1.wav"):
        read_manifest(write(tmp_path, f"{text}C:\\corpus\\b\\1.wav,x,awake\n"))
    named = "path,speaker,mood,name\nC:\\c\\mon\\1.wav,x,tired,m\n"
    for sibling in ("C:\\c\\tue\\1.wav", "D:\\c\\mon\\1.wav"):  # one file for two clips
        with raises_about(UserError, "line 3"):
            read_manifest(write(tmp_path, f"{named}{sibling},y,awake,t\n"))


@pytest.mark.parametrize(
    "written",
    [
        "..\\secret.wav",
        "C:\\..\\secret.wav",
        "C:\\a\\..\\..\\secret.wav",
        "C:\\",
        "\\..\\secret.wav",
    ],
)
def test_no_path_of_windows_leads_out_of_the_folder(tmp_path: Path, written: str) -> None:
    touch(tmp_path / "secret.wav")
    path = write(tmp_path / "inside", f"path,speaker,mood\n{written},x,tired\n")
    with raises_about(UserError, path, "line 2", written):
        read_manifest(path)


def test_a_file_with_a_backslash_in_its_name_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path / "a\\1.wav")
    text = "path,speaker,mood\na\\1.wav,x,tired\n"
    (clip,) = read_manifest(write(tmp_path, text)).clips
    assert clip.path == "a\\1.wav"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_file_names_that_look_identical_are_the_same(
    tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    actual = unicodedata.normalize(form, "Jürgen/böse.wav")
    touch(tmp_path / actual)
    for written in (unicodedata.normalize("NFC", actual), nfd(actual)):
        clip_path = ClipFolder(tmp_path).find(written)
        assert (clip_path.relative, clip_path.is_file) == (actual, True)
        text = f"path,speaker,mood\n{written},{written[:7]},tired\n"
        (clip,) = read_manifest(write(tmp_path, text)).clips
        assert (clip.path, clip.name) == (actual, "böse")
        assert clip.speaker == unicodedata.normalize("NFC", written[:7])
    touch(tmp_path / unicodedata.normalize("NFC", actual))
    touch(tmp_path / nfd(actual))
    assert ClipFolder(tmp_path).find(nfd(actual)).relative == nfd(actual)  # both: the one named


def test_ratings_of_a_spreadsheet_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "fatigue.csv"
    lines = ["Path;Rater;Fatigue", f"{nfd('Jürgen')}\\1.wav;A;2,5", "Jürgen/1.wav;B;3", "b.wav;A;1"]
    path.write_bytes("\r\n".join(lines).encode("utf-16"))
    with raises_about(UserError, path, "'tiredness'"):
        read_ratings(path, "tiredness")
    lines[1] = f"{nfd('Jürgen')}/1.wav;A;2,5"
    path.write_bytes("\r\n".join(lines).encode("utf-16"))
    ratings = read_ratings(path, "fatigue")
    assert ratings.description == "fatigue.csv: semicolons, UTF-16, decimal commas"
    names = np.array([nfd("Jürgen/1.wav"), "b.wav", "c.wav"])
    joined = join_ratings(ratings, {"path": names})
    assert joined[:2].tolist() == [2.75, 1.0]
    assert math.isnan(joined[2])
    path.write_text("path,fatigue\nx\\b.wav,4\n")
    (value,) = join_ratings(read_ratings(path, "fatigue"), {"path": np.array(["x/b.wav"])})
    assert value == 4


def test_folds_of_a_spreadsheet_are_those_of_the_speakers(tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    path.write_bytes("Speaker;Fold\r\nJürgen;1\r\nZoë;2\r\n".encode("cp1252"))
    clips = {
        "path": np.array(list("abcd")),
        "speaker": np.array([nfd("Jürgen"), nfd("Jürgen"), "Zoë", "Zoë"]),
        "sha256": np.array(list("abcd")),
        "corpus": np.array(["x"] * 4),
    }
    split = make_split(f"file:{path}", clips, np.array(list("pqpq")))
    assert {fold.name: fold.test.tolist() for fold in split.folds} == {"1": [0, 1], "2": [2, 3]}
    assert_names(split.assumptions[0], "cp1252")


def test_a_table_of_a_german_spreadsheet_is_extracted_and_its_reading_reported(
    serpipe: Command, sample: Path, small_encoder: Path
) -> None:
    rows = ["Path;Speaker;Müdigkeit;"]
    for actor, person in (("Actor_01", "Jürgen"), ("Actor_02", "Zoë")):
        shutil.copytree(sample / actor, Path("clips") / nfd(person))
        for number, clip in enumerate(sorted((sample / actor).iterdir())[:3]):
            rows.append(f"C:\\Daten\\{person}\\{clip.name};{person};{number},5;")
    Path("clips", "liste.csv").write_bytes(("\r\n".join(rows) + "\r\n;;;\r\n").encode("cp1252"))
    done = serpipe("extract", "--manifest", "clips/liste.csv", "--encoder", small_encoder)
    assert done.code == 0, done.err
    assert_names(done.err, "liste.csv", "cp1252", "C:\\Daten")
    table = open_cache(Path(done.out.strip())).clips
    assert sorted(table["Müdigkeit"].tolist()) == [0.5, 0.5, 1.5, 1.5, 2.5, 2.5]
    assert set(table["speaker"]) == {"Jürgen", "Zoë"}


def test_a_speaker_named_by_a_folder_is_the_same_in_every_unicode_form(tmp_path: Path) -> None:
    def read_name(path: PurePosixPath) -> dict[str, str]:
        return {"name": path.stem, "speaker": path.parent.name, "emotion": "angry"}

    corpus = replace(RAVDESS, name="own", read_name=read_name)
    touch(tmp_path / nfd("Jürgen") / "1.wav")
    touch(tmp_path / "Jürgen" / "2.wav")
    scanned = scan(tmp_path, corpus)
    assert {clip.speaker for clip in scanned.clips} == {"Jürgen"}
    assert all(clip.file.is_file() for clip in scanned.clips if isinstance(clip.file, Path))


def test_scores_of_a_run_are_read_under_the_column_names_of_earlier_versions(
    fitted_once: Path, tmp_path: Path
) -> None:
    (run,) = (fitted_once / "artifacts" / "runs").iterdir()
    shutil.copytree(run, tmp_path / "run")
    expected = hardest_clips(read_results(tmp_path / "run"), "lr")
    path = tmp_path / "run" / "predictions" / "lr.csv"
    header, rest = path.read_text().split("\n", 1)
    assert "score_angry" in header
    path.write_text(header.replace("score_", "score ") + "\n" + rest)
    summary = path.parents[1] / "run.json"
    write_unhashed(summary, json.loads(summary.read_text()))
    assert hardest_clips(read_results(tmp_path / "run"), "lr") == expected
    assert expected
