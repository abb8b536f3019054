"""Record the frozen probe that a fine-tuned model is compared with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...corpora.data import Data
from ...features.cache import open_cache
from ...pipeline.finetune.probe_cache import extract_for_probe
from ...pipeline.heads import find_heads, read_grids
from ...pipeline.options import Protocol
from ...pipeline.plan import is_regression
from ...pipeline.ratings import Ratings
from ...pipeline.votes import Votes
from ...progress import Track, no_track
from .latest import CACHES
from .record_fit import record_run


def record_probe(
    data: Data,
    encoder: str,
    revision: str | None,
    protocol: Protocol,
    *,
    ratings: Ratings | Votes | None = None,
    devices: Sequence[str] = ("cpu",),
    provenance: Mapping[str, Any],
    skip_bad: bool = False,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> Path:
    """Do what ``serpipe extract`` and ``serpipe fit`` do, with ``lr``, or ``ridge`` for ratings.

    What already exists is reused. Parameters and errors are those of :func:`extract_for_probe` and
    :func:`~serpipe.artifacts.run.record_fit.record_run`. Return the run's folder.
    """
    cache = open_cache(
        extract_for_probe(
            data, encoder, revision, CACHES, devices=devices, provenance=provenance,
            skip_bad=skip_bad, workers=jobs, track=track,
        )
    )  # fmt: skip
    regressed = is_regression(cache.clips, protocol, ratings)
    head, task = ("ridge", "regression") if regressed else ("lr", "classification")
    heads = find_heads(head, task)
    grids = read_grids(heads, [])
    return record_run(
        cache, heads, grids, protocol, ratings=ratings, provenance=provenance, jobs=jobs,
        track=track,
    )  # fmt: skip
