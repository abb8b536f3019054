"""The cache of embeddings: one HDF5 file, readable with h5py alone.

============================== ================ ==================================================
in the file                    shape            what it is
============================== ================ ==================================================
``embeddings/POOLING/LAYER``   (n_clips, width) a row per clip; attribute ``sha256``: its checksum
``clips/COLUMN``               (n_clips,)       the clip table, in the same order
attribute ``clips_sha256``     text             checksum of the clip table
attribute ``key``              JSON             all that the numbers depend on
attribute ``provenance``       JSON             corpus, command, versions, machine
============================== ================ ==================================================
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import MachineError, UserError, first_line
from ..files import put_in_place
from .names import FINAL_NORM, POOLINGS

FORMAT_VERSION = 1
#: Columns without which nothing can be fitted. Others may be there.
REQUIRED_COLUMNS = frozenset(
    {"path", "name", "corpus", "speaker", "sex", "emotion", "sha256", "seconds"}
)
#: Rows that are in memory at once when a file is written or checked.
BLOCK_ROWS = 4096

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
    _stamp: tuple[int, ...]

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

        Raises
        ------
        UserError
            If the file was written anew meanwhile, or its numbers do not have their checksum.
        """
        self._check_unchanged()
        parts = []
        with h5py.File(self.path, "r") as file:
            for part in pooling.split(","):
                dataset = file[f"embeddings/{part}/{layer}"]
                values = dataset[:]
                if dataset.attrs.get("sha256") != hashlib.sha256(values.tobytes()).hexdigest():
                    raise UserError(
                        f"{self.path}: layer {layer} does not have its checksum; expected a file "
                        "as it was written; make it again with `serpipe extract --overwrite`"
                    )
                parts.append(values)
        return np.concatenate(parts, axis=1).astype(np.float32, copy=False)

    def checksums(self) -> dict[str, str]:
        """Return the checksum of each ``POOLING/LAYER``, as the file gives it."""
        self._check_unchanged()
        with h5py.File(self.path, "r") as file:
            return {
                f"{pooling}/{layer}": str(file[f"embeddings/{pooling}/{layer}"].attrs.get("sha256"))
                for pooling in self.poolings
                for layer in self.layers
            }

    def rows(self, pooling: str, layer: str, rows: NDArray[np.intp]) -> NDArray[Any]:
        """Read some rows of one layer, as they are stored, and no others."""
        self._check_unchanged()
        with h5py.File(self.path, "r") as file:
            dataset = file[f"embeddings/{pooling}/{layer}"]
            shape, dtype, offset = dataset.shape, dataset.dtype, dataset.id.get_offset()
        return np.asarray(np.memmap(self.path, dtype, "r", offset, shape)[rows])

    def _check_unchanged(self) -> None:
        """Refuse to read rows that may no longer be those of the clip table in memory."""
        if _stamp(self.path) != self._stamp:
            raise UserError(
                f"{self.path}: has been written anew since it was opened; expected it to stay; "
                "run the same command again"
            )


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
    fix = "make one with `serpipe extract`, or name another"
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
            stamp = _stamp(path)
            key = json.loads(file.attrs["key"])
            provenance = json.loads(file.attrs["provenance"])
            _check_names(key, provenance, set(file["clips"]))
            clips = {name: _column(column) for name, column in file["clips"].items()}
            rows = {len(column) for column in clips.values()} | {
                file[f"embeddings/{pooling}/{layer}"].shape[0]
                for pooling in key["poolings"]
                for layer in key["layers"]
            }
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a whole cache of embeddings ({reason}); {fix}") from None
    if len(rows) != 1:
        raise UserError(f"{path}: columns of different lengths {sorted(rows)}; {fix}")
    return Cache(path, key, provenance, clips, stamp)


def verify_cache(path: Path) -> list[str]:
    """Check every number of a cache against its checksum.

    Parameters
    ----------
    path : Path
        A file written by ``serpipe extract``.

    Returns
    -------
    list of str
        What is wrong, one line each; empty if nothing is.

    Raises
    ------
    UserError
        If it is not even a whole cache.
    """
    cache = open_cache(path)
    wrong = []
    if len(set(zip(cache.clips["corpus"], cache.clips["name"], strict=True))) != len(cache):
        wrong.append("a clip stands twice in the table")
    with h5py.File(path, "r") as file:
        if file.attrs.get("clips_sha256") != _hash_table(cache.clips):
            wrong.append("clips do not have their checksum: the table has been changed")
        for pooling in cache.poolings:
            for layer in cache.layers:
                name = f"embeddings/{pooling}/{layer}"
                dataset = file[name]
                digest, finite = hashlib.sha256(), True
                for start in range(0, len(dataset), BLOCK_ROWS):
                    block = dataset[start : start + BLOCK_ROWS]
                    digest.update(block.tobytes())
                    finite = finite and bool(np.isfinite(block).all())
                if not finite:
                    wrong.append(f"{name} holds values that are not finite numbers")
                if dataset.attrs.get("sha256") != digest.hexdigest():
                    wrong.append(f"{name} does not have its checksum: the file is damaged")
    return wrong


#: Positions of some rows in the final file, and from pooling and layer to their values.
RowSource = tuple[NDArray[np.intp], Callable[[str, str], NDArray[Any]]]


def write_cache(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
    sources: Iterable[RowSource],
) -> None:
    """Write a cache whole, or not at all: under another name, synced, then renamed.

    The embeddings are laid out first and then filled in place from one source after another, so
    that memory does not grow with the number of clips.

    Parameters
    ----------
    path : Path
        The file to put in place.
    key, provenance : mapping
        JSON values.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table by column.
    sources : iterable of (ndarray of int, callable)
        Positions in the table, and a function from pooling and layer to their rows, shape
        (n_positions, width). Together they fill every row.

    Raises
    ------
    MachineError
        If the disk does not take it.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        offsets = _lay_out(unfinished, key, provenance, clips)
        shape = (len(clips["sha256"]), int(key["width"]))
        for positions, rows in sources:
            for (pooling, layer), offset in offsets.items():
                mapped = np.memmap(unfinished, key["dtype"], "r+", offset, shape)
                mapped[positions] = rows(pooling, layer)
        with h5py.File(unfinished, "r+") as file:
            for pooling, layer in offsets:
                dataset = file[f"embeddings/{pooling}/{layer}"]
                digest = hashlib.sha256()
                for start in range(0, shape[0], BLOCK_ROWS):
                    digest.update(dataset[start : start + BLOCK_ROWS].tobytes())
                dataset.attrs.modify("sha256", digest.hexdigest())
        put_in_place(unfinished, path)
    except (OSError, RuntimeError) as error:  # h5py raises either, without errno
        unfinished.unlink(missing_ok=True)
        raise MachineError(
            f"{path}: cannot be written ({first_line(error)}); expected room for the "
            "cache; make room and run the same command again: what is computed is kept"
        ) from error


def _lay_out(
    path: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    clips: Mapping[str, NDArray[Any]],
) -> dict[tuple[str, str], int]:
    """Write all but the embeddings, and return where in the file those go, in bytes."""
    offsets = {}
    with h5py.File(path, "w") as file:
        file.attrs["serpipe_cache"] = FORMAT_VERSION
        file.attrs["key"] = json.dumps(key)
        file.attrs["provenance"] = json.dumps(provenance)
        file.attrs["clips_sha256"] = _hash_table(clips)
        for name, column in clips.items():
            if column.dtype.kind == "U":
                text = column.astype(object)
                file.create_dataset(f"clips/{name}", data=text, dtype=h5py.string_dtype())
            else:
                file.create_dataset(f"clips/{name}", data=column)
        shape = (len(clips["sha256"]), int(key["width"]))
        for pooling in key["poolings"]:
            for layer in key["layers"]:
                # Allocated at once, as zeros: a full disk shows here, not as a lost page later.
                dataset = file.create_dataset(
                    f"embeddings/{pooling}/{layer}", shape, key["dtype"], data=None, fillvalue=0
                )
                for start in range(0, shape[0], BLOCK_ROWS):
                    stop = min(start + BLOCK_ROWS, shape[0])
                    dataset[start:stop] = np.zeros((stop - start, shape[1]), key["dtype"])
                dataset.attrs["sha256"] = "0" * 64  # room for the checksum
                offsets[pooling, layer] = int(dataset.id.get_offset())
    return offsets


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str | None:
    """Name the first field in which two keys differ, with both values; ``None`` if none does."""
    for field in (*new, *(old.keys() - new.keys())):
        if old.get(field) != new.get(field):
            return f"{field} is {_short(old.get(field))} there and {_short(new.get(field))} here"
    return None


def _hash_table(clips: Mapping[str, NDArray[Any]]) -> str:
    columns = {name: column.tolist() for name, column in clips.items()}
    return hashlib.sha256(json.dumps(columns, sort_keys=True).encode()).hexdigest()


def _check_names(key: Any, provenance: Any, columns: set[str]) -> None:
    """Check what names things: a cache may come from elsewhere, and layers become file names."""
    if not isinstance(key, dict) or not isinstance(provenance, dict):
        raise ValueError("key or provenance is not a table")
    layers = [layer for layer in key["layers"] if layer != FINAL_NORM]
    if layers != [str(number) for number in range(len(layers))]:
        raise ValueError("layers are not 0, 1, 2, ...")
    if not key["poolings"] or not set(key["poolings"]) <= set(POOLINGS):
        raise ValueError(f"poolings are not among {', '.join(POOLINGS)}")
    missing = REQUIRED_COLUMNS - columns
    if missing:
        raise KeyError(f"no column {sorted(missing)[0]}")


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _column(dataset: h5py.Dataset) -> NDArray[Any]:
    if h5py.check_string_dtype(dataset.dtype):
        return np.array(dataset.asstr()[:], dtype=str)
    return np.asarray(dataset[:])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:36] + '..."'
