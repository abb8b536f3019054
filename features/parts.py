"""The results of an extraction so far, stored so that a kill loses at most the last seconds.

A folder beside the cache, ``FILE.h5.parts``, holds safetensors files, each written under another
name, synced and renamed, and their key. The name of a part is its number and a checksum of its
content: ``000003-0123456789abcdef.safetensors``.
"""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import UserError, first_line
from ..files import read_bytes, remove, write_bytes, write_text
from ..integrity import hash_file
from .cache_schema import KeyFields, check_part, parse_object

#: Seconds of work that a kill may lose, and bytes of results that may wait in memory.
FLUSH_SECONDS = 20.0
FLUSH_BYTES = 64 << 20

_MAX_KEY_BYTES = 1 << 20
_NAME = re.compile(r"(\d{6,})-([0-9a-f]{16})\.safetensors")

Embeddings = Mapping[str, NDArray[np.float32]]


class Parts:
    """The parts of the unfinished cache of the given path."""

    def __init__(self, cache: Path) -> None:
        self.folder = cache.with_name(cache.name + ".parts")
        self._key_sha256 = ""
        self._pending: list[tuple[list[str], Embeddings]] = []
        self._waiting_bytes = 0
        self._flushed = time.monotonic()

    def key(self) -> dict[str, Any] | None:
        """Return the key of the parts, None if there are none.

        Raise UserError if the file of the key is damaged.
        """
        path = self.folder / "key.json"
        try:
            key = parse_object(read_bytes(path, _MAX_KEY_BYTES), "it")
            KeyFields.of(key)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: damaged ({first_line(error)}); remove {self.folder}, or start over with "
                "--overwrite"
            ) from None
        return key

    def is_of(self, key: Mapping[str, Any]) -> bool:
        """Whether there are parts with this key."""
        try:
            return self.key() == key
        except UserError:
            return False

    def begin(self, key: Mapping[str, Any]) -> None:
        """Make the folder for parts with this key, if there is none."""
        self._key_sha256 = _hash_key(key)
        if self.key() is None:
            self.remove()  # parts without a key cannot be used
            write_text(self.folder / "key.json", json.dumps(key))

    def add(self, hashes: list[str], embeddings: Embeddings) -> None:
        """Add the embeddings of the clips of a batch, by content hash.

        Write the pending batches if the last write was long ago.
        """
        self._pending.append((hashes, embeddings))
        self._waiting_bytes += sum(array.nbytes for array in embeddings.values())
        late = time.monotonic() - self._flushed > FLUSH_SECONDS
        if late or self._waiting_bytes > FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the pending batches as one more part."""
        if self._pending:
            hashes = [hash_ for batch, _ in self._pending for hash_ in batch]
            tensors = {
                pooling: np.concatenate([arrays[pooling] for _, arrays in self._pending], axis=1)
                for pooling in self._pending[0][1]
            }
            about = {"sha256": json.dumps(hashes), "key_sha256": self._key_sha256}
            content = save(tensors, metadata=about)
            # After the last existing part: a lost part must not make two share a name.
            numbers = [int(file.name.partition("-")[0]) for file in self.files()]
            number = max(numbers, default=-1) + 1
            checksum = hashlib.sha256(content).hexdigest()[:16]
            write_bytes(self.folder / f"{number:06d}-{checksum}.safetensors", content)
            self._pending.clear()
            self._waiting_bytes = 0
        self._flushed = time.monotonic()

    def files(self) -> list[Path]:
        """Return the parts, in the order in which they were written."""
        return sorted(
            file for file in self.folder.glob("*.safetensors") if _NAME.fullmatch(file.name)
        )

    def drop_damaged(self, key: Mapping[str, Any]) -> list[str]:
        """Remove parts with a wrong checksum or another key; return their names."""
        damaged = []
        for file in self.folder.glob("*.safetensors"):
            try:
                _check(file, key)
            except (OSError, ValueError, SafetensorError):
                remove(file)
                damaged.append(file.name)
        return sorted(damaged)

    def hashes(self) -> Iterable[tuple[Path, list[str]]]:
        """Yield each part with the content hashes of its clips."""
        for part in self.files():
            with safe_open(part, framework="np") as tensors:
                yield part, json.loads(tensors.metadata()["sha256"])

    def remove(self) -> None:
        """Remove the folder: its content is in the cache, or is not needed."""
        self._pending.clear()
        with contextlib.suppress(OSError):
            remove(self.folder)


def _hash_key(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _check(part: Path, key: Mapping[str, Any]) -> None:
    """Raise an error if a part does not have the checksum in its name, or has another key."""
    named = _NAME.fullmatch(part.name)
    if not named or hash_file(part)[:16] != named[2]:
        raise ValueError("it does not have its checksum")
    with safe_open(part, framework="np") as tensors:
        slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
        forms = {name: (each.get_dtype(), tuple(each.get_shape())) for name, each in slices.items()}
        check_part(tensors.metadata(), forms, KeyFields.of(key))
        if (tensors.metadata() or {}).get("key_sha256") != _hash_key(key):
            raise ValueError("it has another key")


def read_layer(part: Path, pooling: str, layer: int) -> NDArray[np.float32]:
    """Return one pooling of a layer, by index, from one part: float32, shape (n_clips, width)."""
    with safe_open(part, framework="np") as tensors:
        rows: NDArray[np.float32] = tensors.get_slice(pooling)[layer]
    return rows
