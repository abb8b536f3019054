"""One clip of a corpus, as its name describes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..remote import Location


@dataclass(frozen=True, slots=True)  # of large corpora there are millions
class Clip:
    """What is known of a clip before its audio is decoded; labels that a corpus lacks are empty."""

    #: The audio, local or remote. It is never stored, because caches may be moved.
    file: Location
    #: Relative to the folder of the corpus, with forward slashes.
    path: str
    #: Its name in the release, unique in its corpus.
    name: str
    corpus: str
    #: Unique in the corpus.
    speaker: str
    #: ``"female"``, ``"male"`` or empty.
    sex: str = ""
    #: The label of the corpus.
    emotion: str = ""
    #: The label in the vocabulary of :mod:`serpipe.corpora.emotions`; empty if it has none.
    shared_emotion: str = ""
    #: ISO 639-1 code.
    language: str = ""
    intensity: str = ""
    statement: str = ""
    repetition: str = ""
    #: Unique across corpora: ``"CORPUS:SPEAKER"`` for a built-in corpus; for a manifest the speaker
    #: as given, who may occur in several corpora.
    speaker_id: str = ""
    #: Further columns, such as ratings, with the same names and types for all clips of a corpus.
    more: Mapping[str, str | float] = field(default_factory=dict)

    def absolute(self) -> "Clip":
        """Return the clip with an absolute path, for any working directory."""
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
