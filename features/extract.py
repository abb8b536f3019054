"""Audio in, cache of layer-wise pooled embeddings out: once over every clip."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from ..corpora import CLIP_COLUMNS, Clip
from ..display import data_frame, text_table
from ..errors import (
    BadClipError,
    BadClipsError,
    MachineError,
    OtherCacheError,
    UserError,
    counted,
)
from ..files import make_folder
from ..progress import Track, no_track
from ..provenance import cores
from .audio import AUDIO_CHECKS, CHANNEL_POLICY, AudioFacts
from .batching import GPU_BATCH_SECONDS, HeardClip
from .cache import Cache, difference, open_cache, wrong_with
from .cache_rows import BLOCK_ROWS
from .cache_write import (
    SHARD_CLIPS,
    RowSource,
    remove_unused_shards,
    write_cache,
    write_shards,
)
from .copies import content_hash, keep_consistent, mark_recordings
from .encoder import Encoder
from .engine import Engine, local_engine
from .in_order import in_order
from .other_caches import caches_beside, copy_rows
from .parts import Parts, read_layer
from .read_ahead import Content, read_ahead
from .recordings import RECORDING, UNCONFIRMED, copies
from .training_record import COLUMN, TrainingRecord, find_contamination


@dataclass(frozen=True)
class Extraction:
    """What an extraction did.

    Attributes
    ----------
    cache : Cache
        The finished cache.
    computed, reused : int
        Clips that went through the encoder now, and clips whose embeddings were there already.
    copied : dict of str to int
        Of those that were there: how many came from each other cache beside it, by file name.
    removed : tuple of str
        Clips of an earlier cache at the same place that were dropped from it.
    bad : tuple of BadClipError
        Clips left out (with ``skip_bad``).
    damaged_parts : tuple of str
        Parts of a stopped extraction that did not have their checksum: computed again.
    same_bytes : tuple of tuple of str
        Groups of clips (paths) that are byte for byte the same.
    same_recording : tuple of tuple of str
        Groups of clips (paths) that hold the same recording, in whatever bytes.
    unconfirmed : tuple of (str, str)
        Clips (paths) that may be copies of another, which could not be read again to compare them.
    """

    cache: Cache
    computed: int
    reused: int
    removed: tuple[str, ...]
    bad: tuple[BadClipError, ...]
    same_bytes: tuple[tuple[str, ...], ...]
    same_recording: tuple[tuple[str, ...], ...]
    unconfirmed: tuple[tuple[str, str], ...]
    damaged_parts: tuple[str, ...] = ()
    copied: Mapping[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Return what is in the cache, and what was done for it."""
        cache = self.cache
        layers = f"{counted(len(cache.layers), 'layer')} of width {cache.key['width']}"
        pooling = f"{','.join(cache.poolings)} pooling"
        about = f"{cache.path}: {counted(len(cache), 'clip')}, {layers}, {pooling}"
        done = [
            ("computed", self.computed),
            ("reused", self.reused),
            ("removed", len(self.removed)),
            ("left out", len(self.bad)),
        ]
        return f"{about}\n{text_table(('', 'clips'), [(name, str(n)) for name, n in done])}"

    def to_pandas(self) -> Any:
        """Return the clip table of the cache as a data frame of pandas.

        Returns
        -------
        pandas.DataFrame
            A row for each clip, in the order of the embeddings.

        Raises
        ------
        UserError
            If pandas is not installed.
        """
        return data_frame(dict(self.cache.clips))


def extract(
    clips: Sequence[Clip],
    encoders: Sequence[Encoder],
    out: Path,
    *,
    provenance: Mapping[str, Any],
    skip_bad: bool = False,
    overwrite: bool = False,
    drop_removed: bool = False,
    shard_clips: int = SHARD_CLIPS,
    trim_decibels: float | None = None,
    channels: str = CHANNEL_POLICY,
    dtype: str = "float32",
    batch_seconds: float = GPU_BATCH_SECONDS,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> Extraction:
    """Embed every clip and leave a cache.

    Parameters
    ----------
    clips : sequence of Clip
        What to embed; each name once.
    encoders : sequence of Encoder
        Copies of one encoder from :func:`serpipe.features.encoder.load_encoder`, one per GPU; or
        one, on the CPU.
    out : Path
        The HDF5 file. If it is there with the same key, only clips whose content it lacks are
        computed; if an earlier extraction was stopped, it goes on where that stopped. Clips that
        another cache of the same encoder in the same folder holds are copied from there.
    provenance : mapping
        JSON values to store beside the numbers.
    skip_bad : bool
        Leave bad clips out, instead of stopping before the long work.
    overwrite : bool
        Start anew where ``out``, or what is unfinished of it, was made with another key, and take
        nothing from other caches.
    drop_removed : bool
        Drop clips that ``out`` holds and that are no longer among ``clips``, instead of refusing.
    shard_clips : int
        Clips up to which ``out`` is a single file; with more it is the index of shards of as many.
        Shards that are there stay as they are, and new clips go into new ones.
    trim_decibels : float, optional
        Trim silence at the ends of each clip, see :func:`serpipe.features.trim.trim`.
    channels : {"mean", "left", "right"}
        How several channels become one, see :func:`serpipe.features.audio.read_waveform`.
    dtype : {"float32", "float16"}
        Of the stored numbers.
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
    OtherCacheError
        If ``out`` was made with another key, or holds clips that are not among ``clips``.
    UserError
        If ``out`` is damaged or no cache, or another extraction is writing it.
    MachineError
        If memory runs out for a single clip, or the disk is full.
    """
    engine = local_engine(
        encoders,
        trim_decibels=trim_decibels,
        channels=channels,
        dtype=dtype,
        batch_seconds=batch_seconds,
        workers=workers,
    )
    return extract_by(
        engine,
        clips,
        out,
        provenance=provenance,
        skip_bad=skip_bad,
        overwrite=overwrite,
        drop_removed=drop_removed,
        shard_clips=shard_clips,
        track=track,
    )


def extract_by(
    engine: Engine,
    clips: Sequence[Clip],
    out: Path,
    *,
    provenance: Mapping[str, Any],
    skip_bad: bool = False,
    overwrite: bool = False,
    drop_removed: bool = False,
    shard_clips: int = SHARD_CLIPS,
    track: Track[Any] = no_track,
) -> Extraction:
    """Do what :func:`extract` does by an engine, here or elsewhere.

    Parameters
    ----------
    engine : Engine
        What opens and embeds clips.
    clips, out, provenance, skip_bad, overwrite, drop_removed, shard_clips, track
        As :func:`extract` takes them.

    Returns
    -------
    Extraction

    Raises
    ------
    BadClipsError, UserError, MachineError
        As :func:`extract` raises them.
    """
    if shard_clips < 1:
        raise UserError(f"--shard-clips {shard_clips}: expected at least 1")
    with _alone(out):
        key = engine.key
        parts = Parts(out)
        existing = _existing(out, parts, key, overwrite)
        unchanged = _unchanged(clips, existing, track)
        if unchanged is None:
            heard, bad = _listen(clips, engine, _known_recordings(existing), track)
        else:
            bad = []
            heard = keep_consistent(unchanged, bad)
        if bad and (not skip_bad or not heard):
            raise BadClipsError(bad, f"{len(heard)} can")
        removed = _removed(existing, heard)
        if removed and not drop_removed:
            raise OtherCacheError(
                f"{out}: holds {counted(len(removed), 'clip')} no longer in the corpus, first "
                f"{removed[0]}; expected them all, so that nothing computed is lost; "
                "write elsewhere with --out, or drop them with --drop-removed"
            )
        if overwrite and not parts.is_of(key):
            parts.remove()  # only now, when the new work is sure to begin
        parts.begin(key)
        damaged = parts.drop_damaged(key)
        done = set(existing.clips["sha256"].tolist()) if existing else set()
        done.update(hash_ for _, hashes in parts.hashes() for hash_ in hashes)
        missing = {h.facts.sha256: h for h in heard if h.facts.sha256 not in done}
        distinct = len({h.facts.sha256 for h in heard})
        copied = {} if overwrite else _copy_from_others(out, key, parts, missing)
        batches = engine.plan(list(missing.values()))
        try:
            work = engine.embed(batches)
            for batch, embeddings in track(work, engine.progress, len(batches)):
                parts.add([h.facts.sha256 for h in batch], embeddings)
        finally:
            parts.flush()  # whatever happened: what is computed is kept
        about = {**provenance, "audio_checks": AUDIO_CHECKS}
        cache = _consolidate(out, key, about, heard, engine.training, existing, parts, shard_clips)
        parts.remove()
        return Extraction(
            cache=cache,
            computed=len(missing),
            reused=distinct - len(missing),
            copied=copied,
            removed=tuple(removed),
            bad=tuple(bad),
            same_bytes=_same_bytes(heard),
            damaged_parts=tuple(damaged),
            same_recording=tuple(map(tuple, copies(cache.clips))),
            unconfirmed=tuple(
                (h.clip.path, h.unconfirmed_copy_of) for h in heard if h.unconfirmed_copy_of
            ),
        )


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the lock of a cache; tell in one line why it cannot be had, or that memory ran out."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; expected a file name such as {out / 'cache.h5'}")
    make_folder(out.parent)
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        held = lock.acquire()
    except Timeout:
        raise UserError(
            f"{out}: another extraction is writing it; expected one at a time; "
            "wait for it, or write elsewhere with --out"
        ) from None
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); expected a folder that you may write "
            "to; choose another --out"
        ) from None
    try:
        with held:
            yield
    except (MemoryError, RuntimeError) as error:
        told = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not told and "allocate memory" not in str(error):  # torch's words on a CPU
            raise
        raise MachineError(
            f"{out}: memory does not hold a single clip; expected it to; what is computed is kept: "
            "go on with fewer --jobs or on other --devices, or start anew with --max-seconds"
        ) from None


def _copy_from_others(
    out: Path, key: Mapping[str, Any], parts: Parts, missing: dict[str, HeardClip]
) -> dict[str, int]:
    """Take what is missing from other caches in the folder, and remove it from what is missing."""
    copied: dict[str, int] = {}
    for cache in caches_beside(out, key) if missing else ():
        with suppress(UserError):  # it may be written anew meanwhile
            for hashes, embeddings in copy_rows(cache, key["poolings"], missing.keys()):
                parts.add(hashes, embeddings)
                copied[cache.path.name] = copied.get(cache.path.name, 0) + len(hashes)
                for hash_ in hashes:
                    del missing[hash_]
        if not missing:
            break
    parts.flush()
    return copied


def _removed(existing: Cache | None, heard: Sequence[HeardClip]) -> list[str]:
    """Return the paths of clips in the cache of whose names none is in the corpus now."""
    if existing is None:
        return []
    now = {(h.clip.corpus, h.clip.name) for h in heard}
    table = existing.clips
    named = zip(
        table["corpus"].tolist(), table["name"].tolist(), table["path"].tolist(), strict=True
    )
    return [path for corpus, name, path in named if (corpus, name) not in now]


def _existing(out: Path, parts: Parts, key: Mapping[str, Any], overwrite: bool) -> Cache | None:
    """Return the cache that is there, if it is of use; refuse to touch one that is not."""
    if overwrite:
        try:
            cache = open_cache(out) if out.exists() else None
        except UserError:
            return None
        return cache if cache and cache.key == key and not wrong_with(cache) else None
    cache = open_cache(out) if out.exists() else None
    for what, theirs in ((out, cache.key if cache else None), (parts.folder, parts.key())):
        differs = difference(theirs, key) if theirs is not None else None
        if differs:
            raise OtherCacheError(
                f"{what}: was made otherwise: {differs}; expected the same key; "
                "write elsewhere with --out, or start anew with --overwrite"
            )
    wrong = wrong_with(cache) if cache else []
    if wrong:  # its rows would go into the new file, with new checksums
        raise UserError(f"{out}: {'; '.join(wrong)}; start anew with --overwrite")
    return cache


def _known_recordings(existing: Cache | None) -> dict[str, str]:
    """Return the recording of each clip in the cache whose copies have been looked for."""
    if existing is None or RECORDING not in existing.clips:
        return {}
    columns = (existing.clips[name] for name in ("audio_sha256", RECORDING, UNCONFIRMED))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {samples: recording for samples, recording, unconfirmed in rows if not unconfirmed}


def _unchanged(
    clips: Sequence[Clip], existing: Cache | None, track: Track[Any]
) -> list[HeardClip] | None:
    """Return clips as the cache knows them, if it was made of exactly these bytes.

    What decoding tells depends on the bytes and the key alone, and the cache has it: a clip whose
    hash is in the cache need not be decoded again. Copies are searched among all clips, so that one
    new, changed or missing clip is reason enough to open all of them.

    Parameters
    ----------
    clips : sequence of Clip
        What to embed.
    existing : Cache or None
        What is there, made with the same key.
    track : callable
        Shows progress.

    Returns
    -------
    list of HeardClip or None
        In the order of the clips; None if any clip must be opened.
    """
    if existing is None or len(clips) != len(existing):
        return None
    if existing.provenance.get("audio_checks") != AUDIO_CHECKS:
        return None
    table = existing.clips
    if not {RECORDING, UNCONFIRMED, "audio_sha256", "loudness", "channels"} <= set(table):
        return None  # made by an earlier version
    if (table[UNCONFIRMED] != "").any():  # copies that could not be compared may be readable now
        return None
    hashes = table["sha256"].tolist()
    row_of = {each: row for row, each in enumerate(hashes)}

    def hash_bytes(item: tuple[Clip, Content]) -> str:
        try:
            return hashlib.sha256(item[1]()).hexdigest()
        except BadClipError:
            return ""

    def known(hashes_now: Iterator[str]) -> Iterator[HeardClip]:
        for clip, sha256 in zip(clips, hashes_now, strict=True):
            row = row_of.get(sha256)
            if row is None:
                return
            rate, seconds = int(table["sampling_rate"][row]), float(table["seconds"][row])
            facts = AudioFacts(
                sha256,
                rate,
                int(table["channels"][row]),
                round(seconds * rate),
                str(table["audio_sha256"][row]),
                float(table["loudness"][row]),
            )
            yield HeardClip(clip, facts, str(table[RECORDING][row]))

    items = read_ahead(clips, lambda clip: clip.file)
    with closing(in_order(hash_bytes, items, cores(), ahead=16)) as read:  # type: ignore[type-var]
        found = list(track(known(read), "hashing clips", len(clips)))
    same = len(found) == len(clips) and {each.facts.sha256 for each in found} == set(hashes)
    return found if same else None


def _listen(
    clips: Sequence[Clip], engine: Engine, known: Mapping[str, str], track: Track[Any]
) -> tuple[list[HeardClip], list[BadClipError]]:
    """Open every clip before the long work starts."""
    heard, bad = [], []
    for result in track(engine.hear(clips), "checking clips", len(clips)):
        if isinstance(result, BadClipError):
            bad.append(result)
        else:
            heard.append(result)
    heard = mark_recordings(
        heard, known, channels=str(engine.key["channels"]), workers=cores(), track=track
    )
    return keep_consistent(heard, bad), bad


def _consolidate(
    out: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    heard: Sequence[HeardClip],
    training: TrainingRecord | None,
    existing: Cache | None,
    parts: Parts,
    shard_clips: int,
) -> Cache:
    """Write the final file or files, unless what is there says the same."""
    ordered = sorted(heard, key=lambda h: (h.clip.corpus, h.clip.name))
    table = clip_columns(ordered, training)
    if existing and _same_table(existing.clips, table):
        os.utime(out)  # the newest is what the last command said
    else:
        hashes = table["sha256"].tolist()
        kept = (existing, _kept(existing, hashes)) if existing and existing.shards else None
        rows_of: dict[str, list[int]] = {}  # more than one where the same bytes have two names
        for row, hash_ in enumerate(hashes):
            if kept is None or kept[1][row] < 0:
                rows_of.setdefault(hash_, []).append(row)
        sources = _row_sources(rows_of, key["layers"], existing, parts)
        if kept is None and len(hashes) <= shard_clips:
            write_cache(out, key, provenance, table, sources)
        else:
            write_shards(out, key, provenance, table, sources, shard_clips, kept)
    cache = open_cache(out)
    remove_unused_shards(cache)
    return cache


def _kept(existing: Cache, hashes: Sequence[str]) -> NDArray[np.intp]:
    """Return which row of a cache each clip keeps, each row for one clip only; -1 for none."""
    free: dict[str, list[int]] = {}
    for row, hash_ in enumerate(existing.clips["sha256"].tolist()):
        free.setdefault(hash_, []).append(row)
    return np.array([free[h].pop() if free.get(h) else -1 for h in hashes], np.intp)


def _row_sources(
    rows_of: Mapping[str, Sequence[int]],
    layers: Sequence[str],
    existing: Cache | None,
    parts: Parts,
) -> Iterator[RowSource]:
    """Yield where rows that are to be written come from: blocks of the old file, then each part."""

    def placed(hashes: Sequence[str], start: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        pairs = [
            (row, position)
            for position, hash_ in enumerate(hashes, start=start)
            for row in rows_of.get(hash_, ())
        ]
        targets, positions = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        return targets, positions

    if existing:
        hashes = existing.clips["sha256"].tolist()
        for start in range(0, len(hashes), BLOCK_ROWS):
            targets, rows = placed(hashes[start : start + BLOCK_ROWS], start)
            if len(rows):
                yield targets, partial(existing.rows, rows=rows)
    for part, hashes in parts.hashes():
        targets, rows = placed(hashes, 0)
        if len(rows):
            yield targets, partial(_part_rows, part, layers, rows=rows)


def _part_rows(
    part: Path, layers: Sequence[str], pooling: str, layer: str, rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    return read_layer(part, pooling, layers.index(layer))[rows]


def clip_columns(
    heard: Sequence[HeardClip], training: TrainingRecord | None
) -> dict[str, NDArray[Any]]:
    """Return the clip table of opened clips.

    Parameters
    ----------
    heard : sequence of HeardClip
        The clips.
    training : TrainingRecord or None
        What the model that they are for was trained on.

    Returns
    -------
    dict of str to ndarray, shape (n_clips,)
        By column, in the order of the clips. ``contamination`` is among them only if the model was
        trained on one of the clips, on their speakers or on their corpora.
    """
    columns: dict[str, NDArray[Any]] = {
        name: np.array([getattr(h.clip, name) for h in heard], dtype=str) for name in CLIP_COLUMNS
    }
    columns["speaker_id"] = np.array([h.clip.speaker_id or h.clip.speaker for h in heard], str)
    for name in sorted({name for h in heard for name in h.clip.more}):
        columns[name] = _column([h.clip.more.get(name) for h in heard])
    columns["sha256"] = np.array([h.facts.sha256 for h in heard], dtype=str)
    columns["seconds"] = np.array([h.facts.seconds for h in heard], dtype=np.float64)
    columns["sampling_rate"] = np.array([h.facts.sampling_rate for h in heard], dtype=np.int64)
    columns["channels"] = np.array([h.facts.channels for h in heard], dtype=np.int64)
    columns["loudness"] = np.array([h.facts.loudness for h in heard], dtype=np.float64)
    columns["audio_sha256"] = np.array([h.facts.audio_sha256 for h in heard], dtype=str)
    contamination = find_contamination(training, columns)
    if (contamination != "").any():
        columns[COLUMN] = contamination
    columns[RECORDING] = np.array([h.recording or content_hash(h) for h in heard], dtype=str)
    columns[UNCONFIRMED] = np.array([h.unconfirmed_copy_of for h in heard], dtype=str)
    return columns


def _column(values: Sequence[str | float | None]) -> NDArray[Any]:
    """Return what only some corpora tell: NaN or nothing for the clips of the others."""
    if any(isinstance(value, float) for value in values):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array([value or "" for value in values], dtype=str)


def _same_table(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]]) -> bool:
    return old.keys() == new.keys() and all(
        np.array_equal(old[name], new[name], equal_nan=new[name].dtype.kind == "f") for name in new
    )


def _same_bytes(heard: Sequence[HeardClip]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for h in heard:
        groups.setdefault(h.facts.sha256, []).append(h.clip.path)
    return tuple(tuple(sorted(paths)) for paths in groups.values() if len(paths) > 1)
