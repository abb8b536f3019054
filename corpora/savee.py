"""SAVEE: 4 men, 7 emotions, 480 clips.

Haq & Jackson (2009), AVSP. The release keeps the clips of each speaker in a folder of his own, as
in ``AudioData/DC/sa01.wav``; copies of it have the speaker in the name, as in ``DC_sa01.wav``.
"""

import re
from pathlib import PurePosixPath

from .corpus import Corpus, NameOutsideSchemeError, Told

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


def read_name(path: PurePosixPath) -> Told | str:
    """Read what a SAVEE file name and its folder tell.

    Parameters
    ----------
    path : PurePosixPath
        The file, relative to the corpus' folder.

    Returns
    -------
    dict of str to str
        The fields of a clip.

    Raises
    ------
    NameOutsideSchemeError
        If the stem is not a known emotion and number, or neither name nor folder tell the speaker.
    """
    found = re.fullmatch(r"(?:([A-Z]{2})_)?([a-z]{1,2})(\d\d)", path.stem)
    if not found:
        raise NameOutsideSchemeError("not an emotion and two digits")
    speaker, emotion, number = found.groups()
    folder = path.parent.name.upper()
    if speaker and folder in SPEAKERS and folder != speaker:
        raise NameOutsideSchemeError(f"speaker {speaker} in the folder {folder}")
    speaker = speaker or folder
    if speaker not in SPEAKERS:
        raise NameOutsideSchemeError(
            f"speaker {speaker!r} is not known; a folder tells it: {', '.join(SPEAKERS)}"
        )
    if emotion not in EMOTIONS:
        raise NameOutsideSchemeError(f"emotion code {emotion!r} is not known")
    most = 30 if emotion == "n" else 15
    if not 1 <= int(number) <= most:
        raise NameOutsideSchemeError(f"number {number} of {EMOTIONS[emotion]}, of which are {most}")
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
