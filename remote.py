"""Files in object stores and on web servers: addresses such as ``s3://BUCKET/NAME``, by fsspec.

Only what is read clip by clip is read from there: :mod:`serpipe.mirror` keeps local copies of the
rest. Credentials come from where each store's own tools look for them; none is printed or stored.
"""

import os
import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from .errors import MachineError, SerpipeError, UserError, first_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

#: Where each extra comes in; what other stores need, fsspec says.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
_WEB = ("http", "https")
#: What the names of threads begin with that may wait for a store.
WAITING_THREADS = "read-ahead"
#: Seconds to wait before reading is tried again: stores and networks fail now and then.
_PAUSES = (0.5, 2.0)
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
#: One address in another, as fsspec chains them.
_CHAIN = re.compile(r"::[a-z0-9+.-]+://|::.*://.*@", re.IGNORECASE)
#: A name and password: a secret key of S3 may hold a slash.
_USER = re.compile(r"://[^/@?:]*:(?!\d+/)[^@?]*@|://[^/@?]*@")
#: Where an address stands in a text of others, it ends at a space.
_USER_INSIDE = re.compile(r"(://)[^/@\s'\"]*@")
_QUERY_INSIDE = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")
#: Names of errors that say that credentials are not there, or not right.
_CREDENTIALS = re.compile("Credential|ProfileNotFound|AuthenticationError")
#: Seconds without a byte after which a web server is given up.
_SILENCE = 60.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A file or folder elsewhere; as much of :class:`pathlib.Path` as reading clips needs.

    Attributes
    ----------
    url : str
        Its address. What follows a ``?``, such as a signature, is sent and never shown.
    """

    url: str

    def __str__(self) -> str:
        return self.url.partition("?")[0] if self.is_web else self.url

    def __truediv__(self, below: object) -> "Remote":
        """Return what is below this folder; a name is no part of an address until it is quoted."""
        address, mark, query = self.url.partition("?") if self.is_web else (self.url, "", "")
        name = quote(str(below)) if self.is_web else str(below)
        return Remote(f"{address.rstrip('/')}/{name}{mark}{query}")

    def __lt__(self, other: "Remote") -> bool:
        return self.url < other.url

    @property
    def name(self) -> str:
        """The last part of its address."""
        return posixpath.basename(str(self).rstrip("/"))

    @property
    def parent(self) -> "Remote":
        """The folder that it is in."""
        address, mark, query = self.url.partition("?") if self.is_web else (self.url, "", "")
        return Remote(f"{posixpath.dirname(address.rstrip('/'))}{mark}{query}")

    @property
    def scheme(self) -> str:
        """What stands before ``://``."""
        return self.url.partition("://")[0].lower()

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which lists no folders and takes no files."""
        return self.scheme in _WEB

    def resolve(self) -> "Remote":
        """Return itself: the same from every working directory."""
        return self

    def is_dir(self) -> bool:
        """Whether anything is below it.

        Raises
        ------
        UserError
            If it is on a web server: nobody knows.
        """
        self._check_lists()
        return self._ask(lambda: bool(self.store.isdir(self.url)))

    def exists(self) -> bool:
        """Whether it is there."""
        return self._ask(lambda: bool(self.store.exists(self.url)))

    def read_bytes(self, most: int = -1) -> bytes:
        """Read the whole file, or one byte more than ``most`` of a longer one.

        Parameters
        ----------
        most : int
            Bytes that may be read; any number if negative.

        Returns
        -------
        bytes

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        UserError
            If it may not be read.
        MachineError
            If the store cannot be reached; it is tried three times.
        """
        return self._ask(lambda: self._read(most))

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Read the whole file as text, as :meth:`pathlib.Path.read_text` does."""
        return self.read_bytes().decode(encoding, errors)

    def files(self) -> Mapping[str, str]:
        """List all files below this folder, at any depth.

        Returns
        -------
        dict of str to str
            From the path relative to the folder to what changes when the content does.

        Raises
        ------
        UserError
            If it is on a web server, or may not be listed.
        MachineError
            If the store cannot be reached.
        """
        self._check_lists()
        from fsspec.core import strip_protocol

        try:
            found = self._ask(lambda: self.store.find(self.url, detail=True))
        except FileNotFoundError:
            return {}
        root = str(strip_protocol(self.url)).rstrip("/") + "/"
        return {
            path.removeprefix(root): version(told)
            for path, told in sorted(found.items())
            if path.startswith(root) and not path.endswith("/")
        }

    @property
    def store(self) -> "AbstractFileSystem":
        """The file system of fsspec that it is in.

        Raises
        ------
        UserError
            If there is no such kind, or the package that reads it is not installed.
        """
        try:
            return _store(self.scheme, os.getpid())
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(self.scheme)
            fix = f"pip install 'serpipe[{extra}]'" if extra else "install what reads it"
            raise UserError(
                f"{self}: {first_line(error)}; expected an address that fsspec can read; {fix}"
            ) from None

    def _check_lists(self) -> None:
        if self.is_web:
            raise UserError(
                f"{self}: a web server lists no folders; expected a folder of a store such as "
                "s3://; name the clips in a table: --manifest CLIPS.csv --data ADDRESS"
            )

    def _read(self, most: int) -> bytes:
        end = None if most < 0 else most + 1
        if not self.is_web:
            start = None if end is None else 0
            try:
                return bytes(self.store.cat_file(self.url, start=start, end=end))
            except OSError as error:
                if "not satisfiable" in str(error):  # no part of an empty file is there
                    return b""
                raise
        content = bytearray()
        with self.open_stream() as stream:  # as it comes: a server may send whatever it likes
            while (end is None or len(content) < end) and (
                part := stream.read(2**20 if end is None else min(2**20, end - len(content)))
            ):
                content += part
        return bytes(content)

    def open_stream(self) -> Any:
        """Ask a web server for the file, and return what comes.

        Raises
        ------
        FileNotFoundError
            If the server says that it is not there. All else is what fsspec raises.
        """
        # The size, which is not used, keeps fsspec from asking for it first.
        return self.store.open(self.url, "rb", block_size=0, size=1)

    def _ask(self, question: Callable[[], T]) -> T:
        for pause in _PAUSES:
            try:
                with in_one_line(self):
                    return question()
            except MachineError:
                time.sleep(pause)
        with in_one_line(self):
            return question()


@cache
def _store(scheme: str, process: int) -> "AbstractFileSystem":
    """Return the one file system of a kind in this process: fsspec has one for each thread."""
    import fsspec

    if scheme not in _WEB:
        return fsspec.filesystem(scheme)
    import aiohttp

    # Not so long in all, as is its default: a large file takes its time.
    patience = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return fsspec.filesystem(scheme, client_kwargs={"timeout": patience})


#: Where something is: on this machine or elsewhere.
Place = Path | Remote


def place(given: str | Place) -> Place:
    """Read what a user gave: a path, or the address of something elsewhere.

    Parameters
    ----------
    given : str, Path or Remote
        ``"file://..."`` is a path, too.

    Returns
    -------
    Path or Remote

    Raises
    ------
    UserError
        If it holds a name and password, or one address in another (``"zip::s3://..."``).
    """
    if not isinstance(given, str):
        return given
    found = _ADDRESS.match(given)
    if _CHAIN.search(given):
        raise UserError(
            f"{address_without_secrets(given)}: one address in another; expected one; name the "
            "file itself"
        )
    if not found:
        return Path(given)
    scheme, rest = found[1].lower(), given[found.end() :]
    if scheme == "file":
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{given}: names nothing; expected {scheme}://BUCKET/NAME; mend it")
    if _USER.search(given):
        raise UserError(
            f"{address_without_secrets(given)}: a name or password in an address is seen by "
            "others; expected none; give it as the store's own tools take it, such as by "
            "AWS_PROFILE"
        )
    return Remote(f"{scheme}://{rest}")


def address_without_secrets(text: str) -> str:
    """Return an address, or what else was given, without what only its owner knows."""
    if "://" not in text:
        return text
    return _USER.sub("://", text.partition("?")[0])


def without_secrets(text: str) -> str:
    """Return a text of others, such as an error, without what only owners of addresses know."""
    return _QUERY_INSIDE.sub(r"\1", _USER_INSIDE.sub(r"\1", text))


def version(told: Mapping[str, Any]) -> str:
    """Return what changes when a file does, of what a store tells of it; nothing if it does not."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest"):
        if told.get(name):
            return str(told[name])
    for name in ("LastModified", "last_modified", "mtime", "Last-Modified"):
        if told.get(name):
            return f"{told.get('size')} {told[name]}"
    return ""


@contextmanager
def in_one_line(remote: Remote) -> Iterator[None]:
    """Turn what any store raises into one line; a file that is not there is told by who asked."""
    try:
        yield
    except (SerpipeError, FileNotFoundError):
        raise
    except Exception as error:  # each store has errors of its own
        reason = without_secrets(first_line(error))
        kind = type(error).__name__
        refused = getattr(error, "status", None) in (401, 403)
        if isinstance(error, PermissionError) or refused or _CREDENTIALS.search(kind):
            raise UserError(
                f"{remote}: may not be used ({reason}); expected credentials that allow it; set "
                "them as the store's own tools take them, such as by AWS_PROFILE"
            ) from None
        raise MachineError(
            f"{remote}: cannot be reached ({reason}); expected the store to answer; check the "
            "network and the address, and run the same command again: what is done is kept"
        ) from None


def below(folder: Remote, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield files of some suffixes below a folder, but hidden ones, relative to it."""
    for path in folder.files():
        parts = path.split("/")
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if parts[-1].lower().endswith(suffixes) and not hidden:
            yield path
