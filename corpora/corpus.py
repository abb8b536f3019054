"""What a reader of a corpus has to tell. One module per corpus fills one of these."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath


class NameOutsideSchemeError(ValueError):
    """A file name does not follow the corpus' scheme; the text says which part does not."""


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
        Clips per emotion in the full release.
    licence, citation, homepage : str
        For provenance and model cards.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    scheme: str
    read_name: Callable[[PurePosixPath], dict[str, str] | str]
    expected: Mapping[str, int]
    licence: str
    citation: str
    homepage: str
