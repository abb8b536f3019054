"""IEMOCAP: 10 actors in 5 sessions of two, 10 039 utterances, emotions and ratings.

Busso et al. (2008), Language Resources and Evaluation 42: 335-359. The clips are
``SessionN/sentences/wav/DIALOGUE/UTTERANCE.wav``, their labels are in
``SessionN/dialog/EmoEvaluation/DIALOGUE.txt``, and their texts in
``SessionN/dialog/transcriptions/DIALOGUE.txt``.

In a name such as ``Ses02F_impro07_M028`` the speaker is the man of session 2 (``02M``): the letter
after the session is that of the actor whose motion was captured.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from ..errors import UserError
from ..remote import Location
from .corpus import Corpus, NameFields, NameOutsideSchemeError
from .label_files import read_label_lines, word_of
from .scan import audio_files

#: Labels of the release by code. ``xxx``: the raters did not agree.
EMOTIONS = {
    "ang": "anger",
    "dis": "disgust",
    "exc": "excited",
    "fea": "fear",
    "fru": "frustration",
    "hap": "happiness",
    "neu": "neutral",
    "oth": "other",
    "sad": "sadness",
    "sur": "surprise",
    "xxx": "xxx",
}
_SCENE = r"\d\d[a-z]?(?:_\d[a-z]?)?"
_NAME = re.compile(rf"Ses(0[1-5])[FM]_(impro|script){_SCENE}_([FM])(?:\d{{3}}|XX\d)[a-z]?")
_DIALOGUE = re.compile(rf"Ses0[1-5][FM]_(?:impro|script){_SCENE}")
_EVALUATION = re.compile(
    r"\[\d+(?:\.\d+)? - \d+(?:\.\d+)?\]\s+(\S+)\s+(\w+)\s+"
    r"\[(\d+(?:\.\d+)?), (\d+(?:\.\d+)?), (\d+(?:\.\d+)?)\]\s*"
)
_TRANSCRIPT = re.compile(r"(Ses\S+) \[[\d. -]+\]:\s*(.*)")


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that an IEMOCAP file name gives.

    For a whole dialogue, return that it is one.
    """
    match = _NAME.fullmatch(path.stem)
    if not match:
        if _DIALOGUE.fullmatch(path.stem):
            return "whole dialogue"
        raise NameOutsideSchemeError("not session, dialogue, speaker and number")
    session, kind, sex = match.groups()
    return {
        "name": path.stem,
        "speaker": f"{session}{sex}",
        "sex": "female" if sex == "F" else "male",
        "session": session,
        "style": "improvised" if kind == "impro" else "scripted",
    }


def read_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Read the evaluation and transcription files below the folder of the release.

    The folder may hold some of its sessions. Return, by utterance, ``emotion``, ``statement``, and
    the mean ratings ``valence``, ``activation`` and ``dominance``, each from 1 to 5. Raise
    UserError if there are no evaluation files, or one of them has an unknown emotion.
    """
    transcripts = {
        match[1]: match[2].strip()
        for _, line in _lines(folder, "transcriptions")
        if (match := _TRANSCRIPT.fullmatch(line))
    }
    labels: dict[str, Mapping[str, str | float]] = {}
    for where, line in _lines(folder, "EmoEvaluation"):
        match = _EVALUATION.fullmatch(line)
        if not match:
            continue  # lines of single raters, whose mean is in the matched line
        name, code, *ratings = match.groups()
        valence, activation, dominance = map(float, ratings)
        labels[name] = {
            "emotion": word_of(where, "emotion", code, EMOTIONS),
            "statement": transcripts.get(name, ""),
            "valence": valence,
            "activation": activation,
            "dominance": dominance,
        }
    if not labels:
        raise UserError(
            f"{folder}: no evaluations (SessionN/dialog/EmoEvaluation/*.txt); name the folder of "
            "the release, such as IEMOCAP_full_release"
        )
    return labels


def _lines(folder: Location, kind: str) -> Iterator[tuple[str, str]]:
    """Yield the lines of the label files of a kind, each with its file and number."""
    for path in sorted(audio_files(folder, (".txt",))):
        if path.parent.name == kind and path.name.startswith("Ses"):
            yield from read_label_lines(folder / path)


IEMOCAP = Corpus(
    name="iemocap",
    title="IEMOCAP",
    suffixes=(".wav", ".flac"),
    scheme="an IEMOCAP name such as Ses01F_impro01_F000.wav",
    read_name=read_name,
    read_labels=read_labels,
    group="session",
    expected={
        "anger": 1103,
        "disgust": 2,
        "excited": 1041,
        "fear": 40,
        "frustration": 1849,
        "happiness": 595,
        "neutral": 1708,
        "other": 3,
        "sadness": 1084,
        "surprise": 107,
        "xxx": 2507,
    },
    shared={
        "anger": "anger",
        "disgust": "disgust",
        "excited": "excitement",
        "fear": "fear",
        "frustration": "frustration",
        "happiness": "happiness",
        "neutral": "neutral",
        "other": "",
        "sadness": "sadness",
        "surprise": "surprise",
        "xxx": "",
    },
    language="en",
    speakers=10,
    licence="for research only, by registration",
    citation="Busso et al. (2008), IEMOCAP: interactive emotional dyadic motion capture database, "
    "Language Resources and Evaluation 42: 335-359, doi:10.1007/s10579-008-9076-6",
    homepage="https://sail.usc.edu/iemocap/",
    faults=(
        "the letter after the session is that of the motion-captured actor, not of the speaker",
        "the raters did not agree on 2507 utterances (xxx)",
        "the four classes of the literature (5531 clips) count excited as happiness: "
        "--map excited=happiness --keep anger,happiness,neutral,sadness",
        "clips last up to 34 s: Whisper takes up to 30 s",
    ),
    access="by registration at https://sail.usc.edu/iemocap/iemocap_release.htm",
)
