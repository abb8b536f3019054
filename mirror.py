"""Local copies of remote caches, runs and tables.

A copy is below ``$XDG_CACHE_HOME/serpipe/copies``, in one folder per address, with a record of what
it is a copy of. Results are written to the copy and then uploaded as whole objects, those that
refer to others last.
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
from .files import make_folder, put_in_place, unfinished, write_text
from .integrity import hash_file
from .progress import Say, say_nothing
from .remote import Location, Remote, as_location, in_one_line, version, without_secrets

#: Suffixes of temporary files, which are not copied.
_TEMPORARY = (".lock", ".unfinished", ".parts")
#: Uploaded last, in this order: readers assume that the files that they list are complete.
_LAST = ("bundle.json", "run.json")


def copies() -> Path:
    """Return the folder of all copies."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "serpipe" / "copies"


def local(given: str | Location, say: Say = say_nothing, *, file: bool = False) -> Path:
    """Return the path of a file or folder on this machine; a remote one is downloaded first.

    The copy has the same name. Only files that have changed since are downloaded again. If
    ``file``, it must be a file, alone or with shards: folders are not downloaded. Raise UserError
    if there is no such file or folder, or permission is denied, and MachineError if the store
    cannot be reached.
    """
    where = as_location(given)
    if isinstance(where, Path):
        return where
    copy = _copy(where)
    with copy.alone(wait=True, say=say):
        if not copy.fetch(say, alone=file):
            what = "a file" if file else "a file or folder"
            raise UserError(f"{where}: nothing there; expected {what}; check the address")
        unsent = copy.unsent()
        if unsent:
            raise UserError(
                f"{where}: the local copy, {copy.path}, has a different {unsent[0]} that was never "
                "uploaded; run the command that wrote it again, or remove the copy"
            )
    return copy.path


@contextmanager
def stored(given: str | Location, say: Say = say_nothing) -> Iterator[Path]:
    """Yield a path on this machine to write to, and upload the result to a remote address.

    Existing files are downloaded first, so that work can resume; the copy has the same name. If
    writing fails, nothing is uploaded, and the copy keeps what was written for the next attempt.
    Raise UserError if the destination is not writable, or another process is writing it from this
    machine, and MachineError if the store cannot be reached.
    """
    where = as_location(given)
    if isinstance(where, Path):
        yield where
        return
    if where.is_web:
        raise UserError(
            f"{where}: a web server does not store files; choose a path or a store such as "
            "s3:// for --out"
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
        raise UserError(f"{remote}: is a whole store; name a file or folder in it")
    return _Copy(Remote(remote.url.rstrip("/")))


@dataclass(frozen=True)
class _Copy:
    """The local copy of a folder, or of a file with the folder of its shards, if any."""

    remote: Remote

    @property
    def folder(self) -> Path:
        # Not only the name: many addresses end alike.
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
                    f"{self.remote}: another serpipe on this machine is writing it; wait for it, "
                    "or choose another --out"
                ) from None
            say(f"waiting  another serpipe on this machine is reading or writing {self.remote}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def fetch(self, say: Say, *, alone: bool = False) -> bool:
        """Bring the copy up to date; return whether there are any remote files."""
        remote, record = self._remote_files(alone), self._record()
        outdated = [
            name
            for name in remote
            if _is_newer(name, remote, record) or not self._file(name).exists()
        ]
        if outdated:
            say(f"fetching {self.remote}: {counted(len(outdated), 'file')}")
        files = {name: self._file(name) for name in outdated}
        for name, file in files.items():
            make_folder(file.parent)
            with self._in_one_line():
                unfinished(file).unlink(missing_ok=True)  # a link there would be followed
                self.remote.store.get_file(self._address(name).url, str(unfinished(file)))
        # A run may have uploaded files and been killed before it recorded them.
        changed = [name for name, file in files.items() if not _same(unfinished(file), file)]
        modified = [name for name in self._local_files() if self._is_modified(name, record)]
        if modified and any(files[name].exists() for name in changed):
            raise UserError(
                f"{self.remote}: {changed[0]} was changed in the store, and {modified[0]} in the "
                f"local copy, {self.path}; remove the copy to use the files of the store, or "
                "choose another --out"
            )
        for name, file in files.items():
            put_in_place(unfinished(file), file)
            record[name] = self._known(name, remote[name])
        gone = [] if alone else [name for name in record if name not in remote]
        for name in gone:
            if not self._is_modified(name, record):
                self._file(name).unlink(missing_ok=True)
            del record[name]
        self._write_record(record)
        return bool(remote)

    def try_to_put(self) -> None:
        """Check before the work whether the destination is writable."""
        probe = self.remote.parent / f"{self.remote.name}.unfinished"
        with self._in_one_line():
            self.remote.store.pipe_file(probe.url, b"serpipe")
        with suppress(Exception):  # deleting may be forbidden where writing is allowed
            self.remote.store.rm_file(probe.url)

    def unsent(self) -> list[str]:
        """Return the files of the copy that were modified since they were down- or uploaded."""
        record = self._record()
        return [name for name in record if self._is_modified(name, record)]

    def put(self, say: Say) -> None:
        """Upload modified files, and remove remote files that were removed from the copy."""
        record, files, remote = self._record(), self._local_files(), self._remote_files()
        newer = [name for name in remote if remote[name] and _is_newer(name, remote, record)]
        if newer:
            raise UserError(
                f"{self.remote}: {newer[0]} was changed in the store meanwhile; the results are "
                f"kept in {self.path}: copy them to another address, or remove them and run the "
                "same command again"
            )
        changed = [name for name in files if self._is_modified(name, record)]
        for name in sorted(changed, key=lambda name: (_rank(name), name)):
            address = self._address(name)
            with self._in_one_line():
                self.remote.store.put_file(str(self._file(name)), address.url)
                self.remote.store.invalidate_cache()
                record[name] = self._known(name, version(self.remote.store.info(address.url)))
            self._write_record(record)
        for name in [name for name in record if name not in files]:
            with self._in_one_line():
                self.remote.store.rm_file(self._address(name).url)
            del record[name]
            self._write_record(record)
        if changed:
            say(f"stored   {self.remote}: {counted(len(changed), 'file')}")

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Turn an exception of a store, also about a missing bucket or file, into one line."""
        try:
            with in_one_line(self.remote):
                yield
        except FileNotFoundError as error:
            reason = without_secrets(first_line(error))
            raise UserError(
                f"{self.remote}: {reason}; check the address, and that the bucket exists"
            ) from None

    def _remote_files(self, alone: bool = False) -> dict[str, str]:
        """Return the version of each remote file, by path relative to the parent folder."""
        name = self.remote.name
        if self.remote.is_web:
            return self._remote_file()
        with in_one_line(self.remote):
            self.remote.store.invalidate_cache()
        files = {}
        for folder in (f"{name}.shards",) if alone else (name, f"{name}.shards"):
            for path, tag in (self.remote.parent / folder).files().items():
                if _is_plain(path) and not _is_temporary(path):
                    files[f"{folder}/{path}"] = tag
        return files | self._remote_file()

    def _remote_file(self) -> dict[str, str]:
        """Return the version of the file at the address itself, if it is a file."""
        try:
            with in_one_line(self.remote):
                if self.remote.is_web:  # info() would report any failure as a missing file
                    self.remote.open_stream().close()
                metadata = self.remote.store.info(self.remote.url)
        except FileNotFoundError:
            return {}
        return {self.remote.name: version(metadata)} if metadata.get("type") == "file" else {}

    def _local_files(self) -> list[str]:
        name = self.path.name
        files = [name] if self.path.is_file() else []
        for folder in (name, f"{name}.shards"):
            above = self.path.parent
            below = sorted((above / folder).rglob("*"))
            paths = [path.relative_to(above).as_posix() for path in below if path.is_file()]
            files += [path for path in paths if not _is_temporary(path)]
        return files

    def _address(self, name: str) -> Remote:
        """Return the address of a file of the copy."""
        return self.remote if name == self.remote.name else self.remote.parent / name

    def _file(self, name: str) -> Path:
        return self.folder / "copy" / name

    def _is_modified(self, name: str, record: Mapping[str, "_Known"]) -> bool:
        """Whether a file of the copy exists and was changed since it was down- or uploaded."""
        file = self._file(name)
        if not file.exists():
            return False
        known = record.get(name)
        if known and known.stamp == _stamp(file):
            return False
        # It may have been written again unchanged.
        return not known or known.sha256 != hash_file(file)

    def _known(self, name: str, tag: str) -> "_Known":
        return _Known(tag, _stamp(self._file(name)), hash_file(self._file(name)))

    def _record(self) -> dict[str, "_Known"]:
        try:
            record = json.loads((self.folder / "record.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return {name: _Known(*known) for name, known in record.items()}

    def _write_record(self, record: Mapping[str, "_Known"]) -> None:
        write_text(self.folder / "record.json", json.dumps(record, indent=1))


class _Known(NamedTuple):
    """A file as it was down- or uploaded: version in the store, size and time here, hash."""

    tag: str
    stamp: list[int]
    sha256: str


def _is_newer(name: str, remote: Mapping[str, str], record: Mapping[str, _Known]) -> bool:
    """Whether a remote file may have changed since it was down- or uploaded."""
    return not remote[name] or name not in record or record[name].tag != remote[name]


def _same(one: Path, other: Path) -> bool:
    return other.exists() and filecmp.cmp(one, other, shallow=False)


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _is_plain(path: str, system: str = os.name) -> bool:
    """Whether a path from a store stays below a folder of a machine, by default this one."""
    parts = path.split("/")
    forbidden = "\\\0:" if system == "nt" else "\0"
    return all(part not in ("", ".", "..") for part in parts) and not set(path) & set(forbidden)


def _is_temporary(path: str) -> bool:
    return any(part.endswith(_TEMPORARY) for part in PurePosixPath(path).parts)


def _rank(path: str) -> int:
    """Return the order of uploads: files that list others come after these."""
    if "/" not in path:
        return len(_LAST)
    name = PurePosixPath(path).name
    return _LAST.index(name) if name in _LAST else -1
