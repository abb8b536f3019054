"""Print a run's table as an SVG picture: ``python docs/make_picture.py RUN > docs/report.svg``."""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from serpipe.artifacts.table import as_terminal, layer_table


def main() -> None:
    """Print the picture of the run named on the command line."""
    console = Console(record=True, width=82, file=io.StringIO(), highlight=False)
    console.print(as_terminal(layer_table(Path(sys.argv[1]))))
    svg = console.export_svg(title="serpipe report", unique_id="report")
    # A picture that asks the network for a font is not shown everywhere.
    print(re.sub(r"@font-face \{.*?\}\n", "", svg, flags=re.DOTALL))


if __name__ == "__main__":
    main()
