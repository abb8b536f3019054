"""What the files of a cache may contain: each is checked here, once, before anything uses it.

Files can be damaged or come from strangers, so nothing is assumed: not that JSON is an object, that
a field exists or has the right type, or that a column of text holds text.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ..choices import DTYPES
from ..integrity import parse_json
from .names import FINAL_NORM, FUNCTIONALS, POOLINGS
from .recordings import Table

MAX_LAYERS = 1000
#: Largest width of a hidden state: ten times that of the largest known encoder.
MAX_WIDTH = 1 << 16

#: Columns without which nothing can be fitted. There may be others.
REQUIRED_COLUMNS = frozenset(
    {"path", "name", "corpus", "speaker", "sex", "emotion", "sha256", "seconds"}
)
#: The kinds of numpy dtype of the columns that serpipe computes with: U is text.
_COLUMN_KINDS = {
    **dict.fromkeys(REQUIRED_COLUMNS - {"seconds"}, "U"),
    **dict.fromkeys(
        (
            *("shared_emotion", "language", "intensity", "statement", "repetition", "speaker_id"),
            *("audio_sha256", "recording", "unconfirmed_copy_of", "contamination"),
        ),
        "U",
    ),
    **dict.fromkeys(("seconds", "loudness"), "f"),
    **dict.fromkeys(("sampling_rate", "channels"), "iu"),
}


def parse_object(text: object, name: str) -> dict[str, Any]:
    """Parse a JSON object that errors call ``name``.

    Raise ValueError if it is not text, not an object, or refused by
    :func:`~serpipe.integrity.parse_json`.
    """
    if not isinstance(text, str | bytes):
        raise ValueError(f"{name} is not text")
    try:
        value = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a JSON object")
    return value


@dataclass(frozen=True)
class KeyFields:
    """The fields of a key that reading a cache depends on."""

    #: Size of a hidden state.
    width: int
    #: Of the stored numbers: float32 or float16.
    dtype: str
    #: ``"0"``, ``"1"``, ... and possibly ``"final_norm"``; or ``"functionals"``.
    layers: tuple[str, ...]
    #: ``"mean"``, ``"std"`` or both.
    poolings: tuple[str, ...]

    @classmethod
    def of(cls, key: Mapping[str, Any]) -> Self:
        """Check a key; raise ValueError if a field is missing or invalid.

        Names of layers are checked because they become names of files.
        """
        for field in ("width", "dtype", "layers", "poolings"):
            if field not in key:
                raise ValueError(f"key has no {field}")
        for field, value in key.items():
            values = value if isinstance(value, list) else [value]
            if not all(each is None or isinstance(each, str | int | float) for each in values):
                raise ValueError(f"{field} in the key is neither a value nor a list of values")
        if not isinstance(key.get("encoder", ""), str):
            raise ValueError("encoder in the key is not text")
        width, layers, poolings = key["width"], key["layers"], key["poolings"]
        if type(width) is not int or not 0 < width <= MAX_WIDTH:
            raise ValueError(f"width is not a whole number from 1 to {MAX_WIDTH}")
        if key["dtype"] not in DTYPES:
            raise ValueError(f"dtype is not among {', '.join(DTYPES)}")
        if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
            raise ValueError(f"layers are not a list of 1 to {MAX_LAYERS} names")
        numbered = layers[:-1] if layers[-1] == FINAL_NORM else layers
        if layers != [FUNCTIONALS] and numbered != [str(n) for n in range(len(numbered))]:
            raise ValueError("layers are not 0, 1, 2, ...")
        if not isinstance(poolings, list) or sorted(poolings, key=str) not in _SOME_POOLINGS:
            raise ValueError(f"poolings are not among {', '.join(POOLINGS)}")
        return cls(width, key["dtype"], tuple(layers), tuple(poolings))


_SOME_POOLINGS = (["mean"], ["std"], ["mean", "std"])


def check_provenance(provenance: Mapping[str, Any]) -> None:
    """Raise ValueError if the versions in a provenance are not an object."""
    if not isinstance(provenance.get("versions", {}), dict):
        raise ValueError("versions in the provenance are not a JSON object")


def check_columns(clips: Table) -> None:
    """Check the clip table: which columns there are, their types, and the values of ``seconds``.

    Raise ValueError if a column is missing or has the wrong type, or a duration is not a number.
    """
    missing = REQUIRED_COLUMNS - clips.keys()
    if missing:
        raise ValueError(f"no column {min(missing)}")
    for name, column in clips.items():
        kinds = _COLUMN_KINDS.get(name, "Uiufb")
        if column.dtype.kind not in kinds:
            raise ValueError(f"column {name} is {column.dtype}, not {_KIND_NAMES[kinds]}")
    if not (np.isfinite(clips["seconds"]) & (clips["seconds"] >= 0)).all():
        raise ValueError("column seconds holds values that are not durations")


_KIND_NAMES = {
    "U": "text",
    "f": "floating-point",
    "iu": "whole numbers",
    "Uiufb": "text or numbers",
}


def check_part(
    metadata: Mapping[str, str] | None,
    tensors: Mapping[str, tuple[str, tuple[int, ...]]],
    key: KeyFields,
) -> list[str]:
    """Check the header of one part of an unfinished cache; return the content hashes of its rows.

    ``tensors`` gives the dtype, as safetensors names it, and the shape of each tensor. Raise
    ValueError if the hashes are not a list of text, or a pooling is missing or has a wrong shape or
    type.
    """
    try:
        hashes = json.loads((metadata or {}).get("sha256", ""))
    except (ValueError, RecursionError):
        hashes = None
    if not isinstance(hashes, list) or not all(isinstance(each, str) for each in hashes):
        raise ValueError("the content hashes are not a list of text")
    expected = ("F32", (len(key.layers), len(hashes), key.width))
    if dict(tensors) != dict.fromkeys(key.poolings, expected):
        raise ValueError(f"the tensors are not {', '.join(key.poolings)} of shape {expected[1]}")
    return hashes
