"""Extract embeddings: ``serpipe.extract``."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, counted
from ..features.names import cache_name
from ..features.options import ExtractOptions
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location, Remote, as_location
from .shared import (
    addresses,
    provenance_of_call,
    thread_count,
    with_typed_errors,
    workers,
)

if TYPE_CHECKING:
    from ..features.extract import Extraction


@with_typed_errors
def extract(
    data: str | Location | Sequence[str | Location] = (),
    options: ExtractOptions = ExtractOptions(),
    *,
    manifest: str | Location | None = None,
    augment: Sequence[str] = (),
    out: str | Location | None = None,
    jobs: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    drop_removed: bool = False,
    shard_clips: int = 250_000,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "Extraction":
    """Run a frozen encoder once over every clip and cache the pooled hidden states of every layer.

    A second run computes only what is missing, and a stopped run resumes where it stopped.

    Parameters
    ----------
    data : str, Path or sequence of them
        Folder of a corpus, which is recognised by the names of its clips; or ``CORPUS=DIR``; or
        ``sample`` (the default), 192 clips that ship with serpipe. Several are joined. With a
        manifest: the folder that its paths are relative to. A folder may be in an object store:
        ``s3://BUCKET/FOLDER``.
    options : ExtractOptions
        The encoder, and how clips are decoded, embedded and stored.
    manifest : str or Path, optional
        A table of any labelled clips: path, speaker, and columns to predict. Or a Hugging
        Face dataset, as a saved folder or ``hf:OWNER/NAME``, or the folder of an audformat
        database.
    augment : sequence of str
        Also cache perturbed copies of all clips, in files beside ``out``, for ``serpipe fit
        --augment`` and ``serpipe robustness``: noise:DB, telephone, mp3:KBPS, reverb:S, gain:DB,
        clip:PERCENT or shorter:S. Several values are joined by commas: noise:20,10.
    out : str or Path, optional
        HDF5 file to write; by default ``features/cache/CORPUS-ENCODER.h5``. A file in an object
        store (``s3://BUCKET/FILE.h5``) is written on this machine first and then uploaded.
    jobs : int, optional
        Number of threads; by default all available cores.
    skip_bad : bool
        Skip clips that cannot be used, and list them.
    overwrite : bool
        Start over if ``out`` was made with other options.
    drop_removed : bool
        Drop clips from the cache that are no longer in the corpus.
    shard_clips : int
        Write a cache of more clips than this as shard files of this many clips each, under one
        index. Existing shards are kept.
    cluster : str, optional
        Dask workers to compute on: ``local:N``, ``tcp://HOST:PORT`` or a file ``jobqueue.yaml``.
        The numbers are the same. Needs ``serpipe[cluster]``.
    provenance : mapping, optional
        JSON values to store with the results; by default this call, all versions and the machine.
    track : callable
        Shows progress, such as :func:`serpipe.progress.track`.
    say : callable
        Takes lines of text that report progress, such as ``print``.

    Returns
    -------
    Extraction
        With the open ``cache``; its file is ``cache.path``.

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If an option is invalid, or ``out`` has other contents.
    MachineError
        If memory or disk space runs out, or the hub cannot be reached.

    Examples
    --------
    >>> import serpipe
    >>> options = serpipe.ExtractOptions("whisper-tiny.en")
    >>> done = serpipe.extract("sample", options)  # doctest: +SKIP
    >>> done.cache.path  # doctest: +SKIP
    PosixPath('features/cache/sample-whisper-tiny.en.h5')
    """
    arguments = dict(locals())
    about = provenance_of_call(extract, arguments) if provenance is None else provenance
    from ..artifacts.run.latest import CACHES
    from ..corpora.data import gather
    from ..features.names import check_checkpoint_name
    from ..features.perturbation import read_perturbations
    from ..mirror import stored

    options.check()
    perturbations = read_perturbations("--augment", augment)
    if perturbations and isinstance(as_location(out or CACHES), Remote):
        raise UserError(f"--augment: {out} is in an object store; name a file here with --out")
    encoder = str(options.encoder)
    check_checkpoint_name(encoder)
    clips = gather(addresses(data), manifest, skip_bad=skip_bad, say=say)

    from ..features.decoding import DecodingOptions, decode_ahead

    decoder = None
    name = Path(encoder).resolve().name if Path(encoder).is_dir() else encoder
    expected = Path(str(out or CACHES / cache_name(clips.name, name)))
    # Clips of a cache that exists may not need to be decoded.
    if cluster is None and (overwrite or not expected.exists()):
        decoding = DecodingOptions(channels=options.channels, trim_decibels=options.trim)
        decoder = decode_ahead(clips.clips, options.devices, decoding, thread_count(jobs))

    from ..features.engine import Engine, open_engine
    from ..features.extract import extract as extract_with
    from ..features.extract import extract_perturbed
    from ..pipeline.contamination import contamination_mark

    say(f"encoder  {encoder}: loading")
    with workers(cluster, say) as connection:
        engine: Engine
        if connection is None:
            from ..features.devices import choose_devices

            engine = open_engine(
                options, choose_devices(options.devices), thread_count(jobs), decoder
            )
        else:
            from ..features.cluster_engine import ClusterEngine

            engine = ClusterEngine(connection, options)
        key = engine.key
        say(
            f"         {key['model_type']}, revision {key['revision']}, "
            f"{counted(len(key['layers']), 'layer')} of width {key['width']}, "
            f"{key['precision']} on {key['device']}"
            + (f" with {key['engine']}" if "engine" in key else "")
        )
        target = CACHES / cache_name(clips.name, key["encoder"]) if out is None else out
        with stored(target, say) as path:
            done = extract_with(
                engine,
                clips.clips,
                path,
                provenance={**clips.provenance, **about},
                skip_bad=skip_bad,
                overwrite=overwrite,
                drop_removed=drop_removed,
                shard_clips=shard_clips,
                track=track,
            )
            for perturbation in perturbations:
                say(f"copies   {perturbation}")
                perturbed = extract_perturbed(
                    engine,
                    clips.clips,
                    done.cache,
                    perturbation,
                    provenance={**clips.provenance, **about},
                    overwrite=overwrite,
                    shard_clips=shard_clips,
                    track=track,
                )
                say(
                    f"         {counted(perturbed.computed, 'clip')} computed, {perturbed.reused} "
                    f"already there: {perturbed.cache.path}"
                )
    if mark := contamination_mark(str(key["encoder"]), done.cache.clips):
        say(str(mark))
    for part in done.damaged_parts:
        say(f"note     {part}, left by a stopped extraction, was damaged and was computed again")
    if done.cache.shards:
        folder = done.cache.shards[0].path.parent
        say(f"shards   {counted(len(done.cache.shards), 'file')} of the cache in {folder}")
    return replace(done, bad=(*clips.bad, *done.bad))
