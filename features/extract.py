"""Audio in, cache of layer-wise pooled embeddings out: once over every clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from .. import __version__
from ..corpora import CLIP_COLUMNS, Clip
from ..errors import BadClipError, BadClipsError, UserError
from ..progress import Track, no_track
from .audio import CHANNEL_POLICY, RESAMPLER, check_length, read_waveform
from .batching import GPU_BATCH_SECONDS, HeardClip, embed_batches, in_order, plan
from .cache import Cache, difference, open_cache, write_cache
from .encoder import Encoder, identity_fields
from .shards import Shards, read_layer


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    cache : Cache
        The finished cache.
    computed, reused : int
        Clips that went through the encoder now, and clips whose embeddings were there already.
    removed : int
        Clips of an earlier cache at the same place that are no longer in the corpus.
    bad : tuple of BadClipError
        Clips left out (with ``skip_bad``).
    same_bytes : tuple of tuple of str
        Groups of clips (paths) that are byte for byte the same.
    """

    cache: Cache
    computed: int
    reused: int
    removed: int
    bad: tuple[BadClipError, ...]
    same_bytes: tuple[tuple[str, ...], ...]


def extract(
    clips: Sequence[Clip],
    encoder: Encoder,
    out: Path,
    *,
    provenance: Mapping[str, Any],
    skip_bad: bool = False,
    overwrite: bool = False,
    batch_seconds: float = GPU_BATCH_SECONDS,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> Extraction:
    """Embed every clip and leave a cache.

    Parameters
    ----------
    clips : sequence of Clip
        What to embed; each name once.
    encoder : Encoder
        From :func:`serpipe.features.encoder.load_encoder`.
    out : Path
        The HDF5 file. If it is there with the same key, only clips whose content it lacks are
        computed; if an earlier extraction was stopped, it goes on where that stopped.
    provenance : mapping
        JSON values to store beside the numbers.
    skip_bad : bool
        Leave bad clips out, instead of stopping before the long work.
    overwrite : bool
        Start anew where ``out`` was made with another key.
    batch_seconds : float
        Seconds of audio that share a batch on a GPU. On a CPU each clip is computed alone.
    workers : int
        Threads.
    track : callable
        Shows progress.

    Returns
    -------
    Extraction

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If ``out`` holds something else, or another extraction is writing it.
    """
    key = cache_key(encoder)
    shards = Shards(out)
    existing = _existing(out, shards, key, overwrite)
    heard, bad = _listen(clips, encoder, workers, track)
    if bad and not skip_bad:
        raise BadClipsError(bad, usable=len(heard))
    if not heard:
        raise BadClipsError(bad, usable=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    shards.begin(key)
    try:
        with FileLock(shards.folder / "lock", timeout=0):
            shards.begin(key)  # again: whoever held the lock before may have removed the folder
            sources = _sources(existing, shards)
            missing = {h.facts.sha256: h for h in heard if h.facts.sha256 not in sources}
            cpu = encoder.device.type == "cpu"
            batches = plan(missing.values(), 0.0 if cpu else batch_seconds)
            try:
                work = embed_batches(encoder, batches, workers)
                for batch, embeddings in track(work, "embedding clips", len(batches)):
                    shards.add([h.facts.sha256 for h in batch], embeddings)
            finally:
                shards.flush()  # whatever happened: what is computed is kept
            cache = _consolidate(out, key, provenance, heard, existing, shards)
            shards.remove()
    except Timeout:
        raise UserError(
            f"{out}: another extraction is writing it; expected one at a time; "
            "wait for it, or write elsewhere with --out"
        ) from None
    before = set(existing.clips["sha256"].tolist()) if existing else set()
    return Extraction(
        cache=cache,
        computed=len(missing),
        reused=len({h.facts.sha256 for h in heard}) - len(missing),
        removed=len(before - {h.facts.sha256 for h in heard}),
        bad=tuple(bad),
        same_bytes=_same_bytes(heard),
    )


def cache_key(encoder: Encoder) -> dict[str, Any]:
    """Return all that the numbers of a cache depend on, besides the clips' content.

    Parameters
    ----------
    encoder : Encoder
        What will compute them.

    Returns
    -------
    dict
        JSON values.
    """
    device = encoder.device
    is_cuda = device.type == "cuda"
    return {
        **identity_fields(encoder.identity),
        "poolings": list(encoder.pooler.poolings),
        "channels": CHANNEL_POLICY,
        "resampler": RESAMPLER,
        "precision": "float32",
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "serpipe": __version__,
    }


def _existing(out: Path, shards: Shards, key: Mapping[str, Any], overwrite: bool) -> Cache | None:
    """Return the cache that is there, if it is of use; refuse to touch one that is not."""
    if overwrite:
        shards.remove()
        return None
    cache = open_cache(out) if out.exists() else None
    for what, theirs in ((out, cache.key if cache else None), (shards.folder, shards.key())):
        differs = difference(theirs, key) if theirs is not None else None
        if differs:
            raise UserError(
                f"{what}: was made otherwise: {differs}; expected the same key; "
                "write elsewhere with --out, or start anew with --overwrite"
            )
    return cache


def _listen(
    clips: Sequence[Clip], encoder: Encoder, workers: int, track: Track[Any]
) -> tuple[list[HeardClip], list[BadClipError]]:
    """Open every clip before the long work starts."""
    front_end = encoder.front_end

    def hear(clip: Clip) -> HeardClip | BadClipError:
        try:
            waveform, facts = read_waveform(clip.file, front_end.sampling_rate)
            check_length(
                clip.file,
                len(waveform),
                front_end.sampling_rate,
                front_end.minimum_samples,
                front_end.maximum_samples,
            )
        except BadClipError as error:
            return error
        return HeardClip(clip, facts)

    heard, bad = [], []
    for result in track(in_order(hear, clips, workers, ahead=64), "checking clips", len(clips)):
        if isinstance(result, BadClipError):
            bad.append(result)
        else:
            heard.append(result)
    return heard, bad


def _sources(existing: Cache | None, shards: Shards) -> dict[str, tuple[Path | None, int]]:
    """Return where the embeddings of each content hash stand: a part (or the cache) and a row."""
    sources: dict[str, tuple[Path | None, int]] = {}
    if existing:
        sources.update((h, (None, row)) for row, h in enumerate(existing.clips["sha256"].tolist()))
    for part, hashes in shards.hashes():
        sources.update((h, (part, row)) for row, h in enumerate(hashes))
    return sources


def _consolidate(
    out: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    heard: Sequence[HeardClip],
    existing: Cache | None,
    shards: Shards,
) -> Cache:
    """Write the final file, unless the one that is there says the same."""
    ordered = sorted(heard, key=lambda h: (h.clip.corpus, h.clip.name))
    table = _table(ordered)
    if existing and _same_table(existing.clips, table):
        return existing
    sources = _sources(existing, shards)
    # Rows by the file they come from, so that each file is read once per layer.
    by_file: dict[Path | None, tuple[list[int], list[int]]] = {}
    for row, heard_clip in enumerate(ordered):
        part, source_row = sources[heard_clip.facts.sha256]
        targets, source_rows = by_file.setdefault(part, ([], []))
        targets.append(row)
        source_rows.append(source_row)
    position = {layer: number for number, layer in enumerate(key["layers"])}

    def rows(pooling: str, layer: str) -> NDArray[np.float32]:
        filled = np.empty((len(ordered), key["width"]), dtype=np.float32)
        for part, (targets, source_rows) in by_file.items():
            if part is not None:
                values = read_layer(part, pooling, position[layer])
            elif existing is not None:
                values = existing.embeddings(layer, pooling)
            filled[targets] = values[source_rows]
        return filled

    write_cache(out, key, provenance, table, rows)
    return open_cache(out)


def _table(heard: Sequence[HeardClip]) -> dict[str, NDArray[Any]]:
    columns: dict[str, NDArray[Any]] = {
        name: np.array([getattr(h.clip, name) for h in heard], dtype=str) for name in CLIP_COLUMNS
    }
    columns["sha256"] = np.array([h.facts.sha256 for h in heard], dtype=str)
    columns["seconds"] = np.array([h.facts.seconds for h in heard], dtype=np.float64)
    columns["sampling_rate"] = np.array([h.facts.sampling_rate for h in heard], dtype=np.int64)
    columns["channels"] = np.array([h.facts.channels for h in heard], dtype=np.int64)
    return columns


def _same_table(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]]) -> bool:
    return old.keys() == new.keys() and all(np.array_equal(old[name], new[name]) for name in new)


def _same_bytes(heard: Sequence[HeardClip]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for h in heard:
        groups.setdefault(h.facts.sha256, []).append(h.clip.path)
    return tuple(tuple(sorted(paths)) for paths in groups.values() if len(paths) > 1)
