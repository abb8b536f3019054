"""Read the body of a request into memory, within limits; never to a file."""

import asyncio
import time
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .options import ServeOptions
from .refused import Refused

#: Bytes of a form besides the audio.
_FORM_BYTES = 64 << 10
_FORM, _FIELD = "multipart/form-data", "audio"
_OTHER_FIELDS = 8
#: An upload makes progress when this many bytes have arrived.
_FRESH_BYTES = 16 << 10
#: Seconds after which the speed of an upload predicts when it will be complete.
_JUDGED_SECONDS = 5.0


def content_type(request: Request) -> str:
    """Return the content type of a request, without parameters and in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Upload:
    """The body of a request while it arrives.

    ``content`` is the audio once it is complete, and empty again once it is decoded; ``name`` is
    the file name sent by the client: untrusted, never used as a path.
    """

    def __init__(self) -> None:
        self.content = b""
        self.clips: list[bytes] = []  # in place of ``content``, of several files
        self.name: str | None = None
        self.is_ended = False
        #: While the body arrives.
        self._limit: asyncio.Timeout | None = None
        self._fresh_bytes, self._fresh_since = 0, time.monotonic()
        self._count, self._announced, self._began = 0, 0, self._fresh_since

    @property
    def stalled_seconds(self) -> float:
        """Seconds in which less than 16 KiB of a missing rest have arrived."""
        return time.monotonic() - self._fresh_since if self._limit else 0.0

    def is_too_slow(self, seconds: float) -> bool:
        """Whether the body, at its speed so far, will take more than so many seconds."""
        taken = time.monotonic() - self._began
        announced = self._announced
        return (
            bool(self._limit)
            and taken > _JUDGED_SECONDS
            and (self._count * seconds < announced * taken)
        )

    def end(self) -> None:
        """Refuse the upload to make room for others."""
        if self._limit and not self._limit.expired():
            self.is_ended = True
            self._limit.reschedule(0.0)

    async def chunks(
        self, request: Request, options: ServeOptions, most: int
    ) -> AsyncGenerator[bytes, None]:
        """Yield a body of at most ``most`` bytes as it arrives.

        Raise Refused: 413 if it is too large, 408 if it takes too long, 503 if it is ended.
        """
        self._fresh_since = self._began = time.monotonic()
        announced = request.headers.get("content-length", "")
        self._announced = int(announced[:20]) if announced.isdecimal() else 0
        try:
            async with asyncio.timeout(options.upload_timeout) as self._limit:
                async for chunk in request.stream():
                    self._count += len(chunk)
                    self._fresh_bytes += len(chunk)
                    if self._count > most:
                        raise _too_large(options)
                    if self._fresh_bytes >= _FRESH_BYTES:
                        self._fresh_bytes, self._fresh_since = 0, time.monotonic()
                    yield chunk
        except TimeoutError:
            if self.is_ended:
                raise Refused(
                    503, "The audio arrives too slowly while others wait; try again later."
                ) from None
            raise Refused(
                408, f"The audio takes more than {options.upload_timeout:g} s to arrive."
            ) from None
        finally:
            self._limit = None


def bytes_to_hold(request: Request, options: ServeOptions) -> int:
    """Return the memory that a body takes until it is decoded, before any of it is read.

    It is twice the size, for the parts and the joined body; without a content-length, twice the
    maximum. Raise Refused: 413 if the body is too large, 400 if its length is not a number.
    """
    most = options.max_bytes + (_FORM_BYTES if content_type(request) == _FORM else 0)
    length = request.headers.get("content-length")
    if length is None:
        return 2 * most
    if not (length.isascii() and length.isdecimal()):
        raise Refused(400, "The request's content-length is not a number.")
    if int(length[:20]) > most:
        raise _too_large(options)
    return 2 * int(length)


async def read_bytes(request: Request, options: ServeOptions, upload: Upload) -> None:
    """Read a body that is the audio itself into an upload.

    Raise Refused: 413 if it is too large, 408 if it takes too long.
    """
    parts = [chunk async for chunk in upload.chunks(request, options, options.max_bytes)]
    upload.content = b"".join(parts)


def check_form(request: Request) -> None:
    """Refuse (415) a request whose body is not a form."""
    if content_type(request) != _FORM:
        raise Refused(415, f"The request is not a form; send {_FORM} with the file in {_FIELD!r}.")


async def read_form(request: Request, options: ServeOptions, upload: Upload) -> None:
    """Read the field ``audio`` of a form, and its file name, into an upload.

    Raise Refused as :func:`read_bytes` does; 400 if the form is malformed, 422 if the field is
    missing or is not a file.
    """
    (file,) = await _read_files(request, options, upload, 1)
    upload.content, upload.name = file


async def read_clips(request: Request, options: ServeOptions, upload: Upload) -> None:
    """Read all fields ``audio`` of a form into an upload.

    Raise Refused as :func:`read_form` does; together the files have the limit of one.
    """
    files = await _read_files(request, options, upload, options.enrolled_clips)
    upload.clips = [content for content, _ in files]


async def _read_files(
    request: Request, options: ServeOptions, upload: Upload, most: int
) -> list[tuple[bytes, str | None]]:
    """Return the content and name of each file of a form, from 1 to ``most``."""
    stream = upload.chunks(request, options, options.max_bytes + _FORM_BYTES)
    parser = MultiPartParser(
        request.headers,
        stream,
        max_files=most,
        max_fields=_OTHER_FIELDS,
        max_part_size=_FORM_BYTES,
    )
    parser.spool_max_size = options.max_bytes + _FORM_BYTES + 1  # never to a file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"The form cannot be read: {error.message.rstrip('.')}.") from None
    except (UnicodeError, LookupError):  # in the charset that it declares
        raise Refused(400, "The form cannot be read: its text is not in its charset.") from None
    try:
        files = [file for file in form.getlist(_FIELD) if isinstance(file, UploadFile)]
        if not files or len(files) < len(form.getlist(_FIELD)):
            raise Refused(422, f"The form has no file in its field {_FIELD!r}.")
        contents = [(await file.read(), file.filename) for file in files]
    finally:
        await form.close()
    if sum(len(content) for content, _ in contents) > options.max_bytes:
        raise _too_large(options)
    return contents


def _too_large(options: ServeOptions) -> Refused:
    limit = f"{options.max_bytes / 2**20:g} MiB"
    return Refused(413, f"The audio has more than {limit}, which is the limit.")
