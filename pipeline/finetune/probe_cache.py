"""The embeddings for the frozen probe of a fine-tuned encoder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...corpora.data import Data
from ...errors import OtherCacheError
from ...features.encoder import load_encoder
from ...features.engine import local_engine
from ...features.extract import extract
from ...features.names import cache_name
from ...progress import Track, no_track


def extract_for_probe(
    data: Data,
    encoder: str,
    revision: str | None,
    folder: Path,
    *,
    devices: Sequence[str] = ("cpu",),
    provenance: Mapping[str, Any],
    skip_bad: bool = False,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> Path:
    """Extract embeddings into the usual cache of the data and encoder; what it has is reused.

    Where the cache of that name has other contents (other poolings, clips, or another machine), it
    is left alone, and another is made in the folder ``probes`` beside it. Return the cache.
    ``encoder`` and ``revision`` are as for :func:`~serpipe.features.encoder.load_encoder`, the
    other options as for :func:`~serpipe.features.extract.extract`. Raise BadClipsError if clips
    cannot be used, unless ``skip_bad``; UserError if the cache is damaged or being written.
    """
    encoders = [load_encoder(encoder, revision=revision, device=device) for device in devices]
    name = cache_name(data.name, encoders[0].identity.encoder)

    def fill(cache: Path, *, is_ours: bool) -> Path:
        extract(
            local_engine(encoders, workers=workers),
            data.clips,
            cache,
            provenance={**data.provenance, **provenance},
            skip_bad=skip_bad,
            overwrite=is_ours,
            drop_removed=is_ours,
            track=track,
        )
        return cache

    try:
        return fill(folder / name, is_ours=False)
    except OtherCacheError:
        return fill(folder / "probes" / name, is_ours=True)
