"""Published models that were trained on the emotions of known corpora."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .training_record import TrainingRecord


@dataclass(frozen=True)
class KnownModel:
    """A model, or a family of models, whose training corpora are known."""

    corpora: frozenset[str]
    #: Hub ids, or parts of names that identify the model anywhere in an id or a path.
    names: tuple[str, ...]
    #: Names that identify it only as the whole name of the folder.
    exact: tuple[str, ...] = ()


#: The corpora of EmoBox that have a reader.
_IN_EMOBOX = frozenset({
    "cremad", "emodb", "emovo", "emozionalmente", "esd", "iemocap", "jl", "meld", "msp-podcast",
    "ravdess", "savee", "shemo", "tess",
})  # fmt: skip
#: Sources: the model cards; for emotion2vec+, which lists EmoBox, its README and issues 46 and 77.
KNOWN_MODELS = (
    KnownModel(
        _IN_EMOBOX,
        ("emotion2vec_plus",),
    ),
    KnownModel(
        frozenset({"ravdess"}),
        ("wav2vec2-lg-xlsr-en-speech-emotion-recognition",),  # of ehcalabres
    ),
    KnownModel(
        frozenset({"savee", "ravdess", "tess"}),
        ("wav2vec-english-speech-emotion-recognition",),  # of r-f
    ),
    KnownModel(
        frozenset({"ravdess", "savee", "tess"}),
        (
            "firdhokk/speech-emotion-recognition",
            "speech-emotion-recognition-with-openai-whisper",
            "speech-emotion-recognition-with-facebook-wav2vec2",
        ),
    ),
    KnownModel(
        frozenset({"tess", "cremad", "savee", "ravdess"}),
        ("Dpngtm/wav2vec2-emotion-recognition",),
        exact=("wav2vec2-emotion-recognition",),  # projects have this name, too
    ),
    KnownModel(frozenset({"iemocap"}), ("superb-er",)),
    KnownModel(
        frozenset({"msp-podcast"}),
        (
            "SER-Odyssey-Baseline-WavLM",  # of 3loi
            "wav2vec2-large-robust-12-ft-emotion-msp-dim",  # of audeering
        ),
    ),
)


def known_training(names: Iterable[str]) -> TrainingRecord | None:
    """Return the corpora that a published model was trained on; None if the model is unknown.

    ``names`` are hub ids and paths of the model and of its base model. The parent folders of a path
    count, such as those of the hub's cache; case and separators do not.
    """
    matches: list[frozenset[str]] = []
    for name in names:
        path, last = _plain(name), _plain(re.split(r"[/\\]", name.rstrip("/\\"))[-1])
        matches += [
            known.corpora
            for known in KNOWN_MODELS
            if any(_plain(part) in path for part in known.names)
            or any(_plain(part) == last for part in known.exact)
        ]
    corpora = frozenset[str]().union(*matches)
    return TrainingRecord(corpora=corpora, unlisted=corpora) if corpora else None


def names_of_folder(folder: Path) -> list[str]:
    """Return the path of a local folder, as given and without symbolic links."""
    return [str(folder.absolute()), str(folder.resolve())]


def _plain(name: str) -> str:
    """Return the words of a name in lower case, with a hyphen before and after each."""
    words = re.findall(r"[^\W_]+", name.lower().replace("+", " plus "))
    return f"-{'-'.join(words)}-"
