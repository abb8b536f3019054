"""Fit heads: ``serpipe.fit``, for all pairs of corpora, and with several seeds."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..pipeline.options import Protocol
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location
from .shared import provenance_of_call, thread_count, with_typed_errors, workers

if TYPE_CHECKING:
    from ..artifacts.run.results import RunResults
    from ..cluster import Cluster
    from ..features.cache import Cache
    from ..pipeline.heads import Grid, Head
    from ..pipeline.plan import Plan
    from ..pipeline.ratings import Ratings
    from ..pipeline.votes import Votes

    #: One cache or several; the newest by default.
    Caches = Cache | str | Location | Sequence[Cache | str | Location] | None


@with_typed_errors
def fit(
    cache: "Caches" = None,
    head: str | None = None,
    protocol: Protocol = Protocol(),
    *,
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    ratings: str | Location | None = None,
    out: str | Location | None = None,
    name: str | None = None,
    jobs: int | None = None,
    stream_past: float = 4.0,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "RunResults":
    """Train heads and test them on held-out speakers.

    Layer and hyper-parameters are selected within the training speakers of each fold (nested
    cross-validation). A stopped run resumes where it stopped, and a finished one is not repeated.

    Parameters
    ----------
    cache : Cache, str or Path, or a sequence of these, optional
        Cache of embeddings; by default the newest in ``features/cache``. Of several caches, of
        other encoders, the clips that all have in common are used, with the layers of all.
    head : str, optional
        For labels ``lda`` (linear discriminant analysis), ``lr`` (logistic regression), ``svm``
        (RBF kernel), ``svm-linear``, ``lgbm`` (LightGBM), ``sgd`` (``lr`` by gradient descent, for
        more embeddings than fit in memory); for ratings ``ridge``, ``svr`` (RBF kernel),
        ``lgbm-regressor``. Several are joined by commas; ``all`` is all of these but ``sgd``.
        ``best``, alone or among others, also selects the head inside the folds; ``fuse`` combines
        the probabilities of the others on all layers, with weights learnt inside the folds. By
        default ``lda,svm,fuse``, or ``ridge`` for ratings.
    protocol : Protocol
        What is predicted, how clips are divided, and which layers are used.
    grid : mapping of str to sequence of float, or sequence of str
        Values of a hyper-parameter to try, such as ``lr.C=0.01,0.1,1``, or ``C=...`` for every head
        that has it. A single value fixes it.
    ratings : str or Path, optional
        A separate table of ratings or labels: name (of the clip), the column named by ``target``,
        and rater if there are several.
    out : str or Path, optional
        Folder of the run; by default ``artifacts/runs/NAME``. One in an object store is written on
        this machine first and then uploaded.
    name : str, optional
        Name of the run in the tables and figures of a report; by default its number.
    jobs : int, optional
        Number of processes; by default all available cores. The results do not depend on it.
    stream_past : float
        GiB of memory that the embeddings of one layer may take. Beyond it, heads read the
        embeddings in blocks: ``sgd`` in place of ``lr``, ``lgbm``, ``lgbm-regressor``; the other
        heads are refused.
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
        If an option is invalid, or the cache lacks something that is needed.

    Examples
    --------
    >>> import serpipe
    >>> protocol = serpipe.Protocol(split="kfold:5", keep=["angry", "sad"])
    >>> results = serpipe.fit(head="lr", protocol=protocol)  # doctest: +SKIP
    >>> results.scores("lr")["uar"].value  # doctest: +SKIP
    0.91
    """
    about = provenance_of_call(fit, locals()) if provenance is None else provenance
    from ..artifacts.run.summary import check_given_name
    from ..mirror import stored

    given_name = "" if name is None else check_given_name(name)
    fitting = _prepare(cache, protocol, ratings, head, grid, about, jobs, stream_past, track, say)
    with (
        nullcontext() if out is None else stored(out, say) as folder,
        workers(cluster, say) as connection,
    ):
        return fitting.run(protocol, connection, say, folder, given_name)


@with_typed_errors
def fit_cross_corpus(
    cache: "Caches" = None,
    *,
    head: str | None = None,
    protocol: Protocol = Protocol(),
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    ratings: str | Location | None = None,
    jobs: int | None = None,
    stream_past: float = 4.0,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "tuple[RunResults, ...]":
    """Train on each corpus of a cache and test on each, over the labels that all have.

    Parameters
    ----------
    cache, head, grid, ratings, jobs, stream_past, cluster, provenance, track, say
        As :func:`fit` takes them.
    protocol : Protocol
        Common to all pairs; its split is used within a corpus.

    Returns
    -------
    tuple of RunResults
        One for each pair. A corpus that the split cannot divide is not tested on itself.

    Raises
    ------
    UserError
        If there is only one corpus, or a pair cannot be fitted. Nothing is fitted then.
    """
    about = provenance_of_call(fit_cross_corpus, locals()) if provenance is None else provenance
    from ..pipeline.plan import cross_corpus_protocols

    fitting = _prepare(cache, protocol, ratings, head, grid, about, jobs, stream_past, track, say)
    possible = []
    for each in cross_corpus_protocols(fitting.cache, protocol, fitting.ratings):
        try:
            fitting.plan(each)  # before the work: all, or none
        except UserError as error:
            if each.train_on != each.test_on:
                raise
            say(f"note     {each.train_on[0]} is not tested on itself: {error}")
        else:
            possible.append(each)
    pairs = [f"{'+'.join(each.train_on)} > {'+'.join(each.test_on)}" for each in possible]
    width = max(map(len, pairs), default=0)
    prefixes = [f"{pair:<{width}}  " for pair in pairs]
    return fitting.run_all(list(zip(prefixes, possible, strict=True)), cluster)


@with_typed_errors
def fit_repeated(
    cache: "Caches" = None,
    *,
    repeats: int,
    head: str | None = None,
    protocol: Protocol = Protocol(),
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    ratings: str | Location | None = None,
    jobs: int | None = None,
    stream_past: float = 4.0,
    cluster: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> "tuple[RunResults, ...]":
    """Fit with several seeds, to show how much a score depends on how the folds are drawn.

    Parameters
    ----------
    cache, head, grid, ratings, jobs, stream_past, cluster, provenance, track, say
        As :func:`fit` takes them.
    repeats : int
        Number of seeds, counted up from that of the protocol.
    protocol : Protocol
        Common to all runs except for the seed; its split must be drawn by the seed.

    Returns
    -------
    tuple of RunResults
        One for each seed.

    Raises
    ------
    UserError
        If the split does not depend on the seed, or a run cannot be fitted. Nothing is fitted then.
    """
    about = provenance_of_call(fit_repeated, locals()) if provenance is None else provenance
    from ..artifacts.report.repeats import spreads
    from ..pipeline.split_kind import SplitKind

    if repeats < 2 or not SplitKind.of(protocol.split).draws_by_seed:
        raise UserError(
            f"--repeats {repeats} --split {protocol.split}: repeating needs at least 2 seeds and a "
            "split that is drawn by the seed: kfold:N, holdout:A/B/C or random"
        )
    fitting = _prepare(cache, protocol, ratings, head, grid, about, jobs, stream_past, track, say)
    seeds = [replace(protocol, seed=protocol.seed + number) for number in range(repeats)]
    for each in seeds:  # before the work: all, or none
        if fitting.plan(each).split.name.startswith("cross:"):
            raise UserError(
                f"--repeats {repeats}: training on one corpus and testing on another draws no "
                "folds; omit --repeats"
            )
    runs = fitting.run_all([("", each) for each in seeds], cluster)
    for spread in spreads(runs):
        say(f"{spread.head:<10} {spread}")
    return runs


@dataclass(frozen=True)
class _Fitting:
    """What all runs of one call share; ``requested`` are the heads as the user named them."""

    cache: "Cache"
    ratings: "Ratings | Votes | None"
    heads: "tuple[type[Head], ...]"
    grids: "Mapping[str, Grid]"
    requested: str | None
    provenance: Mapping[str, Any]
    jobs: int | None
    stream_past: float
    track: Track[Any]
    say: Say

    @property
    def combined(self) -> tuple[str, ...]:
        """Which of ``best`` and ``fuse`` are requested."""
        from ..pipeline.heads import combined_heads

        return combined_heads(self.requested, self.heads[0].task)

    def plan(self, protocol: Protocol) -> "Plan":
        """Apply a protocol, to refuse what cannot be fitted before any work is done."""
        from ..artifacts.run.record_fit import plan_run

        plan, _ = plan_run(
            self.cache,
            self.heads,
            self.grids,
            protocol,
            self.ratings,
            combined=self.combined,
            default_heads=self.requested is None,
        )
        return plan

    def run(
        self,
        protocol: Protocol,
        cluster: "Cluster | None",
        say: Say,
        out: Path | None = None,
        given_name: str = "",
    ) -> "RunResults":
        """Fit the heads by one protocol, and report the scores."""
        from ..artifacts.report.report import headline
        from ..artifacts.run.record_fit import record_run
        from ..artifacts.run.results import read_results

        run = record_run(
            self.cache,
            self.heads,
            self.grids,
            protocol,
            combined=self.combined,
            default_heads=self.requested is None,
            ratings=self.ratings,
            provenance=self.provenance,
            out=out,
            given_name=given_name,
            jobs=thread_count(self.jobs),
            stream_past=self.stream_past,
            cluster=cluster,
            track=self.track,
            say=say,
        )
        results = read_results(run)
        for line in headline(results):
            say(line)
        return results

    def run_all(
        self, protocols: "Sequence[tuple[str, Protocol]]", cluster: str | None
    ) -> "tuple[RunResults, ...]":
        """Fit by several protocols; every line that reports on a run begins with its prefix."""
        runs = []
        with workers(cluster, self.say) as connection:
            for prefix, protocol in protocols:
                say = _with_prefix(self.say, prefix)
                results = self.run(protocol, connection, say)
                say(f"         {results.run}")
                runs.append(results)
        return tuple(runs)


@with_typed_errors
def run_folder(
    cache: "Caches",
    head: str | None = None,
    protocol: Protocol = Protocol(),
    *,
    grid: Mapping[str, Sequence[float]] | Sequence[str] = (),
    ratings: str | Location | None = None,
    stream_past: float = 4.0,
) -> Path:
    """Return the folder in which :func:`fit` with the same arguments writes its run.

    Raise UserError if it could not be fitted.
    """
    from ..artifacts.run.latest import RUNS
    from ..artifacts.run.record_fit import identify_run

    fitting = _prepare(
        cache, protocol, ratings, head, grid, {}, None, stream_past, no_track, say_nothing
    )
    planned = identify_run(
        fitting.cache,
        fitting.heads,
        fitting.grids,
        protocol,
        fitting.ratings,
        combined=fitting.combined,
        default_heads=head is None,
        stream_past=stream_past,
    )
    return RUNS / planned.name


def _with_prefix(say: Say, prefix: str) -> Say:
    return lambda line: say(f"{prefix}{line}")


def _prepare(
    cache: "Caches",
    protocol: Protocol,
    ratings: str | Location | None,
    head: str | None,
    grid: Mapping[str, Sequence[float]] | Sequence[str],
    provenance: Mapping[str, Any],
    jobs: int | None,
    stream_past: float,
    track: Track[Any],
    say: Say,
) -> _Fitting:
    """Open the embeddings and ratings, and look up the heads and their grids."""
    from ..artifacts.run.latest import latest_cache
    from ..features.cache import Cache, check_table, open_cache
    from ..features.joined_cache import join_caches
    from ..mirror import local
    from ..pipeline.heads import find_heads, read_grids
    from ..pipeline.plan import is_regression

    several = cache if isinstance(cache, Sequence) and not isinstance(cache, str) else [cache]
    caches = []
    for each in several or [None]:
        source = each if isinstance(each, Cache) else local(each or latest_cache(), say, file=True)
        caches.append(source if isinstance(source, Cache) else open_cache(source))
        check_table(caches[-1])
        say(f"cache    {caches[-1].path}" + ("" if each else ", the newest"))
    opened = caches[0]
    if len(caches) > 1:
        opened, note = join_caches(caches)
        if protocol.layers != Protocol.layers:
            raise UserError(f"--layers {protocol.layers}: omit it with several caches")
        if note:
            say(f"note     {note}")
    rated = open_ratings(ratings, protocol.target, say)
    regressed = is_regression(opened.clips, protocol, rated)
    heads = find_heads(head, "regression" if regressed else "classification")
    if isinstance(grid, Mapping):
        grid = [f"{name}={','.join(map(str, values))}" for name, values in grid.items()]
    grids = read_grids(heads, grid)
    return _Fitting(opened, rated, heads, grids, head, provenance, jobs, stream_past, track, say)


def open_ratings(table: str | Location | None, target: str, say: Say) -> "Ratings | Votes | None":
    """Read a separate table of ratings, if there is one, and report what it holds."""
    from ..mirror import local
    from ..pipeline.ratings import read_ratings_or_votes

    if not table:
        return None
    ratings = read_ratings_or_votes(local(table, say, file=True), target)
    if ratings.description:
        say(f"ratings  {ratings.description}")
    return ratings
