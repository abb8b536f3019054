"""What the server allows."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

#: Names of this machine that a browser on it uses.
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TOKEN_VARIABLE = "SERPIPE_TOKEN"
_SHORTEST_TOKEN = 16
_ORIGIN = re.compile(r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


@dataclass(frozen=True)
class Options:
    """Limits and secrets of a server.

    Attributes
    ----------
    max_bytes : int
        Of the audio of one request, as it was sent.
    max_seconds : float
        Of the audio of one request.
    max_segments : int
        Of one timeline.
    queue : int
        Requests that are in work at once, from their first byte to their answer; the next is told
        to come back.
    batch : int
        Windows that the model scores at once on a GPU.
    max_wait : float
        Seconds that a request may expect to wait for the model; the next is told to come back.
    work_bytes : int
        Memory that uploads and decoded audio may take, all requests in work together.
    timeout : float
        Seconds that an answer may take once the audio has arrived.
    upload_timeout : float
        Seconds that the audio may take to arrive.
    decode_timeout : float
        Seconds that decoding may take.
    decoders : int
        Processes that decode.
    decode_bytes : int
        Memory that each of them may take beyond what it needs to start.
    token : str or None
        What a caller must know.
    log : Path or None
        File to which answers are appended, one JSON object a line.
    hosts : tuple of str or None
        Names by which the server may be called; ``None`` is any.
    origins : tuple of str
        Origins of foreign pages that may have a browser send audio, such as
        ``https://voices.example.org``, compared to the letter.
    """

    max_bytes: int = 25 << 20
    max_seconds: float = 120.0
    max_segments: int = 1000
    queue: int = 64
    batch: int = 8
    max_wait: float = 20.0
    work_bytes: int = 256 << 20
    timeout: float = 60.0
    upload_timeout: float = 60.0
    decode_timeout: float = 20.0
    decoders: int = 2
    decode_bytes: int = 1 << 30
    token: str | None = None
    log: Path | None = None
    hosts: tuple[str, ...] | None = LOOPBACK
    origins: tuple[str, ...] = ()


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Return origins that may send audio, as browsers write them.

    Parameters
    ----------
    origins : sequence of str
        As they were given.

    Returns
    -------
    tuple of str

    Raises
    ------
    UserError
        If one is not of the form ``scheme://host[:port]``.
    """
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--allow-origin {origin}: is not an origin; expected scheme://host or "
                "scheme://host:port in lower case, without a path; write it as the browser does"
            )
    return tuple(origins)


def read_token(file: Path | None) -> str | None:
    """Return the secret that callers must know.

    Parameters
    ----------
    file : Path or None
        A file that holds it; without one, the variable ``SERPIPE_TOKEN`` of the environment.

    Returns
    -------
    str or None
        ``None`` where neither is given.

    Raises
    ------
    UserError
        If the file cannot be read, or the secret is short or cannot stand in a header.
    """
    where = f"--token-file {file}" if file else _TOKEN_VARIABLE
    if file:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{where}: cannot be read ({error}); expected a text file with the token; make one"
            ) from None
    elif _TOKEN_VARIABLE in os.environ:
        token = os.environ[_TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < _SHORTEST_TOKEN or not all("!" <= sign <= "~" for sign in token):
        raise UserError(
            f"{where}: {len(token)} characters; expected at least {_SHORTEST_TOKEN}, of ASCII and "
            "without spaces; make one with `openssl rand -hex 32`"
        )
    return token
