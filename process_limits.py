"""Limits that a process sets itself before it reads what strangers made."""

import contextlib
from pathlib import Path


def limit_process(spare_bytes: int, *, writes_files: bool) -> None:
    """Allow so much more memory, and no dump of it after a crash; where the system can.

    Parameters
    ----------
    spare_bytes : int
        Memory beyond what the process has already; only Linux tells how much that is.
    writes_files : bool
        Whether it may write to files.
    """
    try:
        import resource
    except ImportError:  # not there on Windows
        return
    limits = {resource.RLIMIT_CORE: 0}
    if not writes_files:
        limits[resource.RLIMIT_FSIZE] = 0
    with contextlib.suppress(OSError):  # of Linux alone
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + spare_bytes
    for what, limit in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (limit, limit))
