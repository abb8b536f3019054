"""CREMA-D: 91 actors, 12 sentences, 6 emotions, 7442 clips.

Cao et al. (2014), IEEE Transactions on Affective Computing 5(4): 377-390. A name such as
``1001_DFA_ANG_XX.wav`` gives actor, sentence, emotion and intensity. The sex of the actors comes
from the release's VideoDemographics.csv, which is often not beside the clips.
"""

from pathlib import PurePosixPath

from ..errors import counted
from .corpus import Archive, Corpus, NameFields, NameOutsideSchemeError, check_code
from .emotions import shared_word

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happy",
    "NEU": "neutral",
    "SAD": "sad",
}
SENTENCES = {
    "IEO": "It's eleven o'clock",
    "TIE": "That is exactly what happened",
    "IOM": "I'm on my way to the meeting",
    "IWW": "I wonder what this is about",
    "TAI": "The airplane is almost full",
    "MTI": "Maybe tomorrow it will be cold",
    "IWL": "I would like a new alarm clock",
    "ITH": "I think I have a doctor's appointment",
    "DFA": "Don't forget a jacket",
    "ITS": "I think I've seen this before",
    "TSI": "The surface is slick",
    "WSI": "We'll stop in a couple of minutes",
}
INTENSITIES = {"LO": "low", "MD": "medium", "HI": "high", "XX": ""}
WOMEN = frozenset(map(str, (
    1002, 1003, 1004, 1006, 1007, 1008, 1009, 1010, 1012, 1013, 1018, 1020, 1021, 1024, 1025,
    1028, 1029, 1030, 1037, 1043, 1046, 1047, 1049, 1052, 1053, 1054, 1055, 1056, 1058, 1060,
    1061, 1063, 1072, 1073, 1074, 1075, 1076, 1078, 1079, 1082, 1084, 1089, 1091,
)))  # fmt: skip
ACTORS = tuple(str(number) for number in range(1001, 1092))
#: The one name of the release that lacks a letter.
_MISNAMED = {"1040_ITH_SAD_X": "1040_ITH_SAD_XX"}


def read_name(path: PurePosixPath) -> NameFields | str:
    """Return the fields of a clip that a CREMA-D file name gives; the folders are free.

    The stem must be an actor and three known codes.
    """
    name = _MISNAMED.get(path.stem, path.stem)
    parts = name.split("_")
    if len(parts) != 4:
        raise NameOutsideSchemeError(f"{counted(len(parts), 'part')} instead of 4")
    actor, sentence, emotion, intensity = parts
    check_code("actor", actor, ACTORS)
    check_code("sentence", sentence, SENTENCES)
    check_code("emotion", emotion, EMOTIONS)
    check_code("intensity", intensity, INTENSITIES)
    return {
        "name": name,
        "speaker": actor,
        "sex": "female" if actor in WOMEN else "male",
        "emotion": EMOTIONS[emotion],
        "intensity": INTENSITIES[intensity],
        "statement": SENTENCES[sentence],
    }


CREMAD = Corpus(
    name="cremad",
    title="CREMA-D",
    suffixes=(".wav", ".flac"),
    scheme="a CREMA-D name such as 1001_DFA_ANG_XX.wav",
    read_name=read_name,
    expected={emotion: 1087 if emotion == "neutral" else 1271 for emotion in EMOTIONS.values()},
    shared={emotion: shared_word(emotion) for emotion in EMOTIONS.values()},
    language="en",
    speakers=len(ACTORS),
    licence="ODbL 1.0",
    citation="Cao et al. (2014), IEEE Transactions on Affective Computing 5(4): 377-390, "
    "doi:10.1109/TAFFC.2014.2336244",
    homepage="https://github.com/CheyneyComputerScience/CREMA-D",
    faults=(
        "1076_MTI_SAD_XX.wav has no sound",
        "1040_ITH_SAD_X.wav lacks a letter of its name",
        "a clone without git-lfs holds pointers instead of audio",
        "the labels are what the actors intended, not what raters perceived",
    ),
    # The authors publish single files with git-lfs; this copy by others has no checksum.
    archives=(
        Archive(
            "https://huggingface.co/datasets/myleslinder/crema-d/resolve/"
            "8a11ae8cb89df0d49a85ab0a64410a9f354c11e4/data/crema_d.tar.gz",
            "crema_d.tar.gz",
        ),
    ),
    access="free download: `serpipe corpora download cremad` (a copy by others), or `git lfs` from "
    "the home page",
)
