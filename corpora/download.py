"""Fetch the archives of open corpora: resumed where they broke off, checked, unpacked safely.

What a server sends is trusted with nothing: neither its length, nor where it redirects to, nor the
names inside an archive.
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
    write_all,
)
from ..progress import Track, no_track
from .corpus import Archive

GIB = 2**30
#: The most bytes taken of an archive whose size its source does not say.
MAX_BYTES = 8 * GIB
#: The most that the files of one archive may hold together.
MAX_UNPACKED_BYTES = 20 * GIB
#: ... and how many times the archive's own size: speech does not shrink to a hundredth.
MAX_RATIO = 100
MAX_FILES = 100_000
#: Of each part of a name; file systems take 255 bytes, and an unfinished file has a suffix more.
MAX_NAME_BYTES = 240
MAX_DEPTH = 32
MAX_REDIRECTS = 5
#: How often one run asks for one archive; each time it goes on where the last one broke off.
ATTEMPTS = 5
#: Seconds without a byte, or without a connection, after which a server counts as gone.
TIMEOUT = 30.0
CHUNK_BYTES = 2**20

_TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Downloaded:
    """An archive that is here, whole.

    Attributes
    ----------
    path : Path
        The archive.
    size : int
        In bytes.
    sha256 : str
        Of the whole file, in hexadecimal: to note down where its source publishes no checksum.
    verified : bool
        Whether it was held against a published checksum.
    fetched : bool
        Whether it was downloaded now; ``False`` if it was here already.
    unpacked : int
        How many files of it are in the folder now.
    """

    path: Path
    size: int
    sha256: str
    verified: bool
    fetched: bool
    unpacked: int = 0


def download(
    archives: Iterable[Archive],
    folder: Path,
    *,
    track: Track[bytes] = no_track,
    unpack: bool = True,
    pause: float = 1.0,
) -> tuple[Downloaded, ...]:
    """Fetch archives into a folder and unpack them there.

    What arrives is kept in ``NAME.part`` until it is whole and its checksum is right; a later run
    goes on from there if the file at the source is still the same. An archive that is here already
    is checked and not fetched again. The archives stay beside what is unpacked from them.

    Parameters
    ----------
    archives : iterable of Archive
        What to fetch.
    folder : Path
        Where to; made if it is not there.
    track : callable
        Shows progress: called as ``track(chunks, name, number_of_bytes)`` for each archive, the
        number being 0 where the source does not say it. See :func:`track_bytes`.
    unpack : bool
        Whether to unpack ``.zip``, ``.tar.gz`` and ``.tgz`` files. Files that are there already
        with the same content are left alone.
    pause : float
        Seconds before the second attempt; doubled before each further one.

    Returns
    -------
    tuple of Downloaded
        One for each archive.

    Raises
    ------
    MachineError
        If the network or the disk fails, or if what the server sends is not the archive. What was
        received is kept if it may still become the archive.
    UserError
        If the folder cannot be used, if another download uses it, or if a file of an archive would
        replace a different one.
    """
    make_folder(folder)
    lock = FileLock(folder / ".download.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{folder}: another download is writing there; expected one at a time; wait for it"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written to ({error.strerror}); expected a folder of yours; "
            "choose another"
        ) from error
    try:
        return tuple(_fetch(archive, folder, track, unpack, pause) for archive in archives)
    finally:
        lock.release()


def track_bytes(chunks: Iterable[bytes], what: str, total: int) -> Iterator[bytes]:
    """Show a progress bar in bytes: on standard error, and only where that is a terminal.

    Parameters
    ----------
    chunks : iterable of bytes
        What arrives.
    what : str
        What is being fetched.
    total : int
        How many bytes there are; 0 if that is not known.

    Yields
    ------
    bytes
        The chunks.
    """
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


def _fetch(
    archive: Archive, folder: Path, track: Track[bytes], unpack: bool, pause: float
) -> Downloaded:
    """Bring one archive here, if it is not, and unpack it."""
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
    if unpack and archive.name.lower().endswith((".zip", ".tar.gz", ".tgz")):
        count = _unpack(path, folder)
    size = path.stat().st_size
    return Downloaded(path, size, sha256, bool(archive.checksum), fetched, count)


def _check(archive: Archive, path: Path) -> str:
    """Return the SHA-256 of a file; remove what was just fetched if it is not the archive."""
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
            f"{path}: cannot be read ({error.strerror}); expected {archive.name}; "
            "remove it and run the same command again"
        ) from error
    found, should = f"{size} bytes", f"{archive.size} bytes"
    if not archive.size or size == archive.size:
        found, should = f"{kind} {published.hexdigest()}", f"{kind} {expected}"
        if not expected or published.hexdigest() == expected.lower():
            return sha256.hexdigest()
    if path.name == archive.name:  # it was here before: not ours to remove
        raise MachineError(
            f"{path}: has {found}; expected {should} as at {archive.url}; "
            "remove it and run the same command again"
        )
    _Part(archive, path).drop()
    raise MachineError(
        f"{archive.url}: what came has {found}; expected {should}; it is removed: run the same "
        "command again, and if that does not help the file at the source has changed"
    )


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tell in one line what keeps a file from being written."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written ({error.strerror}); expected a folder with room that you "
            "may write to; make room and run the same command again: what is there is kept"
        ) from error


# --- Receiving --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """What has arrived of an archive, and beside it a note of which file that is a part of."""

    archive: Archive
    path: Path
    note: Path = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "note", self.path.with_name(self.path.name + ".json"))

    def size(self) -> int:
        """Return how many bytes have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    def read_note(self) -> dict[str, Any]:
        """Return what the server told of the file; empty if it is not known, or not of this one."""
        try:
            note = json.loads(read_text(self.note, CHUNK_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) and note.get("url") == self.archive.url else {}

    def drop(self) -> None:
        """Forget what has arrived."""
        with _writing(self.path):
            self.path.unlink(missing_ok=True)
            self.note.unlink(missing_ok=True)

    def start(self, note: Mapping[str, Any]) -> None:
        """Begin anew, with a note of which file this is."""
        self.drop()
        with _writing(self.path), create_file(self.note) as file:
            write_all(file, json.dumps({"url": self.archive.url, **note}).encode())


class _BrokenOffError(Exception):
    """The connection ended early, or the server asks to come back later; the text says how."""


def _receive(part: _Part, pause: float) -> Iterator[bytes]:
    """Let the rest of an archive arrive, in several attempts if needed; yield what arrives."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        try:
            yield from _attempt(part)
            return
        except _BrokenOffError as error:
            told = str(error)
    size = part.archive.size or part.read_note().get("total") or 0
    raise MachineError(
        f"{part.archive.url}: {told}, {ATTEMPTS} times; expected {size or 'all its'} bytes, have "
        f"{part.size()}; run the same command again when the network is better: what is there is "
        "kept"
    )


def _attempt(part: _Part) -> Iterator[bytes]:
    """Ask once for what is missing of an archive; write and yield what comes."""
    archive, note, have = part.archive, part.read_note(), part.size()
    limit = archive.size or MAX_BYTES
    validator = note.get("etag") or note.get("modified") or ""
    # Without either, what the server has now might be another file than what is here.
    if have > limit or not note or not (validator or archive.checksum):
        part.drop()
        have = 0
    if have and have == (archive.size or note.get("total")):
        return  # it came whole, and then something stopped the program
    headers = {"User-Agent": f"serpipe/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator and not validator.startswith("W/"):  # RFC 9110: If-Range takes no weak ones
            headers["If-Range"] = validator
    with closing(_open(archive.url, headers, part)) as response:
        if response.status not in (200, 206):
            raise _refused(archive.url, f"the server answers {response.status}", "a file")
        start, total = _place(response)
        now = {
            "etag": response.headers.get("ETag", ""),
            "modified": response.headers.get("Last-Modified", ""),
            "total": total,
        }
        if total is not None and (total > limit or archive.size not in (0, total)):
            part.drop()
            raise MachineError(
                f"{archive.url}: the server announces {total} bytes; expected "
                f"{archive.size or f'at most {limit}'}; the file at the source has changed, or "
                "this is another one: get it by hand from the corpus' page"
            )
        # Not every server minds If-Range, and an answer to it may leave some of these out.
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
                # One byte more than there may be, to tell an endless body from a whole one.
                chunk = _read(response, min(CHUNK_BYTES, (total or limit + 1) - have))
                if not chunk:
                    break
                have += len(chunk)
                if have > limit:
                    part.drop()
                    raise MachineError(
                        f"{archive.url}: the server sends more than {limit} bytes; expected "
                        f"{'that many' if archive.size else 'no more'}; nothing of it is kept: "
                        "get the file by hand from the corpus' page"
                    )
                with _writing(part.path):
                    write_all(file, chunk)
                yield chunk
        if have < (archive.size or total or 1):
            raise _BrokenOffError("the connection ended early")


def _read(response: Any, size: int) -> bytes:
    """Read what is there, at most so many bytes."""
    try:
        chunk: bytes = response.read1(size)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"the connection broke ({first_line(error)})") from error
    return chunk


def _place(response: Any) -> tuple[int, int | None]:
    """Return where in the file a response begins, and the size of the file if it is told."""
    if response.status == 206:
        unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
        span, _, total = rest.partition("/")
        start = span.partition("-")[0]
        if unit == "bytes" and start.isdecimal() and (total == "*" or total.isdecimal()):
            return int(start), None if total == "*" else int(total)
        return -1, None  # fits no place, so that all is asked for anew
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _open(url: str, headers: Mapping[str, str], part: _Part) -> Any:
    """Ask a server for a file; follow a few redirects, none of which may leave the web or TLS."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
    ):
        opener.add_handler(handler)
    asked = url
    for _ in range(MAX_REDIRECTS + 1):
        _check_url(asked, url)
        try:
            return opener.open(urllib.request.Request(asked, headers=dict(headers)), None, TIMEOUT)
        except urllib.error.HTTPError as error:
            error.close()
            code, location = error.code, _location(error.headers)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise _BrokenOffError(f"no answer ({first_line(error)})") from error
        if code in (301, 302, 303, 307, 308) and location:
            try:
                asked, before = urllib.parse.urljoin(asked, location), asked
            except ValueError:
                raise _refused(url, f"leads to {location!r}", "http or https") from None
            if before.lower().startswith("https:") and not asked.lower().startswith("https:"):
                raise _refused(url, f"redirects from https to {asked!r}", "https all the way")
            continue
        if code == 416:  # what is here is no beginning of what is there
            part.drop()
            raise _BrokenOffError("the server has no more of the file than is here")
        if code in _TRY_AGAIN:
            raise _BrokenOffError(f"the server answers {code}")
        raise _refused(url, f"the server answers {code}", "a file")
    raise _refused(url, f"redirects more than {MAX_REDIRECTS} times", "a file")


def _location(headers: Message) -> str:
    """Return where a redirect leads, with what may not stand in a URL escaped."""
    return urllib.parse.quote(headers.get("Location", ""), safe="%/:=&?~#+!$,;'@()*[]")


def _check_url(url: str, first: str) -> None:
    """Refuse what is not on the web or names a user."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        raise _refused(first, f"leads to {url!r}", "http or https") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _refused(first, f"leads to {url!r}", "http or https")
    if parts.username is not None:
        raise _refused(first, "leads to an address with a user name", "one for anybody")


def _refused(url: str, found: str, expected: str) -> MachineError:
    return MachineError(
        f"{url}: {found}; expected {expected}; get the file by hand from the corpus' page"
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
    """Unpack an archive, all names of which are looked at before the first file is written.

    Parameters
    ----------
    path : Path
        The archive, ``.zip`` or else ``.tar.gz``.
    folder : Path
        Where its files go.

    Returns
    -------
    int
        How many files of it are in the folder now.
    """
    open_members = _zip_members if path.name.lower().endswith(".zip") else _tar_members
    with _reading(path), open_members(path) as found:
        members = _safe(path, found)
        for member in members:
            _unpack_member(path, member, folder.joinpath(*PurePosixPath(member.name).parts))
    return len(members)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Tell in one line that an archive is damaged, or cannot be read."""
    try:
        yield
    except SerpipeError:
        raise
    except Exception as error:  # whatever a damaged archive makes zipfile and tarfile raise
        raise MachineError(
            f"{path}: is damaged ({first_line(error)}); expected an archive that can be unpacked; "
            "remove it and run the same command again"
        ) from error


def _forbidden(path: Path, name: str, found: str) -> MachineError:
    return MachineError(
        f"{path}: {name!r} in it {found}; expected plain files inside the folder; nothing is "
        "unpacked: get the corpus by hand from its page"
    )


@contextmanager
def _zip_members(path: Path) -> Iterator[Iterator[_Member]]:
    def members() -> Iterator[_Member]:
        for info in archive.infolist():
            # Only Unix tells a kind of file; elsewhere the upper bits are 0.
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _forbidden(path, info.filename, "is a link or a device")
            # What follows a NUL character is no longer part of the name.
            name = info.orig_filename if "\0" in info.orig_filename else info.filename
            is_folder = name.endswith("/")
            yield _Member(name, info.file_size, is_folder, partial(archive.open, info))

    with zipfile.ZipFile(path) as archive:
        yield members()


@contextmanager
def _tar_members(path: Path) -> Iterator[Iterator[_Member]]:
    def opened(info: tarfile.TarInfo) -> IO[bytes]:
        return cast(IO[bytes], archive.extractfile(info))  # None only of what is no file

    def members() -> Iterator[_Member]:
        for info in archive:
            if not (info.isreg() or info.isdir()):
                raise _forbidden(path, info.name, "is a link or a device")
            yield _Member(info.name, info.size, info.isdir(), partial(opened, info))
        # tarfile takes a header that it cannot read for the end, and gzip's checksum stands last.
        rest = 0
        while chunk := file.read(CHUNK_BYTES):
            rest += len(chunk)
            if chunk.strip(b"\0") or rest > 16 * CHUNK_BYTES:
                raise tarfile.ReadError("what follows its last file is no file")

    with gzip.open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield members()


def _safe(path: Path, members: Iterator[_Member]) -> Sequence[_Member]:
    """Return the members to unpack; raise if one may not be, or if they are too much."""
    limit = min(MAX_UNPACKED_BYTES, MAX_RATIO * path.stat().st_size)
    safe, size = [], 0
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for count, member in enumerate(members, start=1):
        size += member.size
        if size > limit or count > MAX_FILES:
            raise MachineError(
                f"{path}: holds more than {limit} bytes or {MAX_FILES} files; expected what a "
                "corpus of this size can hold; nothing is unpacked: get it by hand from its page"
            )
        parts = member.name.replace("\\", "/").split("/")
        place = PurePosixPath(member.name)
        if (member.name and not parts[0]) or ".." in parts or PureWindowsPath(member.name).drive:
            raise _forbidden(path, member.name, "leads out of the folder")
        if any(unicodedata.category(sign) == "Cc" for sign in member.name):
            raise _forbidden(path, member.name, "has control characters in its name")
        if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts) or len(parts) > MAX_DEPTH:
            raise _forbidden(path, f"{member.name[:40]}...", "has a name that is too long")
        folders.update(place.parents)
        if member.is_folder:
            folders.add(place)
            continue
        if not place.parts:
            raise _forbidden(path, member.name, "has no name")
        if place in files:
            raise _forbidden(path, member.name, "is there twice")
        files.add(place)
        if "__MACOSX" not in parts and not parts[-1].startswith("._") and parts[-1] != ".DS_Store":
            safe.append(member)
    both = sorted(map(str, files & folders))
    if both:
        raise _forbidden(path, both[0], "is both a file and a folder")
    return safe


def _unpack_member(archive: Path, member: _Member, path: Path) -> None:
    """Write one file whole, or find that it is there already."""
    if path.exists():
        if not _same(member, path):
            raise UserError(
                f"{path}: is there already and differs from the one in {archive.name}; expected "
                "the same or none; move it away, or choose another folder"
            )
        return
    unfinished = path.with_name(path.name + ".unfinished")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with member.open() as source, _Writer(unfinished) as target:
            shutil.copyfileobj(source, target, CHUNK_BYTES)
        with _writing(path):
            put_in_place(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


class _Writer:
    """A file being written, whose errors are told apart from those of the archive."""

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
    """Tell whether a file holds what a member does."""
    if not path.is_file() or path.stat().st_size != member.size:
        return False
    with member.open() as source, path.open("rb") as file:
        while chunk := source.read(CHUNK_BYTES):
            if chunk != file.read(len(chunk)):
                return False
    return True
