"""Every corpus is read from its names, whole, and nothing else is taken for it."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path, PurePosixPath

import pytest
from serpipe.corpora import (
    CORPORA,
    cremad,
    emodb,
    emovo,
    esd,
    jl,
    missing,
    savee,
    scan,
    shemo,
    tess,
)
from serpipe.corpora.corpus import NameOutsideSchemeError
from serpipe.corpora.data import find_data, find_source, join
from serpipe.corpora.emotions import SHARED_EMOTIONS
from serpipe.corpora.iemocap import IEMOCAP
from serpipe.corpora.manifest import read_manifest
from serpipe.corpora.ravdess import RAVDESS, read_name
from serpipe.corpora.standard_folds import STANDARD_FOLDS
from serpipe.errors import UserError

from .messages import assert_names, raises_about


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_a_name_gives_all_seven_parts() -> None:
    assert read_name(PurePosixPath("x/03-01-06-02-01-02-12.wav")) == {
        "name": "03-01-06-02-01-02-12",
        "speaker": "12",
        "sex": "female",
        "emotion": "fearful",
        "intensity": "strong",
        "statement": "Kids are talking by the door",
        "repetition": "2",
        "vocal_channel": "speech",
    }
    fields = read_name(PurePosixPath("03-01-01-01-02-01-23.FLAC"))
    assert isinstance(fields, dict)
    assert (fields["sex"], fields["emotion"]) == ("male", "neutral")


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
    with raises_about(NameOutsideSchemeError, 12, "Actor_03"):
        read_name(PurePosixPath("Actor_03/03-01-06-01-02-01-12.wav"))


def test_song_and_video_are_omitted_and_counted(tmp_path: Path) -> None:
    for name in (
        "03-01-06-01-02-01-12.wav",
        "03-02-06-01-02-01-12.wav",
        "01-01-06-01-02-01-12.wav",
    ):
        touch(tmp_path / name)
    scanned = scan(tmp_path, RAVDESS)
    assert [clip.name for clip in scanned.clips] == ["03-01-06-01-02-01-12"]
    assert scanned.omitted == {"audio-video recording": 1, "song": 1}


def test_the_sample_has_one_clip_per_actor_and_emotion() -> None:
    data = find_source("sample")
    scanned = scan(data.folder, data.corpus)
    assert not scanned.bad
    pairs = Counter((clip.speaker, clip.emotion) for clip in scanned.clips)
    assert len(pairs) == 24 * 8
    assert set(pairs.values()) == {1}


def test_the_complete_release_is_found(shared: Path) -> None:
    scanned = scan(shared / "data" / "ravdess", RAVDESS)
    assert Counter(clip.emotion for clip in scanned.clips) == RAVDESS.expected
    assert len(scanned.clips) == 1440
    assert missing(scanned.clips, RAVDESS) == {}
    assert missing(scanned.clips[1:], RAVDESS) == {"neutral": (95, 96)}


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
    scanned = scan(tmp_path, RAVDESS)
    assert (len(scanned.clips), scanned.bad) == (1, ())


def test_a_corpus_with_every_clip_twice_is_refused_clip_by_clip(tmp_path: Path) -> None:
    for actor in range(1, 25):
        name = f"03-01-06-01-02-01-{actor:02d}.wav"
        touch(tmp_path / f"Actor_{actor:02d}" / name)
        touch(tmp_path / "audio_speech_actors_01-24" / f"Actor_{actor:02d}" / name)
    scanned = scan(tmp_path, RAVDESS)
    assert (len(scanned.clips), len(scanned.bad)) == (24, 24)
    kept = {Path(str(clip.file)).name: clip.file for clip in scanned.clips}
    for error in scanned.bad:
        assert_names(str(error), kept[Path(error.parts[0]).name])


@pytest.mark.parametrize("make", ["nothing", "a file", "an empty folder"])
def test_a_folder_without_clips_is_refused(tmp_path: Path, make: str) -> None:
    folder = tmp_path / "data"
    if make == "a file":
        folder.write_text("x")
    elif make == "an empty folder":
        folder.mkdir()
    with raises_about(UserError, folder, "--data"):
        scan(folder, RAVDESS)


def test_every_corpus_is_described() -> None:
    for name, corpus in CORPORA.items():
        assert name == corpus.name
        assert corpus.licence
        assert corpus.citation
        assert corpus.homepage.startswith("http")
        assert corpus.access
        assert set(corpus.language.split(", ")) <= {"de", "en", "fa", "it", "zh"}
        assert set(corpus.expected) <= set(corpus.shared)
        assert set(corpus.shared.values()) <= {"", *SHARED_EMOTIONS}


def test_a_path_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Act\xe9ur"))
    touch(folder / "03-01-06-01-02-01-12.wav")
    scanned = scan(tmp_path, RAVDESS)
    assert not scanned.clips
    (error,) = scanned.bad
    assert_names(str(error), "UTF-8")
    str(error).encode()


def ravdess_names() -> Iterator[str]:
    for channel, emotions in (("01", range(1, 9)), ("02", range(1, 7))):
        for actor, emotion, intensity, statement, repetition in product(
            range(1, 25), emotions, (1, 2), (1, 2), (1, 2)
        ):
            if (emotion, intensity) != (1, 2) and (channel, actor) != ("02", 18):
                yield (
                    f"Actor_{actor:02d}/03-{channel}-{emotion:02d}-{intensity:02d}-{statement:02d}-"
                    f"{repetition:02d}-{actor:02d}.wav"
                )


def cremad_names() -> Iterator[str]:
    """All that could be, less as many as are lacking: which, its list of clips does not tell."""
    for actor, sentence in product(cremad.ACTORS, cremad.SENTENCES):
        for emotion in cremad.EMOTIONS:
            levels = ("LO", "MD", "HI") if sentence == "IEO" and emotion != "NEU" else ("XX",)
            for level in levels:
                name = f"AudioWAV/{actor}_{sentence}_{emotion}_{level}.wav"
                yield name.replace("1040_ITH_SAD_XX", "1040_ITH_SAD_X")


def tess_names() -> Iterator[str]:
    words = ["back", "bite", *(f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(198))]
    for speaker, word, emotion in product(("OAF", "YAF"), words, tess.EMOTIONS):
        folder = "Pleasant_surprise" if (speaker, emotion) == ("OAF", "ps") else emotion
        name = f"{speaker}_{folder}/{speaker}_{word}_{emotion}.wav"
        yield name.replace("OAF_bite_neutral.wav", "OA_bite_neutral.wav")


def savee_names() -> Iterator[str]:
    for speaker, code in product(savee.SPEAKERS, savee.EMOTIONS):
        for number in range(1, 31 if code == "n" else 16):
            yield f"AudioData/{speaker}/{code}{number:02d}.wav"


def shemo_names() -> Iterator[str]:
    """As many of each emotion as there are, dealt to the 87 speakers in turn."""
    speakers = [f"F{n:02d}" for n in range(1, 32)] + [f"M{n:02d}" for n in range(1, 57)]
    letters = {word: letter for letter, word in shemo.EMOTIONS.items()}
    for emotion, number in shemo.SHEMO.expected.items():
        for n in range(number):
            speaker = speakers[n % len(speakers)]
            folder = "female" if speaker.startswith("F") else "male"
            yield f"{folder}/{speaker}{letters[emotion]}{n // len(speakers) + 1:02d}.wav"


def emodb_names() -> Iterator[str]:
    """As many of each emotion as there are, of all that the scheme can name."""
    letters = {word: letter for letter, word in emodb.EMOTIONS.items()}
    for emotion, number in emodb.EMODB.expected.items():
        could = product(emodb.SENTENCES, "ab", emodb.SEX)
        for sentence, version, speaker in list(could)[:number]:
            yield f"wav/{speaker}{sentence}{letters[emotion]}{version}.wav"


def emovo_names() -> Iterator[str]:
    for speaker, emotion, sentence in product(emovo.SPEAKERS, emovo.EMOTIONS, emovo.SENTENCES):
        yield f"{speaker}/{emotion}-{speaker}-{sentence}.wav"


def jl_names() -> Iterator[str]:
    folder = "Raw JL corpus (unchecked and unannotated)/JL(wav+txt)"
    for speaker, emotion, sentence, part, repetition in product(
        jl.SPEAKERS, jl.EMOTIONS, range(1, 16), "ab", (1, 2)
    ):
        yield f"{folder}/{speaker}_{emotion}_{sentence}{part}_{repetition}.wav"


@pytest.mark.parametrize(
    ("corpus", "names", "clips"),
    [
        ("ravdess", ravdess_names, 1440),
        ("ravdess-song", ravdess_names, 1012),
        ("ravdess-all", ravdess_names, 2452),
        ("cremad", cremad_names, 91 * (5 * 14 + 12)),
        ("tess", tess_names, 2800),
        ("savee", savee_names, 480),
        ("shemo", shemo_names, 3000),
        ("emodb", emodb_names, 535),
        ("emovo", emovo_names, 588),
        ("jl", jl_names, 2400),
    ],
)
def test_every_release_is_read_completely(
    tmp_path: Path, corpus: str, names: Callable[[], Iterator[str]], clips: int
) -> None:
    for name in names():
        touch(tmp_path / name)
    scanned = scan(tmp_path, CORPORA[corpus])
    assert not scanned.bad
    assert len(scanned.clips) == clips
    assert len({clip.speaker for clip in scanned.clips}) == CORPORA[corpus].speakers
    counts = Counter(clip.emotion for clip in scanned.clips)
    if corpus == "cremad":  # the release lacks 20 of what could be
        assert set(counts) == set(CORPORA[corpus].expected)
        assert sum(CORPORA[corpus].expected.values()) == 7442 == clips - 20
    else:
        assert counts == CORPORA[corpus].expected
    if corpus != "jl":  # half of its emotions are in no other corpus
        assert all(clip.shared_emotion in SHARED_EMOTIONS for clip in scanned.clips)
    assert {clip.sex for clip in scanned.clips} <= {"female", "male"}
    if not CORPORA[corpus].corpus:
        assert find_source(str(tmp_path)).corpus is CORPORA[corpus]
    folds = {clip.speaker: STANDARD_FOLDS[clip.corpus](clip.speaker) for clip in scanned.clips}
    expected = {"ravdess": 6, "cremad": 5, "tess": 2, "savee": 4, "shemo": 5, "emodb": 10,
                "emovo": 6, "jl": 4}  # fmt: skip
    assert len(set(folds.values())) == expected[scanned.clips[0].corpus]
    if corpus in ("cremad", "shemo"):
        women = {clip.speaker for clip in scanned.clips if clip.sex == "female"}
        each = Counter(folds[speaker] for speaker in women).values()
        assert max(each) - min(each) <= 1


def test_the_speaker_of_an_iemocap_clip_is_not_the_motion_captured_actor(tmp_path: Path) -> None:
    session = tmp_path / "IEMOCAP_full_release" / "Session2"
    names = ("Ses02F_impro07_M028", "Ses02F_impro07_F000", "Ses02M_script01_1b_F003")
    for name in names:
        touch(session / "sentences" / "wav" / name.rpartition("_")[0] / f"{name}.wav")
    touch(session / "dialog" / "wav" / "Ses02F_impro07.wav")
    touch(session / "dialog" / "wav" / "Ses02M_script01_1b.wav")
    for dialogue in ("Ses02F_impro07", "Ses02M_script01_1b"):
        of = [name for name in names if name.startswith(dialogue)]
        (session / "dialog" / "EmoEvaluation").mkdir(exist_ok=True)
        (session / "dialog" / "transcriptions").mkdir(exist_ok=True)
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for name in of:
            lines += [f"[6.2901 - 8.2357]\t{name}\texc\t[4.0000, 3.5000, 2.3333]",
                      "C-E2:\tHappiness;\t()", "A-E3:\tval 3; act 2; dom  2;\t()", ""]  # fmt: skip
        path = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
        path.write_text("\n".join(lines))
        path = session / "dialog" / "transcriptions" / f"{dialogue}.txt"
        path.write_text("".join(f"{name} [006.2901-008.2357]: Well, hello.\n" for name in of))
    nested = session / "dialog" / "EmoEvaluation" / "Categorical"
    nested.mkdir()
    (nested / "Ses02F_impro07_e2_cat.txt").write_text(f"{names[0]} :Anger; ()\n")
    source = find_source(str(tmp_path))
    scanned = scan(source.folder, source.corpus)
    assert not scanned.bad
    assert scanned.omitted == {"whole dialogue": 2}
    clips = {clip.name: clip for clip in scanned.clips}
    assert [clips[name].speaker for name in names] == ["02M", "02F", "02F"]
    assert {clip.emotion for clip in scanned.clips} == {"excited"}
    assert {clip.shared_emotion for clip in scanned.clips} == {"excitement"}
    one = clips["Ses02M_script01_1b_F003"]
    assert (one.sex, one.statement) == ("female", "Well, hello.")
    assert one.more == {"session": "02", "style": "scripted", "valence": 4.0, "activation": 3.5,
                        "dominance": 2.3333}  # fmt: skip
    assert STANDARD_FOLDS["iemocap"]("02M") == STANDARD_FOLDS["iemocap"]("02F") == "2"
    touch(session / "sentences" / "wav" / "x" / "Ses02F_impro07_F001.wav")
    (error,) = scan(tmp_path, IEMOCAP).bad
    assert_names(str(error), "Ses02F_impro07_F001")
    path.unlink()
    (session / "dialog" / "EmoEvaluation" / "Ses02F_impro07.txt").unlink()
    for file in (session / "dialog" / "EmoEvaluation").glob("*.txt"):
        file.unlink()
    with raises_about(UserError, "EmoEvaluation"):
        scan(tmp_path, IEMOCAP)


def test_real_clips_of_four_corpora_are_distinguished(shared: Path) -> None:
    originals = shared / "data" / "originals"
    sources, scans = find_data([str(originals / name) for name in ("tess", "emodb", "cremad")])
    assert [source.name for source in sources] == ["tess", "emodb", "cremad"]
    assert [len(each.clips) for each in scans] == [8, 11, 10]
    assert not any(each.bad for each in scans)
    both = join(sources, scans)
    assert both.name == "tess+emodb+cremad"
    assert {clip.speaker for clip in both.clips if clip.corpus == "tess"} == {"OAF", "YAF"}
    with raises_about(UserError, scans[0].clips[0].file):
        join((*sources, sources[0]), (*scans, scans[0]))


def test_esd_is_read_whole_and_by_language() -> None:
    """Names alone: 35 000 files would take a while to write."""
    names = [
        PurePosixPath(f"ESD/{speaker}/{emotion}/test/{speaker}_{number:06d}.wav")
        for speaker in esd.SPEAKERS
        for rank, emotion in enumerate(esd.EMOTIONS)
        for number in range(350 * rank + 1, 350 * rank + 351)
    ]
    whole = [esd.ESD.read_name(name) for name in names]
    assert len({fields["name"] for fields in whole if isinstance(fields, dict)}) == 35_000
    counts = Counter(fields["emotion"] for fields in whole if isinstance(fields, dict))
    assert counts == esd.ESD.expected
    for part, other, speakers in (
        (esd.ESD_ENGLISH, "zh", esd.SPEAKERS[10:]),
        (esd.ESD_MANDARIN, "en", esd.SPEAKERS[:10]),
    ):
        fields = [each for name in names if isinstance(each := part.read_name(name), dict)]
        assert Counter(each["emotion"] for each in fields) == part.expected
        assert {each["speaker"] for each in fields} == set(speakers)
        assert other not in {each["language"] for each in fields}
        women = {each["speaker"] for each in fields if each["sex"] == "female"}
        assert len(women) == 5
        of_emotions = [
            {each["statement"] for each in fields if each["emotion"] == emotion}
            for emotion in esd.EMOTIONS
        ]
        assert all(texts == of_emotions[0] and len(texts) == 350 for texts in of_emotions)
    folds = {speaker: STANDARD_FOLDS["esd"](speaker) for speaker in esd.SPEAKERS}
    assert Counter(folds.values()) == dict.fromkeys("12345", 4)


def test_a_clip_of_esd_has_its_own_language(tmp_path: Path) -> None:
    touch(tmp_path / "0001" / "Angry" / "train" / "0001_000351.wav")
    touch(tmp_path / "0011" / "Angry" / "0011_000351.wav")
    sources, scans = find_data([str(tmp_path)])
    assert [source.name for source in sources] == ["esd"]
    found = {(clip.speaker, clip.language, clip.corpus) for clip in scans[0].clips}
    assert found == {("0001", "zh", "esd"), ("0011", "en", "esd")}
    english = scan(tmp_path, CORPORA["esd-english"])
    assert [(clip.speaker, clip.corpus) for clip in english.clips] == [("0011", "esd")]
    assert (len(english.bad), sum(english.omitted.values())) == (0, 1)


def test_speech_and_song_of_an_actor_are_of_one_speaker(tmp_path: Path) -> None:
    touch(tmp_path / "speech" / "Actor_01" / "03-01-05-01-01-01-01.wav")
    touch(tmp_path / "song" / "Actor_01" / "03-02-05-01-01-01-01.wav")
    sources, scans = find_data([str(tmp_path / "speech"), str(tmp_path / "song")])
    clips = join(sources, scans).clips
    assert [source.name for source in sources] == ["ravdess", "ravdess-song"]
    assert {(clip.corpus, clip.speaker) for clip in clips} == {("ravdess", "01")}
    assert [clip.more["vocal_channel"] for clip in clips] == ["speech", "song"]


@pytest.mark.parametrize(
    ("corpus", "name"),
    [("cremad", "1000_DFA_ANG_XX"), ("cremad", "1001_DFA_ANG_X"), ("cremad", "1001_DFA_ANG"),
     ("emodb", "04a01Fa"), ("emodb", "03a03Fa"), ("emodb", "03a01Xa"), ("tess", "OA_back_neutral"),
     ("tess", "OAF_back_joy"), ("savee", "DC/x01"), ("savee", "XX/a01"), ("savee", "DC/a16"),
     ("savee", "DC/JE_a01"), ("shemo", "F01X01"), ("shemo", "X01A01"),
     ("emovo", "gio-f4-b1"), ("emovo", "joy-f1-b1"), ("emovo", "gio-f1-b4"),
     ("jl", "female3_angry_1a_1"), ("jl", "male1_furious_1a_1"), ("jl", "male1_sad_16a_1"),
     ("esd", "0021_000001"), ("esd", "0001_001751"), ("esd", "0001/Sad/0001_000001"),
     ("esd", "0002/Neutral/0001_000001"), ("esd", "0001_000001"),
     ("meld", "train_splits/dia0"), ("meld", "x/dia0_utt0"),
     ("msp-podcast", "MSP-PODCAST_0001"), ("emozionalmente", "161365506243"),
     ("msp-improv", "MSP-IMPROV-S01X-F01-P-FM01"), ("msp-improv", "MSP-IMPROV-S01A-F07-P-FM01"),
     ("iemocap", "Ses01F_impro01_MXX0bb"), ("iemocap", "Ses01M_script03_2_FXXX"),
     ("iemocap", "Ses06F_impro01")],
)  # fmt: skip
def test_a_name_outside_the_scheme_of_its_corpus_is_refused(corpus: str, name: str) -> None:
    with pytest.raises(NameOutsideSchemeError):
        CORPORA[corpus].read_name(PurePosixPath(f"{name}.wav"))


MANIFEST = """path,speaker,emotion,fatigue,room
a/1.wav,anna,Angry,3.5,kitchen
a/2.wav,bert,fear,,hall
"""


def manifest(tmp_path: Path, text: str) -> Path:
    for name in ("a/1.wav", "a/2.wav"):
        touch(tmp_path / name)
    path = tmp_path / "clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_manifest_lists_any_clips(tmp_path: Path) -> None:
    first, second = read_manifest(manifest(tmp_path, MANIFEST)).clips
    assert (first.path, first.name, first.speaker, first.corpus) == (
        "a/1.wav",
        "1",
        "anna",
        "clips",
    )
    assert (first.emotion, first.shared_emotion, second.shared_emotion) == (
        "Angry",
        "anger",
        "fear",
    )
    assert first.more == {"fatigue": 3.5, "room": "kitchen"}
    assert second.more["room"] == "hall"
    assert math.isnan(second.more["fatigue"])  # type: ignore[arg-type]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = elsewhere / "clips.csv"
    moved.write_text(MANIFEST)
    assert read_manifest(moved, tmp_path).clips[0].file == first.file


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("path,emotion\na/1.wav,x\n", ["emotion", "speaker"]),
        ("path,speaker\na/1.wav,x\n", ["path", "speaker", "emotion", "fatigue"]),
        ("path,speaker,x\n", ["1 line"]),
        ("path,speaker,seconds\na/1.wav,b,1\n", ["'seconds'"]),
        ("path,speaker,a b\na/1.wav,b,1\n", ["'a b'"]),
        ("path,speaker,x,x\na/1.wav,b,1,1\n", ["column x"]),
        ("path;speaker;x\na/1.wav;b\n", ["line 2", 2, 3]),
        ("path,speaker,x\n\na/1.wav,b\n", ["line 3", 2, 3]),
        ("path,speaker,x\na/1.wav,,1\n", ["line 2", "path", "speaker"]),
        ("path,speaker,x\na/3.wav,b,1\n", ["line 2", "a/3.wav"]),
        ("path,speaker,x\n../a.wav,b,1\n", ["line 2", "../a.wav", "--data DIR"]),
        ("path,speaker,x\n/etc/passwd,b,1\n", ["line 2", "/etc/passwd", "--data DIR"]),
        ("path,speaker,x\n/,b,1\n", ["line 2", "--data DIR"]),
        ("path,speaker,x\n../../../../../../../..,b,1\n", ["line 2", "../..", "--data DIR"]),
        (f"path,speaker,x\n{'a' * 5000},b,1\n", ["line 2", "a" * 5000]),
        ("path,speaker,x\n.,b,1\n", ["line 2"]),
        ("path,speaker,x\na/1.wav,b,1\na/1.wav,b,1\n", ["line 3", "clip 1", "line 2"]),
        ("path,speaker,x\na/1.wav,b,1\na/2.wav,b,high\n", ["column x", "'high'", "line 3"]),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_by_line(
    tmp_path: Path, text: str, values: list[object]
) -> None:
    path = manifest(tmp_path, text)
    with raises_about(UserError, path, *values):
        read_manifest(path)


def test_all_lines_of_a_manifest_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    rows = "a/1.wav,b,1,1\na/2.wav,b,2,x\na/2.wav,b,3,4\n"
    path = manifest(tmp_path, f"path,speaker,x,y\n{rows}")
    with raises_about(UserError, path, lines=2) as caught:
        read_manifest(path)
    first, second = str(caught.value).splitlines()
    assert_names(first, "line 3", "y", "'x'")
    assert_names(second, "line 4", "clip 2", "line 3")


def test_ten_wrong_lines_are_reported_at_once(tmp_path: Path) -> None:
    rows = "".join(f"b/{n}.wav,x,1\n" for n in range(15))
    with pytest.raises(UserError) as raised:
        read_manifest(manifest(tmp_path, f"path,speaker,x\n{rows}"))
    lines = str(raised.value).splitlines()
    assert len(lines) == 11
    assert_names(lines[-1], 5)


def test_common_layouts_of_the_corpora_are_read(tmp_path: Path) -> None:
    touch(tmp_path / "crema" / "AudioWAV" / "1001_DFA_ANG_XX.wav")
    touch(tmp_path / "crema" / "AudioMP3" / "1001_DFA_ANG_XX.mp3")  # the same clip, less well
    scanned = scan(tmp_path / "crema", CORPORA["cremad"])
    assert ([Path(str(clip.file)).suffix for clip in scanned.clips], scanned.bad) == ([".wav"], ())
    for folder in ("AudioData/DC", "AudioData/dc", "DC"):
        touch(tmp_path / "savee" / folder / "sa01.wav")
        source = find_source(str(tmp_path / "savee" / folder))  # a speaker's own folder
        (clip,) = scan(source.folder, source.corpus).clips
        assert (source.name, clip.speaker, clip.name) == ("savee", "DC", "DC_sa01")
    for session in (1, 2):
        real = tmp_path / "elsewhere" / f"Session{session}"
        dialogue = f"Ses0{session}F_impro05a"
        touch(real / "sentences" / "wav" / dialogue / f"{dialogue}_M000.wav")
        labels = touch(real / "dialog" / "EmoEvaluation" / f"{dialogue}.txt")
        labels.write_text(f"[1.0 - 2.0]\t{dialogue}_M000\tneu\t[2.5000, 2.5000, 2.5000]\n")
        (tmp_path / "iemocap").mkdir(exist_ok=True)
        (tmp_path / "iemocap" / f"Session{session}").symlink_to(real)
    assert [clip.speaker for clip in scan(tmp_path / "iemocap", IEMOCAP).clips] == ["01M", "02M"]
    with raises_about(UserError, "--data", "'crema'"):
        find_source(f"crema={tmp_path / 'crema'}")
