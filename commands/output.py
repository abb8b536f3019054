"""How the commands print: results to standard output, everything else to standard error."""

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..artifacts.report import Report
    from ..artifacts.table import Table


class TableFormat(StrEnum):
    """How reports are printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


class ResultFormat(StrEnum):
    """How other results are printed."""

    TABLE = "table"
    JSON = "json"


ReportFormatOption = Annotated[
    TableFormat,
    typer.Option("--format", help="Output format; csv prints only the first table."),
]
ResultFormatOption = Annotated[
    ResultFormat, typer.Option("--format", help="Output format; json is for scripts.")
]


def say(text: str) -> None:
    """Print a line of text to standard error."""
    # With print, not typer.echo: that bypasses the stream that a progress bar puts in place and
    # writes into the line of the bar. Names of files may hold anything: characters that would
    # control a terminal are shown as their codes.
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    print(shown, file=sys.stderr, flush=True)


def print_line(text: str) -> None:
    """Print a result while a progress bar is shown: it appears above the bar."""
    print(text, flush=True)  # not typer.echo, see say


def print_json(result: dict[str, Any]) -> None:
    """Print a result as JSON."""
    typer.echo(json.dumps(result, indent=1, allow_nan=False))


def print_result(path: object, result: dict[str, Any], format: ResultFormat) -> None:
    """Print where a result is, or all of it as JSON."""
    if format is ResultFormat.JSON:
        print_json(result)
    else:
        typer.echo(path)


def print_as(format: TableFormat, report: "Report") -> None:
    """Print a report in a format."""
    from ..artifacts.report import as_json, markdown
    from ..artifacts.table import as_csv

    if format is TableFormat.TABLE:
        print_report(report)
    elif format is TableFormat.MARKDOWN:
        typer.echo(markdown(report), nl=False)
    elif format is TableFormat.JSON:
        typer.echo(as_json(report), nl=False)
    else:
        typer.echo(as_csv(report.tables[0]), nl=False)


def print_report(report: "Report", console: Any = None) -> None:
    """Print a report on a rich console, by default that of standard output."""
    from rich.table import Table
    from rich.text import Text

    from ..artifacts.report import check_line

    console = _console(console)
    facts = Table.grid(padding=(0, 2))
    for name, value in report.facts:
        facts.add_row(Text(name, style="bold"), Text(value))
    console.print(facts)
    for warning in report.warnings:
        console.print(Text(f"\n{warning}.", style="bold red"))
    for table in report.printed:
        print_table(table, console)
    console.print()
    for note in report.notes:
        console.print(Text(note))
    styles = {"invalid": "bold red", "warning": "yellow", "note": ""}
    if report.checks:
        console.print(Text("\nChecks", style="bold"))
    for check in report.checks:
        console.print(Text(check_line(check), style=styles[check.severity]))


def print_table(table: "Table", console: Any = None) -> None:
    """Print a table on a rich console, by default that of standard output."""
    from rich.text import Text

    from ..artifacts.table import as_terminal

    console = _console(console)
    console.print(Text(f"\n{table.title}", style="bold"))
    console.print(as_terminal(table), end="")
    if table.note:
        console.print(Text(table.note))


def _console(console: Any) -> Any:
    from rich.console import Console

    console = console or Console(highlight=False)
    if not console.is_terminal and not console.record:  # a file has no edge at which to wrap
        return Console(highlight=False, width=200)
    return console
