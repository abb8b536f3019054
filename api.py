"""The stages as functions of Python; the commands call these, and have the same defaults.

Each takes what it needs from where the one before it wrote, below the working directory. Options
are those of the command of the same name: `serpipe fit --split kfold:5` is
``serpipe.fit(split="kfold:5")``.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from . import choices
from .choices import check_choice
from .errors import UserError, counted, disk_error
from .features.names import DEFAULT_ENCODER
from .mirror import local, stored
from .progress import Say, Track, no_track, say_nothing
from .remote import Place, Remote, address_without_secrets, place

if TYPE_CHECKING:
    from .artifacts.report import Report
    from .artifacts.results import RunResults
    from .cluster import Cluster
    from .features.cache import Cache
    from .features.extract import Extraction
    from .pipeline.heads import Grid, Head
    from .pipeline.protocol import Protocol
    from .pipeline.ratings import Ratings

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _with_typed_errors(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Raise a MachineError where the system refuses a file: a read-only folder, a full disk."""

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(*args, **kwargs)
        except OSError as error:
            if error.errno is None:  # not from the system
                raise
            raise disk_error(error) from error

    return call


# What is heavy is imported where it is used: a wrong path is told at once, not after torch.


@_with_typed_errors
def extract(
    data: str | Place | Sequence[str | Place] = (),
    *,
    manifest: str | Place | None = None,
    encoder: str | Path = DEFAULT_ENCODER,
    revision: str | None = None,
    out: str | Place | None = None,
    pooling: str = "mean",
    devices: str = "auto",
    precision: str = "float32",
    dtype: str = "float32",
    trim: float | None = None,
    channels: str = "mean",
    max_seconds: float | None = None,
    compile_blocks: bool = False,
    batch_seconds: float = 600.0,
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
    """Run a frozen encoder once over every clip and cache the pooled states of every layer.

    A second run computes only what is missing; a stopped run goes on where it stopped.

    Parameters
    ----------
    data : str, Path or sequence of them
        Folders of corpora, each a folder or ``"CORPUS=DIR"``; the built-in sample by default. With
        a manifest: the folder that its paths are relative to. A folder may be elsewhere:
        ``"s3://BUCKET/FOLDER"``.
    manifest : str or Path, optional
        A table of any labelled clips: path, speaker, and columns to predict.
    encoder : str or Path
        Hub id or local folder of a speech encoder, or ``"whisper-tiny.en"``, which is built in.
    revision : str, optional
        Commit, tag or branch of a hub id; pinned for the default encoder, else ``main``.
    out : str or Path, optional
        The HDF5 file; by default ``features/cache/CORPUS-ENCODER.h5``. If it is elsewhere
        (``"s3://BUCKET/FILE.h5"``), it is written in a copy on this machine, then put in place.
    pooling : {"mean", "std", "mean,std"}
        What is kept of each layer over time.
    devices : str
        ``"auto"`` takes all GPUs, else the CPU; or ``"cpu"``, ``"cuda"``, ``"cuda:0,cuda:1"``,
        ``"mps"``.
    precision : {"float32", "tf32", "bf16", "fp16", "auto"}
        Of weights and states. Only float32 is exact.
    dtype : {"float32", "float16"}
        Of the stored embeddings.
    trim : float, optional
        Trim what is quieter, at both ends, than the loudest part by more than so many decibels.
    channels : {"mean", "left", "right"}
        How several channels become one.
    max_seconds : float, optional
        Cut longer clips into equal chunks, pooled together by their frames.
    compile_blocks : bool
        Compile the encoder's blocks with ``torch.compile``.
    batch_seconds : float
        Seconds of audio per batch on a GPU. On a CPU each clip is computed alone.
    jobs : int, optional
        Threads; the cores there are by default.
    skip_bad : bool
        Go on without clips that cannot be used.
    overwrite : bool
        Start anew where ``out`` was made otherwise.
    drop_removed : bool
        Drop clips of the cache that the corpus has no more.
    shard_clips : int
        Clips up to which the cache is a single file; more are shards of as many under an index.
    cluster : str, optional
        Workers of Dask that do it instead: ``"local:N"``, ``"tcp://HOST:PORT"`` or a file
        ``jobqueue.yaml``. The numbers are the same.
    provenance : mapping, optional
        JSON values to store beside the numbers; by default this call, versions and machine.
    track : callable
        Shows progress, such as :func:`serpipe.progress.track`.
    say : callable
        Takes lines that tell what is done, such as ``print``.

    Returns
    -------
    Extraction
        With the open ``cache``, whose file is ``cache.path``.

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If an option is wrong, or ``out`` holds something else.
    MachineError
        If memory runs out, the disk is full, or the hub cannot be reached.
    """
    about = _about(extract, locals()) if provenance is None else provenance
    from .artifacts.latest import CACHES
    from .corpora.data import gather
    from .features.names import check_checkpoint_name

    check_choice("--pool", pooling, choices.POOLINGS)
    check_choice("--dtype", dtype, choices.DTYPES)
    check_choice("--precision", precision, choices.EXTRACTION_PRECISIONS)
    check_choice("--channels", channels, choices.CHANNELS)
    check_checkpoint_name(str(encoder))
    folders = [data] if isinstance(data, str | Place) else data
    found = gather([_address(folder) for folder in folders], manifest, skip_bad=skip_bad, say=say)

    from .features.engine import Engine, EngineOptions, open_engine
    from .features.extract import extract_by
    from .pipeline.contamination import contamination_mark

    options = EngineOptions(
        encoder=str(encoder),
        revision=revision,
        poolings=tuple(pooling.split(",")),
        devices=devices,
        precision=precision,
        max_seconds=max_seconds,
        compile_blocks=compile_blocks,
        trim_decibels=trim,
        channels=channels,
        dtype=dtype,
        batch_seconds=batch_seconds,
    )
    say(f"encoder  {encoder}: loading")
    with workers(cluster, say) as there:
        engine: Engine
        if there is None:
            from .features.devices import choose_devices

            engine = open_engine(options, choose_devices(devices), _jobs(jobs))
        else:
            from .features.cluster_engine import ClusterEngine

            engine = ClusterEngine(there, options)
        key = engine.key
        say(
            f"         {key['model_type']}, revision {key['revision']}, "
            f"{counted(len(key['layers']), 'layer')} of width {key['width']}, "
            f"{key['precision']} on {key['device']}"
        )
        name = f"{found.name}-{key['encoder'].replace('/', '--')}.h5"
        with stored(CACHES / name if out is None else out, say) as target:
            done = extract_by(
                engine,
                found.clips,
                target,
                provenance={**found.provenance, **about},
                skip_bad=skip_bad,
                overwrite=overwrite,
                drop_removed=drop_removed,
                shard_clips=shard_clips,
                track=track,
            )
    if mark := contamination_mark(str(key["encoder"]), done.cache.clips):
        say(mark)
    for part in done.damaged_parts:
        say(f"note     {part}, of the extraction that was stopped, was damaged: computed again")
    if done.cache.shards:
        folder = done.cache.shards[0].path.parent
        say(f"shards   {counted(len(done.cache.shards), 'file')} of the cache in {folder}")
    return replace(done, bad=(*found.bad, *done.bad))


@_with_typed_errors
def fit(
    cache: "Cache | str | Place | None" = None,
    *,
    head: str | None = None,
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    split: str = "loso",
    layers: str = "all",
    target: str = "",
    ratings: str | Place | None = None,
    merge: Mapping[str, str] | None = None,
    keep: str | Sequence[str] = (),
    normalise: str = "none",
    permute_labels: bool = False,
    pooling: str | None = None,
    train_on: str | Sequence[str] = (),
    test_on: str | Sequence[str] = (),
    task: str = "auto",
    group: str | None = None,
    speakers_per_corpus: bool = False,
    similar_speakers: str = "refuse",
    seed: int = 0,
    out: str | Place | None = None,
    name: str | None = None,
    jobs: int | None = None,
    stream_past: float = 4.0,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "RunResults":
    """Train heads and test them on speakers whom they never heard.

    Layer and hyper-parameters are chosen inside the training speakers of each fold (nested
    cross-validation). A stopped run goes on where it stopped; one that is there is not done again.

    Parameters
    ----------
    cache : Cache, str or Path, optional
        Embeddings that :func:`extract` made; by default the newest in ``features/cache``. One that
        is elsewhere is fetched first, and so are ``ratings``.
    head : str, optional
        Names joined by commas, or ``"all"``. For labels ``lr``, ``svm`` (by default
        these two), ``svm-linear``, ``lgbm``, ``sgd``; for ratings ``ridge`` (the default),
        ``svr``, ``lgbm-regressor``. ``"best"``, alone or among others, adds a result for which the
        head, too, is chosen inside the folds.
    grid : mapping of str to sequence of float, or sequence of str
        Values to try for a hyper-parameter, such as ``{"lr.C": [0.1, 1]}`` or ``["lr.C=0.1,1"]``.
    split : str
        ``"loso"``, ``"kfold:N"``, ``"standard"``, ``"emobox"``, ``"file:FOLDS.csv"``,
        ``"holdout:70/10/20"``, or, to share speakers on purpose, ``"random:N"``.
    layers : str
        The layers to choose from (``"all"``, ``"3"``, ``"6-9"``, ``"3,6"``), or several as one:
        ``"mean"``, ``"weighted"``, ``"concat:3,6,9"``.
    target : str
        The column to predict. One of numbers is of ratings, and regressed. By default the emotion,
        or the only other column where clips have none.
    ratings : str or Path, optional
        A table with ratings of the target.
    merge : mapping of str to str, optional
        Labels that are counted as another, such as ``{"calm": "neutral"}``.
    keep : str or sequence of str
        Labels that are kept, after ``merge``; all if empty.
    normalise : {"none", "speaker"}
        ``"speaker"`` standardises each speaker's clips by themselves; transductive, and marked so.
    permute_labels : bool
        Shuffle labels within speakers: scores must fall to chance.
    pooling : str, optional
        Which of the cached poolings to use; all by default.
    train_on, test_on : str or sequence of str
        Corpora of the cache to train on and to test on; all, by ``split``, if empty.
    task : {"auto", "labels", "ratings"}
        How the target is read: by default numbers are ratings, and words are labels.
    group : str, optional
        A column whose groups of speakers stay together in every fold, such as a recording session;
        by default the session for IEMOCAP, else ``"speaker"``.
    speakers_per_corpus : bool
        Whether a speaker id that occurs in several corpora of a manifest is a different person in
        each; by default it is one person.
    similar_speakers : {"refuse", "merge", "separate"}
        What is done with speaker ids that differ only in spelling, such as Actor1 and actor01.
    seed : int
        Of folds, heads and shuffles.
    out : str or Path, optional
        The run's folder; by default ``artifacts/runs/NAME``. If it is elsewhere, it is written in
        a copy on this machine, then put in place.
    name : str, optional
        What to call the run in tables and figures.
    jobs : int, optional
        Processes; the cores there are by default. The results do not depend on it.
    stream_past : float
        GiB that the embeddings of a layer may take in memory. Past it, heads read them a block at
        a time: ``sgd`` in place of ``lr``, ``lgbm``, ``lgbm-regressor``; the others are refused.
    cluster, provenance, track, say
        As :func:`extract` takes them.

    Returns
    -------
    RunResults
        Scores with intervals (``.scores(head)``), out-of-fold predictions, and the folder
        (``.run``) that :func:`report` and :func:`serpipe.load` take.

    Raises
    ------
    UserError
        If an option is wrong or the cache does not hold what it needs.
    """
    about = _about(fit, locals()) if provenance is None else provenance
    from .artifacts.run import check_given_name
    from .pipeline.heads import chooses_head
    from .pipeline.protocol import Protocol

    given_name = "" if name is None else check_given_name(name)
    protocol = Protocol(
        split=split,
        layers=layers,
        target=target,
        merge=merge or {},
        keep=_words(keep),
        normalise=normalise,
        permute_labels=permute_labels,
        pooling=pooling,
        seed=seed,
        train_on=_words(train_on),
        test_on=_words(test_on),
        task=task,
        group=group,
        speakers_per_corpus=speakers_per_corpus,
        similar_speakers=similar_speakers,
    )
    opened, rated, heads, grids = _to_fit(cache, protocol, ratings, head, grid, say)
    with (
        nullcontext() if out is None else stored(out, say) as folder,
        workers(cluster, say) as there,
    ):
        return _record(
            opened, heads, grids, protocol, choose_best=chooses_head(head),
            default_heads=head is None, ratings=rated, provenance=about, out=folder,
            given_name=given_name, jobs=jobs, stream_past=stream_past, cluster=there,
            track=track, say=say,
        )  # fmt: skip


@_with_typed_errors
def fit_cross_corpus(
    cache: "Cache | str | Place | None" = None,
    *,
    head: str | None = None,
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    protocol: "Protocol | None" = None,
    ratings: str | Place | None = None,
    jobs: int | None = None,
    stream_past: float = 4.0,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "tuple[RunResults, ...]":
    """Fit on each corpus of a cache and test on each, over the labels that all have.

    Parameters
    ----------
    cache, head, grid, ratings, jobs, stream_past, cluster, provenance, track, say
        As :func:`fit` takes them.
    protocol : Protocol, optional
        What all pairs have in common; its split is that within a corpus.

    Returns
    -------
    tuple of RunResults
        One for each pair. A corpus that the split cannot divide is not tested by itself.

    Raises
    ------
    UserError
        If there is one corpus, or a pair cannot be fitted. Nothing is fitted then.
    """
    about = _about(fit_cross_corpus, locals()) if provenance is None else provenance
    from .artifacts.record import plan_run
    from .pipeline.heads import chooses_head
    from .pipeline.protocol import Protocol, cross_corpus_protocols

    asked = protocol or Protocol()
    opened, rated, heads, grids = _to_fit(cache, asked, ratings, head, grid, say)
    possible = []
    for each in cross_corpus_protocols(opened, asked, rated):  # before the work: all, or none
        try:
            plan_run(opened, heads, grids, each, rated, choose_best=chooses_head(head))
        except UserError as error:
            if each.train_on != each.test_on:
                raise
            say(f"note     {each.train_on[0]} is not tested by itself: {error}")
        else:
            possible.append(each)
    pairs = [f"{'+'.join(each.train_on)} > {'+'.join(each.test_on)}" for each in possible]
    return _record_each(
        possible, cluster, opened, heads, grids, choose_best=chooses_head(head),
        default_heads=head is None, ratings=rated, provenance=about, jobs=jobs,
        stream_past=stream_past, track=track, say=say, names=pairs,
    )  # fmt: skip


@_with_typed_errors
def fit_repeated(
    cache: "Cache | str | Place | None" = None,
    *,
    repeats: int,
    head: str | None = None,
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    protocol: "Protocol | None" = None,
    ratings: str | Place | None = None,
    jobs: int | None = None,
    stream_past: float = 4.0,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "tuple[RunResults, ...]":
    """Fit with several seeds, to show how far a score depends on the draw of folds.

    Parameters
    ----------
    cache, head, grid, ratings, jobs, stream_past, cluster, provenance, track, say
        As :func:`fit` takes them.
    repeats : int
        How many seeds, from that of the protocol upwards.
    protocol : Protocol
        What all runs have in common, but for the seed; its split must draw by the seed.

    Returns
    -------
    tuple of RunResults
        One for each seed.

    Raises
    ------
    UserError
        If the split does not depend on the seed, or a run cannot be fitted. Nothing is fitted then.
    """
    about = _about(fit_repeated, locals()) if provenance is None else provenance
    from .artifacts.record import plan_run
    from .artifacts.repeats import spreads
    from .pipeline.folds import SplitKind
    from .pipeline.heads import chooses_head
    from .pipeline.protocol import Protocol

    asked = protocol or Protocol()
    if repeats < 2 or not SplitKind.of(asked.split).draws_by_seed:
        raise UserError(
            f"--repeats {repeats} --split {asked.split}: repeats need at least 2 seeds and a split "
            "that draws by the seed: kfold:N, holdout:A/B/C or random"
        )
    opened, rated, heads, grids = _to_fit(cache, asked, ratings, head, grid, say)
    best = chooses_head(head)
    each_seed = [replace(asked, seed=asked.seed + number) for number in range(repeats)]
    for each in each_seed:  # before the work: all, or none
        plan = plan_run(opened, heads, grids, each, rated, choose_best=best)
        if plan.split.kind == SplitKind.CROSS_CORPUS:
            raise UserError(
                f"--repeats {repeats}: training on one corpus and testing on another draws no "
                "folds; omit it"
            )
    found = _record_each(
        each_seed, cluster, opened, heads, grids, choose_best=best, default_heads=head is None,
        ratings=rated, provenance=about, jobs=jobs, stream_past=stream_past, track=track, say=say,
    )  # fmt: skip
    for spread in spreads(found):
        say(f"{spread.head:<10} {spread}")
    return found


@_with_typed_errors
def report(
    *runs: "RunResults | str | Place",
    names: Sequence[str] = (),
    baseline: bool = False,
    compare_layers: str | None = None,
    audio: str | Path | None = None,
    out: str | Place | None = None,
    show: "Callable[[Report], object] | None" = None,
    say: Say = say_nothing,
) -> "Report":
    """Say what runs found, with intervals and tests; write a page, tables and figures.

    Everything is computed from the saved predictions; nothing is fitted again.

    Parameters
    ----------
    *runs : RunResults, str or Path
        Runs, or their folders; by default the newest in ``artifacts/runs``. Several are compared,
        clip by clip where they are of the same clips. A folder with the list of several, as
        ``serpipe fit --cross-corpus`` writes it, stands for these.
    names : sequence of str
        What to call each run in tables and figures; an empty one leaves the name that it has. By
        default runs keep the names that they were fitted with.
    baseline : bool
        Set published results beside, where corpus, split, labels and metric agree.
    compare_layers : str, optional
        A head: test its nested choice against each of its layers. No page is drawn.
    audio : str or Path, optional
        Folder of the clips, to hear the hardest in the page.
    out : str or Path, optional
        Where to write; by default ``RUN/report``, of several runs ``artifacts/comparisons/NAME``,
        of a list of runs the folder of the list.
        Runs that are elsewhere are fetched first; a report in such a run is put there.
    show : callable, optional
        Is given the report before anything is written: a full disk does not lose it.
    say : callable
        Takes lines that tell what is done.

    Returns
    -------
    Report
        Printed, it is Markdown; ``tables`` hold the numbers, and ``folder`` is where it was
        written.

    Raises
    ------
    UserError
        If a run is not there or damaged, or the options do not go together.
    """
    from .artifacts.comparison import compare_runs, report_layers, report_runs
    from .artifacts.latest import comparison_folder, latest_run
    from .artifacts.publish import publish, publish_comparison
    from .artifacts.report import report_run, write_report
    from .artifacts.results import RunResults, read_results
    from .artifacts.run_set import read_run_set
    from .files import make_folder

    listed = [] if len(runs) != 1 or isinstance(runs[0], RunResults) else [place(runs[0])]
    for folder in listed:
        if isinstance(folder, Path) and (of_list := read_run_set(folder)):
            runs, out = of_list, folder if out is None else out
    if names and len(names) != len(runs):
        raise UserError(
            f"{counted(len(names), 'name')} for {counted(len(runs), 'run')}; expected one for each"
        )
    several, clips = len(runs) > 1, None if audio is None else Path(audio)
    if several or compare_layers is not None:
        for option, given in (("--audio", audio), ("--baseline", baseline)):
            if given:
                raise UserError(
                    f"{option}: is for the page of one run; expected one, without --compare-layers"
                )
    if several and compare_layers is not None:
        raise UserError(f"--compare-layers {compare_layers}: expected one run")
    if clips and not clips.is_dir():
        raise UserError(f"{clips}: no such folder; expected that of the clips; see --audio")
    results = []
    with ExitStack() as opened:
        for run in runs or (latest_run(),):
            if isinstance(run, RunResults):
                say(f"run      {run.run}")
                results.append(run)
                continue
            where = place(run)
            say(f"run      {where}" + ("" if runs else ", the newest"))
            folder = local(where, say)
            if not several and out is None:  # what is written into it belongs where it is
                opened.enter_context(stored(where, say))
            results.append(read_results(folder))
        target = None if out is None else opened.enter_context(stored(out, say))
        if target:
            make_folder(target)
        named = zip(results, names or [""] * len(results), strict=True)
        results = [each.called(name) if name else each for each, name in named]
        folders, first = [each.run for each in results], results[0]
        show = show or _show_nothing
        if compare_layers is not None:
            if compare_layers not in first.heads:
                raise UserError(
                    f"--compare-layers {compare_layers}: expected one of the heads of the run "
                    f"({', '.join(first.heads)})"
                )
            made = report_layers(first, compare_layers)
            show(made)
            folder = target or first.run / "report" / f"layers-{compare_layers}"
            write_report(folder, made)
        elif several:
            compared = compare_runs(results)
            made = report_runs(compared)
            show(made)
            folder = target or comparison_folder(folders)
            publish_comparison(folder, compared, made)
        else:
            made = report_run(first, baseline=baseline)
            show(made)
            folder = publish(first, made, clips, target).parent
    return replace(made, folder=folder)


def workers(where: str | None, say: Say = say_nothing) -> "AbstractContextManager[Cluster | None]":
    """Connect to a cluster, if one is asked for.

    Parameters
    ----------
    where : str, optional
        As :func:`serpipe.cluster.connect` takes it.
    say : callable
        Takes lines that tell what happens.

    Returns
    -------
    context manager of Cluster or None

    Raises
    ------
    UserError
        If Dask is not installed.
    """
    if where is None:
        return nullcontext()
    try:
        from .cluster import connect
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("dask", "distributed"):
            raise
        raise UserError(
            f"--cluster {where}: {error.name} is not installed; expected the extra; install it: "
            "pip install 'serpipe[cluster]'"
        ) from None
    return connect(where, say)


def _to_fit(
    cache: "Cache | str | Place | None",
    protocol: "Protocol",
    ratings: str | Place | None,
    head: str | None,
    grid: Mapping[str, Sequence[float]] | Sequence[str],
    say: Say,
) -> "tuple[Cache, Ratings | None, tuple[type[Head], ...], Mapping[str, Grid]]":
    """Open what is fitted to, and find the heads for it."""
    from .artifacts.latest import latest_cache
    from .features.cache import Cache, check_table, open_cache
    from .pipeline.heads import find_heads, read_grids
    from .pipeline.protocol import is_regression
    from .pipeline.ratings import read_ratings

    given = cache if isinstance(cache, Cache) else local(cache or latest_cache(), say, file=True)
    opened = given if isinstance(given, Cache) else open_cache(given)
    check_table(opened)
    say(f"cache    {opened.path}" + ("" if cache else ", the newest"))
    rated = read_ratings(local(ratings, say, file=True), protocol.target) if ratings else None
    if rated and rated.description:
        say(f"ratings  {rated.description}")
    regressed = is_regression(opened.clips, protocol, rated)
    heads = find_heads(head, "regression" if regressed else "classification")
    if isinstance(grid, Mapping):
        grid = [f"{name}={','.join(map(str, values))}" for name, values in grid.items()]
    return opened, rated, heads, read_grids(heads, grid)


def _record_each(
    protocols: "Sequence[Protocol]",
    cluster: str | None,
    cache: "Cache",
    heads: "tuple[type[Head], ...]",
    grids: "Mapping[str, Grid]",
    *,
    say: Say,
    names: Sequence[str] = (),
    **options: Any,
) -> "tuple[RunResults, ...]":
    """Fit heads by several protocols, and say where each run is, on lines that begin with names."""
    width = max(map(len, names), default=0)
    found = []
    with workers(cluster, say) as there:
        for number, each in enumerate(protocols):
            name = f"{names[number]:<{width}}  " if names else ""
            named = _prefixed(say, name)
            results = _record(cache, heads, grids, each, cluster=there, say=named, **options)
            named(f"         {results.run}")
            found.append(results)
    return tuple(found)


def _prefixed(say: Say, name: str) -> Say:
    """Return what says lines that begin with a name."""
    return lambda line: say(f"{name}{line}")


def _record(
    cache: "Cache",
    heads: "tuple[type[Head], ...]",
    grids: "Mapping[str, Grid]",
    protocol: "Protocol",
    *,
    choose_best: bool,
    default_heads: bool,
    ratings: "Ratings | None",
    provenance: Mapping[str, Any],
    out: Path | None = None,
    given_name: str = "",
    jobs: int | None,
    stream_past: float,
    cluster: "Cluster | None",
    track: Track[Any],
    say: Say,
) -> "RunResults":
    """Fit heads by one protocol, and say what came of it."""
    from .artifacts.record import record_run
    from .artifacts.report import headline
    from .artifacts.results import read_results

    run = record_run(
        cache,
        heads,
        grids,
        protocol,
        choose_best=choose_best,
        default_heads=default_heads,
        ratings=ratings,
        provenance=provenance,
        out=out,
        given_name=given_name,
        jobs=_jobs(jobs),
        stream_past=stream_past,
        cluster=cluster,
        track=track,
        say=say,
    )
    results = read_results(run)
    for line in headline(results):
        say(line)
    return results


def _address(given: str | Place) -> str:
    """Return the whole address of what is elsewhere, of which ``str`` shows but a part."""
    return given.url if isinstance(given, Remote) else str(given)


def _shown(value: Any) -> Any:
    """Return what a call may be known to have been given."""
    given = _address(value) if isinstance(value, Place) else value
    return address_without_secrets(given) if isinstance(given, str) else given


def _words(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return names that were given one by one, or joined by commas as on the command line."""
    return (
        tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else tuple(given)
    )


def _jobs(given: int | None) -> int:
    from .provenance import cores

    if given is not None and given < 1:
        raise UserError(f"--jobs {given}: expected at least 1; leave it out for all cores")
    return given or cores()


def _show_nothing(report: "Report") -> None:
    """Take a report that nobody wants to see before it is written."""


def _about(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return provenance whose command is the call itself: what was not left as it is."""
    from .provenance import provenance

    told = []
    for name, parameter in inspect.signature(function).parameters.items():
        value = getattr(given[name], "path", given[name])  # of a cache
        if name not in ("provenance", "track", "say", "jobs") and value != parameter.default:
            several = isinstance(value, (list, tuple))
            shown = [_shown(each) for each in value] if several else _shown(value)
            told.append(f"{name}={shown!r}")
    call = f"serpipe.{function.__name__}({', '.join(told)})"
    return {**provenance(), "command": call}
