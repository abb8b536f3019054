"""Where things are put by default, which of them is the newest, and where a saved model is."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from ...errors import UserError
from ...features.names import looks_like_path
from ...mirror import local
from ...remote import Place

#: Below the working directory.
CACHES = Path("features/cache")
RUNS = Path("artifacts/runs")
COMPARISONS = Path("artifacts/comparisons")
#: The bundle that ships with the package.
DEFAULT_BUNDLE = Path(__file__).parents[1] / "default_bundle"


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


def find_model(name: str | Place | None) -> Path:
    """Return where a model is.

    Parameters
    ----------
    name : str, Path, Remote or None
        As :func:`~serpipe.artifacts.models.saved_model.load_model` takes it.

    Returns
    -------
    Path
        The model of a run, or what was given: a hub id is no path that exists.

    Raises
    ------
    UserError
        If it is a path where nothing is, or a run without a model.
    """
    given = latest_bundle() or DEFAULT_BUNDLE if name is None else local(name)
    if not given.exists() and looks_like_path(str(name)):
        raise UserError(
            f"{name}: no such folder; expected RUN/bundles/HEAD, RUN, or the folder or hub id of a "
            "trained audio classifier; check --model"
        )
    if (given / "bundle.json").is_file() or not (given / "run.json").is_file():
        return given
    bundles = bundles_of(given)
    if not bundles and not (given / "model").is_dir():
        raise UserError(
            f"{given}: a run without a saved head or model; expected one of `serpipe fit` or "
            "`serpipe finetune` that ended; name another with --model"
        )
    return bundles[0] if bundles else given / "model"


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
