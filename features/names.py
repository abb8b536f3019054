"""Names of layers, poolings and encoders; this module does not import torch."""

import re
from pathlib import Path

from ..errors import UserError

#: The norm after the last block; the other layers have numbers, see :mod:`.pooling`.
FINAL_NORM = "final_norm"
#: The only layer of acoustic features.
FUNCTIONALS = "functionals"
#: Prefix of the names of openSMILE's feature sets.
OPENSMILE = "opensmile:"
#: The value of ``--engine`` that runs encoders with OpenVINO.
OPENVINO = "openvino"
#: Entry of a cache's key with the error of such an engine.
ENGINE_ERROR = "engine_error"
#: Entries of a cache's key that do not identify its embeddings: a revision may be a branch, and the
#: hashes of weights and configuration take its place; the error of an engine is a measurement.
NOT_IDENTIFYING = ("revision", ENGINE_ERROR)
POOLINGS = ("mean", "std")
DEFAULT_ENCODER = "facebook/wav2vec2-base"
#: Encoders that ship with the package.
BUILT_IN = {"whisper-tiny.en": Path(__file__).parent / "builtin" / "whisper-tiny.en"}
#: A hub id, possibly from an untrusted bundle: never a path outside the working directory.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def cache_name(corpora: str, encoder: str) -> str:
    """Return the file name of a cache: of corpora, and of an encoder by its hub id or folder."""
    return f"{corpora}-{encoder.replace('/', '--').replace(':', '-')}.h5"


def looks_like_path(name: str) -> bool:
    """Whether a name of an encoder or a model that does not exist is a path, not a hub id.

    True unless the name has the form OWNER/NAME, and also if OWNER is a folder here or one that
    serpipe writes to (``artifacts``).
    """
    owner = name.partition("/")[0]
    return (
        HUB_ID.fullmatch(name) is None or owner in ("artifacts", "features") or Path(owner).is_dir()
    )


def check_checkpoint_name(name: str, option: str = "--encoder") -> None:
    """Raise UserError, before the hub is asked, if ``name`` is a path that does not exist.

    ``option`` is the option that gave the name, for the message.
    """
    if name in BUILT_IN or Path(name).exists() or not looks_like_path(name):
        return
    if option == "--encoder" and name.startswith(OPENSMILE):
        return
    raise UserError(
        f"{name}: no such folder; give {option} a local folder, a hub id such as "
        f"{DEFAULT_ENCODER}, or the built-in {', '.join(BUILT_IN)}"
    )
