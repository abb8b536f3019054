"""Provenance of results: the command, the versions and the machine."""

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
    """Return the versions of serpipe, Python, and the packages that compute the numbers."""
    return {
        "serpipe": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in (*_PACKAGES, *more)},
    }


def machine() -> dict[str, Any]:
    """Return the kind of this machine; nothing that identifies it or its user."""
    return {"system": platform.system(), "processor": _processor(), "cores": cores()}


def command() -> str:
    """Return the running command line, so that it can be typed again."""
    return shlex.join(["serpipe", *map(address_without_secrets, sys.argv[1:])])


def join_words(words: Sequence[str]) -> str:
    """Join words for a shell: those with spaces are quoted."""
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)


def command_line(*words: object) -> str:
    """Return a command of serpipe that can be pasted into a shell."""
    return join_words(["serpipe", *map(str, words)])


def provenance() -> dict[str, Any]:
    """Return command, versions and machine as JSON values.

    There is no date: the same command gives the same bytes.
    """
    return {"command": command(), "versions": versions(), "machine": machine()}


def cores() -> int:
    """Return the number of cores this process may use, with respect to cgroup limits."""
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
