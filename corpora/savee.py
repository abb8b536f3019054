"""SAVEE: 4 men, 7 emotions, 480 clips.

Haq & Jackson (2009), AVSP. The release has a folder for each speaker, as in
``AudioData/DC/sa01.wav``; copies of it have the speaker in the name, as in ``DC_sa01.wav``.
"""

import re
from pathlib import PurePosixPath

from .corpus import Corpus, NameFields, NameOutsideSchemeError, check_code

EMOTIONS = {
    "a": "anger",
    "d": "disgust",
    "f": "fear",
    "h": "happiness",
    "n": "neutral",
    "sa": "sadness",
    "su": "surprise",
}
SPEAKERS = ("DC", "JE", "JK", "KL")


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that a SAVEE file name and its folder give.

    The stem must be a known emotion and number, and name or folder must give the speaker.
    """
    match = re.fullmatch(r"(?:([A-Z]{2})_)?([a-z]{1,2})(\d\d)", path.stem)
    if not match:
        raise NameOutsideSchemeError("not an emotion and two digits")
    speaker, emotion, number = match.groups()
    folder = path.parent.name.upper()
    if speaker and folder in SPEAKERS and folder != speaker:
        raise NameOutsideSchemeError(f"speaker {speaker} in the folder {folder}")
    speaker = speaker or folder
    if speaker not in SPEAKERS:
        raise NameOutsideSchemeError(
            f"speaker {speaker!r} is not known; the folder must be one of {', '.join(SPEAKERS)}"
        )
    check_code("emotion", emotion, EMOTIONS)
    most = 30 if emotion == "n" else 15
    if not 1 <= int(number) <= most:
        raise NameOutsideSchemeError(f"number {number} of {EMOTIONS[emotion]}, which has {most}")
    return {
        "name": f"{speaker}_{emotion}{number}",
        "speaker": speaker,
        "sex": "male",
        "emotion": EMOTIONS[emotion],
        "repetition": number,
    }


SAVEE = Corpus(
    name="savee",
    title="SAVEE",
    suffixes=(".wav", ".flac"),
    scheme="a SAVEE name such as DC/sa01.wav or DC_sa01.wav",
    read_name=read_name,
    expected={emotion: 120 if emotion == "neutral" else 60 for emotion in EMOTIONS.values()},
    shared={emotion: emotion for emotion in EMOTIONS.values()},
    language="en",
    speakers=len(SPEAKERS),
    licence="for research only, by registration",
    citation="Haq & Jackson (2009), Speaker-dependent audio-visual emotion recognition, AVSP",
    homepage="http://kahlan.eps.surrey.ac.uk/savee/",
    faults=("four speakers, all men: too few for an interval",),
    access="by registration at http://kahlan.eps.surrey.ac.uk/savee/Download.html",
)
