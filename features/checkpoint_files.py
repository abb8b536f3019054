"""The files of a checkpoint: in a local folder, or of one commit of the hub."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import SerpipeError, UserError
from ..integrity import check_model_files
from .checkpoint_limits import MAX_JSON_BYTES, MAX_WEIGHT_BYTES, WEIGHTS, weight_files
from .front_end import FrontEnd
from .hub import Snapshot, open_snapshot
from .names import BUILT_IN, DEFAULT_ENCODER, check_checkpoint_name

#: Commits of hub ids unless the user names another: numbers must not drift.
PINNED_REVISIONS = {DEFAULT_ENCODER: "0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8"}


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of a checkpoint: a local folder, or a snapshot of the hub.

    Its name, as given, and the option that gave it are for messages.
    """

    name: str
    option: str
    folder: Path
    #: ``"local"``, ``"built-in"``, or the commit on the hub.
    revision: str
    snapshot: Snapshot | None = None

    @property
    def remedy(self) -> str:
        """What to do about damaged files."""
        if self.snapshot:
            return f"remove {self.folder.parents[1]} to download it again"
        return "download it again, in the layout of transformers"

    def find(self, name: str, max_bytes: int = MAX_JSON_BYTES) -> Path | None:
        """Return a file, downloaded if necessary; None if there is none of that name."""
        if self.snapshot:
            return self.snapshot.find(name, max_bytes)
        file = self.folder / name
        return file if os.path.lexists(file) else None

    def get(self, names: Sequence[str], max_bytes: int) -> list[Path]:
        """Return files that must exist, downloaded if necessary."""
        if self.snapshot:
            return self.snapshot.get(names, max_bytes)
        files = [self.folder / name for name in names]
        for file in files:
            if not os.path.lexists(file):
                raise self.lacks(file.name)
        return files

    def lacks(self, names: str) -> SerpipeError:
        """Return the error for a file that is missing; ``names`` names it."""
        if self.snapshot:
            return self.snapshot.lacks(names)
        return UserError(
            f"{self.folder}: has no {names}; save the model and its feature extractor with "
            "save_pretrained()"
        )

    def weights(self, prefixes: tuple[str, ...] = ("",)) -> list[Path]:
        """Return the files of weights that will be loaded, downloaded if necessary.

        Of several formats only the one that transformers prefers is downloaded, and of shards only
        those with weights that begin with one of ``prefixes``.
        """
        for name in WEIGHTS:
            if file := self.find(name, MAX_WEIGHT_BYTES):
                return [file]
            if index := self.find(f"{name}.index.json"):
                return self.get(weight_files(index, prefixes), MAX_WEIGHT_BYTES)
        raise self.lacks(" or ".join(WEIGHTS))


@dataclass(frozen=True)
class Loaded:
    """What was loaded from the files of a checkpoint."""

    model_type: str
    model: nn.Module
    front_end: FrontEnd
    #: Over what the numbers depend on besides the weights.
    config_sha256: str


#: Loads a checkpoint that is not in the layout of transformers; None if the files are of another
#: layout.
Layout = Callable[[CheckpointFiles], Loaded | None]


def hash_config(*configs: object) -> str:
    """Hash plain values or dataclasses of all that numbers depend on besides the weights."""
    return hashlib.sha256(repr(configs).encode()).hexdigest()


def locate(name: str, revision: str | None, option: str) -> CheckpointFiles:
    """Return where the files of a checkpoint are; on the hub, find the commit of the revision.

    The arguments are those of :func:`~serpipe.features.checkpoint.load_checkpoint`.
    """
    built_in = BUILT_IN.get(name)
    if built_in or Path(name).exists():
        kind = "built-in" if built_in else "local"
        files = CheckpointFiles(name, option, built_in or Path(name), kind)
        check_model_files(files.folder)
        return files
    check_checkpoint_name(name, option)
    snapshot = open_snapshot(name, revision or PINNED_REVISIONS.get(name, "main"), option)
    return CheckpointFiles(name, option, snapshot.folder, snapshot.commit, snapshot)
