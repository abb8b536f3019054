"""TESS: 2 women, 200 words, 7 emotions, 2800 clips.

Pichora-Fuller & Dupuis (2010), Borealis. A name such as ``OAF_back_angry.wav`` gives the speaker
(older or younger adult female), the word in "Say the word ..." and the emotion.
"""

import re
from pathlib import PurePosixPath

from .corpus import Archive, Corpus, NameFields, NameOutsideSchemeError, check_code
from .emotions import shared_word

EMOTIONS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "ps": "pleasant surprise",
    "sad": "sad",
}
SPEAKERS = ("OAF", "YAF")
#: The one name of the release that lacks a letter.
_MISNAMED = {"OA_bite_neutral": "OAF_bite_neutral"}


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that a TESS file name gives; the folders are free.

    The stem must be a known speaker, a word and a known emotion.
    """
    name = _MISNAMED.get(path.stem, path.stem)
    match = re.fullmatch(r"([A-Z]+)_([A-Za-z']+)_([a-z]+)", name)
    if not match:
        raise NameOutsideSchemeError("not speaker, word and emotion")
    speaker, word, emotion = match.groups()
    check_code("speaker", speaker, SPEAKERS)
    check_code("emotion", emotion, EMOTIONS)
    return {
        "name": name,
        "speaker": speaker,
        "sex": "female",
        "emotion": EMOTIONS[emotion],
        "statement": f"Say the word {word}",
    }


TESS = Corpus(
    name="tess",
    title="TESS",
    suffixes=(".wav", ".flac"),
    scheme="a TESS name such as OAF_back_angry.wav",
    read_name=read_name,
    expected=dict.fromkeys(EMOTIONS.values(), 400),
    shared={
        word: "surprise" if word == "pleasant surprise" else shared_word(word)
        for word in EMOTIONS.values()
    },
    language="en",
    speakers=2,
    licence="CC BY-NC-ND 4.0",
    citation="Pichora-Fuller & Dupuis (2010), Toronto emotional speech set (TESS), Borealis, "
    "doi:10.5683/SP2/E8H2MF",
    homepage="https://doi.org/10.5683/SP2/E8H2MF",
    faults=(
        "YAF_germ_angry.wav and YAF_neat_fear.wav are AIFF data under a .wav name",
        "OAF_food_fear.wav has a rate of 96 kHz, the rest 24 414 Hz",
        "OA_bite_neutral.wav belongs to OAF: its name lacks a letter",
        "copies of the release contain every clip twice, in a nested folder",
        "two speakers: too few for an interval, and each fold tests one woman",
    ),
    # Borealis packs the archive on request: it has neither a length nor a checksum.
    archives=(
        Archive(
            "https://borealisdata.ca/api/access/dataset/:persistentId/"
            "?persistentId=doi:10.5683/SP2/E8H2MF",
            "tess.zip",
        ),
    ),
    access="free download from Borealis: `serpipe corpora download tess`",
)
