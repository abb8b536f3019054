"""Speaker-independent folds for every corpus, so that results can be compared.

For RAVDESS, SAVEE, IEMOCAP, EMOVO, JL and ESD they are those of EmoBox. EmoBox's folds of EMO-DB,
CREMA-D, TESS and ShEMO share speakers between training and test; these do not, and its scores are
not comparable.
"""

from collections.abc import Callable, Mapping

from .cremad import ACTORS, WOMEN
from .emobox import EMOBOX_FOLDS
from .emodb import SEX
from .tess import SPEAKERS


def _listed(corpus: str) -> Callable[[str], str]:
    fold_of = {name: fold for fold, names in EMOBOX_FOLDS[corpus].items() for name in names}
    return fold_of.__getitem__


def _cremad(speaker: str) -> str:
    """Distribute women and men in turn over five folds, in the order of their numbers."""
    own = [actor for actor in ACTORS if (actor in WOMEN) == (speaker in WOMEN)]
    return str(own.index(speaker) % 5 + 1)


def _shemo(speaker: str) -> str:
    """Distribute speakers over five folds by number; women and men are numbered separately."""
    return str(int(speaker[1:]) % 5 + 1)


def _improv(speaker: str) -> str:
    """Return the session of a speaker of MSP-IMPROV, which the woman and the man share."""
    return str(int(speaker[1:]))


def _alone(speakers: tuple[str, ...]) -> Callable[[str], str]:
    return dict(zip(speakers, speakers, strict=True)).__getitem__


#: By corpus: a function from a speaker to the fold that tests the speaker. It raises KeyError or
#: ValueError for an unknown speaker.
STANDARD_FOLDS: Mapping[str, Callable[[str], str]] = {
    "ravdess": _listed("ravdess"),
    "savee": _listed("savee"),
    "iemocap": _listed("iemocap"),
    "cremad": _cremad,
    "emodb": _alone(tuple(SEX)),
    "shemo": _shemo,
    "tess": _alone(SPEAKERS),
    "emovo": _listed("emovo"),
    "jl": _listed("jl"),
    "esd": _listed("esd"),
    "msp-improv": _improv,
}
