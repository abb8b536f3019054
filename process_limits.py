"""Limits that a process sets on itself before it reads untrusted data."""

import contextlib
from pathlib import Path


def limit_process(spare_bytes: int, *, writes_files: bool) -> None:
    """Limit the memory of this process and forbid core dumps, as far as the system supports it.

    ``spare_bytes`` is the memory beyond that in use; only Linux tells how much that is.
    """
    try:
        import resource
    except ImportError:  # missing on Windows
        return
    limits = {resource.RLIMIT_CORE: 0}
    if not writes_files:
        limits[resource.RLIMIT_FSIZE] = 0
    with contextlib.suppress(OSError):  # Linux only
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + spare_bytes
    for what, limit in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(what, (limit, limit))
