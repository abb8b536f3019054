"""What several functions of the API need: typed errors, clusters, a record of the call."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..errors import UserError, disk_error
from ..progress import Say, say_nothing
from ..remote import Location, Remote, address_without_secrets

if TYPE_CHECKING:
    from ..cluster import Cluster

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
        if name not in _NOT_RECORDED and value != parameter.default:
            shown.append(f"{name}={_as_code(value)}")
    return {**provenance(), "command": f"serpipe.{function.__name__}({', '.join(shown)})"}


def _as_code(value: Any) -> str:
    """Return a value as Python code, without secrets in addresses and without default options."""
    if is_dataclass(value) and not isinstance(value, type | Location):
        defaults = type(value)()
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        shown = (
            f"{name}={_as_code(each)}"
            for name, each in given.items()
            if each != getattr(defaults, name)
        )
        return f"serpipe.{type(value).__name__}({', '.join(shown)})"
    several = isinstance(value, (list, tuple))
    return repr([_without_secrets(each) for each in value] if several else _without_secrets(value))


def _without_secrets(value: Any) -> Any:
    if not isinstance(value, Location):
        value = getattr(value, "path", value)  # the file of an open cache
    text = addresses(value)[0] if isinstance(value, Location) else value
    return address_without_secrets(text) if isinstance(text, str) else text
