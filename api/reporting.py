"""Report runs: ``serpipe.report``."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError, counted
from ..progress import Say, say_nothing
from ..remote import Location, as_location
from .shared import with_typed_errors

if TYPE_CHECKING:
    from ..artifacts.report.report import Report
    from ..artifacts.run.results import RunResults


def _show_nothing(report: "Report") -> None:
    """Ignore a report that is only written."""


@with_typed_errors
def report(
    *runs: "RunResults | str | Location",
    names: Sequence[str] = (),
    baseline: bool = False,
    compare_layers: str | None = None,
    matrix: bool = False,
    audio: str | Path | None = None,
    submit: str | Path | None = None,
    groups: Sequence[str] = (),
    out: str | Location | None = None,
    show: "Callable[[Report], object]" = _show_nothing,
    say: Say = say_nothing,
) -> "Report":
    """Report the scores of runs with intervals and tests; write a page, tables and figures.

    Everything is computed from the saved predictions; nothing is fitted again.

    Parameters
    ----------
    *runs : RunResults, str or Path
        Runs, or their folders; by default the newest in ``artifacts/runs``. Several are compared,
        clip by clip where they were tested on the same clips. The folder of a list of runs, as
        ``serpipe fit --cross-corpus`` writes it, stands for these runs.
    names : sequence of str
        Name of each run in tables and figures; where empty, the name that the run was fitted with.
    baseline : bool
        Add published results of the same corpus, split, labels and metric.
    compare_layers : str, optional
        Name of a head: test its nested selection of a layer against each single layer. No page is
        written then.
    matrix : bool
        One table of what each protocol gives: random clips, new texts, new speakers, both, enrolled
        clips, shuffled labels. It is made of runs on the same cache, by default of all in
        ``artifacts/runs`` that are of the cache of the newest run. Protocols that lack a run come
        with the command that makes one.
    audio : str or Path, optional
        Folder of the clips, so that the page can play the hardest ones.
    submit : str or Path, optional
        JSON file to write the scores, folds and counts of a single run to, for the leaderboard of
        serpipe. Runs that the leaderboard does not take are refused.
    groups : sequence of str
        Columns of the clip table by which scores are also broken down, besides ``sex``,
        ``intensity`` and ``corpus``, with the largest gap between groups; numbers with more than 20
        values are divided at their quartiles.
    out : str or Path, optional
        Folder to write the page, tables and figures to; by default ``RUN/report``, for several runs
        ``artifacts/comparisons/NAME``. The report of a run in an object store is uploaded to it.
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
        If a run is missing or damaged, or options are given that cannot be combined.

    Examples
    --------
    >>> import serpipe
    >>> print(serpipe.report())  # doctest: +SKIP
    """
    from ..artifacts.leaderboard import entry_of, write_entry
    from ..artifacts.report.comparison import compare_runs, report_layers, report_runs
    from ..artifacts.report.protocol_table import report_protocols, runs_of_newest_cache
    from ..artifacts.report.publish import publish, publish_comparison
    from ..artifacts.report.report import report_run, write_report
    from ..artifacts.run.latest import RUNS, comparison_folder, latest_run
    from ..artifacts.run.results import RunResults, read_results
    from ..artifacts.run.run_set import read_run_set
    from ..files import make_folder
    from ..mirror import local, stored

    if len(runs) == 1 and not isinstance(runs[0], RunResults):
        folder = as_location(runs[0])
        if isinstance(folder, Path) and (listed := read_run_set(folder)):
            runs, out = listed, folder if out is None else out
    of_single_run = {
        "--audio": audio, "--baseline": baseline, "--submit": submit, "--groups": groups,
    }  # fmt: skip
    given = [option for option, value in of_single_run.items() if value]
    if matrix:
        if compare_layers is not None:
            given.append("--compare-layers")
        if given:
            raise UserError(f"{given[0]}: cannot be combined with --matrix; omit one of the two")
        runs = runs or runs_of_newest_cache(RUNS)
    if names and len(names) != len(runs):
        raise UserError(
            f"{counted(len(names), 'name')} for {counted(len(runs), 'run')}: give each run a name"
        )
    several, clips = len(runs) > 1, None if audio is None else Path(audio)
    if given and (several or compare_layers is not None):
        raise UserError(
            f"{given[0]}: is for the page of a single run; omit it, or report one run without "
            "--compare-layers"
        )
    if several and compare_layers is not None:
        raise UserError(f"--compare-layers {compare_layers}: is for a single run; name one run")
    if clips and not clips.is_dir():
        raise UserError(f"--audio {clips}: no such folder; name the folder of the clips")
    results = []
    with ExitStack() as stack:
        for run in runs or (latest_run(),):
            if isinstance(run, RunResults):
                say(f"run      {run.run}")
                results.append(run)
                continue
            where = as_location(run)
            say(f"run      {where}" + ("" if runs else ", the newest"))
            copy = local(where, say)
            if not several and not matrix and out is None:  # it is written into the run's folder
                stack.enter_context(stored(where, say))
            results.append(read_results(copy))
        target = None if out is None else stack.enter_context(stored(out, say))
        if target:
            make_folder(target)
        named = zip(results, names or [""] * len(results), strict=True)
        results = [each.called(name) if name else each for each, name in named]
        folders, first = [each.run for each in results], results[0]
        if matrix:
            made = report_protocols(results)
            show(made)
            compared_folder = comparison_folder(folders)
            written = target or compared_folder.with_name(f"matrix-{compared_folder.name}")
            write_report(written, made)
        elif compare_layers is not None:
            if compare_layers not in first.heads:
                raise UserError(
                    f"--compare-layers {compare_layers}: expected one of the heads of the run "
                    f"({', '.join(first.heads)})"
                )
            made = report_layers(first, compare_layers)
            show(made)
            written = target or first.run / "report" / f"layers-{compare_layers}"
            write_report(written, made)
        elif several:
            compared = compare_runs(results)
            made = report_runs(compared)
            show(made)
            written = target or comparison_folder(folders)
            publish_comparison(written, compared, made)
        else:
            entry = None if submit is None else entry_of(first)
            first = first.grouped_by(groups)
            made = report_run(first, baseline=baseline)
            show(made)
            written = publish(first, made, clips, target).parent
            if submit is not None and entry:
                write_entry(Path(submit), entry)
    return replace(made, folder=written)
