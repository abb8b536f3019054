"""The entries of an encoder's key that runs and bundles rely on, checked in one place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...features.cache_schema import MAX_WIDTH
from ...schema import from_json


@dataclass(frozen=True)
class EncoderKey:
    """What an encoder's embeddings depend on, as ``run.json`` and ``bundle.json`` hold it.

    Other entries are only shown or compared. Attributes are those of
    :class:`~serpipe.features.encoder.EncoderIdentity` and of the key of a cache.
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
    """Check the key of an encoder that comes from a file.

    Parameters
    ----------
    key : mapping
        JSON values.

    Returns
    -------
    EncoderKey

    Raises
    ------
    ValueError
        If an entry is of another type or out of range.
    """
    found = from_json(EncoderKey, key, ignore_unknown=True)
    if not 0 <= found.width <= MAX_WIDTH:
        raise ValueError(f"width: {found.width}; expected 0 to {MAX_WIDTH}")
    return found
