"""What a reader of a corpus has to tell. One module per corpus fills one of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..remote import Place

#: What a clip's name, or its corpus' label files, tell of it: the fields of ``Clip``.
Told = dict[str, str]


class NameOutsideSchemeError(ValueError):
    """A file name does not follow the corpus' scheme; the text says which part does not."""


def no_labels(folder: Place) -> Mapping[str, Mapping[str, str | float]]:
    """Return nothing: the labels of most corpora stand in the names of their clips."""
    return {}


@dataclass(frozen=True)
class Archive:
    """A file of a release that anybody may download.

    Attributes
    ----------
    url : str
        Where it is.
    name : str
        What the file is called here.
    size : int
        In bytes; 0 if the source does not say.
    checksum : str
        ``"md5:..."`` or ``"sha256:..."``, as the source publishes it; empty if it does not.
    """

    url: str
    name: str
    size: int = 0
    checksum: str = ""


@dataclass(frozen=True)
class Corpus:
    """A data set and how to read its file names.

    Attributes
    ----------
    name : str
        Short name, as on the command line.
    title : str
        Name in tables and figures.
    suffixes : tuple of str
        Audio file suffixes to look for, lower case.
    scheme : str
        The naming scheme, for error messages.
    read_name : callable
        From a path relative to the corpus' folder to the fields of :class:`Clip` that the name
        tells, or to a string that says why a well-named file is not one of the corpus' clips.
        Raises :class:`NameOutsideSchemeError` for any other name.
    expected : mapping of str to int
        Clips per emotion, in the corpus' own words, in the full release.
    shared : mapping of str to str
        From the corpus' own words for emotions to those of ``corpora.emotions``; empty where an
        emotion has no counterpart.
    language : str
        Of the speech, as ISO 639-1 says it.
    licence, citation, homepage : str
        For provenance and model cards.
    speakers : int
        In the full release.
    faults : tuple of str
        What is known to be wrong with the release.
    archives : tuple of Archive
        What may be downloaded by anybody.
    access : str
        How to get the corpus.
    corpus : str
        The name in the clip table where it is another: parts of one corpus share their speakers.
    group : str
        The column whose values group speakers that were recorded together, such as
        ``"session"``; empty if speakers were recorded alone.
    read_labels : callable
        From the folder to what label files tell of each clip, by its name; a clip of which these
        tell nothing is bad. Labels that are numbers become columns of ratings.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    scheme: str
    read_name: Callable[[PurePosixPath], Told | str]
    expected: Mapping[str, int]
    shared: Mapping[str, str]
    language: str
    licence: str
    citation: str
    homepage: str
    speakers: int
    faults: tuple[str, ...] = ()
    archives: tuple[Archive, ...] = ()
    access: str = ""
    corpus: str = ""
    group: str = ""
    read_labels: Callable[[Place], Mapping[str, Mapping[str, str | float]]] = field(
        default=no_labels
    )
