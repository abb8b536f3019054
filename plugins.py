"""Heads and corpora that other installed packages register as entry points.

A package is imported only when one of its heads or corpora is used by name.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract
from typing import Any, Protocol, TypeVar

from .errors import UserError, first_line

#: The groups of entry points.
HEAD_GROUP, CORPUS_GROUP = "serpipe.heads", "serpipe.corpora"
#: Names become parts of paths and of comma-separated options.
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)


@dataclass(frozen=True, eq=False)
class Registry(Mapping[str, T]):
    """Built-in objects and those that other packages register, by name.

    Names are listed without importing any package; a value is imported when it is looked up.
    """

    #: The group of entry points.
    group: str
    #: What each entry point must refer to: an instance of this type, or a concrete subclass of it
    #: if it is abstract.
    kind: type[Any]
    #: Objects of serpipe itself.
    built_in: dict[str, T]
    #: Names with another meaning on the command line.
    reserved: frozenset[str]

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names: the built-in ones, then the others in sorted order."""
        yield from self.built_in
        yield from self._plugins()

    def __len__(self) -> int:
        return len(self.built_in) + len(self._plugins())

    def __contains__(self, name: object) -> bool:
        """Whether the name is registered; nothing is imported."""
        return name in self._plugins() or name in self.built_in

    def __getitem__(self, name: str) -> T:
        """Return the object of this name.

        Raise KeyError if there is none, and UserError if its package cannot be loaded, or registers
        a name that is taken.
        """
        entry = self._plugins().get(name)
        return self.built_in[name] if entry is None else self._load(entry)

    def packages(self, names: Iterable[str]) -> dict[str, str]:
        """Return the packages that register these names, with their versions."""
        entries = self._plugins()
        distributions = (entries[name].dist for name in names if name in entries)
        return {dist.name: dist.version for dist in distributions if dist}

    def _plugins(self) -> dict[str, EntryPoint]:
        """Return the entry points by name; refuse names that cannot be used."""
        entries: dict[str, EntryPoint] = {}
        for entry in _entry_points(self.group, tuple(sys.path)):
            problem = ""
            if entry.name in self.built_in or entry.name in self.reserved:
                problem = "serpipe itself uses that name"
            elif entry.name in entries:
                problem = f"{_package(entries[entry.name])} registers that name as well"
            elif not _NAME.fullmatch(entry.name):
                problem = "a name has at most 40 characters from a-z, 0-9, - and _"
            if problem:
                raise UserError(
                    f"{_package(entry)}: registers {entry.name!r} in {self.group}: {problem}; "
                    "rename it in the package, or uninstall one"
                )
            entries[entry.name] = entry
        return entries

    def _problem(self, loaded: Any, name: str) -> str:
        """Return why an object cannot be registered by a name; empty if it can."""
        is_subclass = isinstance(loaded, type) and issubclass(loaded, self.kind)
        if isabstract(self.kind) and is_subclass:
            if isabstract(loaded):
                return f"does not define {', '.join(sorted(loaded.__abstractmethods__))}"
        elif not isinstance(loaded, self.kind):
            return f"is a {type(loaded).__name__}"
        own = getattr(loaded, "name", None)
        return "" if own == name else f"is named {own!r}"

    def _load(self, entry: EntryPoint) -> T:
        try:
            loaded = entry.load()
        except Exception as error:  # whatever the code of another package raises
            problem = f"{type(error).__name__}: {first_line(error)}"
        else:
            problem = self._problem(loaded, entry.name)
            if not problem:
                return loaded  # type: ignore[no-any-return]
        raise UserError(
            f"{_package(entry)}: {entry.name!r} of {self.group} cannot be loaded from "
            f"{entry.value} ({problem}); expected a {self.kind.__name__} named {entry.name!r}; "
            "fix or uninstall the package"
        )


def registered_names(group: str) -> tuple[str, ...]:
    """Return the valid names that other packages register, sorted; nothing is imported."""
    entries = _entry_points(group, tuple(sys.path))
    return tuple(dict.fromkeys(entry.name for entry in entries if _NAME.fullmatch(entry.name)))


@cache
def _entry_points(group: str, path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read the entry points once for each state of ``sys.path``."""
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def _package(entry: EntryPoint) -> str:
    return f"package {entry.dist.name}" if entry.dist else "a package"
