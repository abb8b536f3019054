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
class Limits:
    """What is no option of the command."""

    #: Windows of a timeline.
    max_segments: int = 1000
    #: Seconds of the upload.
    upload_timeout: float = 60.0
    #: Seconds of decoding.
    decode_timeout: float = 20.0
    #: Number of decoding processes.
    decoders: int = 2
    #: Memory of each of these beyond what it needs to start.
    decode_bytes: int = 1 << 30
    #: Profiles of enrolled speakers; one more replaces the one that was not used for longest.
    speakers: int = 1000
    #: Seconds after its last use when a profile is deleted.
    speaker_seconds: float = 3600.0
    #: Clips from which a profile is made.
    enrolled_clips: int = 64
    #: Secret that clients must send; by default from :func:`read_token`.
    token: str | None = None


@dataclass(frozen=True)
class ServeOptions(Limits):
    """Addresses, limits and log of a server.

    Attributes
    ----------
    host : str
        Address to listen on; 0.0.0.0 is every address of this machine.
    port : int
        Port to listen on; 0 is any free port.
    allow_host : sequence of str
        Name by which clients may address the server. By default the names of this machine on
        loopback, elsewhere any.
    allow_origin : sequence of str
        Origin of web pages that may send audio, such as ``https://voices.example.org``. By default
        only the server's own page.
    token_file : str or Path, optional
        File with the token that clients must send (``Authorization: Bearer TOKEN``). By default the
        environment variable SERPIPE_TOKEN, or no token.
    abstain : bool
        Give no label to recordings that are unlike all clips that the model was trained on.
    log : str or Path, optional
        JSON Lines file to append answers to, without audio or file names. By default nothing is
        kept.
    batch_size : int
        Windows that are scored in one batch on a GPU.
    queue : int
        Maximum number of requests in progress; further ones are asked to retry later.
    max_wait : float
        Seconds that a request may have to wait for the model; further ones are asked to retry
        later.
    work_megabytes : int
        MiB of memory for the uploads and decoded audio of all requests in progress.
    max_megabytes : int
        Maximum size of the audio of a request, in MiB.
    max_seconds : float
        Maximum duration of the audio of a request, in seconds.
    timeout : float
        Seconds that an answer may take, from the end of the upload.
    """

    host: str = "127.0.0.1"
    port: int = 8010
    allow_host: Sequence[str] = ()
    allow_origin: Sequence[str] = ()
    token_file: str | Path | None = None
    abstain: bool = False
    log: str | Path | None = None
    batch_size: int = 8
    queue: int = 64
    max_wait: float = 20.0
    work_megabytes: int = 256
    max_megabytes: int = 25
    max_seconds: float = 120.0
    timeout: float = 60.0

    @property
    def max_bytes(self) -> int:
        """Maximum size of the audio of a request."""
        return self.max_megabytes << 20

    @property
    def hosts(self) -> tuple[str, ...] | None:
        """Names by which the server may be called; None for any."""
        if self.host not in LOOPBACK and not self.allow_host:
            return None  # behind another address it has names that only its operator knows
        return (*LOOPBACK, *map(str.lower, self.allow_host))


def check_origins(origins: Sequence[str]) -> None:
    """Raise UserError if an origin is not of the form ``scheme://host[:port]``, as browsers do."""
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise UserError(
                f"--allow-origin {origin}: is not an origin; write it as browsers do: "
                "scheme://host or scheme://host:port, in lower case and without a path"
            )


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
