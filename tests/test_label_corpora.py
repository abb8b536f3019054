"""Corpora whose labels are in files of the release: layouts, labels, partitions and raters."""

import csv
import json
import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from serpipe.corpora import CORPORA, Clip, scan
from serpipe.corpora.data import find_source
from serpipe.corpora.standard_folds import STANDARD_FOLDS
from serpipe.errors import UserError
from serpipe.features.training_record import original_speaker

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
    ("corpus", "path"),
    [
        ("msp-podcast", "Audios/MSP-PODCAST_0001_0008.wav"),
        ("meld", "train_splits/dia0_utt0.mp4"),
        ("own", "1613671614352.wav"),
        ("own", "0001_000351.wav"),
    ],
)
def test_names_that_do_not_give_the_speaker_leave_the_one_that_the_table_gives(
    corpus: str, path: str
) -> None:
    assert original_speaker(corpus, "127", path) == (corpus, "127")


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
    labels.write_text("FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set\n")
    assert len(scan(folder, CORPORA["msp-podcast"]).bad) == len(PODCAST)  # no clip has a label
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
    earlier = folder / "Previous_releases_information" / "v1.0" / "labels_detailed.csv"
    write_text(earlier, [RATER_FILES["labels_detailed.csv"]["2.0"][0], f"{ONE}.wav,W,Sad,,1,1,1"])
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


MELD_HEADER = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,"
    "StartTime,EndTime"
)


def meld(folder: Path) -> Path:
    """Write the layout of MELD.Raw: three parts that number their dialogues from 0."""
    rows = {
        "train": ('1,"also I was, the point",Chandler,neutral,neutral,0,0,8,21,"00:1","00:2"',
                  '2,Hi.,Phoebe Sr,joy,positive,0,1,8,21,"00:1","00:2"'),
        "dev": ('1,Oh my God,Phoebe,sadness,negative,0,0,4,7,"00:1","00:2"',),
        "test": ('1,Why,Chandler,surprise,negative,0,0,8,20,"00:1","00:2"',),
    }  # fmt: skip
    for part, lines in rows.items():
        write_text(folder / f"{part}_sent_emo.csv", [MELD_HEADER, *lines])
    names = (
        "train_splits/dia0_utt0",
        "train_splits/dia0_utt1",
        "dev_splits_complete/dia0_utt0",
        "output_repeated_splits_test/dia0_utt0",
    )
    for name in names:
        touch(folder / f"{name}.mp4")
    return folder


def test_meld_names_clips_by_part_and_omits_what_has_no_annotation(tmp_path: Path) -> None:
    folder = meld(tmp_path / "MELD.Raw")
    touch(folder / "dev_splits_complete" / "dia66_utt9.mp4")
    touch(folder / "output_repeated_splits_test" / "final_videos_testdia0_utt0.mp4")
    touch(folder / "output_repeated_splits_test" / "._dia0_utt0.mp4")
    clips = clips_of(folder)
    of_clip = {
        name: (each.speaker, each.emotion, each.more["split"]) for name, each in clips.items()
    }
    assert of_clip == {
        "train_dia0_utt0": ("Chandler", "neutral", "train"),
        "train_dia0_utt1": ("Phoebe Sr.", "joy", "train"),
        "dev_dia0_utt0": ("Phoebe", "sadness", "dev"),
        "test_dia0_utt0": ("Chandler", "surprise", "test"),
    }  # fmt: skip
    first = clips["train_dia0_utt0"]
    assert (first.statement, first.sex) == ("also I was, the point", "")
    assert first.more["dialogue"] == "train_dia0" != clips["test_dia0_utt0"].more["dialogue"]
    assert clips["train_dia0_utt1"].shared_emotion == "happiness"
    omitted = scan(folder, CORPORA["meld"]).omitted
    assert sorted(omitted.values()) == [1, 1]
    assert sum(CORPORA["meld"].expected.values()) == 13_708
    for part in ("train", "dev", "test"):
        (folder / f"{part}_sent_emo.csv").unlink()
    with raises_about(UserError, folder, "train_sent_emo.csv"):
        scan(folder, CORPORA["meld"])


def test_converted_meld_clips_are_read_as_the_videos(tmp_path: Path) -> None:
    folder = meld(tmp_path / "MELD")
    for video in folder.rglob("*.mp4"):
        part = next(name for name in ("train", "dev", "test") if name in video.parent.name)
        touch(folder / "audio" / part / f"{video.stem}.wav")
        video.unlink()
    assert set(clips_of(folder)) == {
        "train_dia0_utt0", "train_dia0_utt1", "dev_dia0_utt0", "test_dia0_utt0",
    }  # fmt: skip


def test_the_partition_of_meld_is_refused_because_it_shares_speakers(
    serpipe: Command, tmp_path: Path, few_clips: Path
) -> None:
    """Real speech under the names of MELD: Chandler is in training and in the test."""
    folder = meld(tmp_path / "MELD")
    speech = sorted(few_clips.rglob("*.flac"))
    for video, clip in zip(sorted(folder.rglob("*.mp4")), speech, strict=False):
        video.with_suffix(".flac").write_bytes(clip.read_bytes())
        video.unlink()
    done = serpipe("extract", "--data", folder, "--encoder", "whisper-tiny.en")
    assert done.code == 0, done.err
    refused = serpipe("fit", "--split", "partition:test", "--head", "lr")
    assert_refused(refused, "speaker", "Chandler")


def emozionalmente(folder: Path) -> Path:
    actors = ["d4bbc5043503b9aed309ede0", "b830cbf6e79aeeeec1fbf2ef", "acdd987f9c1700b25898d3bd"]
    clips = ["1614951631538", "1613671614352", "1613994293936"]
    metadata = folder / "metadata"
    write_text(metadata / "users.csv", [
        "username,gender,age,mother_tongue", f"{actors[0]},female,30,italian",
        f"{actors[1]},male,26,italian", f"{actors[2]},other,26,italian",
    ])  # fmt: skip
    write_text(metadata / "samples.csv", [
        "file_name,sentence,sentence_language,actor,emotion_expressed",
        f"{clips[0]}.wav,E’ andato a scuola dopo pranzo,italian,{actors[0]},anger",
        f"{clips[1]}.wav,Tornerà a casa presto,italian,{actors[1]},joy",
        f"{clips[2]}.wav,Vado in biblioteca,italian,{actors[2]},neutrality",
    ])  # fmt: skip
    write_text(metadata / "evaluations.csv", [
        "file_name,evaluator,audio_quality,emotion_recognized",
        f"{clips[0]}.wav,{actors[1]},good,anger", f"{clips[0]}.wav,{actors[2]},bad,disgust",
        f"{clips[0]}.wav,{actors[2]},good,anger",
    ])  # fmt: skip
    for name in clips:
        touch(folder / "audio" / f"{name}.wav")
    return folder


def test_emozionalmente_has_the_actor_the_sentence_and_the_raters(
    tmp_path: Path, serpipe: Command
) -> None:
    folder = emozionalmente(tmp_path / "release")
    clips = clips_of(folder)
    actors = [(each.speaker, each.sex, each.shared_emotion) for _, each in sorted(clips.items())]
    assert actors == [
        ("b830cbf6e79a", "male", "happiness"), ("acdd987f9c17", "", "neutral"),
        ("d4bbc5043503", "female", "anger"),
    ]  # fmt: skip
    assert clips["1613671614352"].statement == "Tornerà a casa presto"
    assert clips["1613671614352"].language == "it"
    done = serpipe("corpora", "raters", folder, "--out", "raters.csv")
    assert done.code == 0, done.err
    assert Path("raters.csv").read_text().splitlines() == [
        "name,rater,emotion", "1614951631538,b830cbf6e79a,anger",
        "1614951631538,acdd987f9c17,disgust",
    ]  # fmt: skip
    (folder / "metadata" / "users.csv").unlink()
    with raises_about(UserError, folder, "metadata/users.csv"):
        scan(folder, CORPORA["emozionalmente"])


def test_the_texts_of_the_jl_corpus_are_read_where_there_are_any(tmp_path: Path) -> None:
    for name in ("female1_angry_10a_1", "male2_concerned_6b_2"):
        touch(tmp_path / "JL(wav+txt)" / f"{name}.wav")
    write_text(tmp_path / "JL(wav+txt)" / "male2_concerned_6b_2.txt", ["Tom beats that", " farmer"])
    clips = clips_of(tmp_path)
    assert clips["female1_angry_10a_1"].statement == "10a"
    one = clips["male2_concerned_6b_2"]
    assert (one.statement, one.sex, one.repetition) == ("Tom beats that farmer", "male", "2")
    assert (one.emotion, one.shared_emotion) == ("concerned", "")


def test_emodb2_adds_ratings_and_a_partition_to_the_names_of_emodb(tmp_path: Path) -> None:
    folder = tmp_path / "emodb_2.0"
    for name in ("03a01Fa", "12b02Wc"):
        touch(folder / "wav" / f"{name}.wav")
        touch(folder / "laryngo" / f"{name}.wav")
    header = "file,emotion,emotion.confidence,emotion.naturalness"
    ambiguous = "wav/12b02Wc.wav,anger,0.4,0.65"
    write_text(folder / "db.emotion.csv", [header, "wav/03a01Fa.wav,happiness,0.9,1.0", ambiguous])
    write_text(folder / "db.emotion.categories.ambiguous.csv", [header, ambiguous])
    scanned = scan(folder, CORPORA["emodb2"])
    assert scanned.bad == ()
    assert list(scanned.omitted.values()) == [2]
    gold, withheld = scanned.clips
    assert gold.more == {"split": "train", "agreement": 0.9, "naturalness": 1.0,
                         "selection": "gold"}  # fmt: skip
    assert (withheld.more["split"], withheld.more["selection"]) == ("test", "ambiguous")
    assert (gold.corpus, gold.speaker_id) == ("emodb", "emodb:03")  # the speakers of EMO-DB
    with raises_about(UserError, folder, f"emodb2={folder}"):
        find = find_source(str(folder))
        scan(find.folder, find.corpus)


def test_msp_improv_keeps_sessions_together_and_has_four_ratings(
    tmp_path: Path, serpipe: Command
) -> None:
    folder = tmp_path / "MSP-IMPROV"
    names = ("MSP-IMPROV-S01A-F01-P-FM01", "MSP-IMPROV-S08H-M03-T-MF02")
    for name in names:
        touch(folder / "session1" / "S01A" / "P" / f"{name}.wav")
    write_text(folder / "Evalution.txt", [
        "UTD-IMPROV-S01A-F01-P-FM01.avi; N; A:2.600000; V:3.200000; D:3.000000 ; N:4.000000;",
        "A001; Neutral; Neutral; A:2.000000; V:3.000000; D:3.000000; N:4.000000;",
        "A002; Other; Confused,Concerned; A:3.000000; V:3.000000; D:NaN; N:NaN;",
        "A002; Other; Confused,Concerned; A:3.000000; V:3.000000; D:NaN; N:NaN;",
        "",
        "UTD-IMPROV-S08H-M03-T-MF02.avi; X; A:3.000000; V:4.000000; D:NaN ; N:NaN;",
        "A001; Happy; Excited; A:3.000000; V:4.000000; D:3.000000; N:4.000000;",
    ])  # fmt: skip
    clips = clips_of(folder)
    first, second = (clips[name] for name in names)
    assert (first.speaker, first.sex, first.emotion) == ("F01", "female", "neutral")
    assert first.more == {
        "session": "01", "scenario": "01", "intended_emotion": "angry",
        "style": "natural interaction", "activation": 2.6, "valence": 3.2, "dominance": 3.0,
        "naturalness": 4.0,
    }  # fmt: skip
    assert (second.emotion, second.more["style"]) == ("no agreement", "target improvised")
    assert math.isnan(float(second.more["dominance"]))
    assert CORPORA["msp-improv"].group == "session"
    assert STANDARD_FOLDS["msp-improv"]("F03") == STANDARD_FOLDS["msp-improv"]("M03") == "3"
    done = serpipe("corpora", "raters", folder, "--out", "raters.csv")
    assert done.code == 0, done.err
    with Path("raters.csv").open(newline="") as lines:
        rows = [(row["name"], row["rater"], row["emotion"], row["dominance"])
                for row in csv.DictReader(lines)]  # fmt: skip
    assert rows == [
        (names[0], "A001", "neutral", "3.0"), (names[0], "A002", "other", ""),
        (names[1], "A001", "happy", "3.0"),
    ]  # fmt: skip
    (folder / "Evalution.txt").unlink()
    with raises_about(UserError, folder, "Evalution.txt"):
        scan(folder, CORPORA["msp-improv"])
