"""The command ``serpipe robustness``."""

from typing import TYPE_CHECKING, Any

from .. import api
from .output import ResultFormat, ResultFormatOption, print_result, print_table, say

if TYPE_CHECKING:
    from ..artifacts.run.results import RunResults


def robustness(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Test the heads of a run of fit on perturbed copies of its test clips.

    In each fold, the heads that were fitted there predict the perturbed clips of the speakers that
    the fold leaves out. The copies are embedded once and cached beside the cache of the run. The
    scores become part of the run, and of its report.
    """
    from ..progress import track
    from ..provenance import provenance

    results = api.robustness(**options, provenance=provenance(), track=track, say=say)
    records = print_perturbed(results, format)
    say("run      predictions in:")
    print_result(results.run, {"run": str(results.run), **records}, format)


def print_perturbed(results: "RunResults", format: ResultFormat) -> dict[str, Any]:
    """Print what perturbations cost each head, unless as JSON, and return the records."""
    from ..artifacts.report.perturbed_table import perturbed_table

    tables = [perturbed_table(results, head) for head in results.perturbed]
    if format is ResultFormat.TABLE:
        for table in tables:
            print_table(table)
    return {table.name: list(table.json_records) for table in tables}
