"""The cache of embeddings: one HDF5 file, readable with h5py alone.

========================== ======================= ==========================================
in the file                shape                   what it is
========================== ======================= ==========================================
``embeddings/POOLING/LAYER`` (n_clips, width)      float32, a row per clip
``clips/COLUMN``           (n_clips,)              the clip table, in the same order
attribute ``key``          JSON                    all that the numbers depend on
attribute ``provenance``   JSON                    corpus, command, versions, machine
========================== ======================= ==========================================
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError, UserError
from ..files import put_in_place

FORMAT_VERSION = 1

Table = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Cache:
    """An opened cache: the clip table in memory, the embeddings in the file.

    Attributes
    ----------
    path : Path
        The file.
    key : mapping
        All that the numbers depend on.
    provenance : mapping
        Corpus, command, versions, machine.
    clips : dict of str to ndarray, shape (n_clips,)
        The clip table by column.
    """

    path: Path
    key: Mapping[str, Any]
    provenance: Mapping[str, Any]
    clips: Table

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order."""
        return tuple(self.key["layers"])

    @property
    def poolings(self) -> tuple[str, ...]:
        """Names of the poolings."""
        return tuple(self.key["poolings"])

    def __len__(self) -> int:
        """Return the number of clips."""
        return len(self.clips["sha256"])

    def embeddings(self, layer: str, pooling: str = "mean") -> NDArray[np.float32]:
        """Read one layer of all clips.

        Parameters
        ----------
        layer : str
            ``"0"`` .. ``"L"`` or ``"final_norm"``.
        pooling : str
            ``"mean"`` or ``"std"``; joined by commas, they stand side by side.

        Returns
        -------
        ndarray of float32, shape (n_clips, width * n_poolings)
        """
        with h5py.File(self.path, "r") as file:
            parts = [file[f"embeddings/{part}/{layer}"][:] for part in pooling.split(",")]
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def open_cache(path: Path) -> Cache:
    """Open a cache and check that it is whole.

    Parameters
    ----------
    path : Path
        A file written by ``serpipe extract``.

    Returns
    -------
    Cache

    Raises
    ------
    UserError
        If the file is not there, is no HDF5 file or no cache, or lacks rows.
    """
    fix = "make it again with `serpipe extract --overwrite`, or name another cache"
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a cache of embeddings; {fix}")
    try:
        with h5py.File(path, "r") as file:
            version = file.attrs.get("serpipe_cache")
            if version != FORMAT_VERSION:
                raise UserError(
                    f"{path}: cache format {version}; expected {FORMAT_VERSION}, "
                    f"that of this serpipe; {fix}"
                )
            key = json.loads(file.attrs["key"])
            provenance = json.loads(file.attrs["provenance"])
            clips = {name: _column(column) for name, column in file["clips"].items()}
            rows = {len(column) for column in clips.values()} | {
                file[f"embeddings/{pooling}/{layer}"].shape[0]
                for pooling in key["poolings"]
                for layer in key["layers"]
            }
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a whole cache of embeddings ({reason}); {fix}") from None
    if len(rows) != 1:
        raise UserError(f"{path}: columns of different lengths {sorted(rows)}; {fix}")
    return Cache(path, key, provenance, clips)


def write_cache(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
    rows: Callable[[str, str], NDArray[np.float32]],
) -> None:
    """Write a cache whole, or not at all: under another name, synced, then renamed.

    Parameters
    ----------
    path : Path
        The file to put in place.
    key, provenance : mapping
        JSON values.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table by column.
    rows : callable
        From pooling and layer to the embeddings of all clips, shape (n_clips, width).

    Raises
    ------
    MachineError
        If the disk does not take it.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with h5py.File(unfinished, "w") as file:
            file.attrs["serpipe_cache"] = FORMAT_VERSION
            file.attrs["key"] = json.dumps(key)
            file.attrs["provenance"] = json.dumps(provenance)
            for name, column in clips.items():
                if column.dtype.kind == "U":
                    text = column.astype(object)
                    file.create_dataset(f"clips/{name}", data=text, dtype=h5py.string_dtype())
                else:
                    file.create_dataset(f"clips/{name}", data=column)
            for pooling in key["poolings"]:
                for layer in key["layers"]:
                    file.create_dataset(f"embeddings/{pooling}/{layer}", data=rows(pooling, layer))
    except (OSError, RuntimeError) as error:  # h5py raises either, without errno
        unfinished.unlink(missing_ok=True)
        raise MachineError(
            f"{path}: cannot be written ({str(error).splitlines()[0]}); expected room for the "
            "cache; make room and run the same command again: what is computed is kept"
        ) from error
    put_in_place(unfinished, path)


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Name the first field in which two keys differ, with both values; ``None`` if none does."""
    for field in sorted(old.keys() | new.keys()):
        if old.get(field) != new.get(field):
            return f"{field} is {_short(old.get(field))} there and {_short(new.get(field))} here"
    return None


def _column(dataset: h5py.Dataset) -> NDArray[Any]:
    if h5py.check_string_dtype(dataset.dtype):
        return np.array(dataset.asstr()[:], dtype=str)
    return np.asarray(dataset[:])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + '..."'
