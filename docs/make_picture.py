"""Print a report as SVG: ``python docs/make_picture.py RUN > docs/report.svg``."""

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.run.results import read_results
from serpipe.commands.output import print_report

SHOWN = ("nested", "comparisons", "layers")


def main() -> None:
    """Print the picture of the run named on the command line."""
    console = Console(record=True, width=144, file=io.StringIO(), highlight=False)
    report = report_run(read_results(Path(sys.argv[1])))
    tables = tuple(table for table in report.tables if table.name in SHOWN)
    print_report(replace(report, tables=tables, notes=report.notes[:2]), console)
    svg = console.export_svg(title="serpipe report", unique_id="report")
    # A picture that asks the network for a font is not shown everywhere.
    print(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
