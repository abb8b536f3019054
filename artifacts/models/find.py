"""Find a saved model: a bundle, the model of a run, a model of the hub, or the default bundle."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ...features.names import looks_like_path
from ...integrity import MODEL_HASHES
from ...mirror import local
from ...remote import Location, as_location
from ..run.latest import RUNS, by_age

#: The bundle that ships with the package.
DEFAULT_BUNDLE = Path(__file__).parents[1] / "default_bundle"
#: The file by which the folder of a bundle, and that of a network, is recognised.
BUNDLE_FILE, NETWORK_FILE = "bundle.json", "network.json"
#: Bytes of all files of a bundle or network together; the largest fused heads take 1 GiB.
MAX_MODEL_BYTES = 1 << 31


@dataclass(frozen=True)
class ModelFiles:
    """Where a saved model is."""

    folder: Path  #: For a model of the hub, its folder in the local cache of the hub.
    title: str  #: As the user named it.
    #: Commit of a model of the hub; empty for other models.
    commit: str = ""

    @property
    def is_bundle(self) -> bool:
        """Whether it is a bundle."""
        return (self.folder / BUNDLE_FILE).is_file()

    @property
    def is_network(self) -> bool:
        """Whether it is a network that was trained from scratch."""
        return (self.folder / NETWORK_FILE).is_file()


def get_model_files(name: str | Location | None, revision: str | None = None) -> ModelFiles:
    """Find a model, given by a name as :func:`load_model` takes it, and download it if necessary.

    All files of a bundle or network of the hub are downloaded, from a single commit. Of a
    transformers model, only the configuration is downloaded here, because
    :func:`~serpipe.features.checkpoint.load_checkpoint` downloads the rest. Raise UserError if
    there is no such model, or it is too large, and MachineError if the hub cannot be reached.
    """
    folder = find_model(name)
    if folder.exists():
        given = folder if name is None else as_location(name)
        return ModelFiles(folder, str(folder if isinstance(given, Path) else given))
    from ...features.checkpoint_limits import CONFIGS, WEIGHTS
    from ...features.hub import open_snapshot
    from ...features.training_record import FILE_NAME
    from .bundle import file_names, read_bundle_summary

    title = str(name)
    kinds = (BUNDLE_FILE, NETWORK_FILE, *CONFIGS)
    snapshot = open_snapshot(title, revision or "main", "--model", kinds)
    model = ModelFiles(snapshot.folder, title, snapshot.commit)
    if model.is_bundle:
        files = file_names(read_bundle_summary(snapshot.folder))
    elif model.is_network:
        optional = (MODEL_HASHES, FILE_NAME)
        files = [WEIGHTS[0], *(each for each in optional if each in snapshot.sizes)]
    else:
        return model
    snapshot.get(files, MAX_MODEL_BYTES)
    return model


def latest_bundle() -> Path | None:
    """Return the first bundle of the newest run that has any; None if there is none."""
    for path in reversed(by_age(RUNS, "*/run.json")):
        bundles = bundles_of(path.parent)
        if bundles:
            return bundles[0]
    return None


def bundles_of(run: Path) -> list[Path]:
    """Return the bundles of a run, by name."""
    return sorted(path.parent for path in run.glob(f"bundles/*/{BUNDLE_FILE}"))


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
    if (given / BUNDLE_FILE).is_file() or not (given / "run.json").is_file():
        return given
    bundles = bundles_of(given)
    if not bundles and not (given / "model").is_dir():
        raise UserError(
            f"{given}: this run has no saved head or model; name a finished run of `serpipe fit` "
            "or `serpipe finetune` with --model"
        )
    return bundles[0] if bundles else given / "model"
