"""How many connections the system's limit on open files leaves."""

import contextlib
from pathlib import Path

from ..errors import UserError
from .options import Options

#: Connections that the server takes in one go.
BACKLOG = 128
#: So many goes pass before one that is closed has given its file back.
_GOES = 4
#: Files that libraries open and close meanwhile.
_SPARE = 32
#: Pipes to a decoder, and those that are open while it starts.
_FILES_PER_DECODER = 6
#: Beyond it more connections would only take memory.
_MOST = 1024


def connections_allowed(options: Options) -> int:
    """Raise the limit on open files as far as the system lets, and share them out.

    Parameters
    ----------
    options : Options
        Which tell how many decoders and requests in work there are.

    Returns
    -------
    int
        Connections that can be open at once.

    Raises
    ------
    UserError
        If there would be fewer than requests in work.
    """
    most = max(_MOST, 2 * options.queue)
    try:
        import resource
    except ImportError:  # not there on Windows, where nothing limits them so
        return most
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _open_files() + _SPARE + _FILES_PER_DECODER * options.decoders
    wanted = needed + _GOES * BACKLOG + most
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):  # some systems have a lower one besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY:
        return most
    room = soft - needed
    allowed = min(most, room - _GOES * backlog_for(room))
    if allowed < options.queue:
        raise UserError(
            f"--queue {options.queue}: the system allows {soft} open files, which leaves "
            f"{max(0, allowed)} for connections; expected one for each request in work; raise "
            f"`ulimit -n` to {wanted}, or take a smaller --queue"
        )
    return allowed


def backlog_for(files: int) -> int:
    """Return how many connections to take in one go, where there is room for some open files."""
    return max(1, min(BACKLOG, files // (4 * _GOES)))


def _open_files() -> int:
    """Return how many files this process has open; a guess where the system does not tell."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        try:
            return len(list(Path(folder).iterdir()))
        except OSError:
            continue
    return 64
