"""Corpora whose labels are in files of the release: layouts, labels, partitions and raters."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from serpipe.corpora import CORPORA, Clip, scan
from serpipe.corpora.data import find_source
from serpipe.errors import UserError

from .conftest import Command
from .messages import assert_names, assert_refused, raises_about
from .test_corpora import touch


def clips_of(folder: Path) -> dict[str, Clip]:
    """Return the clips of a folder that is recognised, and none of which is bad, by name."""
    source = find_source(str(folder))
    scanned = scan(source.folder, source.corpus)
    assert scanned.bad == ()
    return {clip.name: clip for clip in scanned.clips}


def write_text(path: Path, lines: Iterable[str], encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    return path


def write_tone(path: Path) -> None:
    """Write a tone, which differs between clips of different names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pitch = 100 + sum(path.name.encode()) % 300
    soundfile.write(path, 0.1 * np.sin(np.arange(4000) * pitch / 2546), 16000)


#: Clip, code, arousal, valence, dominance, speaker, sex, partition.
PODCAST = (
    ("MSP-PODCAST_0001_0008", "N", "2.2", "4", "2.6", "127", "Female", "Train"),
    ("MSP-PODCAST_0002_0033", "X", "5.0", "2.5", "4.25", "Unknown", "Unknown", "Train"),
    ("MSP-PODCAST_3469_0114_0006", "U", "4.0", "5.5", "4.0", "3", "Male", "Development"),
    ("MSP-PODCAST_0153_0459", "C", "3.0", "2.0", "5.0", "4", "Male", "Test1"),
)


def msp_podcast(folder: Path, *, old: bool = False) -> Path:
    """Write names and labels of a release: 2.0, or 1.8 with its other spellings."""
    lines = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    for name, *cells in PODCAST:
        touch(folder / ("Audio" if old else "Audios") / f"{name}.wav")
        lines.append(",".join([f"{name}.wav", *cells]))
    if old:
        lines = [line.replace("Development", "Validation") for line in lines]
    file = "labels_concensus.csv" if old else "labels_consensus.csv"
    write_text(folder / "Labels" / file, lines)
    return folder


@pytest.mark.parametrize("old", [False, True])
def test_msp_podcast_has_its_partitions_speakers_and_mean_ratings(
    old: bool, tmp_path: Path
) -> None:
    clips = clips_of(msp_podcast(tmp_path / "release", old=old))
    first, unknown, development, test = (clips[row[0]] for row in PODCAST)
    assert (first.speaker, first.sex, first.emotion) == ("127", "female", "neutral")
    assert first.more == {"podcast": "0001", "split": "Train", "valence": 4.0, "arousal": 2.2,
                          "dominance": 2.6}  # fmt: skip
    assert (unknown.speaker, unknown.sex, unknown.emotion) == ("Unknown", "", "no agreement")
    assert (development.emotion, development.shared_emotion) == ("surprise", "surprise")
    assert (test.emotion, test.shared_emotion) == ("contempt", "")
    splits = [clip.more["split"] for clip in (first, unknown, development, test)]
    assert splits == ["Train", "Train", "Development", "Test1"]


def test_clips_without_published_labels_and_of_earlier_releases_are_omitted(
    tmp_path: Path,
) -> None:
    folder = msp_podcast(tmp_path / "release")
    touch(folder / "Audios" / "MSP-PODCAST_test3_0001.wav")
    earlier = folder / "Previous_releases_information"
    touch(earlier / "files_removed" / "v1.6_removed_files" / "MSP-PODCAST_0009_0001.wav")
    write_text(earlier / "v1.6" / "label" / "labels_concensus.csv", ["FileName,x", "a.wav,1"])
    source = find_source(str(folder))
    scanned = scan(source.folder, source.corpus)
    assert len(scanned.clips) == len(PODCAST)
    assert scanned.bad == ()
    assert sorted(scanned.omitted.values()) == [1, 1]
    touch(folder / "Audios" / "MSP-PODCAST_0009_0001.wav")
    (error,) = scan(source.folder, source.corpus).bad
    assert_names(str(error), "MSP-PODCAST_0009_0001.wav")


@pytest.mark.parametrize(
    ("before", "after", "values"),
    [
        (",N,", ",Q,", ["line 2", "EmoClass", "'Q'"]),
        (",2.2,", ",calm,", ["line 2", "EmoAct", "'calm'"]),
        ("Split_Set", "Set", ["Split_Set"]),
        (",Train\n", "\n", ["line 2", 8]),
    ],
)
def test_a_label_file_that_cannot_be_used_is_refused_by_line(
    before: str, after: str, values: list[object], tmp_path: Path
) -> None:
    folder = msp_podcast(tmp_path / "release")
    labels = folder / "Labels" / "labels_consensus.csv"
    labels.write_text(labels.read_text().replace(before, after, 1))
    with raises_about(UserError, labels, *values):
        scan(folder, CORPORA["msp-podcast"])
    labels.unlink()
    with raises_about(UserError, folder, "Labels/labels_consensus.csv"):
        scan(folder, CORPORA["msp-podcast"])


ONE, TWO = "MSP-PODCAST_0001_0008", "MSP-PODCAST_0002_0033"
RATER_FILES = {
    "labels_detailed.csv": {
        "2.0": [
            "FileName,WorkerID,EmoClass_Major,EmoClass_Second,EmoAct,EmoVal,EmoDom",
            f'{ONE}.wav,WORKER1,Sad,"Sad,Concerned",3,2,4',
            f"{ONE}.wav,WORKER2,Other-Curious,Neutral,4,4,4",
            f"{ONE}.wav,WORKER2,Happy,Happy,5,5,5",
            f"{TWO}.wav,WORKER1,Neutral,,,,",
        ],
        "1.11": [
            "FileName,EmoDetail",
            f'{ONE}.wav,"WORKER1; Sad; Sad,Concerned; A:3.000000; V:2.000000; D:4.000000;"',
            f'{ONE}.wav,"WORKER2; Other-Curious; Neutral; A:4.0; V:4.0; D:4.0;"',
            f'{ONE}.wav,"WORKER2; Happy; Happy; A:5.0; V:5.0; D:5.0;"',
            f'{TWO}.wav,"WORKER1; Neutral; A:NaN; V:NaN; D:NaN;"',
        ],
    },
    "labels.txt": {
        "1.8": [
            f"{ONE}.wav; N; A:2.200000; V:4.000000; D:2.600000;",
            "WORKER1; Sad; Sad,Concerned; A:3.000000; V:2.000000; D:4.000000;",
            "WORKER2; Other-Curious; Neutral; A:4.000000; V:4.000000; D:4.000000;",
            "WORKER2; Happy; Happy; A:5.000000; V:5.000000; D:5.000000;",
            "",
            f"{TWO}.wav; X; A:5.000000; V:2.500000; D:4.250000;",
            "WORKER1; Neutral; Neutral; A:NaN; V:NaN; D:NaN;",
        ],
    },
}


@pytest.mark.parametrize(
    ("file", "release"), [(file, each) for file, forms in RATER_FILES.items() for each in forms]
)
def test_the_raters_of_msp_podcast_are_written_one_row_each(
    file: str, release: str, tmp_path: Path, serpipe: Command
) -> None:
    folder = msp_podcast(tmp_path / "release")
    write_text(folder / "Labels" / file, RATER_FILES[file][release])
    done = serpipe("corpora", "raters", folder, "--out", "raters.csv")
    assert done.code == 0, done.err
    assert done.out.strip() == "raters.csv"
    assert_names(done.err, "3 ratings", 1)  # the second rating by WORKER2 is omitted
    with Path("raters.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [(row["name"], row["rater"], row["emotion"]) for row in rows] == [
        (ONE, "WORKER1", "sad"), (ONE, "WORKER2", "other"), (TWO, "WORKER1", "neutral"),
    ]  # fmt: skip
    assert [float(rows[0][scale]) for scale in ("valence", "arousal", "dominance")] == [2, 3, 4]
    assert rows[2]["valence"] == rows[2]["dominance"] == ""


def test_raters_are_refused_where_there_are_none(serpipe: Command, tmp_path: Path) -> None:
    folder = msp_podcast(tmp_path / "release")
    refused = serpipe("corpora", "raters", folder, "--out", "raters.csv")
    assert_refused(refused, folder, "labels_detailed.csv")
    assert_refused(serpipe("corpora", "raters", "sample", "--out", "raters.csv"), "msp-podcast")
    assert not Path("raters.csv").exists()


def test_a_corpus_whose_size_depends_on_the_release_is_described_without_a_number(
    serpipe: Command, tmp_path: Path
) -> None:
    folder = msp_podcast(tmp_path / "release")
    for row in PODCAST:
        write_tone(folder / "Audios" / f"{row[0]}.wav")
    done = serpipe("corpora", "info", folder, "--format", "json")
    assert done.code == 0, done.err
    described = json.loads(done.out)
    assert described["facts"]["clips"] == "4"
    rows = described["tables"]["emotions"]
    counts = {row["emotion"]: (row["all"], row["release"]) for row in rows}
    assert counts["neutral"] == (1, None)
    assert counts["total"] == (4, None)
    listed = json.loads(serpipe("corpora", "list", "--format", "json").out)["tables"]["corpora"]
    (podcast,) = (row for row in listed if row["name"] == "msp-podcast")
    assert (podcast["clips"], podcast["speakers"]) == (None, None)
    assert len(podcast["labels"]) == 10
