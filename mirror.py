"""Local copies of caches, runs and tables that are kept elsewhere.

A copy lies below ``$XDG_CACHE_HOME/serpipe/copies``, in a folder for each address, with a record of
what it is a copy of. What is written is written there and then put in place: whole objects, the one
that names the others last.
"""

import filecmp
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from filelock import FileLock, Timeout

from .errors import UserError, counted, first_line
from .files import make_folder, put_in_place, write_text
from .progress import Say, say_nothing
from .remote import Place, Remote, in_one_line, place, version, without_secrets

#: What a program leaves in a folder while it works there, and nobody else wants.
_PASSING = (".lock", ".unfinished", ".parts")
#: What is put in place last, in this order: whoever finds it takes what it names for whole.
_LAST = ("bundle.json", "run.json")


def copies() -> Path:
    """Return the folder that copies lie in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "serpipe" / "copies"


def local(given: str | Place, say: Say = say_nothing, *, file: bool = False) -> Path:
    """Return where something is on this machine; what is elsewhere is fetched first.

    Only what has changed since it was fetched is fetched again.

    Parameters
    ----------
    given : str, Path or Remote
        A path, or the address of a file or folder.
    say : callable
        Takes a line that tells what is fetched.
    file : bool
        Whether it must be a file, alone or with shards: of a folder nothing is fetched.

    Returns
    -------
    Path
        The path itself, or the copy, which has the same name.

    Raises
    ------
    UserError
        If there is nothing, or it may not be read.
    MachineError
        If the store cannot be reached.
    """
    where = place(given)
    if isinstance(where, Path):
        return where
    copy = _copy(where)
    with copy.alone(wait=True, say=say):
        if not copy.fetch(say, alone=file):
            what = "a file" if file else "a file or folder"
            raise UserError(f"{where}: nothing there; expected {what}; check its address")
        unsent = copy.unsent()
        if unsent:
            raise UserError(
                f"{where}: the copy here, {copy.path}, has another {unsent[0]}, which was not put "
                "there; expected the same; run the command again that wrote it, or remove the copy"
            )
    return copy.path


@contextmanager
def stored(given: str | Place, say: Say = say_nothing) -> Iterator[Path]:
    """Have something written on this machine, and put it where it belongs when that is done.

    Parameters
    ----------
    given : str, Path or Remote
        Where it belongs. What is there already is fetched first, to be gone on with.
    say : callable
        Takes lines that tell what is fetched and put.

    Yields
    ------
    Path
        Where to write: the path itself, or the copy, which has the same name. If what writes it
        fails, nothing is put anywhere, and what was written stays in the copy for the next time.

    Raises
    ------
    UserError
        If nothing can be written there, or someone else is writing it from this machine.
    MachineError
        If the store cannot be reached.
    """
    where = place(given)
    if isinstance(where, Path):
        yield where
        return
    if where.is_web:
        raise UserError(
            f"{where}: a web server takes no files; expected a path or a store such as s3://; "
            "choose another --out"
        )
    copy = _copy(where)
    with copy.alone():
        copy.fetch(say)
        copy.try_to_put()
        yield copy.path
        copy.put(say)


def _copy(remote: Remote) -> "_Copy":
    parts = str(remote).partition("://")[2].strip("/").split("/")
    if len(parts) < 2 or parts[-1] in (".", ".."):
        raise UserError(
            f"{remote}: is all of a store; expected a file or folder in it; name one below it"
        )
    return _Copy(Remote(remote.url.rstrip("/")))


@dataclass(frozen=True)
class _Copy:
    """The copy of a file, with the folder of shards beside it if there is one, or of a folder."""

    remote: Remote

    @property
    def folder(self) -> Path:
        # Not the name alone: many addresses end alike.
        return copies() / hashlib.sha256(self.remote.url.encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        return self._file(self.remote.name)

    @contextmanager
    def alone(self, wait: bool = False, say: Say = say_nothing) -> Iterator[None]:
        make_folder(self.path.parent)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise UserError(
                    f"{self.remote}: another serpipe on this machine is writing it; expected one "
                    "at a time; wait for it, or write elsewhere with --out"
                ) from None
            say(f"waiting  another serpipe on this machine is reading or writing {self.remote}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def fetch(self, say: Say, *, alone: bool = False) -> bool:
        """Bring the copy up to date; return whether there is anything."""
        there, record = self._there(alone), self._record()
        asked = [
            name
            for name in there
            if _is_newer(name, there, record) or not self._file(name).exists()
        ]
        if asked:
            say(f"fetching {self.remote}: {counted(len(asked), 'file')}")
        files = {name: self._file(name) for name in asked}
        for name, file in files.items():
            make_folder(file.parent)
            with self._in_one_line():
                _unfinished(file).unlink(missing_ok=True)  # or a link there would be followed
                self.remote.store.get_file(self._address(name).url, str(_unfinished(file)))
        # What a run put that was killed before it wrote so down is no news.
        news = [name for name, file in files.items() if not _same(_unfinished(file), file)]
        mine = [name for name in self._here() if self._is_mine(name, record)]
        if mine and any(files[name].exists() for name in news):
            raise UserError(
                f"{self.remote}: {news[0]} has been written there, and {mine[0]} in the copy here, "
                f"{self.path}; expected one of them to be newer; remove the copy to go on with "
                "what is there, or write elsewhere with --out"
            )
        for name, file in files.items():
            put_in_place(_unfinished(file), file)
            record[name] = self._known(name, there[name])
        gone = [] if alone else [name for name in record if name not in there]
        for name in gone:
            if not self._is_mine(name, record):
                self._file(name).unlink(missing_ok=True)
            del record[name]
        self._write_record(record)
        return bool(there)

    def try_to_put(self) -> None:
        """Find out before the work whether anything can be put there at all."""
        probe = self.remote.parent / f"{self.remote.name}.unfinished"
        with self._in_one_line():
            self.remote.store.pipe_file(probe.url, b"serpipe")
        with suppress(Exception):  # may be forbidden where putting is not
            self.remote.store.rm_file(probe.url)

    def unsent(self) -> list[str]:
        """Return the files that were fetched or put, and written here since."""
        record = self._record()
        return [name for name in record if self._is_mine(name, record)]

    def put(self, say: Say) -> None:
        """Put what has changed in place, and remove there what is no longer here."""
        record, here, there = self._record(), self._here(), self._there()
        newer = [name for name in there if there[name] and _is_newer(name, there, record)]
        if newer:
            raise UserError(
                f"{self.remote}: {newer[0]} was written there meanwhile; expected nobody else to; "
                f"what was computed is kept here, {self.path}: put it elsewhere, or remove it and "
                "run the same command again"
            )
        changed = [name for name in here if self._is_mine(name, record)]
        for name in sorted(changed, key=lambda name: (_rank(name), name)):
            address = self._address(name)
            with self._in_one_line():
                self.remote.store.put_file(str(self._file(name)), address.url)
                self.remote.store.invalidate_cache()
                record[name] = self._known(name, version(self.remote.store.info(address.url)))
            self._write_record(record)
        for name in [name for name in record if name not in here]:
            with self._in_one_line():
                self.remote.store.rm_file(self._address(name).url)
            del record[name]
            self._write_record(record)
        if changed:
            say(f"stored   {self.remote}: {counted(len(changed), 'file')}")

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Tell what a store raises, and a file or bucket that is not there, in a line."""
        try:
            with in_one_line(self.remote):
                yield
        except FileNotFoundError as error:
            reason = without_secrets(first_line(error))
            raise UserError(
                f"{self.remote}: {reason}; expected the bucket, and what is in it to stay; check "
                "the address"
            ) from None

    def _there(self, alone: bool = False) -> dict[str, str]:
        """Return what is there, by path relative to the folder above; a tag for each."""
        name = self.remote.name
        if self.remote.is_web:
            return self._one()
        with in_one_line(self.remote):
            self.remote.store.invalidate_cache()
        found = {}
        for folder in (f"{name}.shards",) if alone else (name, f"{name}.shards"):
            for path, tag in (self.remote.parent / folder).files().items():
                if _is_plain(path) and not _is_passing(path):
                    found[f"{folder}/{path}"] = tag
        return found | self._one()

    def _one(self) -> dict[str, str]:
        """Return the file of that very address, if it is one."""
        try:
            with in_one_line(self.remote):
                if self.remote.is_web:  # for fsspec, whatever goes wrong then is no such file
                    self.remote.open_stream().close()
                told = self.remote.store.info(self.remote.url)
        except FileNotFoundError:
            return {}
        return {self.remote.name: version(told)} if told.get("type") == "file" else {}

    def _here(self) -> list[str]:
        name, found = self.path.name, []
        if self.path.is_file():
            found.append(name)
        for folder in (name, f"{name}.shards"):
            above = self.path.parent
            below = sorted((above / folder).rglob("*"))
            paths = [path.relative_to(above).as_posix() for path in below if path.is_file()]
            found += [path for path in paths if not _is_passing(path)]
        return found

    def _address(self, name: str) -> Remote:
        """Return where a file of the copy belongs."""
        return self.remote if name == self.remote.name else self.remote.parent / name

    def _file(self, name: str) -> Path:
        return self.folder / "copy" / name

    def _is_mine(self, name: str, record: Mapping[str, "_Known"]) -> bool:
        """Whether a file of the copy is there, and not as it was fetched or put."""
        file = self._file(name)
        if not file.exists():
            return False
        known = record.get(name)
        if known and known.stamp == _stamp(file):
            return False
        return not known or known.sha256 != _sha256(file)  # the same may be written again

    def _known(self, name: str, tag: str) -> "_Known":
        return _Known(tag, _stamp(self._file(name)), _sha256(self._file(name)))

    def _record(self) -> dict[str, "_Known"]:
        try:
            told = json.loads((self.folder / "record.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {name: _Known(*known) for name, known in told.items()}

    def _write_record(self, record: Mapping[str, "_Known"]) -> None:
        write_text(self.folder / "record.json", json.dumps(record, indent=1))


class _Known(NamedTuple):
    """A file as it was fetched or put: the store's word for its content, size and time, hash."""

    tag: str
    stamp: list[int]
    sha256: str


def _is_newer(name: str, there: Mapping[str, str], record: Mapping[str, _Known]) -> bool:
    """Whether a file of the store is another than was fetched or put; unsure is newer."""
    return not there[name] or name not in record or record[name].tag != there[name]


def _unfinished(file: Path) -> Path:
    return file.with_name(file.name + ".unfinished")


def _same(one: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(one, other, shallow=False)


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_plain(path: str) -> bool:
    """Whether a name of a store is one that can lie below a folder here, and nowhere else."""
    parts = path.split("/")
    forbidden = "\\\0:" if os.name == "nt" else "\0"
    return all(part not in ("", ".", "..") for part in parts) and not set(path) & set(forbidden)


def _is_passing(path: str) -> bool:
    return any(part.endswith(_PASSING) for part in PurePosixPath(path).parts)


def _rank(path: str) -> int:
    """Return when a file is put in place: what names others after these."""
    if "/" not in path:
        return len(_LAST)
    name = PurePosixPath(path).name
    return _LAST.index(name) if name in _LAST else -1
