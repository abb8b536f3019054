"""One clip of a corpus, as its name tells it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..remote import Place


@dataclass(frozen=True, slots=True)  # of large corpora there are millions
class Clip:
    """What is known of a clip before its audio is opened.

    Attributes
    ----------
    file : Path or Remote
        Where the audio is, on this machine or elsewhere. Never stored: a cache may travel.
    path : str
        The same, relative to the corpus' folder, with forward slashes.
    name : str
        The clip's name in the release, unique in its corpus.
    corpus : str
        Name of the corpus, such as ``"ravdess"``.
    speaker : str
        Who talks, unique in the corpus.
    sex : str
        ``"female"`` or ``"male"``; empty where it is not told.
    emotion : str
        The emotion in the corpus' own words.
    shared_emotion : str
        The emotion in the words of :mod:`serpipe.corpora.emotions`; empty where there is none.
    language : str
        As ISO 639-1 says it.
    intensity, statement, repetition : str
        What the corpus tells besides; empty where it tells nothing.
    speaker_id : str
        Who talks, unique across corpora: of a corpus whose reader knows its speakers
        ``"CORPUS:SPEAKER"``, of a manifest the speaker as it is, who may occur in several corpora.
    more : mapping of str to str or float
        Further columns: ratings, or what a manifest tells. The same names and types for all clips
        of a corpus.
    """

    file: Place
    path: str
    name: str
    corpus: str
    speaker: str
    sex: str = ""
    emotion: str = ""
    shared_emotion: str = ""
    language: str = ""
    intensity: str = ""
    statement: str = ""
    repetition: str = ""
    speaker_id: str = ""
    more: Mapping[str, str | float] = field(default_factory=dict)

    def absolute(self) -> "Clip":
        """Return it with a file that is found from any working directory."""
        return replace(self, file=self.file.resolve())


#: The columns of the clip table that serpipe fills, and that a manifest cannot give.
FILLED_COLUMNS = (
    "speaker_id",
    "shared_emotion",
    "sha256",
    "audio_sha256",
    "seconds",
    "sampling_rate",
    "channels",
    "loudness",
    "recording",
    "unconfirmed_copy_of",
    "contamination",
    "kept_together",
)
#: The columns of the clip table that a reader fills, in the order in which they are stored.
CLIP_COLUMNS = (
    "path",
    "name",
    "corpus",
    "speaker",
    "sex",
    "emotion",
    "shared_emotion",
    "language",
    "intensity",
    "statement",
    "repetition",
)
