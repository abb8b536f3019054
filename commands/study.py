"""The commands ``serpipe study ...``."""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import api
from ..errors import UserError, counted
from .output import ReportFormatOption, TableFormat, print_as, say


class StudyGroup(TyperGroup):
    """The commands; ``serpipe study FILE`` is ``serpipe study run FILE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert ``run`` where no command is named."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


def run(
    options: dict[str, Any],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Compute nothing: print the runs, their cost in hours, measured on a few clips, "
            "and the disk space.",
        ),
    ] = False,
    format: ReportFormatOption = TableFormat.TABLE,
) -> None:
    """Extract, fit and report every combination of encoders, corpora and heads that a file names.

    What exists is not computed again: the same command resumes a stopped study, and a new line in
    the file computes what belongs to it. If a part fails, the rest is computed, and the exit code
    is 1.
    """
    from ..progress import track

    if dry_run:
        for name in ("cluster", "out", "skip_bad"):
            if name in options:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag}: cannot be combined with --dry-run; omit one of the two")
        print_as(format, api.estimate_study(**options, say=say))
        return
    done = api.study(**options, show=lambda made: print_as(format, made), track=track, say=say)
    _say_where(done.report)
    if done.failed:
        say(f"FAILED   {counted(len(done.failed), 'run')}; the same command tries again:")
        for line in done.failed:
            say(f"         {line}")
        raise typer.Exit(1)


def init(options: dict[str, Any]) -> None:
    """Write a commented file of a study, to be edited."""
    typer.echo(api.write_study(**options))


def report(options: dict[str, Any], format: ReportFormatOption = TableFormat.TABLE) -> None:
    """Report a study from its runs; nothing is fitted."""
    _say_where(api.report_study(**options, show=lambda made: print_as(format, made), say=say))


def _say_where(made: Any) -> None:
    say(f"page     {made.folder / 'index.html'}, with the tables and figures as files beside it")
