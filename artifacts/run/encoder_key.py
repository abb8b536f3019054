"""Check the entries of an encoder's key that runs and bundles rely on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...features.cache_schema import MAX_WIDTH
from ...schema import from_json


@dataclass(frozen=True)
class EncoderKey:
    """What embeddings depend on, as ``run.json`` and ``bundle.json`` hold it.

    Attributes are those of :class:`~serpipe.features.encoder.EncoderIdentity` and of a cache's key;
    further entries are only shown or compared.
    """

    encoder: str = ""
    revision: str = ""
    model_type: str = ""
    weights_sha256: str = ""
    config_sha256: str = ""
    width: int = 0
    sampling_rate: int = 0
    layers: Sequence[str] = ()
    poolings: Sequence[str] = ()
    precision: str = ""
    dtype: str = ""
    device: str = ""
    channels: str = ""
    max_seconds: int | float | None = None
    trim_decibels: int | float | None = None


def read_encoder_key(key: Mapping[str, Any]) -> EncoderKey:
    """Check the key of an encoder that was read from a file.

    Raise ValueError if an entry is of another type or out of range.
    """
    checked = from_json(EncoderKey, key, ignore_unknown=True)
    if not 0 <= checked.width <= MAX_WIDTH:
        raise ValueError(f"width: {checked.width}; expected 0 to {MAX_WIDTH}")
    return checked
