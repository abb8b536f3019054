"""The frozen probe that a training is compared with: extract, then fit the linear head."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...corpora.data import Data
from ...errors import OtherCacheError
from ...features.cache import open_cache
from ...features.encoder import load_encoder
from ...features.extract import extract
from ...pipeline.heads import find_heads, read_grids
from ...pipeline.protocol import Protocol, is_regression
from ...pipeline.ratings import Ratings
from ...progress import Track, no_track
from .latest import CACHES
from .record_fit import record_run


def make_probe(
    found: Data,
    encoder: str,
    revision: str | None,
    protocol: Protocol,
    *,
    ratings: Ratings | None = None,
    devices: Sequence[str] = ("cpu",),
    provenance: Mapping[str, Any],
    skip_bad: bool = False,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> Path:
    """Do what ``serpipe extract`` and ``serpipe fit`` do; what is there is not done again.

    The head is logistic regression, or ridge regression of ratings. Where the cache of this name
    has other contents, another is made in a folder beside.

    Parameters
    ----------
    found : Data
        The clips.
    encoder, revision : str
        As :func:`~serpipe.features.encoder.load_encoder` takes them.
    protocol : Protocol
        Target, labels, split and seed.
    ratings : Ratings, optional
        Of the target, from a file of their own.
    devices : sequence of str
        Where the encoder runs.
    provenance : mapping
        JSON values to store beside the results.
    skip_bad : bool
        Leave bad clips out.
    jobs : int
        Threads and processes.
    track : callable
        Shows progress.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If the clips do not fit the protocol, or the cache is damaged or being written.
    """
    loaded = [load_encoder(encoder, revision=revision, device=device) for device in devices]
    name = f"{found.name}-{loaded[0].identity.encoder.replace('/', '--')}.h5"

    def fill(cache: Path, *, is_ours: bool) -> Path:
        extract(
            found.clips,
            loaded,
            cache,
            provenance={**found.provenance, **provenance},
            skip_bad=skip_bad,
            overwrite=is_ours,
            drop_removed=is_ours,
            workers=jobs,
            track=track,
        )
        return cache

    there = CACHES / name
    try:
        cache = fill(there, is_ours=False)
    except OtherCacheError:
        # It was made with other poolings, on another machine or of more clips: it is left alone.
        cache = fill(CACHES / "probes" / name, is_ours=True)
    opened = open_cache(cache)
    regressed = is_regression(opened.clips, protocol, ratings)
    head, task = ("ridge", "regression") if regressed else ("lr", "classification")
    heads = find_heads(head, task)
    return record_run(
        opened,
        heads,
        read_grids(heads, []),
        protocol,
        ratings=ratings,
        provenance=provenance,
        jobs=jobs,
        track=track,
    )
