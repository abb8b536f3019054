"""What several functions of the API need: typed errors, names, clusters, a record of the call."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import UserError, disk_error
from ..progress import Say, say_nothing
from ..remote import Location, Remote, address_without_secrets

if TYPE_CHECKING:
    from ..cluster import Cluster
    from ..pipeline.protocol import Protocol

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: Parameters that are no part of a recorded call: the results do not depend on them.
_NOT_RECORDED = ("provenance", "track", "say", "jobs")


def with_typed_errors(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Raise a MachineError where the system refuses a file: a read-only folder, a full disk."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            if error.errno is None:  # not from the system
                raise
            raise disk_error(error) from error

    return call


def split_names(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return names that are given one by one or joined by commas.

    Raises
    ------
    UserError
        If a name between commas is empty.
    """
    if not isinstance(names, str):
        return tuple(names)
    split = tuple(name.strip() for name in names.split(",")) if names else ()
    if not all(split):
        raise UserError(f"{names}: a name is empty; join names by single commas")
    return split


def read_pairs(option: str, pairs: Mapping[str, str] | Sequence[str] | None) -> dict[str, str]:
    """Return a mapping of labels, given as such or as texts such as ``"calm=neutral"``.

    Raises
    ------
    UserError
        If a text has another form, or a label is mapped to two others.
    """
    if isinstance(pairs, Mapping):
        return dict(pairs)
    mapping: dict[str, str] = {}
    for pair in pairs or ():
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UserError(f"{option} {pair}: expected LABEL=LABEL, such as calm=neutral")
        if mapping.setdefault(old, new) != new:
            raise UserError(f"{option} {pair}: {old} is already mapped to {mapping[old]}")
    return mapping


def fields_of(kind: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a function that are fields of a dataclass, but for None."""
    names = {field.name for field in fields(kind)}
    return {name: each for name, each in arguments.items() if name in names and each is not None}


def make_protocol(arguments: Mapping[str, Any]) -> "Protocol":
    """Return the protocol in the arguments of a function, where names and pairs may be texts.

    Raises
    ------
    UserError
        If a text cannot be split into names, pairs or numbers.
    """
    from ..pipeline.enrolment import read_clip_numbers
    from ..pipeline.protocol import Protocol

    given = fields_of(Protocol, arguments)
    given["merge"] = read_pairs("--map", given.get("merge"))
    for name in ("keep", "train_on", "test_on"):
        given[name] = split_names(given.get(name, ()))
    given["enrol"] = read_clip_numbers("--enrol", given.get("enrol", ()))
    return Protocol(**given)


def addresses(data: str | Location | Sequence[str | Location]) -> list[str]:
    """Return one or several folders as text; an address in full, of which ``str`` hides a part."""
    folders = [data] if isinstance(data, str | Location) else data
    return [each.url if isinstance(each, Remote) else str(each) for each in folders]


def thread_count(jobs: int | None) -> int:
    """Return how many threads or processes to use: by default all available cores."""
    from ..provenance import cores

    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs}: expected at least 1; omit it to use all available cores")
    return jobs or cores()


def workers(where: str | None, say: Say = say_nothing) -> "AbstractContextManager[Cluster | None]":
    """Connect to a cluster, if one is requested.

    Parameters
    ----------
    where : str, optional
        As :func:`serpipe.cluster.connect` takes it.
    say : callable
        Takes lines of text that report progress.

    Returns
    -------
    context manager of Cluster or None

    Raises
    ------
    UserError
        If Dask is not installed.
    """
    if where is None:
        return nullcontext()
    try:
        from ..cluster import connect
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dask", "distributed"):
            raise
        raise UserError(
            f"--cluster {where}: {error.name} is not installed; "
            "install it with: pip install 'serpipe[cluster]'"
        ) from None
    return connect(where, say)


def provenance_of_call(
    function: Callable[..., Any], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Return provenance whose command is the call itself, with all arguments but defaults.

    Parameters
    ----------
    function : callable
        The function of the API that was called.
    arguments : mapping
        Its arguments by name, as ``locals()`` returns them at its beginning.
    """
    from ..provenance import provenance

    shown = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = getattr(arguments[name], "path", arguments[name])  # the file of an open cache
        if name in _NOT_RECORDED or value == parameter.default:
            continue
        several = isinstance(value, (list, tuple))
        text = [_without_secrets(each) for each in value] if several else _without_secrets(value)
        shown.append(f"{name}={text!r}")
    return {**provenance(), "command": f"serpipe.{function.__name__}({', '.join(shown)})"}


def _without_secrets(value: Any) -> Any:
    text = addresses(value)[0] if isinstance(value, Location) else value
    return address_without_secrets(text) if isinstance(text, str) else text
