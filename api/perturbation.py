"""Test a run on degraded audio: ``serpipe.robustness``."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError, counted
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location
from .shared import addresses, provenance_of_call, thread_count, with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.run.results import RunResults
    from ..features.cache import Cache
    from ..features.engine import LocalEngine


@with_typed_errors
def robustness(
    run: str | Path | None = None,
    data: str | Location | Sequence[str | Location] = (),
    *,
    perturb: Sequence[str],
    manifest: str | Location | None = None,
    cache: "Cache | str | Path | None" = None,
    encoder: str | Path | None = None,
    revision: str | None = None,
    devices: str = "auto",
    ratings: str | Location | None = None,
    jobs: int | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "RunResults":
    """Test the heads of a run of fit on perturbed copies of its test clips.

    In each fold, the heads that were fitted there predict the perturbed clips of the speakers that
    the fold leaves out. The copies are embedded once and cached beside the cache of the run. The
    scores become part of the run, and of its report.

    Parameters
    ----------
    run : str or Path, optional
        Folder of a run of fit; by default the newest.
    data, manifest
        As :func:`extract` takes them: the audio of the clips.
    perturb : sequence of str
        How the clips are perturbed: noise:DB (signal-to-noise ratio), telephone, mp3:KBPS,
        reverb:S (reverberation time), gain:DB, clip:PERCENT (of the samples) or shorter:S. Several
        values are joined by commas: noise:20,10,0.
    cache : Cache, str or Path, optional
        The cache that the run was fitted on; by default it is looked for in ``features/cache``.
    encoder : str or Path, optional
        Folder of the encoder, if it was not a hub id.
    revision : str, optional
        Commit, tag or branch of a hub id; by default that of the cache.
    devices : str
        Where the encoder runs: ``auto`` and ``cuda`` use all GPUs.
    ratings : str or Path, optional
        The table of ratings that the run was fitted on, if there is one.
    jobs : int, optional
        Number of threads and processes; by default all available cores.
    provenance, track, say
        As :func:`extract` takes them.

    Returns
    -------
    RunResults
        That of the run; ``perturbed`` has the predictions by head and perturbation.

    Raises
    ------
    UserError
        If an option is invalid, a clip of the cache is not in ``data``, or the run cannot be
        reproduced.
    MachineError
        If memory or disk space runs out, or the hub cannot be reached.

    Examples
    --------
    >>> import serpipe
    >>> scored = serpipe.robustness(data="sample", perturb=["noise:10"])  # doctest: +SKIP
    >>> scored.perturbed["lda"]["noise:10"]  # doctest: +SKIP
    array(['angry', ...
    """
    about = provenance_of_call(robustness, locals()) if provenance is None else provenance
    from ..features.perturbation import read_perturbations

    perturbations = read_perturbations("--perturb", perturb)
    if not perturbations:
        raise UserError("--perturb: name at least one perturbation, such as noise:10")
    from ..artifacts.report.report import headline
    from ..artifacts.run.latest import latest_run
    from ..artifacts.run.record_perturbed import find_cache, record_perturbed
    from ..artifacts.run.results import read_results
    from ..artifacts.run.summary import read_summary
    from ..corpora.data import gather
    from ..features.extract import extract_perturbed
    from ..features.perturbed_cache import open_perturbed
    from .fitting import open_ratings

    folder = latest_run() if run is None else Path(run)
    summary = read_summary(folder)
    say(f"run      {folder}" + ("" if run else ", the newest"))
    rated = open_ratings(ratings, summary.target, say)
    given = cache if cache is None or isinstance(cache, str | Path) else cache.path
    found, plan = find_cache(folder, summary, Path(given) if given else None, rated)
    say(f"cache    {found.path}")
    clips = gather(addresses(data), manifest, say=say)
    threads = thread_count(jobs)
    engine: LocalEngine | None = None
    for perturbation in perturbations:
        say(f"copies   {perturbation}")
        with suppress(UserError):  # missing, incomplete or of another encoder or revision
            say(f"         already there: {open_perturbed(found, perturbation).cache.path}")
            continue
        engine = engine or _engine(found, encoder, revision, devices, threads)
        done = extract_perturbed(
            engine,
            clips.clips,
            found,
            perturbation,
            provenance={**clips.provenance, **about},
            track=track,
        )
        say(
            f"         {counted(done.computed, 'clip')} computed, {done.reused} already there: "
            f"{done.cache.path}"
        )
    record_perturbed(folder, found, plan, perturbations, jobs=threads, track=track, say=say)
    results = read_results(folder)
    for line in headline(results):
        say(line)
    return results


def _engine(
    cache: "Cache",
    encoder: str | Path | None,
    revision: str | None,
    devices: str,
    workers: int,
) -> "LocalEngine":
    """Load the encoder of a cache, with the options that the cache was made with.

    Raise UserError if it is missing or another one.
    """
    from ..artifacts.models.predictors import find_encoder
    from ..features.cache import difference
    from ..features.devices import choose_devices
    from ..features.engine import open_engine
    from ..features.options import ExtractOptions
    from ..features.perturbed_cache import same_embedding

    key = cache.key
    source, revision = find_encoder(cache.path, key, encoder, revision)
    options = ExtractOptions(
        encoder=source,
        revision=revision,
        pooling=",".join(cache.poolings),
        precision=str(key["precision"]),
        dtype=str(key["dtype"]),
        trim=key.get("trim_decibels"),
        channels=str(key["channels"]),
        max_seconds=key.get("max_seconds"),
        compile_blocks=bool(key.get("compiled", False)),
        engine="openvino" if "engine" in key else "torch",
    )
    options.check()
    engine = open_engine(options, choose_devices(devices), workers)
    if differs := difference(same_embedding(key), same_embedding(engine.key)):
        raise UserError(
            f"{source}: is not the encoder that {cache.path} was made with ({differs}); name the "
            "folder of the same weights with --encoder"
        )
    return engine
