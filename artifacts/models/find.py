"""Find a saved model: a bundle, the model of a run, or the default bundle."""

from pathlib import Path

from ...errors import UserError
from ...features.names import looks_like_path
from ...mirror import local
from ...remote import Location
from ..run.latest import RUNS, by_age

#: The bundle that ships with the package.
DEFAULT_BUNDLE = Path(__file__).parents[1] / "default_bundle"


def latest_bundle() -> Path | None:
    """Return the first bundle of the newest run that has any; None if there is none."""
    for path in reversed(by_age(RUNS, "*/run.json")):
        bundles = bundles_of(path.parent)
        if bundles:
            return bundles[0]
    return None


def bundles_of(run: Path) -> list[Path]:
    """Return the bundles of a run, by name."""
    return sorted(path.parent for path in run.glob("bundles/*/bundle.json"))


def find_model(name: str | Location | None) -> Path:
    """Return the folder of a model, given by a name as :func:`load_model` takes it.

    It is a bundle or a model; for a hub id, a path that does not exist. Raise UserError if a path
    does not exist, or a run has no model.
    """
    given = latest_bundle() or DEFAULT_BUNDLE if name is None else local(name)
    if not given.exists() and looks_like_path(str(name)):
        raise UserError(
            f"{name}: there is no such folder; name RUN, RUN/bundles/HEAD, or the folder or hub id "
            "of a trained audio classifier with --model"
        )
    if (given / "bundle.json").is_file() or not (given / "run.json").is_file():
        return given
    bundles = bundles_of(given)
    if not bundles and not (given / "model").is_dir():
        raise UserError(
            f"{given}: this run has no saved head or model; name a finished run of `serpipe fit` "
            "or `serpipe finetune` with --model"
        )
    return bundles[0] if bundles else given / "model"
