"""Studies of several encoders on several corpora: ``serpipe.study`` and what belongs to it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OtherCacheError, SerpipeError, UserError, counted, first_line
from ..progress import Say, Track, no_track, say_nothing
from ..remote import Location
from .extraction import extract
from .fitting import fit, run_folder
from .reporting import _show_nothing
from .shared import thread_count, with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.report.report import Report
    from ..artifacts.study.comparison import StudyRun
    from ..artifacts.study.costs import MeasuredCost
    from ..artifacts.study.study_file import Cell, Study, StudyCorpus, StudyEncoder
    from ..corpora import Clip
    from ..features.cache import Cache


@dataclass(frozen=True)
class StudyDone:
    """A study that was computed."""

    report: "Report"
    failed: tuple[str, ...]  #: A line for each run that failed.


@with_typed_errors
def study(
    file: str | Path,
    *,
    jobs: int | None = None,
    skip_bad: bool = False,
    cluster: str | None = None,
    out: str | Location | None = None,
    show: "Callable[[Report], object]" = _show_nothing,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> StudyDone:
    """Extract, fit and report every combination of encoders, corpora and heads that a file names.

    Each encoder is run once over each corpus. What exists is not computed again: a stopped study
    resumes, and a new line in the file computes what belongs to it. If a part fails, the rest is
    computed all the same.

    Parameters
    ----------
    file : str or Path
        The TOML file of the study, as ``serpipe study init`` writes it.
    jobs : int, optional
        Number of threads and processes; by default all available cores.
    skip_bad : bool
        Skip clips that cannot be used, and list them.
    cluster : str, optional
        As :func:`extract` takes it.
    out : str or Path, optional
        Folder of the report; by default ``artifacts/studies/NAME``, after the file. Caches and runs
        are in the usual folders.
    show : callable
        Called with the report before anything of it is written.
    track, say
        As :func:`extract` takes them.

    Returns
    -------
    StudyDone
        The report, and the lines of what failed.

    Raises
    ------
    UserError
        If the file is wrong, with the line and the remedy, or an option is.

    Examples
    --------
    >>> import serpipe
    >>> done = serpipe.study("study.toml")  # doctest: +SKIP
    >>> print(done.report)  # doctest: +SKIP
    """
    from ..artifacts.study.costs import read_costs
    from ..artifacts.study.study_file import read_study

    planned = read_study(Path(file))
    planned.check_paths()
    thread_count(jobs)
    read_costs(_folder(planned))  # a damaged file is refused before the work, not after it
    failed: dict[Cell, str] = {}
    pairs = [(corpus, encoder) for corpus in planned.corpora for encoder in planned.encoders]
    for number, (corpus, encoder) in enumerate(pairs, 1):
        say(f"study    {number} of {len(pairs)}: {encoder.name} on {corpus.name}")
        cells = planned.cells_of(corpus, encoder)
        try:
            caches = _extract(planned, corpus, encoder, jobs, skip_bad, cluster, track, say)
        except Exception as error:  # the other encoders and corpora are computed all the same
            failed |= dict.fromkeys(cells, _reason(error))
            say(f"FAILED   {encoder.name} on {corpus.name}: {_reason(error)}")
            continue
        for cell in cells:
            say(f"study    {cell}")
            try:
                fit(
                    caches[cell.pooling],
                    cell.heads,
                    cell.protocol,
                    grid=planned.grid_of(cell),
                    ratings=corpus.ratings,
                    jobs=jobs,
                    cluster=cluster,
                    track=track,
                    say=say,
                )
            except Exception as error:
                failed[cell] = _reason(error)
                say(f"FAILED   {cell}: {failed[cell]}")
    _measure(planned, jobs, say)
    report = _report(planned, failed, out, show, say)
    lines = tuple(f"{cell}: {reason}" for cell, reason in failed.items())
    return StudyDone(report, lines)


@with_typed_errors
def report_study(
    file: str | Path,
    *,
    out: str | Location | None = None,
    show: "Callable[[Report], object]" = _show_nothing,
    say: Say = say_nothing,
) -> "Report":
    """Report a study from its runs; nothing is fitted.

    Parameters
    ----------
    file : str or Path
        The TOML file of the study.
    out : str or Path, optional
        Folder to write the page, tables and figures to; by default ``artifacts/studies/NAME``,
        after the file.
    show : callable
        Called with the report before anything is written, so that a full disk does not lose it.
    say : callable
        Takes lines of text that report progress.

    Returns
    -------
    Report
        Printed, it is Markdown; ``tables`` has the numbers, and ``folder`` is where it was written.

    Raises
    ------
    UserError
        If the file is wrong, with the line and the remedy, or a run is damaged.
    """
    from ..artifacts.study.study_file import read_study

    return _report(read_study(Path(file)), {}, out, show, say)


@with_typed_errors
def write_study(file: str | Path = "study.toml") -> Path:
    """Write a commented file of a study, to be edited.

    Parameters
    ----------
    file : str or Path
        Where to write it.

    Returns
    -------
    Path

    Raises
    ------
    UserError
        If there is such a file already.
    """
    from ..artifacts.study.template import TEMPLATE
    from ..files import write_text

    path = Path(file)
    if path.exists():
        raise UserError(f"{path}: exists already; name another file, or remove it")
    write_text(path, TEMPLATE.replace("run FILE", f"run {path}").replace("FILE  ", f"{path}  "))
    return path


@with_typed_errors
def estimate_study(
    file: str | Path, *, jobs: int | None = None, say: Say = say_nothing
) -> "Report":
    """Estimate what a study would compute, how long that takes, and how much disk it needs.

    The time is that of a few clips of each corpus through each encoder that is on this machine, and
    of a small fit of each head. Nothing is downloaded, and nothing but these times is stored.

    Parameters
    ----------
    file : str or Path
        The TOML file of the study.
    jobs : int, optional
        Number of threads and processes; by default all available cores.
    say : callable
        Takes lines of text that report progress.

    Returns
    -------
    Report
        With the table ``plan``.

    Raises
    ------
    UserError
        If the file is wrong, or a corpus cannot be read.
    """
    from ..artifacts.study.estimate import report_estimate
    from ..artifacts.study.study_file import read_study

    planned = read_study(Path(file))
    planned.check_paths()
    clips = {corpus.name: _clips(corpus, say) for corpus in planned.corpora}
    costs = _measure(planned, jobs, say, clips)
    done = [each.run is not None for each in _find_runs(planned, {})]
    return report_estimate(planned, clips, costs, done, thread_count(jobs), say)


def _extract(
    planned: "Study",
    corpus: "StudyCorpus",
    encoder: "StudyEncoder",
    jobs: int | None,
    skip_bad: bool,
    cluster: str | None,
    track: Track[Any],
    say: Say,
) -> "dict[str, Cache]":
    """Extract embeddings with all poolings of an encoder; return the caches by pooling.

    Caches that exist are completed; poolings that none of them has are extracted together.
    """
    from ..artifacts.study.caches import cache_path, find_cache

    paths: dict[str, Path] = {}
    stored: dict[Path, str] = {}  # with which poolings each file is made or completed
    lacking = []
    for pooling in encoder.poolings:
        if cache := find_cache(corpus, encoder, pooling):
            paths[pooling], stored[cache.path] = cache.path, ",".join(cache.poolings)
        else:
            lacking.append(pooling)
    if lacking:
        parts = {part for pooling in lacking for part in pooling.split(",")}
        together = ",".join(each for each in ("mean", "std") if each in parts)
        path = cache_path(corpus, encoder, together)
        stored[path] = together
        paths |= dict.fromkeys(lacking, path)
    caches: dict[Path, Cache] = {}
    for path, pooling in stored.items():
        try:
            done = extract(
                corpus.data,
                replace(encoder.options, pooling=pooling),
                manifest=corpus.manifest,
                augment=corpus.protocol.augment,
                out=path,
                jobs=jobs,
                skip_bad=skip_bad,
                cluster=cluster,
                track=track,
                say=say,
            )
        except OtherCacheError as error:
            raise UserError(
                f"{first_line(error)}; or give the corpus {corpus.name} another name in "
                f"{planned.path}"
            ) from error
        say(f"cache    {counted(done.computed, 'clip')} computed, {done.reused} reused: {path}")
        for bad in done.bad:
            say(f"skipped  {bad}")
        caches[path] = done.cache
    return {pooling: caches[path] for pooling, path in paths.items()}


def _reason(error: Exception) -> str:
    text = first_line(error)
    return text if isinstance(error, SerpipeError) else f"{type(error).__name__}: {text}"


def _folder(planned: "Study") -> Path:
    from ..artifacts.run.latest import STUDIES

    return STUDIES / planned.path.stem


def _clips(corpus: "StudyCorpus", say: Say) -> "tuple[Clip, ...]":
    from ..corpora.data import gather

    return gather(list(corpus.data), corpus.manifest, skip_bad=True, say=say).clips


def _measure(
    planned: "Study",
    jobs: int | None,
    say: Say,
    clips: "Mapping[str, tuple[Clip, ...]]" = {},  # noqa: B006  # never changed
) -> "tuple[MeasuredCost, ...]":
    """Measure and store what the encoders on this machine cost, except what is stored already.

    An encoder or a corpus that fails has no cost; the others are measured all the same.
    """
    from ..artifacts.study.costs import MeasuredCost, options_of, read_costs, write_costs
    from ..features.encoder_cost import is_available_offline, measure_encoder

    folder = _folder(planned)
    corpora = {each.name for each in planned.corpora}
    costs = [
        each
        for each in read_costs(folder)
        if each.corpus in corpora and any(map(each.is_of, planned.encoders))
    ]
    known = {(each.encoder, each.corpus) for each in costs}
    samples = dict(clips)
    for encoder in planned.encoders:
        todo = [c for c in planned.corpora if (encoder.name, c.name) not in known]
        try:
            if not todo or not is_available_offline(str(encoder.options.encoder)):
                continue
            say(f"cost     {encoder.name}: measuring on a few clips")
            for corpus in todo:
                if corpus.name not in samples:
                    with suppress(Exception):  # its extraction failed, too, and reported why
                        samples[corpus.name] = _clips(corpus, say_nothing)
            own = {c.name: samples[c.name] for c in todo if c.name in samples}
            measured = measure_encoder(encoder.options, own, thread_count(jobs))
            options = options_of(encoder.options)
            costs += [MeasuredCost(encoder.name, c, options, each) for c, each in measured.items()]
            write_costs(folder, costs)
        except Exception as error:  # such as no memory left for a second copy of the encoder
            say(f"note     the cost of {encoder.name} is unknown: {_reason(error)}")
    return tuple(costs)


def _find_runs(planned: "Study", failed: "Mapping[Cell, str]") -> "Iterator[_Found]":
    """Look for the run of each cell of a study."""
    from ..artifacts.run.summary import read_summary
    from ..artifacts.study.caches import find_cache

    caches: dict[tuple[str, str, str], Cache | None] = {}
    for cell in planned.cells:
        key = cell.corpus.name, cell.encoder.name, cell.pooling
        if key not in caches:
            caches[key] = find_cache(cell.corpus, cell.encoder, cell.pooling)
        cache, missing = caches[key], "not fitted yet: run the study"
        if cache is None or cell in failed:
            yield _Found(cell, None, failed.get(cell, missing))
            continue
        grid, ratings = planned.grid_of(cell), cell.corpus.ratings
        try:
            run = run_folder(cache, cell.heads, cell.protocol, grid=grid, ratings=ratings)
            if not (run / "run.json").is_file():
                yield _Found(cell, None, missing)
                continue
            summary = read_summary(run)
        except UserError as error:
            yield _Found(cell, None, first_line(error))
        else:
            is_whole = set(summary.heads) == set(summary.planned)
            yield _Found(cell, run if is_whole else None, "is incomplete: run the study again")


@dataclass(frozen=True)
class _Found:
    """The run of a cell, or else the reason why there is none."""

    cell: "Cell"
    run: Path | None
    reason: str

    def read(self) -> "StudyRun":
        """Read the run; one that is damaged counts as missing."""
        from ..artifacts.run.results import read_results
        from ..artifacts.study.comparison import StudyRun

        if self.run is None:
            return StudyRun(self.cell, None, self.reason)
        try:
            return StudyRun(self.cell, read_results(self.run))
        except UserError as error:
            return StudyRun(self.cell, None, first_line(error))


def _report(
    planned: "Study",
    failed: "dict[Cell, str]",
    out: str | Location | None,
    show: "Callable[[Report], object]",
    say: Say,
) -> "Report":
    """Show a report and write its page, tables and figures."""
    from ..artifacts.report.publish import write_page
    from ..artifacts.study.costs import read_costs
    from ..artifacts.study.study_figures import draw_study
    from ..artifacts.study.study_report import report_study as make_report
    from ..mirror import stored

    runs = [each.read() for each in _find_runs(planned, failed)]
    made, groups, costs = make_report(planned, runs, read_costs(_folder(planned)))
    show(made)
    with stored(_folder(planned) if out is None else out, say) as folder:
        write_page(folder, planned.title, made, draw_study(planned.title, groups, costs))
    return replace(made, folder=folder)
