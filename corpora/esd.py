"""ESD: 10 speakers of Mandarin and 10 of English, 350 sentences each in 5 emotions, 35 000 clips.

Zhou et al. (2022), Speech Communication 137: 1-18. The clips are
``SPEAKER/EMOTION/SPEAKER_NUMBER.wav``, in some copies with a folder ``train``, ``evaluation`` or
``test`` in between. The number gives the emotion, too: 1 to 350 neutral, and so on. The sexes are
from the ReadMe of the release.
"""

import re
from dataclasses import replace
from pathlib import PurePosixPath

from .corpus import Corpus, NameFields, NameOutsideSchemeError
from .emotions import shared_word

#: Labels in the order of the numbers of clips, 350 numbers each.
EMOTIONS = ("Neutral", "Angry", "Happy", "Sad", "Surprise")
SENTENCES = 350
SPEAKERS = tuple(f"{number:04d}" for number in range(1, 21))
WOMEN = frozenset({"0001", "0002", "0003", "0007", "0009", "0015", "0016", "0017", "0018", "0019"})
_ENGLISH = frozenset(SPEAKERS[10:])


def read_any_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that an ESD file name gives, for both languages.

    The stem must be a known speaker and a number from 1 to 1750, and one of the folders the
    emotion, because other corpora have such numbers, too. A folder that is named like a speaker
    must be that of the clip.
    """
    match = re.fullmatch(r"(\d{4})_(\d{6})", path.stem)
    if not match:
        raise NameOutsideSchemeError("not speaker and number")
    speaker, number = match[1], int(match[2])
    if speaker not in SPEAKERS or not 1 <= number <= len(EMOTIONS) * SENTENCES:
        raise NameOutsideSchemeError(f"speaker {speaker} or number {match[2]} is not known")
    emotion = EMOTIONS[(number - 1) // SENTENCES]
    folders = {*path.parent.parts} & {*EMOTIONS, *SPEAKERS}
    if emotion not in folders or not folders <= {emotion, speaker}:
        raise NameOutsideSchemeError(
            f"not in a folder {emotion} of speaker {speaker}, but in {path.parent}"
        )
    language = "en" if speaker in _ENGLISH else "zh"
    return {
        "name": path.stem,
        "speaker": speaker,
        "sex": "female" if speaker in WOMEN else "male",
        "emotion": emotion,
        "language": language,
        "statement": f"{language} {(number - 1) % SENTENCES + 1}",
    }


def read_english_name(path: PurePosixPath) -> NameFields | str:
    """Return what the name of an English clip gives; Mandarin is not part of this corpus."""
    return _only("en", path)


def read_mandarin_name(path: PurePosixPath) -> NameFields | str:
    """Return what the name of a Mandarin clip gives; English is not part of this corpus."""
    return _only("zh", path)


def _only(language: str, path: PurePosixPath) -> NameFields | str:
    fields = read_any_name(path)
    if isinstance(fields, str) or fields["language"] == language:
        return fields
    return {"en": "English clip", "zh": "Mandarin clip"}[fields["language"]]


ESD = Corpus(
    name="esd",
    title="ESD",
    suffixes=(".wav", ".flac"),
    scheme="an ESD name such as 0011/Angry/0011_000351.wav",
    read_name=read_any_name,
    expected=dict.fromkeys(EMOTIONS, len(SPEAKERS) * SENTENCES),
    shared={emotion: shared_word(emotion.lower()) for emotion in EMOTIONS},
    language="en, zh",
    speakers=len(SPEAKERS),
    licence="for research only, by form",
    citation="Zhou et al. (2022), Emotional voice conversion: theory, databases and ESD, Speech "
    "Communication 137: 1-18, doi:10.1016/j.specom.2021.11.006",
    homepage="https://github.com/HLTSingapore/Emotional-Speech-Data",
    faults=(
        "its parts train, evaluation and test have the same speakers and are not a protocol for "
        "new speakers: they are not read",
        "every speaker says the same 350 sentences of a language in each emotion: "
        "--hold-out statement tests new ones",
        "the files of transcripts have several encodings; they are not read",
    ),
    access="by the form that https://github.com/HLTSingapore/Emotional-Speech-Data links",
)
ESD_ENGLISH = replace(
    ESD,
    name="esd-english",
    title="ESD English",
    read_name=read_english_name,
    expected=dict.fromkeys(EMOTIONS, len(_ENGLISH) * SENTENCES),
    language="en",
    speakers=len(_ENGLISH),
    corpus=ESD.name,
)
ESD_MANDARIN = replace(
    ESD_ENGLISH,
    name="esd-mandarin",
    title="ESD Mandarin",
    read_name=read_mandarin_name,
    language="zh",
)
