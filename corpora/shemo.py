"""ShEMO: 87 Persian speakers of radio plays, 6 emotions, 3000 clips.

Mohamad Nezami et al. (2019), Language Resources and Evaluation 53: 1-16. A name such as
``F01A01.wav`` gives sex, speaker (numbered separately for women and men), emotion and number.
"""

import re
from pathlib import PurePosixPath

from .corpus import Corpus, NameFields, NameOutsideSchemeError, check_code

EMOTIONS = {
    "A": "anger",
    "F": "fear",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
    "W": "surprise",
}
_SEX = {"F": "female", "M": "male"}


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that a ShEMO file name gives; the folders are free.

    The stem must be sex, speaker, a known emotion and a number.
    """
    match = re.fullmatch(r"([FM])(\d\d)([A-Z])(\d{2,3})", path.stem)
    if not match:
        raise NameOutsideSchemeError("not sex, speaker, emotion and number")
    sex, speaker, emotion, number = match.groups()
    check_code("emotion", emotion, EMOTIONS)
    return {
        "name": path.stem,
        "speaker": f"{sex}{speaker}",
        "sex": _SEX[sex],
        "emotion": EMOTIONS[emotion],
        "repetition": number,
    }


SHEMO = Corpus(
    name="shemo",
    title="ShEMO",
    suffixes=(".wav", ".flac"),
    scheme="a ShEMO name such as F01A01.wav",
    read_name=read_name,
    expected={
        "anger": 1059,
        "fear": 38,
        "happiness": 201,
        "neutral": 1028,
        "sadness": 449,
        "surprise": 225,
    },
    shared={emotion: emotion for emotion in EMOTIONS.values()},
    language="fa",
    speakers=87,
    licence="free for research, on request",
    citation="Mohamad Nezami, Jamshid Lou & Karami (2019), ShEMO: a large-scale validated database "
    "for Persian speech emotion detection, Language Resources and Evaluation 53: 1-16, "
    "doi:10.1007/s10579-018-9427-x",
    homepage="https://github.com/mansourehk/ShEMO",
    faults=(
        "121 clips have a rate of 22.05 kHz, the rest 44.1 kHz",
        "clips last from 0.4 to 33 s: Whisper takes up to 30 s",
        "there is a corrected set of labels (shemo.json, 2838 clips) besides the one in the names",
        "fear has 38 clips: its recall is very uncertain",
    ),
    access="see https://github.com/mansourehk/ShEMO for how to ask for it",
)
