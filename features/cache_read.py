"""Read the HDF5 structure of a cache: everything but the embeddings.

HDF5 follows all addresses and sizes in a file. Damaged or hostile ones make it loop forever, crash,
or allocate more memory than there is, so this runs in a process of its own (:mod:`.cache_child`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, first_line
from .cache_rows import (
    FORMAT_VERSION,
    INDEX_VERSION,
    MAX_SHARDS,
    StoredLayer,
    hash_texts,
    layer_name,
    shard_path,
    stamp_of,
    statement,
)
from .cache_schema import KeyFields, check_columns, check_provenance, parse_object

#: Rows of a column that are read at once.
_BLOCK = 65_536
#: Deepest nesting of groups: a group can also contain itself.
_DEEPEST = 4
#: A string in a file: its length, and where the text is stored (16 bytes).
_STRING = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])
#: Limit of the columns in memory: this many bytes, plus this many times the bytes of the file. Text
#: takes 4 bytes a character, and each clip as many characters as the longest text of the column.
_SPARE_BYTES, _GROWTH = 1 << 30, 32

_FIX_SHARD = "restore it, or make the whole cache again with `serpipe extract --overwrite`"

#: Receives the name of an array and the array.
Send = Callable[[str, NDArray[Any]], None]


def column_limit(path: Path) -> int:
    """Return how many bytes the columns of a file may take in memory."""
    return _SPARE_BYTES + _GROWTH * path.stat().st_size


def read_cache(path: Path, send: Send, still_busy: Callable[[], None]) -> dict[str, Any]:
    """Read all of a cache but the embeddings, and check it against its schema.

    ``send`` receives each column of the clip table as ``clips/COLUMN``, shape (n_clips,), and for
    an index ``rows/shard`` and ``rows/row``: for each clip, the index of its shard in the returned
    list, and the row in that shard. ``still_busy`` is called at each step: a file that HDF5 never
    finishes with does not reach the next step.

    Return JSON values: ``key``, ``provenance``, ``clips_sha256`` (or None), ``sha256`` of each
    ``POOLING/LAYER``, and ``shards``, each with the fields of
    :class:`~serpipe.features.cache_rows.Shard` that the key does not give. Raise UserError if it is
    not a whole cache, or a shard is missing or is not the one that the index names.
    """
    fix = "make one with `serpipe extract`, or name another"
    try:
        with h5py.File(path, "r") as file:
            check_contained(file)
            version = _version(file)
            if version not in (FORMAT_VERSION, INDEX_VERSION):
                raise UserError(
                    f"{path}: cache format {version}; this version of serpipe reads "
                    f"{FORMAT_VERSION} and {INDEX_VERSION}; {fix}"
                )
            stamp = stamp_of(path)
            key, provenance, fields = _read_about(file)
            reader = _Reader(file, path, still_busy)
            hashes = _send_columns(file["clips"], reader, send)
            clips_sha256 = _text(file, "clips_sha256") if "clips_sha256" in file.attrs else None
            if version == FORMAT_VERSION:
                layers = reader.layers(fields, len(hashes))
                shards = [_shard(path, 0, len(hashes), stamp, key, clips_sha256 or "", layers)]
                sha256 = {name: layer.sha256 for name, layer in layers.items()}
            else:
                shards, sha256 = _read_index(path, file, reader, key, fields, hashes, send)
    except Exception as error:  # h5py may raise anything for damaged content
        if isinstance(error, UserError):
            raise
        reason = first_line(error)
        raise UserError(f"{path}: not a whole cache of embeddings ({reason}); {fix}") from None
    return {
        "key": key,
        "provenance": provenance,
        "clips_sha256": clips_sha256,
        "sha256": sha256,
        "stamp": stamp,
        "shards": shards,
    }


def read_numbers(path: Path) -> list[int]:
    """Return the numbers of the shards that an index names, even if it is not whole."""
    try:
        with h5py.File(path, "r") as file:
            check_contained(file)
            return [int(n) for n in _Reader(file, path, lambda: None).integers("shards/number")]
    except Exception:  # then it names none
        return []


def check_contained(file: h5py.File) -> None:
    """Refuse a file with data elsewhere: a cache from a stranger could name any file.

    Raise ValueError if it has a link to another file, a dataset that is stored in other files, or
    an object that is neither a group nor a dataset.
    """

    def check(group: h5py.Group, depth: int) -> None:
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link to somewhere else")
            member = group[name]
            if isinstance(member, h5py.Dataset):
                if member.is_virtual or member.external:
                    raise ValueError(f"{name} is stored in another file")
            elif not isinstance(member, h5py.Group):
                raise ValueError(f"{name} is neither a group nor a dataset")
            elif depth == _DEEPEST:
                raise ValueError(f"{name} is nested too deep")
            else:
                check(member, depth + 1)

    check(file, 1)


class _Reader:
    """Reads datasets of one file, none of which may claim more than the file can hold."""

    def __init__(self, file: h5py.File, path: Path, still_busy: Callable[[], None]) -> None:
        self._file, self._path, self.still_busy = file, path, still_busy
        self._size, self._left = path.stat().st_size, column_limit(path)

    def column(self, name: str) -> NDArray[Any]:
        """Read a column of text or numbers; raise ValueError if it is not stored as one."""
        dataset = self._dataset(name)
        if dataset.ndim != 1:
            raise ValueError(f"{name} is not a column")
        text = h5py.check_string_dtype(dataset.dtype)
        if text is None and (
            dataset.dtype.kind not in "iufb" or h5py.check_enum_dtype(dataset.dtype) is not None
        ):
            raise ValueError(f"{name} holds neither text nor numbers")
        offset = self._stored(dataset, name, _STRING.itemsize if text else dataset.dtype.itemsize)
        if text is None:
            self._take(dataset.size * dataset.dtype.itemsize, name)
            return np.asarray(dataset[:])
        if text.length is not None:
            raise ValueError(f"{name} holds text of fixed length")
        with self._path.open("rb") as plain:
            plain.seek(offset)
            strings = np.fromfile(plain, _STRING, dataset.size)
        lengths = strings["length"].astype(np.int64)
        if lengths.sum() > self._size:
            raise ValueError(f"{name} claims more text than the file can hold")
        self._take(4 * dataset.size * int(lengths.max(initial=1)), name)
        texts = dataset.asstr()
        parts = []
        for start in range(0, dataset.size, _BLOCK):
            self.still_busy()
            parts.append(np.array(texts[start : start + _BLOCK], dtype=str))
        return np.concatenate(parts) if parts else np.empty(0, "U1")

    def integers(self, name: str) -> NDArray[np.intp]:
        """Read a column of whole numbers."""
        values = self.column(name)
        if values.dtype.kind != "i":
            raise ValueError(f"{name} are not whole numbers")
        return values.astype(np.intp)

    def layers(self, fields: KeyFields, n_rows: int) -> dict[str, StoredLayer]:
        """Return where each layer is stored, by ``POOLING/LAYER``.

        Raise ValueError if the shape or dtype of a layer is not that of the key and the table.
        """
        layers, shape = {}, (n_rows, fields.width)
        for pooling in fields.poolings:
            for layer in fields.layers:
                self.still_busy()
                name = layer_name(pooling, layer)
                dataset = self._dataset(name)
                if dataset.shape != shape or dataset.dtype != np.dtype(fields.dtype):
                    raise ValueError(
                        f"{name} is {dataset.dtype} {dataset.shape}, expected {fields.dtype} "
                        f"{shape}"
                    )
                offset = self._stored(dataset, name, dataset.dtype.itemsize)
                layers[f"{pooling}/{layer}"] = StoredLayer(offset, _text(dataset, "sha256"))
        return layers

    def _dataset(self, name: str) -> h5py.Dataset:
        self.still_busy()
        dataset = self._file[name]
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(f"{name} is not a dataset")
        return dataset

    def _stored(self, dataset: h5py.Dataset, name: str, itemsize: int) -> int:
        """Return the offset of a dataset; raise ValueError if it is not stored in one piece."""
        stored = dataset.id.get_storage_size()
        if dataset.size == 0:
            return 0
        offset = dataset.id.get_offset()
        if offset is None or stored != dataset.size * itemsize:
            raise ValueError(f"{name} is not stored in one piece")
        if offset + stored > self._size:
            raise ValueError(f"{name} is not within the file")
        return int(offset)

    def _take(self, n_bytes: int, name: str) -> None:
        self._left -= n_bytes
        if self._left < 0:
            raise ValueError(f"{name} takes too much memory for a file of {self._size} bytes")


def _version(file: h5py.File) -> int:
    version = file.attrs["serpipe_cache"]
    if not isinstance(version, np.integer):
        raise ValueError("attribute serpipe_cache is not a whole number")
    return int(version)


def _text(owner: h5py.File | h5py.Group | h5py.Dataset, name: str) -> str:
    """Read an attribute that is a single text."""
    if owner.attrs.get_id(name).shape != ():
        raise ValueError(f"attribute {name} is not one text")
    value = owner.attrs[name]
    if not isinstance(value, str):
        raise ValueError(f"attribute {name} is not text")
    value.encode()  # text that is not valid UTF-8 cannot be printed
    return value


def _read_about(file: h5py.File) -> tuple[dict[str, Any], dict[str, Any], KeyFields]:
    """Read key and provenance, and check them against their checksum if there is one."""
    texts = _text(file, "key"), _text(file, "provenance")
    key, provenance = parse_object(texts[0], "key"), parse_object(texts[1], "provenance")
    fields = KeyFields.of(key)
    check_provenance(provenance)
    # Caches of earlier versions lack it.
    if "about_sha256" in file.attrs and _text(file, "about_sha256") != hash_texts(*texts):
        raise ValueError("key or provenance does not have its checksum")
    return key, provenance, fields


def _send_columns(group: Any, reader: _Reader, send: Send) -> NDArray[Any]:
    """Send the clip table, column by column, and return the content hashes of the clips."""
    if not isinstance(group, h5py.Group):
        raise ValueError("clips is not a group")
    kept: dict[str, NDArray[Any]] = {}
    lengths = set()
    for name in group:
        name.encode()  # a name that is not valid UTF-8 cannot be printed
        column = reader.column(f"clips/{name}")
        lengths.add(len(column))
        kept[name] = column if name in ("sha256", "seconds") else column[:0]
        send(f"clips/{name}", column)
    check_columns(kept)
    if len(lengths) != 1:
        raise ValueError(f"columns of different lengths {sorted(lengths)}")
    return kept["sha256"]


def _shard(
    path: Path,
    number: int,
    n_rows: int,
    stamp: tuple[int, ...],
    key: Mapping[str, Any],
    clips_sha256: str,
    layers: Mapping[str, StoredLayer],
) -> dict[str, Any]:
    return {
        "path": str(path),
        "number": number,
        "n_rows": n_rows,
        "stamp": stamp,
        "layers": {name: [layer.offset, layer.sha256] for name, layer in layers.items()},
        "statement": statement(key, clips_sha256, layers),
    }


def _read_index(
    index: Path,
    file: h5py.File,
    reader: _Reader,
    key: Mapping[str, Any],
    fields: KeyFields,
    hashes: NDArray[Any],
    send: Send,
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Open the shards of an index, and check them and the row map against the index.

    Return the shards as :func:`read_cache` does, and the checksum of each ``POOLING/LAYER`` that
    the index states. Raise UserError if a shard is missing or was replaced, and ValueError if the
    row map leads to rows of other clips.
    """
    numbers, number_of, row_of = (
        reader.integers(name) for name in ("shards/number", "rows/shard", "rows/row")
    )
    stated = reader.column("shards/sha256")
    if stated.dtype.kind != "U":
        raise ValueError("shards/sha256 is not text")
    if len(stated) != len(numbers) or {len(number_of), len(row_of)} != {len(hashes)}:
        raise ValueError("columns of different lengths")
    in_order = len(numbers) > 0 and np.all(np.diff(numbers) > 0)
    if not in_order or numbers[0] < 0 or numbers[-1] >= MAX_SHARDS:
        raise ValueError("shards/number: not the numbers of shards, in order")
    sha256 = {
        f"{pooling}/{layer}": _text(file[layer_name(pooling, layer)], "sha256")
        for pooling in fields.poolings
        for layer in fields.layers
    }
    if not np.isin(number_of, numbers).all():
        raise ValueError("rows/shard: a clip in a shard that is not of this index")
    shard_of = np.searchsorted(numbers, number_of)
    shards = []
    for position, number in enumerate(numbers.tolist()):
        shard, theirs = _read_shard(index, number, reader, fields)
        path = Path(shard["path"])
        if shard["statement"] != stated[position]:
            raise UserError(f"{path}: is not the shard that {index} was made with; {_FIX_SHARD}")
        clips = np.flatnonzero(shard_of == position)
        rows = row_of[clips]
        if np.any((rows < 0) | (rows >= shard["n_rows"])):
            raise ValueError(f"rows/row: a row that {path.name} does not have")
        if len(np.unique(rows)) != len(rows):
            raise ValueError(f"rows/row: a row of {path.name} stands for two clips")
        if np.any(theirs[rows] != hashes[clips]):
            raise ValueError(f"rows/row: a row of {path.name} is that of another clip")
        shards.append(shard)
    send("rows/shard", shard_of)
    send("rows/row", row_of)
    return shards, sha256


def _read_shard(
    index: Path, number: int, reader: _Reader, fields: KeyFields
) -> tuple[dict[str, Any], NDArray[Any]]:
    """Return a shard and the content hashes of its clips."""
    path = shard_path(index, number)
    if not path.is_file():
        raise UserError(f"{path}: no such file, but {index} needs this shard; {_FIX_SHARD}")
    try:
        with h5py.File(path, "r") as file:
            stamp = stamp_of(path)
            check_contained(file)
            if _version(file) != FORMAT_VERSION:
                raise ValueError("no cache that holds its rows")
            theirs = _Reader(file, path, reader.still_busy)
            hashes = theirs.column("clips/sha256")
            if hashes.dtype.kind != "U":
                raise ValueError("clips/sha256 is not text")
            key = parse_object(_text(file, "key"), "key")
            layers = theirs.layers(fields, len(hashes))
            clips_sha256 = _text(file, "clips_sha256")
    except Exception as error:
        reason = first_line(error)
        raise UserError(f"{path}: not a whole shard of {index} ({reason}); {_FIX_SHARD}") from None
    return _shard(path, number, len(hashes), stamp, key, clips_sha256, layers), hashes
