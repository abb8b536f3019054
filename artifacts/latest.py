"""Where things are put by default, and which of them is the newest."""

from pathlib import Path

from ..errors import UserError

#: Below the working directory.
CACHES = Path("features/cache")
RUNS = Path("artifacts/runs")


def latest_cache() -> Path:
    """Return the cache that was written last.

    Raises
    ------
    UserError
        If there is none.
    """
    return _latest(CACHES, "*.h5", "cache of embeddings", "run `serpipe extract`, or name one")


def latest_run() -> Path:
    """Return the folder of the run that was written last.

    Raises
    ------
    UserError
        If there is none.
    """
    return _latest(RUNS, "*/run.json", "run", "run `serpipe fit`, or name one").parent


def _latest(folder: Path, pattern: str, what: str, fix: str) -> Path:
    found = sorted(folder.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path))
    if not found:
        raise UserError(f"{folder}: nothing there; expected a {what}; {fix}")
    return found[-1]
