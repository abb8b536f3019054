"""The description of a corpus; the module of each corpus makes one."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..remote import Location

#: Fields of ``Clip`` that the name of a clip gives.
NameFields = dict[str, str]
#: A rating of a clip by one rater: ``name``, ``rater``, ``emotion``, and ratings on scales.
RaterRow = dict[str, str | float]


class NameOutsideSchemeError(ValueError):
    """A file name does not follow the scheme of its corpus; the text names the wrong part."""


def check_code(what: str, code: str, known: Collection[str]) -> None:
    """Raise NameOutsideSchemeError if a part of a name is not among the known codes."""
    if code not in known:
        raise NameOutsideSchemeError(f"{what} code {code!r} is not known")


def no_labels(folder: Location) -> Mapping[str, Mapping[str, str | float]]:
    """Return no labels: in most corpora the names of the clips give them."""
    return {}


@dataclass(frozen=True)
class Archive:
    """A file of a release that can be downloaded freely."""

    url: str
    #: Of the downloaded file.
    name: str
    #: In bytes; 0 if the source does not state it.
    size: int = 0
    #: ``"md5:..."`` or ``"sha256:..."``, as the source publishes it; empty if it does not.
    checksum: str = ""


@dataclass(frozen=True)
class Corpus:
    """A corpus, and how to read its file names.

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
        From a path relative to the folder of the corpus to the fields of :class:`Clip` that the
        name gives, or to a string that says why a well-named file is not a clip of the corpus.
        Raises :class:`NameOutsideSchemeError` for any other name.
    expected : mapping of str to int
        Clips per emotion, with the labels of the corpus, in the full release. Empty if that is not
        published, or differs between releases.
    shared : mapping of str to str
        From the labels of the corpus to the shared emotions of ``corpora.emotions``; empty where an
        emotion has no counterpart.
    language : str
        ISO 639-1 code of the speech. Several, joined by commas, if ``read_name`` gives that of
        each clip.
    licence, citation, homepage : str
        For provenance and model cards.
    speakers : int
        In the full release; 0 if that differs between releases.
    faults : tuple of str
        Known errors and peculiarities of the release.
    archives : tuple of Archive
        Files that can be downloaded freely.
    access : str
        How to get the corpus.
    corpus : str
        The name in the clip table if it differs: parts of one corpus share their speakers.
    group : str
        The column that groups speakers who were recorded together, such as ``"session"``; empty if
        speakers were recorded alone.
    read_labels : callable
        From the folder to the fields that label files give, by name of the clip; a clip without
        labels is bad. Numeric labels become columns of ratings.
    unlabelled : str
        What a clip without labels is, if the release has such clips: they are omitted, not bad.
    read_ratings : callable, optional
        From the folder to the ratings of single raters, if the release has them.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    scheme: str
    read_name: Callable[[PurePosixPath], NameFields | str]
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
    read_labels: Callable[[Location], Mapping[str, Mapping[str, str | float]]] = field(
        default=no_labels
    )
    unlabelled: str = ""
    read_ratings: Callable[[Location], Iterable[RaterRow]] | None = None
