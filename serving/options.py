"""Limits and secrets of the server."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError

#: Names by which a browser on this machine calls it.
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_TOKEN_VARIABLE = "SERPIPE_TOKEN"
_SHORTEST_TOKEN = 16
_ORIGIN = re.compile(r"https?://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")


@dataclass(frozen=True)
class Options:
    """Limits and secrets of a server."""

    #: Size of the audio of a request, as uploaded.
    max_bytes: int = 25 << 20
    #: Duration of the audio of a request.
    max_seconds: float = 120.0
    #: Windows of a timeline.
    max_segments: int = 1000
    #: Requests in progress at once, from first byte to answer; further ones are told to retry.
    queue: int = 64
    #: Windows in a batch on a GPU.
    batch: int = 8
    #: Expected seconds of waiting for the model; beyond it, requests are told to retry.
    max_wait: float = 20.0
    #: Memory of the uploads and decoded audio of all requests in progress.
    work_bytes: int = 256 << 20
    #: Seconds from the end of the upload to the answer.
    timeout: float = 60.0
    #: Seconds of the upload.
    upload_timeout: float = 60.0
    #: Seconds of decoding.
    decode_timeout: float = 20.0
    #: Number of decoding processes.
    decoders: int = 2
    #: Memory of each of these beyond what it needs to start.
    decode_bytes: int = 1 << 30
    #: Whether recordings unlike the training clips get no label.
    abstain: bool = False
    #: Secret that clients must send.
    token: str | None = None
    #: Profiles of enrolled speakers; one more replaces the one that was not used for longest.
    speakers: int = 1000
    #: Seconds after its last use when a profile is deleted.
    speaker_seconds: float = 3600.0
    #: Clips from which a profile is made.
    enrolled_clips: int = 64
    #: JSON Lines file to which answers are appended.
    log: Path | None = None
    #: Names by which the server may be called; None for any.
    hosts: tuple[str, ...] | None = LOOPBACK
    #: Of other pages that may send audio, such as ``https://voices.example.org``, compared
    #: literally.
    origins: tuple[str, ...] = ()


def check_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Return origins that may send audio.

    Raise UserError if one is not of the form ``scheme://host[:port]``, as browsers write it.
    """
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--allow-origin {origin}: is not an origin; write it as browsers do: "
                "scheme://host or scheme://host:port, in lower case and without a path"
            )
    return tuple(origins)


def read_token(file: Path | None) -> str | None:
    """Return the token that clients must send, from a file or the variable ``SERPIPE_TOKEN``.

    It is None if there is neither. Raise UserError if the file cannot be read, or the token is too
    short or not valid in a header.
    """
    source = f"--token-file {file}" if file else _TOKEN_VARIABLE
    if file:
        try:
            token = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{source}: cannot be read ({error}); name a text file that holds the token"
            ) from None
    elif _TOKEN_VARIABLE in os.environ:
        token = os.environ[_TOKEN_VARIABLE].strip()
    else:
        return None
    if len(token) < _SHORTEST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise UserError(
            f"{source}: has {len(token)} characters; a token needs at least {_SHORTEST_TOKEN}, "
            "ASCII and without spaces; make one with `openssl rand -hex 32`"
        )
    return token
