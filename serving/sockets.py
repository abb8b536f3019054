"""The number of connections under the system's limit on open files."""

import contextlib
from pathlib import Path

from ..errors import UserError
from .options import ServeOptions

#: Connections that the server accepts at a time.
BACKLOG = 128
#: Batches of accepted connections until a closed one has released its file.
_BATCHES = 4
#: Files that libraries open temporarily.
_SPARE = 32
#: Pipes of a decoder, including those that are open while it starts.
_FILES_PER_DECODER = 6
#: More connections would only take memory.
_MOST = 1024


def connections_allowed(options: ServeOptions) -> int:
    """Raise the limit on open files as far as possible; return how many connections it allows.

    Raise UserError if that is fewer than the requests that may be in progress.
    """
    most = max(_MOST, 2 * options.queue)
    try:
        import resource
    except ImportError:  # missing on Windows, which has no such limit
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_files() + _SPARE + _FILES_PER_DECODER * options.decoders
    wanted = needed + _BATCHES * BACKLOG + most
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # some systems have another, lower limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return most
    room = soft - needed
    allowed = min(most, room - _BATCHES * backlog_for(room))
    if allowed < options.queue:
        raise UserError(
            f"--queue {options.queue}: the system allows {soft} open files, which leaves "
            f"{max(0, allowed)} for connections; raise `ulimit -n` to {wanted}, or use "
            "a smaller --queue"
        )
    return allowed


def backlog_for(files: int) -> int:
    """Return how many connections to accept at a time if so many files may be open."""
    return max(1, min(BACKLOG, files // (4 * _BATCHES)))


def _open_files() -> int:
    """Return the number of open files of this process; a guess if the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(list(Path(folder).iterdir()))
        except OSError:
            continue
    return 64
