r"""Find the files of the paths in a table, whatever machine the table was written on.

A path is used as written if the file exists. Otherwise backslashes are separators; of a path with a
drive (``C:\corpus\a\1.wav``) the longest tail that exists in the folder is used; and names match if
they differ only in their Unicode form, as macOS and Windows write umlauts.
"""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

from ..remote import Location, Remote
from .csv_table import nfc


@dataclass(frozen=True)
class ClipPath:
    """The file of a path in a table."""

    #: To the folder, with forward slashes.
    relative: str
    #: Whether the file exists. On a web server this is assumed until it is read.
    is_file: bool
    #: The folder of another machine before it in the table.
    dropped: PureWindowsPath | None = None
    #: How it differs from the table: ``"backslashes"``, ``"Unicode form"`` or empty.
    changed: str = ""

    @property
    def leads_out(self) -> bool:
        """Whether it is outside the folder."""
        return self.relative.startswith(("../", "/")) or self.relative == ".."


@dataclass
class ClipFolder:
    """The folder, resolved, that the paths of a table are relative to."""

    folder: Location
    _listed: dict[Path, dict[str, list[str]]] = field(default_factory=dict, repr=False)
    _stored: dict[str, list[str]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """List a store, where a request for each file would take long."""
        if isinstance(self.folder, Remote) and not self.folder.is_web:
            self._stored = _by_form(self.folder.files())

    def find(self, written: str) -> ClipPath:
        """Return the file of a path; the path as written, if no file exists."""
        if isinstance(self.folder, Remote) and self.folder.is_web:
            return ClipPath(self._relative(written.replace("\\", "/")), True)
        for candidate, changed, dropped in _readings(written):
            relative = self._relative(candidate)
            reading = ClipPath(relative, False, dropped, changed)
            if reading.leads_out:
                continue
            actual = self._actual(relative)
            if actual is not None:
                return ClipPath(
                    actual, True, dropped, changed if actual == relative else "Unicode form"
                )
        return ClipPath(self._relative(written), False)

    def file(self, relative: str) -> Location:
        """Return the file at a path."""
        if isinstance(self.folder, Remote):
            return self.folder / relative
        # Not resolved: links that the owner of the folder made may lead anywhere.
        return Path(os.path.normpath(self.folder / relative))

    def _relative(self, path: str) -> str:
        if isinstance(self.folder, Remote):
            return posixpath.normpath(path)
        file = os.path.normpath(self.folder / path)
        try:
            return Path(os.path.relpath(file, self.folder)).as_posix()
        except ValueError:  # on another drive of Windows
            return f"../{path}"

    def _actual(self, relative: str) -> str | None:
        """Return the path of a file as spelled in its folder; ``None`` if there is none."""
        if isinstance(self.folder, Remote):
            return _spelling(self._stored, relative)
        if _is_file(self.folder / relative):
            return relative
        if relative.isascii():
            return None
        parts: list[str] = []
        for part in relative.split("/"):
            spelled = _spelling(self._entries(self.folder.joinpath(*parts)), part)
            if spelled is None:
                return None
            parts.append(spelled)
        path = "/".join(parts)
        return path if _is_file(self.folder / path) else None

    def _entries(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._listed:
            try:
                self._listed[folder] = _by_form(entry.name for entry in folder.iterdir())
            except (OSError, ValueError):
                self._listed[folder] = {}
        return self._listed[folder]


def _readings(written: str) -> Iterator[tuple[str, str, PureWindowsPath | None]]:
    """Yield readings of a path: the path, how it was changed, and the dropped folder."""
    yield written, "", None
    windows = PureWindowsPath(written)
    if windows.drive or written.startswith("\\"):
        parts = windows.parts
        if ".." not in parts:
            for start in range(1, len(parts)):
                yield "/".join(parts[start:]), "", PureWindowsPath(*parts[:start])
    elif "\\" in written:
        yield windows.as_posix(), "backslashes", None


def _by_form(names: Iterable[str]) -> dict[str, list[str]]:
    """Return names by their Unicode form NFC."""
    by_form: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_form[nfc(name)].append(name)
    return dict(by_form)


def _spelling(names: dict[str, list[str]], name: str) -> str | None:
    """Return the equal name, or else the only one that looks identical."""
    alike = names.get(nfc(name), [])
    if name in alike:
        return name
    return alike[0] if len(alike) == 1 else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long or invalid
        return False
