"""What an extraction has done so far, kept so that a kill loses at most the last seconds.

A folder beside the cache, ``FILE.h5.parts``, holds numbered safetensors files, each written under
another name, synced and renamed, and the key that they were made with.
"""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from ..files import write_bytes, write_text

#: Seconds of work that a kill may lose, and bytes of results that may wait in memory.
FLUSH_SECONDS = 20.0
FLUSH_BYTES = 64 << 20

Embeddings = Mapping[str, NDArray[np.float32]]


class Parts:
    """The parts of one unfinished cache.

    Parameters
    ----------
    cache : Path
        The cache they will become.
    """

    def __init__(self, cache: Path) -> None:
        self.folder = cache.with_name(cache.name + ".parts")
        self._pending: list[tuple[list[str], Embeddings]] = []
        self._waiting_bytes = 0
        self._flushed = time.monotonic()

    def key(self) -> dict[str, Any] | None:
        """Return the key that the parts were made with, ``None`` if there are none."""
        try:
            key: dict[str, Any] = json.loads((self.folder / "key.json").read_text())
        except FileNotFoundError:
            return None
        return key

    def begin(self, key: Mapping[str, Any]) -> None:
        """Make the folder, if there is none, for parts made with ``key``."""
        if self.key() is None:
            self.remove()  # parts that nobody says the key of are of no use
            write_text(self.folder / "key.json", json.dumps(key))

    def add(self, hashes: list[str], embeddings: Embeddings) -> None:
        """Add a batch; write what has gathered if the last write is long ago.

        Parameters
        ----------
        hashes : list of str
            The clips' content hashes.
        embeddings : mapping of str to ndarray of float32, shape (n_layers, n_clips, width)
            By pooling.
        """
        self._pending.append((hashes, embeddings))
        self._waiting_bytes += sum(array.nbytes for array in embeddings.values())
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if late or self._waiting_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what has gathered as one more part."""
        if self._pending:
            hashes = [hash_ for batch, _ in self._pending for hash_ in batch]
            tensors = {
                pooling: np.concatenate([arrays[pooling] for _, arrays in self._pending], axis=1)
                for pooling in self._pending[0][1]
            }
            part = self.folder / f"{len(self.files()):06d}.safetensors"
            write_bytes(part, save(tensors, metadata={"sha256": json.dumps(hashes)}))
            self._pending.clear()
            self._waiting_bytes = 0
        self._flushed = time.monotonic()

    def files(self) -> list[Path]:
        """Return the parts, in the order in which they were written."""
        return sorted(self.folder.glob("*.safetensors"))

    def hashes(self) -> Iterable[tuple[Path, list[str]]]:
        """Yield each part with the content hashes of its clips."""
        for part in self.files():
            with safe_open(part, framework="np") as tensors:
                yield part, json.loads(tensors.metadata()["sha256"])

    def remove(self) -> None:
        """Remove the folder: what it held now stands in the cache, or is not wanted."""
        self._pending.clear()
        shutil.rmtree(self.folder, ignore_errors=True)


def read_layer(part: Path, pooling: str, layer: int) -> NDArray[np.float32]:
    """Read one layer of one part.

    Parameters
    ----------
    part : Path
        A file of :meth:`Parts.files`.
    pooling : str
        ``"mean"`` or ``"std"``.
    layer : int
        Its position among the layers.

    Returns
    -------
    ndarray of float32, shape (n_clips, width)
    """
    with safe_open(part, framework="np") as tensors:
        rows: NDArray[np.float32] = tensors.get_slice(pooling)[layer]
    return rows
