"""One clip of a corpus, as its name tells it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clip:
    """What is known of a clip before its audio is opened.

    Attributes
    ----------
    file : Path
        Where the audio is on this machine. Never stored: a cache may travel.
    path : str
        The same, relative to the corpus' folder, with forward slashes.
    name : str
        The clip's name in the release, unique in its corpus.
    corpus : str
        Name of the corpus, such as ``"ravdess"``.
    speaker : str
        Who talks, unique in the corpus.
    sex : str
        ``"female"`` or ``"male"``.
    emotion : str
        The emotion in the corpus' own words.
    intensity, statement, repetition : str
        What the corpus tells besides; empty where it tells nothing.
    """

    file: Path
    path: str
    name: str
    corpus: str
    speaker: str
    sex: str
    emotion: str
    intensity: str = ""
    statement: str = ""
    repetition: str = ""


#: The columns of the clip table that a reader fills, in the order in which they are stored.
CLIP_COLUMNS = (
    "path",
    "name",
    "corpus",
    "speaker",
    "sex",
    "emotion",
    "intensity",
    "statement",
    "repetition",
)
