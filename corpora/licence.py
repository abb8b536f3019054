"""Derive the licence of a model from the licences of its training clips."""

import re
from dataclasses import dataclass

from . import CORPORA

#: Licences that allow anybody to pass on what is made from the clips, as the hub calls them.
_OPEN = re.compile(r"cc0-1\.0|cc-by(-nc)?(-sa)?-\d\.\d|odbl|pddl|mit|apache-2\.0")
_NO_DERIVATIVES = re.compile(r"cc-by(-nc)?-nd-\d\.\d")
#: Licences whose names on the hub differ from those that their owners use.
_NAMES_OF_HUB = {"odbl-1.0": "odbl"}


@dataclass(frozen=True)
class ModelLicence:
    """The licence of a model, carried over from its training clips."""

    #: Name on the hub; ``"other"`` if it has none, or if the corpora have different licences.
    identifier: str
    #: The licences in words if the identifier is ``"other"``, otherwise empty.
    name: str
    #: Why the model may not be published without the consent of the owners of a corpus, each with
    #: the corpus and its licence; empty if it may be.
    obstacles: tuple[str, ...]


def model_licence(corpora: str, licences: str) -> ModelLicence:
    """Return the licence of a model from those of its training clips.

    Parameters
    ----------
    corpora : str
        Titles of the training corpora, for messages.
    licences : str
        Their licences, as :class:`~serpipe.corpora.corpus.Corpus` states them, joined by ``"; "``.

    Returns
    -------
    ModelLicence
    """
    titles: dict[str, list[str]] = {}
    for corpus in CORPORA.values():
        if corpus.title in corpora and corpus.licence in licences:
            titles.setdefault(corpus.licence, []).append(corpus.title)
    rest = licences
    for licence in sorted(titles, key=len, reverse=True):  # some contain a semicolon themselves
        rest = rest.replace(licence, "")
    unknown = [each for each in rest.split("; ") if each] or ([] if titles else [""])
    obstacles = [
        f"{', '.join(titles.get(licence, ())) or corpora or 'the training data'} "
        f"({licence or 'no licence'}): {_obstacle(licence)}"
        for licence in (*titles, *unknown)
        if not _OPEN.fullmatch(_identifier(licence))
    ]
    (first, *others) = dict.fromkeys(map(_identifier, (*titles, *unknown)))
    if not others and (_OPEN.fullmatch(first) or _NO_DERIVATIVES.fullmatch(first)):
        return ModelLicence(first, "", tuple(obstacles))
    return ModelLicence("other", licences or "not stated", tuple(obstacles))


def _identifier(licence: str) -> str:
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")
    return _NAMES_OF_HUB.get(name, name)


def _obstacle(licence: str) -> str:
    if _NO_DERIVATIVES.fullmatch(_identifier(licence)):
        return "its licence forbids passing on what is derived from the clips"
    if "no redistribution" in licence.lower():
        return "its terms forbid redistribution"
    if "research" in licence.lower():
        return "its terms allow research, and do not say whether a model may be passed on"
    return "serpipe does not know this licence, or whether it allows a model to be passed on"
