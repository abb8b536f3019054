"""The command ``serpipe fit``."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from .. import api
from ..errors import UserError
from .output import ResultFormat, ResultFormatOption, print_json, print_table, say


def fit(
    options: dict[str, Any],
    cross_corpus: Annotated[
        bool,
        typer.Option(
            "--cross-corpus",
            help="Make a run for every pair of corpora, over the labels that all have; within a "
            "corpus by --split.",
        ),
    ] = False,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="Fit with N seeds, counted up from --seed, and show the spread of the scores: for "
            "splits that are drawn at random (kfold, holdout, random).",
        ),
    ] = 1,
    format: ResultFormatOption = ResultFormat.TABLE,
) -> None:
    """Train heads and test them on held-out speakers.

    Layer and hyper-parameters are selected within the training speakers of each fold (nested
    cross-validation), and the scaler is fitted to training clips only. Saves all out-of-fold
    predictions, the search, and a bundle: the head fitted to all clips. A stopped run resumes where
    it stopped.
    """
    from ..artifacts.report.checks import run_checks
    from ..artifacts.report.comparison import corpus_matrices
    from ..artifacts.report.result_tables import nested_table
    from ..artifacts.run.run_set import write_run_set
    from ..progress import track
    from ..provenance import command_line, provenance
    from ..remote import as_location

    out, several = options.get("out"), cross_corpus or repeats > 1
    _check_several(cross_corpus, repeats, out, options.get("name"))
    options |= {"provenance": provenance(), "track": track, "say": say}
    runs: tuple[Any, ...]
    if not several:
        runs = (api.fit(**options),)
    elif cross_corpus:
        runs = api.fit_cross_corpus(**options)
    else:
        runs = api.fit_repeated(**options, repeats=repeats)
    folders = [as_location(out or results.run) for results in runs]
    matrices = corpus_matrices(runs) if cross_corpus else ()
    if format is ResultFormat.TABLE:
        for table in matrices:
            print_table(table)
    if several:
        kind = "cross-corpus" if cross_corpus else "repeats"
        listed = write_run_set([results.run for results in runs], kind)
        say(f"next     {command_line('report', listed)}")
    elif out:  # `serpipe report` does not look there by default
        say(f"next     {command_line('report', *folders)}")
    say("run      predictions and bundles in:")
    if format is ResultFormat.TABLE:
        for folder in folders:
            typer.echo(folder)
        return
    contents = [
        {
            "run": str(folder),
            "nested": list(nested_table(results).json_records),
            "checks": [asdict(check) for check in run_checks(results)],
        }
        for folder, results in zip(folders, runs, strict=True)
    ]
    cells = {table.name: list(table.json_records) for table in matrices}
    print_json({"runs": contents, **cells} if several else contents[0])


def _check_several(cross_corpus: bool, repeats: int, out: str | None, name: str | None) -> None:
    """Refuse options that are for a single run."""
    if cross_corpus and repeats > 1:
        raise UserError("--repeats and --cross-corpus cannot be combined; omit one of the two")
    option = "--cross-corpus" if cross_corpus else "--repeats" if repeats > 1 else ""
    if option and out:
        raise UserError(f"--out {out}: {option} makes several runs; omit one of the two")
    if option and name is not None:
        raise UserError(
            f"--name {name}: {option} makes several runs; omit --name, and name each run in the "
            "report: serpipe report NAME=RUN NAME=RUN"
        )
