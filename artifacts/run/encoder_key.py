"""Check the entries of an encoder's key that runs and bundles rely on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...features.cache_schema import MAX_WIDTH
from ...features.names import HUB_ID, POOLINGS
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


def encoder_parts(key: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], list[str]]]:
    """Return the key of each encoder, and what its layers are called where several are joined."""
    parts = key.get("joined")
    if not parts:
        return [(key, list(key.get("layers", ())))]
    names, named = list(key["layers"]), []
    for part in parts:
        count = len(part["layers"])
        named.append((part, names[:count]))
        names = names[count:]
    return named


def is_on_hub(key: Mapping[str, Any]) -> bool:
    """Return whether an encoder is a model of the hub, neither a local folder nor built in."""
    is_elsewhere = key.get("revision") in ("local", "built-in")
    return not is_elsewhere and bool(HUB_ID.fullmatch(str(key.get("encoder"))))


def poolings_of(key: Mapping[str, Any], pooling: str) -> list[str]:
    """Return those of some poolings, joined by commas, that the embeddings of an encoder have."""
    return [each for each in pooling.split(",") if each in key.get("poolings", POOLINGS)]


def read_encoder_key(key: Mapping[str, Any]) -> EncoderKey:
    """Check the key of an encoder that was read from a file.

    Raise ValueError if an entry is of another type or out of range.
    """
    checked = from_json(EncoderKey, key, ignore_unknown=True)
    if not 0 <= checked.width <= MAX_WIDTH:
        raise ValueError(f"width: {checked.width}; expected 0 to {MAX_WIDTH}")
    if "joined" in key:
        joined = from_json(list[dict[str, Any]], key["joined"])
        parts = [read_encoder_key(part) for part in joined if "joined" not in part]
        layers = [layer for part in parts for layer in part.layers]
        if len(parts) < len(joined) or len(layers) != len(checked.layers):
            raise ValueError("joined: its layers are not those of the encoders")
    return checked
