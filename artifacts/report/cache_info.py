"""Describe the content of a cache."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...errors import counted
from ...features.cache import Cache
from ...features.recordings import copies
from ...pipeline.speakers import speaker_ids


def describe(cache: Cache) -> Iterator[tuple[str, str]]:
    """Yield names and values: of the data, of every field of the key, and of the provenance."""
    clips = cache.clips
    yield "file", f"{cache.path} ({_mebibytes(cache.path)})"
    used = np.bincount(cache.row_map.shard_of)
    for shard, n_clips in zip(cache.shards, used.tolist(), strict=False):  # none if one file
        text = counted(n_clips, "clip")
        if n_clips < shard.n_rows:
            text += f" in {counted(shard.n_rows, 'row')}"
        yield f"shard {shard.number}", f"{shard.path} ({_mebibytes(shard.path)}), {text}"
    yield "corpus", str(cache.provenance.get("corpus", ""))
    yield "licence", str(cache.provenance.get("licence", ""))
    hours = clips["seconds"].sum() / 3600
    speakers = counted(len(set(speaker_ids(clips).tolist())), "speaker")
    yield "clips", f"{len(cache)}, {hours:.2f} hours, {speakers}"
    same = copies(clips)
    yield (
        "copies",
        f"{sum(map(len, same))} clips, of {counted(len(same), 'recording')}" if same else "none",
    )
    several = len(set(clips["corpus"].tolist())) > 1 and "shared_emotion" in clips
    for column in ("emotion", "shared_emotion", "sex") if several else ("emotion", "sex"):
        counts = Counter(clips[column].tolist())
        yield column, ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    for name, value in cache.key.items():
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    yield "made by", str(cache.provenance.get("command", ""))


def _mebibytes(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
