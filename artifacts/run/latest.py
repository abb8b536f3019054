"""Default folders, and the newest cache or run in them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError

#: Below the working directory.
CACHES = Path("features/cache")
RUNS = Path("artifacts/runs")
COMPARISONS = Path("artifacts/comparisons")
STUDIES = Path("artifacts/studies")


def latest_cache() -> Path:
    """Return the newest cache.

    Raise UserError if there is none.
    """
    return _latest(CACHES, "*.h5", "cache of embeddings", "run `serpipe extract`, or name one")


def latest_run() -> Path:
    """Return the folder of the newest run that has a fitted head, else of the newest run.

    Raise UserError if there is none.
    """
    for path in reversed(by_age(RUNS, "*/run.json")):
        if any((path.parent / "predictions").glob("*.csv")):
            return path.parent
    return _latest(RUNS, "*/run.json", "run", "run `serpipe fit`, or name one").parent


def _latest(folder: Path, pattern: str, kind: str, remedy: str) -> Path:
    files = by_age(folder, pattern)
    if not files:
        raise UserError(f"{folder}: there is no {kind} here; {remedy}")
    return files[-1]


def by_age(folder: Path, pattern: str) -> list[Path]:
    """Return the files that match a pattern, the newest last."""
    return sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path))


def comparison_folder(runs: Sequence[Path]) -> Path:
    """Return the folder for the comparison of some runs: the same runs have the same folder."""
    names = [run.resolve().name for run in runs]
    digest = hashlib.sha256(json.dumps([str(run.resolve()) for run in runs]).encode()).hexdigest()
    return COMPARISONS / f"{names[0][:80]}+{len(names) - 1}-{digest[:8]}"
