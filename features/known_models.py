"""Published models that were trained on the emotions of known corpora, and how they are found."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .training_record import TrainingRecord


@dataclass(frozen=True)
class KnownModel:
    """A model, or a family of models, whose training corpora are known.

    Attributes
    ----------
    corpora : frozenset of str
        What it was trained on.
    names : tuple of str
        Hub ids, or parts of names that mean this model wherever they stand in an id or a path.
    exact : tuple of str
        Names that mean it only if they are the whole name of the folder.
    """

    corpora: frozenset[str]
    names: tuple[str, ...]
    exact: tuple[str, ...] = ()


#: Sources: the models' cards; for emotion2vec+, which lists EmoBox, its README and issues 46 and
#: 77.
KNOWN_MODELS = (
    KnownModel(
        frozenset({"ravdess", "savee", "emodb", "cremad", "tess", "shemo", "iemocap"}),
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
        exact=("wav2vec2-emotion-recognition",),  # projects are called so, too
    ),
    KnownModel(frozenset({"iemocap"}), ("superb-er",)),
)
#: Corpora by the hash of a model's weights, as ``weights_sha256`` of a cache's key gives it. None
#: is known yet: nobody has loaded these models with serpipe and written the hash down.
KNOWN_WEIGHTS: Mapping[str, frozenset[str]] = {}


def known_training(names: Iterable[str], weights_sha256: str = "") -> TrainingRecord | None:
    """Return what a published model was trained on, as far as its names or weights tell.

    Parameters
    ----------
    names : iterable of str
        Hub ids and paths: of the model, and of the one that it was made from. The folders above a
        local one count, those of the hub's cache included. Case and separators do not.
    weights_sha256 : str
        Hash of its weights.

    Returns
    -------
    TrainingRecord or None
        Of corpora alone; None if the model is not among those that are known.
    """
    found = [KNOWN_WEIGHTS[weights_sha256]] if weights_sha256 in KNOWN_WEIGHTS else []
    for name in names:
        path, last = _plain(name), _plain(re.split(r"[/\\]", name.rstrip("/\\"))[-1])
        found += [
            known.corpora
            for known in KNOWN_MODELS
            if any(_plain(part) in path for part in known.names)
            or any(_plain(part) == last for part in known.exact)
        ]
    corpora = frozenset[str]().union(*found)
    return TrainingRecord(corpora=corpora, unlisted=corpora) if corpora else None


def names_of_folder(folder: Path) -> list[str]:
    """Return the path of a local folder as it was given and as it is without symbolic links."""
    return [str(folder.absolute()), str(folder.resolve())]


def _plain(name: str) -> str:
    """Return the words of a name in lower case, with a hyphen before and after each of them."""
    words = re.findall(r"[^\W_]+", name.lower().replace("+", " plus "))
    return f"-{'-'.join(words)}-"
