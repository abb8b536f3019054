"""Audio in, cache of pooled embeddings of every layer out."""

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
from ..display import Displayed, ShortTable, data_frame
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
from .audio import AUDIO_CHECKS, AudioFacts
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
from .decoding import DecodedClip
from .engine import Engine
from .in_order import in_order
from .names import NOT_IDENTIFYING
from .other_caches import caches_beside, copy_rows
from .parts import Parts, read_layer
from .perturbation import Perturbation
from .perturbed_cache import perturbed_path
from .read_ahead import Content, read_ahead
from .recordings import RECORDING, UNCONFIRMED, Table, copies
from .training_record import COLUMN, TrainingRecord, find_contamination


@dataclass(frozen=True, repr=False)
class Extraction(Displayed):
    """What an extraction did; clips are named by their paths."""

    cache: Cache
    #: Clips that were embedded now.
    computed: int
    #: Clips whose embeddings existed already.
    reused: int
    #: Clips that were dropped from an earlier cache in this file.
    removed: tuple[str, ...]
    #: Omitted clips (with ``skip_bad``).
    bad: tuple[BadClipError, ...]
    #: Groups of clips that are identical byte for byte.
    same_bytes: tuple[tuple[str, ...], ...]
    #: Groups of clips that hold the same recording, in any format.
    same_recording: tuple[tuple[str, ...], ...]
    #: Clips that may be copies of another, but could not be read again to be compared.
    unconfirmed: tuple[tuple[str, str], ...]
    #: Parts of a stopped extraction with a wrong checksum, which were computed again.
    damaged_parts: tuple[str, ...] = ()
    #: How many of the reused clips came from each other cache in the folder, by file name.
    copied: Mapping[str, int] = field(default_factory=dict)

    def short_table(self) -> ShortTable:
        """Return what the cache holds, and what was done for it."""
        cache = self.cache
        layers = f"{counted(len(cache.layers), 'layer')} of width {cache.key['width']}"
        pooling = f"{','.join(cache.poolings)} pooling"
        about = f"{cache.path}: {counted(len(cache), 'clip')}, {layers}, {pooling}"
        done = [
            ("computed", self.computed),
            ("reused", self.reused),
            ("removed", len(self.removed)),
            ("omitted", len(self.bad)),
        ]
        return ShortTable(about, ("", "clips"), [(name, str(n)) for name, n in done])

    def to_pandas(self) -> Any:
        """Return the clip table as a pandas.DataFrame, in the order of the embeddings.

        Raise UserError if pandas is not installed.
        """
        return data_frame(dict(self.cache.clips))


def extract(
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
    """Embed every clip and write a cache.

    Parameters
    ----------
    engine : Engine
        Checks and embeds the clips.
    clips : sequence of Clip
        What to embed; each name once.
    out : Path
        The HDF5 file. If it exists with the same key, only clips whose content it lacks are
        computed; a stopped extraction is resumed. Clips that another cache of the same encoder in
        the same folder holds are copied from there. Another revision of the same weights is the
        same encoder; the file keeps the revision that it records.
    provenance : mapping
        JSON values to store beside the numbers.
    skip_bad : bool
        Omit bad clips, instead of stopping before the long computation.
    overwrite : bool
        Start over if ``out``, or its unfinished parts, have another key, and copy nothing from
        other caches.
    drop_removed : bool
        Drop clips that ``out`` holds and that are no longer among ``clips``, instead of refusing.
    shard_clips : int
        Clips up to which ``out`` is a single file; with more it is the index of shards of this
        many. Existing shards stay as they are, and new clips go into new ones.
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
        If ``out`` has another key, or holds clips that are not among ``clips``.
    UserError
        If ``out`` is damaged or no cache, or another extraction is writing it.
    MachineError
        If memory runs out on a single clip, or the disk is full.
    """
    if shard_clips < 1:
        raise UserError(f"--shard-clips {shard_clips}: expected at least 1")
    with _locked(out):
        parts = Parts(out)
        existing, key = _existing(out, parts, engine.key, overwrite)
        unchanged = _unchanged(clips, existing, track)
        if unchanged is None:
            decoded, bad = check_clips(clips, engine, _known_recordings(existing), track)
        else:
            bad = []
            decoded = keep_consistent(unchanged, bad)
        if bad and (not skip_bad or not decoded):
            raise BadClipsError(bad, f"{len(decoded)} can")
        removed = _removed(existing, decoded)
        if removed and not drop_removed:
            raise OtherCacheError(
                f"{out}: holds {counted(len(removed), 'clip')} no longer in the corpus, first "
                f"{removed[0]}; write elsewhere with --out, or drop them with --drop-removed"
            )
        if overwrite and not parts.is_of(key):
            parts.remove()  # only now, when the new computation is sure to begin
        parts.begin(key)
        damaged = parts.drop_damaged(key)
        done = set(existing.clips["sha256"].tolist()) if existing else set()
        done.update(hash_ for _, hashes in parts.hashes() for hash_ in hashes)
        missing = {each.facts.sha256: each for each in decoded if each.facts.sha256 not in done}
        distinct = len({each.facts.sha256 for each in decoded})
        copied = {} if overwrite else _copy_from_others(out, key, parts, missing)
        batches = engine.plan(list(missing.values()))
        try:
            embedded = engine.embed(batches)
            for batch, embeddings in track(embedded, engine.progress, len(batches)):
                parts.add([each.facts.sha256 for each in batch], embeddings)
        finally:
            parts.flush()  # what is computed is kept, whatever happened
        about = {**provenance, "audio_checks": AUDIO_CHECKS}
        table = clip_columns(
            sorted(decoded, key=lambda each: (each.clip.corpus, each.clip.name)), engine.training
        )
        cache = _consolidate(out, key, about, table, existing, parts, shard_clips)
        parts.remove()
        return Extraction(
            cache=cache,
            computed=len(missing),
            reused=distinct - len(missing),
            copied=copied,
            removed=tuple(removed),
            bad=tuple(bad),
            same_bytes=_same_bytes(decoded),
            damaged_parts=tuple(damaged),
            same_recording=tuple(map(tuple, copies(cache.clips))),
            unconfirmed=tuple(
                (each.clip.path, each.unconfirmed_copy_of)
                for each in decoded
                if each.unconfirmed_copy_of
            ),
        )


def extract_perturbed(
    engine: Engine,
    clips: Sequence[Clip],
    cache: Cache,
    perturbation: Perturbation,
    *,
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    shard_clips: int = SHARD_CLIPS,
    track: Track[Any] = no_track,
) -> Extraction:
    """Embed perturbed copies of the clips of a cache, and write a cache of these beside it.

    Clips that the cache does not hold are left out. Copies of clips that it no longer holds are
    dropped, as are copies that were made with another version or another encoder. ``engine`` is
    that of the cache. The other parameters, the result and the errors are those of :func:`extract`;
    UserError is also raised if a clip of the cache is not among ``clips``.
    """
    clip_of = {(clip.corpus, clip.name): clip for clip in clips}
    columns = (cache.clips[name].tolist() for name in ("corpus", "name", "path"))
    wanted = []
    for corpus, name, path in zip(*columns, strict=True):
        if (corpus, name) not in clip_of:
            raise UserError(
                f"{path}: is in {cache.path}, but not among the clips; name the data that the "
                "cache was extracted from with --data or --manifest"
            )
        wanted.append(clip_of[corpus, name])
    embed = partial(
        extract,
        engine.perturbed(perturbation),
        wanted,
        perturbed_path(cache.path, perturbation),
        provenance=provenance,
        drop_removed=True,
        shard_clips=shard_clips,
        track=track,
    )
    try:
        return embed(overwrite=overwrite)
    except OtherCacheError:  # these copies cannot be completed, and the path is for copies alone
        return embed(overwrite=True)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the lock of a cache; explain in one line why that failed, or that memory ran out."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file, such as {out / 'cache.h5'}")
    make_folder(out.parent)
    lock = FileLock(out.with_name(f".{out.name}.lock"), timeout=0)
    try:
        held = lock.acquire()
    except Timeout:
        raise UserError(
            f"{out}: another extraction is writing it; wait for it, or write elsewhere with --out"
        ) from None
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror}); choose another --out, in a folder that "
            "you may write to"
        ) from None
    try:
        with held:
            yield
    except (MemoryError, RuntimeError) as error:
        is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not is_memory and "allocate memory" not in str(error):  # torch's message on a CPU
            raise
        raise MachineError(
            f"{out}: out of memory on a single clip; what is computed is kept: resume with fewer "
            "--jobs or on other --devices, or start over with --max-seconds"
        ) from None


def _copy_from_others(
    out: Path, key: Mapping[str, Any], parts: Parts, missing: dict[str, DecodedClip]
) -> dict[str, int]:
    """Copy missing clips from other caches in the folder, and remove them from ``missing``."""
    copied: dict[str, int] = {}
    for cache in caches_beside(out, key) if missing else ():
        with suppress(UserError):  # it may be rewritten meanwhile
            for hashes, embeddings in copy_rows(cache, key["poolings"], missing.keys()):
                parts.add(hashes, embeddings)
                copied[cache.path.name] = copied.get(cache.path.name, 0) + len(hashes)
                for hash_ in hashes:
                    del missing[hash_]
        if not missing:
            break
    parts.flush()
    return copied


def _removed(existing: Cache | None, decoded: Sequence[DecodedClip]) -> list[str]:
    """Return the paths of the clips in a cache that are no longer in the corpus, by name."""
    if existing is None:
        return []
    current = {(each.clip.corpus, each.clip.name) for each in decoded}
    columns = (existing.clips[name].tolist() for name in ("corpus", "name", "path"))
    rows = zip(*columns, strict=True)
    return [path for corpus, name, path in rows if (corpus, name) not in current]


def _existing(
    out: Path, parts: Parts, key: Mapping[str, Any], overwrite: bool
) -> tuple[Cache | None, Mapping[str, Any]]:
    """Return the existing cache, if it can be used, and the key under which to continue.

    That is the key of the existing cache or parts, which may have another revision of the same
    weights. Refuse to touch what cannot be used.
    """
    try:
        cache = open_cache(out) if out.exists() else None
    except UserError:
        if overwrite:
            return None, key
        raise
    if overwrite:
        return (cache if cache and cache.key == key and not wrong_with(cache) else None), key
    recorded = cache.key if cache else parts.key() or key
    same = {
        name: recorded.get(name, value) if name in NOT_IDENTIFYING else value
        for name, value in key.items()
    }
    for path, theirs in ((out, cache.key if cache else None), (parts.folder, parts.key())):
        if theirs is not None and difference(theirs, same):
            raise OtherCacheError(
                f"{path}: was made with other options: {difference(theirs, key)}; write elsewhere "
                "with --out, or start over with --overwrite"
            )
    wrong = wrong_with(cache) if cache else []
    if wrong:  # its rows would go into the new file, with new checksums
        raise UserError(f"{out}: {'; '.join(wrong)}; start over with --overwrite")
    return cache, same


def _known_recordings(existing: Cache | None) -> dict[str, str]:
    """Return the recording of each clip in a cache, by the hash of its samples."""
    if existing is None or RECORDING not in existing.clips:
        return {}
    if existing.provenance.get("audio_checks") != AUDIO_CHECKS:  # it may have missed copies
        return {}
    columns = (existing.clips[name] for name in ("audio_sha256", RECORDING, UNCONFIRMED))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {samples: recording for samples, recording, unconfirmed in rows if not unconfirmed}


def _unchanged(
    clips: Sequence[Clip], existing: Cache | None, track: Track[Any]
) -> list[DecodedClip] | None:
    """Return clips as the cache describes them; None if it was not made of exactly these bytes.

    The facts of a clip depend on its bytes and the key alone, and the cache has them, so that a
    clip whose hash is in the cache need not be decoded again. Copies are searched among all clips:
    if one clip is new, changed or missing, all are decoded.
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

    def known(current: Iterator[str]) -> Iterator[DecodedClip]:
        for clip, sha256 in zip(clips, current, strict=True):
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
            yield DecodedClip(clip, facts, str(table[RECORDING][row]))

    items = read_ahead(clips, lambda clip: clip.file)
    with closing(in_order(hash_bytes, items, cores(), ahead=16)) as read:  # type: ignore[type-var]
        decoded = list(track(known(read), "hashing clips", len(clips)))
    same = len(decoded) == len(clips) and {each.facts.sha256 for each in decoded} == set(hashes)
    return decoded if same else None


def check_clips(
    clips: Sequence[Clip], engine: Engine, known: Mapping[str, str], track: Track[Any]
) -> tuple[list[DecodedClip], list[BadClipError]]:
    """Decode every clip before the long computation starts, and mark copies.

    ``known`` is as :func:`~serpipe.features.copies.mark_recordings` takes it. Return the usable
    clips, in which no recording occurs with two speakers or emotions, and why the others are not
    usable.
    """
    decoded, bad = [], []
    for result in track(engine.check(clips), "checking clips", len(clips)):
        if isinstance(result, BadClipError):
            bad.append(result)
        else:
            decoded.append(result)
    channels = str(engine.key["channels"])
    decoded = mark_recordings(decoded, known, channels=channels, workers=cores(), track=track)
    return keep_consistent(decoded, bad), bad


def _consolidate(
    out: Path,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    table: Table,
    existing: Cache | None,
    parts: Parts,
    shard_clips: int,
) -> Cache:
    """Write the final file or files, unless the existing one has the same content."""
    if existing and _same_table(existing.clips, table):
        os.utime(out)  # later commands use the newest cache
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
    """Return the row of a cache that each clip keeps, each row for one clip only; -1 for none."""
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
    """Yield the sources of the rows to be written: blocks of the old file, then each part."""

    def matches(hashes: Sequence[str], start: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        pairs = [
            (target, row)
            for row, hash_ in enumerate(hashes, start=start)
            for target in rows_of.get(hash_, ())
        ]
        targets, rows = np.array(pairs, dtype=np.intp).reshape(-1, 2).T
        return targets, rows

    if existing:
        hashes = existing.clips["sha256"].tolist()
        for start in range(0, len(hashes), BLOCK_ROWS):
            targets, rows = matches(hashes[start : start + BLOCK_ROWS], start)
            if len(rows):
                yield targets, partial(existing.read_rows, rows=rows)
    for part, hashes in parts.hashes():
        targets, rows = matches(hashes, 0)
        if len(rows):
            yield targets, partial(_part_rows, part, layers, rows=rows)


def _part_rows(
    part: Path, layers: Sequence[str], pooling: str, layer: str, rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    return read_layer(part, pooling, layers.index(layer))[rows]


def clip_columns(
    decoded: Sequence[DecodedClip], training: TrainingRecord | None
) -> dict[str, NDArray[Any]]:
    """Return the clip table of decoded clips, in their order.

    The column ``contamination`` exists only if the encoder or model was trained on one of the
    clips, on their speakers or on their corpora.
    """
    clips, facts = [each.clip for each in decoded], [each.facts for each in decoded]
    columns: dict[str, NDArray[Any]] = {
        name: np.array([getattr(clip, name) for clip in clips], dtype=str) for name in CLIP_COLUMNS
    }
    columns["speaker_id"] = np.array([clip.speaker_id or clip.speaker for clip in clips], str)
    for name in sorted({name for clip in clips for name in clip.more}):
        columns[name] = _column([clip.more.get(name) for clip in clips])
    for name, kind in (
        ("sha256", str),
        ("seconds", np.float64),
        ("sampling_rate", np.int64),
        ("channels", np.int64),
        ("loudness", np.float64),
        ("audio_sha256", str),
    ):
        columns[name] = np.array([getattr(each, name) for each in facts], dtype=kind)
    contamination = find_contamination(training, columns)
    if (contamination != "").any():
        columns[COLUMN] = contamination
    ids = [each.recording or content_hash(each) for each in decoded]
    columns[RECORDING] = np.array(ids, dtype=str)
    columns[UNCONFIRMED] = np.array([each.unconfirmed_copy_of for each in decoded], dtype=str)
    return columns


def _column(values: Sequence[str | float | None]) -> NDArray[Any]:
    """Return a column that only some corpora have: NaN or empty for the clips of the others."""
    if any(isinstance(value, float) for value in values):
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array([value or "" for value in values], dtype=str)


def _same_table(old: Table, new: Table) -> bool:
    return old.keys() == new.keys() and all(
        np.array_equal(old[name], new[name], equal_nan=new[name].dtype.kind == "f") for name in new
    )


def _same_bytes(decoded: Sequence[DecodedClip]) -> tuple[tuple[str, ...], ...]:
    groups: dict[str, list[str]] = {}
    for each in decoded:
        groups.setdefault(each.facts.sha256, []).append(each.clip.path)
    return tuple(tuple(sorted(paths)) for paths in groups.values() if len(paths) > 1)
