"""Files in object stores and on web servers: addresses such as ``s3://BUCKET/NAME``, with fsspec.

Only clips are read directly: :mod:`serpipe.mirror` keeps local copies of everything else.
Credentials come from where each store's own tools look for them; none is printed or stored.
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
from .files import too_large

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

#: Extras to install, by scheme; for other stores, the message of fsspec says what is missing.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}
_WEB = ("http", "https")
#: Prefix of the names of threads that may wait for a store.
WAITING_THREADS = "read-ahead"
#: Seconds to wait before each retry of reading.
_PAUSES = (0.5, 2.0)
_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
#: An address inside another, as fsspec chains them.
_CHAIN = re.compile(r"::[a-z0-9+.-]+://|::.*://.*@", re.IGNORECASE)
#: A name and password; a secret key of S3 may contain a slash.
_USER = re.compile(r"://[^/@?:]*:(?!\d+/)[^@?]*@|://[^/@?]*@")
#: Within another text, an address ends at a space.
_USER_INSIDE = re.compile(r"(://)[^/@\s'\"]*@")
_QUERY_INSIDE = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")
#: Names of errors about missing or wrong credentials.
_CREDENTIALS = re.compile("Credential|ProfileNotFound|AuthenticationError")
#: Seconds without a byte after which a request to a web server fails.
_SILENCE = 60.0


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote file or folder, with the part of :class:`pathlib.Path` that reading clips needs."""

    #: Its address. The query after a ``?``, such as a signature, is sent but never shown.
    url: str

    def __str__(self) -> str:
        return self.url.partition("?")[0] if self.is_web else self.url

    def __truediv__(self, below: object) -> "Remote":
        """Return a file or folder below this one; on the web, its name is quoted."""
        address, mark, query = self.url.partition("?") if self.is_web else (self.url, "", "")
        name = quote(str(below)) if self.is_web else str(below)
        return Remote(f"{address.rstrip('/')}/{name}{mark}{query}")

    def __lt__(self, other: "Remote") -> bool:
        return self.url < other.url

    @property
    def name(self) -> str:
        """The last part of the address."""
        return posixpath.basename(str(self).rstrip("/"))

    @property
    def parent(self) -> "Remote":
        """The parent folder."""
        address, mark, query = self.url.partition("?") if self.is_web else (self.url, "", "")
        return Remote(f"{posixpath.dirname(address.rstrip('/'))}{mark}{query}")

    @property
    def scheme(self) -> str:
        """The part of the address before ``://``."""
        return self.url.partition("://")[0].lower()

    @property
    def is_web(self) -> bool:
        """Whether it is on a web server, which neither lists folders nor stores files."""
        return self.scheme in _WEB

    def resolve(self) -> "Remote":
        """Return itself: an address does not depend on the working directory."""
        return self

    def is_dir(self) -> bool:
        """Whether there are files below it; raise UserError for a web server, which cannot tell."""
        self._check_lists()
        return self._retry(lambda: bool(self.store.isdir(self.url)))

    def exists(self) -> bool:
        """Whether it exists."""
        return self._retry(lambda: bool(self.store.exists(self.url)))

    def read_bytes(self, most: int) -> bytes:
        """Read a file of at most ``most`` bytes.

        Raise FileNotFoundError if there is no such file, OSError (EFBIG) if it has more, UserError
        if permission is denied, and MachineError if the store cannot be reached in three attempts.
        """
        content = self._retry(lambda: self._read(most + 1))
        if len(content) > most:
            raise too_large(self, most)
        return content

    def files(self) -> Mapping[str, str]:
        """List all files below this folder, at any depth.

        Return the :func:`version` of each file, by path relative to the folder. Raise UserError if
        it is on a web server, or permission is denied, and MachineError if the store cannot be
        reached.
        """
        self._check_lists()
        from fsspec.core import strip_protocol

        try:
            files = self._retry(lambda: self.store.find(self.url, detail=True))
        except FileNotFoundError:
            return {}
        root = str(strip_protocol(self.url)).rstrip("/") + "/"
        return {
            path.removeprefix(root): version(metadata)
            for path, metadata in sorted(files.items())
            if path.startswith(root) and not path.endswith("/")
        }

    @property
    def store(self) -> "AbstractFileSystem":
        """The file system of fsspec.

        Raise UserError if fsspec does not know the scheme, or the package for it is not installed.
        """
        try:
            return _store(self.scheme, os.getpid())
        except (ImportError, ValueError) as error:
            extra = _EXTRAS.get(self.scheme)
            fix = f"pip install 'serpipe[{extra}]'" if extra else "install the package for it"
            raise UserError(f"{self}: {first_line(error)}; {fix}") from None

    def _check_lists(self) -> None:
        if self.is_web:
            raise UserError(
                f"{self}: a web server does not list folders; name the clips in a table: "
                "--manifest CLIPS.csv --data ADDRESS"
            )

    def _read(self, end: int) -> bytes:
        """Return the first ``end`` bytes."""
        if not self.is_web:
            try:
                return bytes(self.store.cat_file(self.url, start=0, end=end))
            except OSError as error:
                if "not satisfiable" in str(error):  # the file is empty
                    return b""
                raise
        content = bytearray()
        with self.open_stream() as stream:  # in parts: a server may send any amount
            while part := stream.read(min(2**20, end - len(content))):
                content += part
        return bytes(content)

    def open_stream(self) -> Any:
        """Request the file from a web server, and return a stream.

        Raise FileNotFoundError if the server has no such file, and the other errors of fsspec.
        """
        # With a size, which is not used, fsspec does not request it first.
        return self.store.open(self.url, "rb", block_size=0, size=1)

    def _retry(self, request: Callable[[], T]) -> T:
        for pause in _PAUSES:
            try:
                with in_one_line(self):
                    return request()
            except MachineError:
                time.sleep(pause)
        with in_one_line(self):
            return request()


@cache
def _store(scheme: str, process: int) -> "AbstractFileSystem":
    """Return the single file system of a scheme in this process; fsspec makes one per thread."""
    import fsspec

    if scheme not in _WEB:
        return fsspec.filesystem(scheme)
    import aiohttp

    # No limit on the total time, unlike the default: large files take long.
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
    return fsspec.filesystem(scheme, client_kwargs={"timeout": timeout})


#: A path on this machine, or a remote address.
Location = Path | Remote


def as_location(given: str | Location) -> Location:
    """Return a path (also for ``"file://..."``), or the remote file or folder at an address.

    Raise UserError if an address has a name and password, or contains another one
    (``"zip::s3://..."``).
    """
    if not isinstance(given, str):
        return given
    match = _ADDRESS.match(given)
    if _CHAIN.search(given):
        raise UserError(
            f"{address_without_secrets(given)}: one address inside another; name the file itself"
        )
    if not match:
        return Path(given)
    scheme, rest = match[1].lower(), given[match.end() :]
    if scheme == "file":
        return Path(rest)
    if not rest.strip("/"):
        raise UserError(f"{given}: names nothing; expected {scheme}://BUCKET/NAME")
    if _USER.search(given):
        raise UserError(
            f"{address_without_secrets(given)}: a name or password in an address is visible to "
            "others; provide it as for the store's own tools, such as by AWS_PROFILE"
        )
    return Remote(f"{scheme}://{rest}")


def address_without_secrets(text: str) -> str:
    """Return an address (or another text) without name, password and query."""
    if "://" not in text:
        return text
    return _USER.sub("://", text.partition("?")[0])


def without_secrets(text: str) -> str:
    """Return a text such as an error without names, passwords and queries of addresses in it."""
    return _QUERY_INSIDE.sub(r"\1", _USER_INSIDE.sub(r"\1", text))


def version(metadata: Mapping[str, Any]) -> str:
    """Return what identifies the content of a file in the metadata of a store; may be empty."""
    for name in ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest"):
        if metadata.get(name):
            return str(metadata[name])
    for name in ("LastModified", "last_modified", "mtime", "Last-Modified"):
        if metadata.get(name):
            return f"{metadata.get('size')} {metadata[name]}"
    return ""


@contextmanager
def in_one_line(remote: Remote) -> Iterator[None]:
    """Turn an exception of a store into one line; FileNotFoundError is left to the caller."""
    try:
        yield
    except (SerpipeError, FileNotFoundError):
        raise
    except Exception as error:  # each store has its own exceptions
        reason = without_secrets(first_line(error))
        kind = type(error).__name__
        is_refused = getattr(error, "status", None) in (401, 403)
        if isinstance(error, PermissionError) or is_refused or _CREDENTIALS.search(kind):
            raise UserError(
                f"{remote}: access is denied ({reason}); provide credentials as for the store's "
                "own tools, such as by AWS_PROFILE"
            ) from None
        raise MachineError(
            f"{remote}: cannot be reached ({reason}); check the network and the address, and run "
            "the same command again: what is done is kept"
        ) from None


def below(folder: Remote, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield files with some suffixes below a folder, relative to it, except hidden ones."""
    for path in folder.files():
        parts = path.split("/")
        hidden = any(part.startswith((".", "__MACOSX")) for part in parts)
        if parts[-1].lower().endswith(suffixes) and not hidden:
            yield path
