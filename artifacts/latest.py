"""Where things are put by default, and which of them is the newest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError

#: Below the working directory.
CACHES = Path("features/cache")
RUNS = Path("artifacts/runs")
COMPARISONS = Path("artifacts/comparisons")


def latest_cache() -> Path:
    """Return the cache that was written last.

    Raises
    ------
    UserError
        If there is none.
    """
    return _latest(CACHES, "*.h5", "cache of embeddings", "run `serpipe extract`, or name one")


def latest_run() -> Path:
    """Return the folder of the run that was written last, of those with a fitted head if any.

    Raises
    ------
    UserError
        If there is none.
    """
    # A run that was stopped before its first head was done has nothing to tell yet.
    for path in reversed(_by_age(RUNS, "*/run.json")):
        if any((path.parent / "predictions").glob("*.csv")):
            return path.parent
    return _latest(RUNS, "*/run.json", "run", "run `serpipe fit`, or name one").parent


def latest_bundle() -> Path | None:
    """Return the first bundle of the newest run that has any; None if there is none."""
    for path in reversed(_by_age(RUNS, "*/run.json")):
        bundles = bundles_of(path.parent)
        if bundles:
            return bundles[0]
    return None


def bundles_of(run: Path) -> list[Path]:
    """Return the bundles of a run, by name."""
    return sorted(path.parent for path in run.glob("bundles/*/bundle.json"))


def _latest(folder: Path, pattern: str, what: str, fix: str) -> Path:
    found = _by_age(folder, pattern)
    if not found:
        raise UserError(f"{folder}: nothing there; expected a {what}; {fix}")
    return found[-1]


def _by_age(folder: Path, pattern: str) -> list[Path]:
    """Return files, the newest last."""
    return sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path))


def comparison_folder(runs: Sequence[Path]) -> Path:
    """Return where the comparison of some runs goes: the same runs, the same folder."""
    names = [run.resolve().name for run in runs]
    digest = hashlib.sha256(json.dumps([str(run.resolve()) for run in runs]).encode()).hexdigest()
    return COMPARISONS / f"{names[0][:80]}+{len(names) - 1}-{digest[:8]}"
