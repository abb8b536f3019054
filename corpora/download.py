"""Download the archives of open corpora: resume broken transfers, check them, unpack them safely.

Nothing that a server sends is trusted: neither its length, nor its redirects, nor the names inside
an archive.
"""

import gzip
import hashlib
import http.client
import json
import os
import shutil
import stat
import tarfile
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.message import Message
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, cast

from filelock import FileLock, Timeout

from .._version import __version__
from ..errors import MachineError, SerpipeError, UserError, first_line
from ..files import (
    create_file,
    make_folder,
    open_file,
    open_regular,
    put_in_place,
    read_text,
    unfinished,
    write_all,
)
from ..progress import Track, no_track
from .corpus import Archive

GIB = 2**30
#: Limit on an archive whose size its source does not state.
MAX_BYTES = 8 * GIB
#: Limit on the sizes of all files in an archive...
MAX_UNPACKED_BYTES = 20 * GIB
#: ... and on their ratio to the size of the archive: speech does not shrink to a hundredth.
MAX_RATIO = 100
MAX_FILES = 100_000
#: Bytes of each part of a name: file systems take 255, and unfinished files have another suffix.
MAX_NAME_BYTES = 240
MAX_DEPTH = 32
MAX_REDIRECTS = 5
#: Attempts per archive in one run; each resumes where the last one ended.
ATTEMPTS = 5
#: Seconds without a byte or a connection after which a transfer is broken off.
TIMEOUT = 30.0
CHUNK_BYTES = 2**20

_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Downloaded:
    """A complete archive on this machine."""

    path: Path
    #: In bytes.
    size: int
    #: To be recorded if its source publishes no checksum.
    sha256: str
    #: Whether it was compared with a published checksum.
    verified: bool
    #: Whether it was downloaded now; False if it existed already.
    fetched: bool
    #: Number of its files in the folder.
    unpacked: int = 0


def download(
    archives: Iterable[Archive],
    folder: Path,
    *,
    track: Track[bytes] = no_track,
    pause: float = 1.0,
) -> tuple[Downloaded, ...]:
    """Download archives into a folder, which is created if necessary, and unpack them there.

    Received bytes are kept in ``NAME.part`` until the archive is complete and its checksum correct;
    a later run resumes if the file at the source is still the same. An existing archive is checked
    and not downloaded again. The archives stay beside their unpacked files. Of ``.zip``,
    ``.tar.gz`` and ``.tgz`` files, existing files with the same content stay as they are.

    ``track`` is called as ``track(chunks, name, number_of_bytes)`` for each archive, such as
    :func:`track_bytes`; the number is 0 if the source does not state it. ``pause`` is the number of
    seconds before the second attempt, doubled before each further one.

    Raise MachineError if the network or the disk fails, or the server sends another file: received
    bytes are kept if they can still become the archive. Raise UserError if the folder cannot be
    used, if another download uses it, or if a file of an archive would replace a different one.
    """
    make_folder(folder)
    lock = FileLock(folder / ".download.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another download is writing to it; wait until it ends"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); choose another folder"
        ) from error
    try:
        return tuple(_fetch(archive, folder, track, pause) for archive in archives)
    finally:
        lock.release()


def track_bytes(chunks: Iterable[bytes], what: str, total: int) -> Iterator[bytes]:
    """Yield chunks with a progress bar in bytes on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total or None)
        for chunk in chunks:
            yield chunk
            progress.advance(task, len(chunk))


def _fetch(archive: Archive, folder: Path, track: Track[bytes], pause: float) -> Downloaded:
    """Download one archive, if it does not exist, and unpack it."""
    path = folder / archive.name
    fetched = not path.exists()
    if fetched:
        part = _Part(archive, folder / f"{archive.name}.part")
        for _ in track(_receive(part, pause), archive.name, max(archive.size - part.size(), 0)):
            pass
        sha256 = _check(archive, part.path)
        with _writing(path):
            put_in_place(part.path, path)
            part.note.unlink(missing_ok=True)
    else:
        sha256 = _check(archive, path)
    count = 0
    if archive.name.lower().endswith((".zip", ".tar.gz", ".tgz")):
        count = _unpack(path, folder)
    size = path.stat().st_size
    return Downloaded(path, size, sha256, bool(archive.checksum), fetched, count)


def _check(archive: Archive, path: Path) -> str:
    """Return the SHA-256 of a file; remove a download that is not the archive."""
    kind, _, expected = archive.checksum.partition(":")
    sha256 = hashlib.sha256()
    published = hashlib.new(kind or "sha256", usedforsecurity=False)
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            while chunk := file.read(CHUNK_BYTES):
                sha256.update(chunk)
                published.update(chunk)
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be read ({error.strerror}); remove it and run the same command again"
        ) from error
    actual, should = f"{size} bytes", f"{archive.size} bytes"
    if not archive.size or size == archive.size:
        actual, should = f"{kind} {published.hexdigest()}", f"{kind} {expected}"
        if not expected or published.hexdigest() == expected.lower():
            return sha256.hexdigest()
    if path.name == archive.name:  # it existed before: only the user may remove it
        raise MachineError(
            f"{path}: has {actual}; expected {should} as at {archive.url}; "
            "remove it and run the same command again"
        )
    _Part(archive, path).drop()
    raise MachineError(
        f"{archive.url}: the download has {actual}; expected {should}; it was removed: run the "
        "same command again; if that does not help, the file at the source has changed"
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Explain in one line why a file cannot be written."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); check permissions and free space, and "
            "run the same command again: received bytes are kept"
        ) from error


# --- Receiving --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """The received part of an archive, and beside it a note that identifies the file."""

    archive: Archive
    path: Path
    note: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", self.path.with_name(self.path.name + ".json"))

    def size(self) -> int:
        """Return the number of received bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read_note(self) -> dict[str, Any]:
        """Return what the server stated about the file; empty if unknown or of another file."""
        try:
            note = json.loads(read_text(self.note, CHUNK_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) and note.get("url") == self.archive.url else {}

    def drop(self) -> None:
        """Remove the received part."""
        with _writing(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    def start(self, note: Mapping[str, Any]) -> None:
        """Start over, with a note that identifies the file."""
        self.drop()
        with _writing(self.path), create_file(self.note) as file:
            write_all(file, json.dumps({"url": self.archive.url, **note}).encode())


class _BrokenOffError(Exception):
    """The connection ended early, or the server asks to try later; the text says which."""


def _receive(part: _Part, pause: float) -> Iterator[bytes]:
    """Receive the rest of an archive, in several attempts if necessary; yield the chunks."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            yield from _attempt(part)
            return
        except _BrokenOffError as error:
            reason = str(error)
    size = part.archive.size or part.read_note().get("total") or 0
    raise MachineError(
        f"{part.archive.url}: {reason}, {ATTEMPTS} times; expected {size or 'all its'} bytes, have "
        f"{part.size()}, which are kept: run the same command again when the network is better"
    )


def _attempt(part: _Part) -> Iterator[bytes]:
    """Request the missing bytes of an archive once; write and yield them."""
    archive, note, have = part.archive, part.read_note(), part.size()
    limit = archive.size or MAX_BYTES
    validator = note.get("etag") or note.get("modified") or ""
    # Without either, the file on the server may be another one by now.
    if have > limit or not note or not (validator or archive.checksum):
        part.drop()
        have = 0
    if have and have == (archive.size or note.get("total")):
        return  # it was complete when the program was stopped
    headers = {"User-Agent": f"serpipe/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator and not validator.startswith("W/"):  # RFC 9110: no weak ones in If-Range
            headers["If-Range"] = validator
    with closing(_open(archive.url, headers, part)) as response:
        if response.status not in (200, 206):
            raise _refused(archive.url, f"the server answers {response.status}", "a file")
        start, total = _range(response)
        now = {
            "etag": response.headers.get("ETag", ""),
            "modified": response.headers.get("Last-Modified", ""),
            "total": total,
        }
        if total is not None and (total > limit or archive.size not in (0, total)):
            part.drop()
            raise MachineError(
                f"{archive.url}: the server announces {total} bytes; expected "
                f"{archive.size or f'at most {limit}'}; it is another file, or has changed at the "
                "source: download it by hand from the page of the corpus"
            )
        # Not every server supports If-Range, and its answer may omit some of these.
        changed = any(now[key] and note.get(key) and now[key] != note[key] for key in now)
        if start and (start != have or changed):
            part.drop()
            raise _BrokenOffError("the file changed at the source while it was being fetched")
        if not start:
            part.start(now)
            have = 0
        with _writing(part.path):
            file = open_file(part.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        with closing(file):
            while total is None or have < total:
                # One byte more than allowed, to detect an endless body.
                chunk = _read(response, min(CHUNK_BYTES, (total or limit + 1) - have))
                if not chunk:
                    break
                have += len(chunk)
                if have > limit:
                    part.drop()
                    raise MachineError(
                        f"{archive.url}: the server sends more than {limit} bytes; "
                        "nothing is kept: download the file by hand from the page of the corpus"
                    )
                with _writing(part.path):
                    write_all(file, chunk)
                yield chunk
        if have < (archive.size or total or 1):
            raise _BrokenOffError("the connection ended early")


def _read(response: Any, size: int) -> bytes:
    """Read available bytes, at most ``size``."""
    try:
        chunk: bytes = response.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke ({first_line(error)})") from error
    return chunk


def _range(response: Any) -> tuple[int, int | None]:
    """Return the offset at which a response begins, and the size of the file if stated."""
    if response.status == 206:
        unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = rest.partition("/")
        start = span.partition("-")[0]
        if unit == "bytes" and start.isdecimal() and (total == "*" or total.isdecimal()):
            return int(start), None if total == "*" else int(total)
        return -1, None  # matches no offset, so that all is requested again
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _open(url: str, headers: Mapping[str, str], part: _Part) -> Any:
    """Request a file; follow a few redirects, which must stay on the web and keep TLS."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    address = url
    for _ in range(MAX_REDIRECTS + 1):
        _check_url(address, url)
        try:
            return opener.open(
                urllib.request.Request(address, headers=dict(headers)), None, TIMEOUT
            )
        except urllib.error.HTTPError as error:
            error.close()
            code, location = error.code, _location(error.headers)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise _BrokenOffError(f"no answer ({first_line(error)})") from error
        if code in (301, 302, 303, 307, 308) and location:
            try:
                address, before = urllib.parse.urljoin(address, location), address
            except ValueError:
                raise _refused(url, f"leads to {location!r}", "http or https") from None
            if before.lower().startswith("https:") and not address.lower().startswith("https:"):
                raise _refused(url, f"redirects from https to {address!r}", "https all the way")
            continue
        if code == 416:  # the received part is not the start of the file
            part.drop()
            raise _BrokenOffError("the server has no more bytes of the file")
        if code in _TRY_AGAIN:
            raise _BrokenOffError(f"the server answers {code}")
        raise _refused(url, f"the server answers {code}", "a file")
    raise _refused(url, f"redirects more than {MAX_REDIRECTS} times", "a file")


def _location(headers: Message) -> str:
    """Return the target of a redirect, with characters escaped that a URL may not contain."""
    return urllib.parse.quote(headers.get("Location", ""), safe="%/:=&?~#+!$,;'@()*[]")


def _check_url(url: str, first: str) -> None:
    """Refuse an address that is not on the web or contains a user name."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise _refused(first, f"leads to {url!r}", "http or https") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused(first, f"leads to {url!r}", "http or https")
    if parts.username is not None:
        raise _refused(first, "leads to an address with a user name", "a public one")


def _refused(url: str, problem: str, expected: str) -> MachineError:
    return MachineError(
        f"{url}: {problem}; expected {expected}; download the file by hand from the page of the "
        "corpus"
    )


# --- Unpacking --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """A file or folder in an archive."""

    name: str
    size: int
    is_folder: bool
    open: Callable[[], IO[bytes]]


def _unpack(path: Path, folder: Path) -> int:
    """Unpack an archive (``.zip`` or ``.tar.gz``) into a folder; return the number of its files.

    All names are checked before the first file is written.
    """
    open_members = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    with _reading(path), open_members(path) as listed:
        members = _safe(path, listed)
        for member in members:
            _unpack_member(path, member, folder.joinpath(*PurePosixPath(member.name).parts))
    return len(members)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Explain in one line that an archive is damaged, or cannot be read."""
    try:
        yield
    except SerpipeError:
        raise
    except Exception as error:  # zipfile and tarfile may raise anything for a damaged archive
        raise MachineError(
            f"{path}: is damaged ({first_line(error)}); remove it and run the same command again"
        ) from error


def _forbidden(path: Path, name: str, problem: str) -> MachineError:
    return MachineError(
        f"{path}: {name!r} in it {problem}; nothing was unpacked: download the corpus by hand from "
        "its page"
    )


@contextmanager
def _zip_members(path: Path) -> Iterator[Iterator[_Member]]:
    def members() -> Iterator[_Member]:
        for info in archive.infolist():
            # Only Unix states the kind of file; elsewhere the upper bits are 0.
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _forbidden(path, info.filename, "is a link or a device")
            # The name ends at a NUL character.
            name = info.orig_filename if "\0" in info.orig_filename else info.filename
            is_folder = name.endswith("/")
            yield _Member(name, info.file_size, is_folder, partial(archive.open, info))

    with zipfile.ZipFile(path) as archive:
        yield members()


@contextmanager
def _tar_members(path: Path) -> Iterator[Iterator[_Member]]:
    def opened(info: tarfile.TarInfo) -> IO[bytes]:
        return cast(IO[bytes], archive.extractfile(info))  # None only if it is no file

    def members() -> Iterator[_Member]:
        for info in archive:
            if not (info.isreg() or info.isdir()):
                raise _forbidden(path, info.name, "is a link or a device")
            yield _Member(info.name, info.size, info.isdir(), partial(opened, info))
        # tarfile treats an unreadable header as the end, and gzip's checksum is last.
        rest = 0
        while chunk := file.read(CHUNK_BYTES):
            rest += len(chunk)
            if chunk.strip(b"\0") or rest > 16 * CHUNK_BYTES:
                raise tarfile.ReadError("bytes after its last file are no file")

    with gzip.open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield members()


def _safe(path: Path, members: Iterator[_Member]) -> Sequence[_Member]:
    """Return the members to unpack; refuse forbidden ones, too many, or too large ones."""
    limit = min(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size)
    safe, size = [], 0
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for count, member in enumerate(members, start=1):
        size += member.size
        if size > limit or count > MAX_FILES:
            raise MachineError(
                f"{path}: holds more than {limit} bytes or {MAX_FILES} files; nothing was "
                "unpacked: download the corpus by hand from its page"
            )
        parts = member.name.replace("\\", "/").split("/")
        target = PurePosixPath(member.name)
        # On Windows, a part such as "C:" or "\\evil" would lead away from all parts before it.
        if ".." in parts or any(PureWindowsPath(part).anchor for part in target.parts):
            raise _forbidden(path, member.name, "leads out of the folder")
        if any(unicodedata.category(sign) == "Cc" for sign in member.name):
            raise _forbidden(path, member.name, "has control characters in its name")
        if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts) or len(parts) > MAX_DEPTH:
            raise _forbidden(path, f"{member.name[:40]}...", "has a name that is too long")
        folders.update(target.parents)
        if member.is_folder:
            folders.add(target)
            continue
        if not target.parts:
            raise _forbidden(path, member.name, "has no name")
        if target in files:
            raise _forbidden(path, member.name, "is there twice")
        files.add(target)
        if "__MACOSX" not in parts and not parts[-1].startswith("._") and parts[-1] != ".DS_Store":
            safe.append(member)
    both = sorted(map(str, files & folders))
    if both:
        raise _forbidden(path, both[0], "is both a file and a folder")
    return safe


def _unpack_member(archive: Path, member: _Member, path: Path) -> None:
    """Write one file completely, unless it exists with the same content."""
    if path.exists():
        if not _same(member, path):
            raise UserError(
                f"{path}: exists and differs from the one in {archive.name}; move it, or choose "
                "another folder"
            )
        return
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with member.open() as source, _Writer(unfinished(path)) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
        with _writing(path):
            put_in_place(unfinished(path), path)
    except BaseException:
        unfinished(path).unlink(missing_ok=True)
        raise


class _Writer:
    """A file being written, whose errors differ from those of the archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _writing(path):
            self.file = create_file(path)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *error: object) -> None:
        with _writing(self.path):
            self.file.close()

    def write(self, chunk: bytes) -> int:
        """Write a chunk."""
        with _writing(self.path):
            write_all(self.file, chunk)
            return len(chunk)


def _same(member: _Member, path: Path) -> bool:
    """Whether a file has the content of a member."""
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    with member.open() as source, path.open("rb") as file:
        while chunk := source.read(CHUNK_BYTES):
            if chunk != file.read(len(chunk)):
                return False
    return True
