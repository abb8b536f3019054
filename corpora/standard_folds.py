"""Folds that keep speakers apart for every corpus: published here, so that results compare.

For RAVDESS, SAVEE and IEMOCAP they are those of EmoBox. EmoBox's folds of EMO-DB, CREMA-D, TESS and
ShEMO share speakers between training and test; these do not, and its scores are not comparable.
"""

from collections.abc import Callable, Mapping

from .cremad import ACTORS, WOMEN
from .emobox import EMOBOX_FOLDS
from .emodb import SEX
from .tess import SPEAKERS


def _listed(corpus: str) -> Callable[[str], str]:
    fold_of = {speaker: fold for fold, those in EMOBOX_FOLDS[corpus].items() for speaker in those}
    return fold_of.__getitem__


def _cremad(speaker: str) -> str:
    """Deal women and men in turn to five folds, in the order of their numbers."""
    own = [actor for actor in ACTORS if (actor in WOMEN) == (speaker in WOMEN)]
    return str(own.index(speaker) % 5 + 1)


def _shemo(speaker: str) -> str:
    """Deal speakers to five folds by their numbers, which run apart for women and men."""
    return str(int(speaker[1:]) % 5 + 1)


def _alone(speakers: tuple[str, ...]) -> Callable[[str], str]:
    return dict(zip(speakers, speakers, strict=True)).__getitem__


#: Corpus to the fold in which a speaker is tested; KeyError or ValueError for a speaker whom the
#: corpus does not have.
STANDARD_FOLDS: Mapping[str, Callable[[str], str]] = {
    "ravdess": _listed("ravdess"),
    "savee": _listed("savee"),
    "iemocap": _listed("iemocap"),
    "cremad": _cremad,
    "emodb": _alone(tuple(SEX)),
    "shemo": _shemo,
    "tess": _alone(SPEAKERS),
}
