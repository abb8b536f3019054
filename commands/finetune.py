"""The commands ``serpipe finetune`` and ``serpipe evaluate``."""

from typing import TYPE_CHECKING, Any

from .. import api
from .output import ResultFormat, ResultFormatOption, print_report, print_result, say
from .robustness import print_perturbed

if TYPE_CHECKING:
    from ..artifacts.run.results import RunResults


def finetune(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Train an encoder end to end and test it on held-out speakers.

    The folds are those of fit. In each, a fifth of the training speakers validates: the epoch is
    selected on them. A stopped run resumes after its last finished epoch. Needs
    `pip install 'serpipe[finetune]'`.
    """
    from ..artifacts.report.comparison import compare_runs, report_runs
    from ..pipeline.finetune.options import TrainingOptions
    from ..progress import track
    from ..provenance import provenance

    make = TrainingOptions.for_networks if "network" in options else TrainingOptions
    options["training"] = make(**options["training"])
    done = api.finetune(**options, provenance=provenance(), track=track, say=say)
    further = {}
    if done.probe:
        compared = report_runs(compare_runs([done.results, done.probe]))
        if format is ResultFormat.TABLE:
            print_report(compared)
        tables = {table.name: table.json_records for table in compared.tables}
        further["compared"] = list(tables.get("comparisons", ()))
    _print_run(done.results, options.get("out"), further, format)


def evaluate(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Score a trained classifier, yours or published, on any corpus; nothing is trained.

    A checkpoint that lacks weights is refused. If the model was trained on the corpus, all its
    scores are marked CONTAMINATED.
    """
    from ..progress import track
    from ..provenance import provenance

    results = api.evaluate(**options, provenance=provenance(), track=track, say=say)
    further = print_perturbed(results, format) if results.perturbed else {}
    _print_run(results, options.get("out"), further, format)


def _print_run(
    results: "RunResults", out: str | None, further: dict[str, Any], format: ResultFormat
) -> None:
    from ..artifacts.report.result_tables import nested_table
    from ..artifacts.run.latest import RUNS
    from ..provenance import command_line
    from ..remote import as_location

    folder = as_location(out or results.run)
    if results.run.parent != RUNS:  # `serpipe report` does not look there by default
        say(f"next     {command_line('report', folder)}")
    say("run      predictions in:")
    nested = list(nested_table(results).json_records)
    print_result(folder, {"run": str(folder), "nested": nested, **further}, format)
