"""Read what a request brings: into memory, within limits, to no file."""

import asyncio
from collections.abc import AsyncGenerator

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from .options import Options
from .refused import Refused

#: What the parts of a form may have around the audio.
_FORM_BYTES = 64 << 10
_FIELD = "audio"
_OTHER_FIELDS = 8


def content_type(request: Request) -> str:
    """Return the type of what the request brings, without parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_bytes(request: Request, options: Options) -> bytes:
    """Return the body.

    Parameters
    ----------
    request : Request
        Whose body is the audio itself.
    options : Options
        The limits.

    Returns
    -------
    bytes

    Raises
    ------
    Refused
        413 if there is too much, 408 if it takes too long, 400 if its length is no number.
    """
    parts = [chunk async for chunk in _limited(request, options, options.max_bytes)]
    return b"".join(parts)


async def read_form(request: Request, options: Options) -> tuple[bytes, str | None]:
    """Return the field ``audio`` of a form.

    Parameters
    ----------
    request : Request
        Whose body is ``multipart/form-data``.
    options : Options
        The limits.

    Returns
    -------
    content : bytes
        The audio.
    name : str or None
        What the client calls it: not to be believed, and never a path.

    Raises
    ------
    Refused
        As :func:`read_bytes`; 415 if it is no such form, 400 if it is broken, 422 if the field is
        missing or no file.
    """
    if content_type(request) != "multipart/form-data":
        raise Refused(
            415,
            f"The request is no form; expected multipart/form-data with the file in {_FIELD!r}.",
        )
    stream = _limited(request, options, options.max_bytes + _FORM_BYTES)
    parser = MultiPartParser(
        request.headers,
        stream,
        max_files=1,
        max_fields=_OTHER_FIELDS,
        max_part_size=_FORM_BYTES,
    )
    parser.spool_max_size = options.max_bytes + _FORM_BYTES + 1  # never to a file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"The form cannot be read: {error.message.rstrip('.')}.") from None
    try:
        file = form.get(_FIELD)
        if not isinstance(file, UploadFile):
            raise Refused(422, f"The form has no file in its field {_FIELD!r}; expected one.")
        content = await file.read()
    finally:
        await form.close()
    if len(content) > options.max_bytes:
        raise _too_large(options)
    return content, file.filename


async def _limited(request: Request, options: Options, most: int) -> AsyncGenerator[bytes, None]:
    told = request.headers.get("content-length", "0")
    if not (told.isascii() and told.isdecimal()):
        raise Refused(400, "The request's content-length is no number; expected that of its bytes.")
    if int(told[:20]) > most:
        raise _too_large(options)
    count = 0
    try:
        async with asyncio.timeout(options.upload_timeout):
            async for chunk in request.stream():
                count += len(chunk)
                if count > most:
                    raise _too_large(options)
                yield chunk
    except TimeoutError:
        raise Refused(
            408, f"The audio takes more than {options.upload_timeout:g} s to arrive."
        ) from None


def _too_large(options: Options) -> Refused:
    limit = f"{options.max_bytes / 2**20:g} MiB"
    return Refused(413, f"The audio has more than {limit}; expected at most that.")
