"""Inspect caches of embeddings."""

from typing import TYPE_CHECKING

from ..progress import Say, say_nothing
from ..remote import Location
from .shared import with_typed_errors

if TYPE_CHECKING:
    from pathlib import Path


def _open(file: str | Location | None, say: Say) -> "Path":
    from ..artifacts.run.latest import latest_cache
    from ..mirror import local

    return local(file or latest_cache(), say, file=True)


@with_typed_errors
def describe_cache(file: str | Location | None = None, *, say: Say = say_nothing) -> dict[str, str]:
    """Describe the contents of a cache: corpus, clips, encoder, layers and how it was made.

    Parameters
    ----------
    file : str or Path, optional
        Cache of embeddings; by default the newest in ``features/cache``.
    say : callable
        Takes lines of text that report what is fetched.

    Returns
    -------
    dict of str to str
        Facts by name.

    Raises
    ------
    UserError
        If there is no such cache, or it is damaged.

    Examples
    --------
    >>> import serpipe
    >>> serpipe.describe_cache()["corpus"]  # doctest: +SKIP
    'RAVDESS speech (built-in sample)'
    """
    from ..artifacts.report.cache_info import describe
    from ..features.cache import open_cache

    return dict(describe(open_cache(_open(file, say))))


@with_typed_errors
def verify_cache(
    file: str | Location | None = None, *, say: Say = say_nothing
) -> "tuple[Path, list[str]]":
    """Check every number of a cache against its checksum.

    Parameters
    ----------
    file, say
        As :func:`describe_cache` takes them.

    Returns
    -------
    path : Path
        The file that was checked.
    errors : list of str
        What is wrong with it; empty for an intact cache.

    Raises
    ------
    UserError
        If there is no such cache, or it cannot be opened.

    Examples
    --------
    >>> import serpipe
    >>> path, errors = serpipe.verify_cache()  # doctest: +SKIP
    """
    from ..features.cache import verify_cache as verify

    path = _open(file, say)
    return path, verify(path)
