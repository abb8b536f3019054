"""The command ``serpipe report``."""

from pathlib import Path
from typing import Any

from .. import api
from ..remote import Remote, as_location
from .output import ReportFormatOption, TableFormat, print_as, say


def report(options: dict[str, Any], format: ReportFormatOption = TableFormat.TABLE) -> None:
    """Print the scores of runs with intervals and tests; write a page, tables and figures.

    Everything is computed from the saved predictions; nothing is fitted again.
    """
    runs = [_split_name(given) for given in options.pop("runs", ())]
    names = [name for name, _ in runs]
    if len(runs) > 1 and not any(names) and not options.get("matrix"):
        say("note     tables can call runs by name: serpipe report NAME=RUN NAME=RUN")
    made = api.report(
        *(folder for _, folder in runs),
        **options,
        names=names if any(names) else (),
        # Printed before anything is drawn, so that a full disk does not lose what was computed.
        show=lambda report: print_as(format, report),
        say=say,
    )
    assert made.folder
    if "compare_layers" in options or options.get("matrix"):
        say(f"tables   {made.folder}")
    else:
        say(
            f"page     {made.folder / 'index.html'}, with the tables and figures as files beside it"
        )
    if "submit" in options:
        say(f"entry    {options['submit']}, for the leaderboard: docs/how-to/submit-a-result.md")


def _split_name(given: str) -> tuple[str, str]:
    """Split ``NAME=RUN``; an existing path or an address has no name."""
    name, equals, folder = given.partition("=")
    if not equals or isinstance(as_location(given), Remote) or Path(given).exists():
        return "", given
    from ..artifacts.run.summary import check_given_name

    return check_given_name(name), folder
