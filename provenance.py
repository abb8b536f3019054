"""Where a result came from: the command, the versions and the machine."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ._version import __version__
from .remote import address_without_secrets

_PACKAGES = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "lightgbm",
    "h5py",
    "soundfile",
    "soxr",
    "skops",
    "joblib",
    "threadpoolctl",
)


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Return the versions of serpipe, of Python and of what the numbers come from."""
    return {
        "serpipe": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in (*_PACKAGES, *more)},
    }


def machine() -> dict[str, Any]:
    """Return what kind of machine this is; nothing that names it or its user."""
    return {"system": platform.system(), "processor": _processor(), "cores": cores()}


def command() -> str:
    """Return the command line that is running, as one could type it again."""
    return shlex.join(["serpipe", *map(address_without_secrets, sys.argv[1:])])


def join_words(words: Sequence[str]) -> str:
    """Return words as a shell takes them: those with spaces are quoted."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def command_line(*words: object) -> str:
    """Return a command of serpipe that works in a shell as it is printed."""
    return join_words(["serpipe", *map(str, words)])


def provenance(more: Sequence[str] = ()) -> dict[str, Any]:
    """Return all three. There is no date in it: the same command gives the same bytes.

    Parameters
    ----------
    more : sequence of str
        Packages that the numbers come from besides the usual ones.

    Returns
    -------
    dict
        JSON values.
    """
    return {"command": command(), "versions": versions(more), "machine": machine()}


def cores() -> int:
    """Return the number of cores this process may use, cgroup limits respected."""
    from joblib import cpu_count

    return int(cpu_count())


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
