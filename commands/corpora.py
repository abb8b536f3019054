"""The commands ``serpipe corpora ...`` and ``serpipe convert``."""

from typing import Any

import typer

from .. import api
from ..errors import UserError, counted
from .output import (
    ReportFormatOption,
    ResultFormat,
    ResultFormatOption,
    TableFormat,
    print_as,
    print_result,
    say,
)


def list_corpora(options: dict[str, Any], format: ReportFormatOption = TableFormat.TABLE) -> None:
    """Print the supported corpora, and how to get each."""
    print_as(format, api.list_corpora())


def describe(options: dict[str, Any], format: ReportFormatOption = TableFormat.TABLE) -> None:
    """Decode every clip and print what is present, missing or wrong."""
    from ..progress import track

    for described in api.describe_corpora(**options, track=track):
        print_as(format, described)


def write_table(options: dict[str, Any]) -> None:
    """Write a table with a row for each clip: speaker, emotion, text, duration, rate, hash."""
    from ..progress import track

    typer.echo(api.write_clip_table(**options, track=track, say=say))


def write_raters(options: dict[str, Any]) -> None:
    """Write the ratings of single raters, if a corpus has them: a row for each clip and rater."""
    typer.echo(api.write_rater_table(**options, say=say))


def download(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Download and unpack a corpus that is freely available; a stopped download resumes."""
    from ..corpora.download import track_bytes
    from ..provenance import command_line

    done = api.download_corpus(**options, track=track_bytes, say=say)
    to = options["to"]
    info, extraction = command_line("corpora", "info", to), command_line("extract", "--data", to)
    say(f"next     {info}; {extraction}")
    archives = [
        {
            "path": str(each.path),
            "size": each.size,
            "sha256": each.sha256,
            "verified": each.verified,
            "fetched": each.fetched,
            "unpacked": each.unpacked,
        }
        for each in done
    ]
    print_result(to, {"folder": to, "archives": archives}, format)


def convert(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Convert recordings of any format, sampling rate and channels to mono 16-bit files."""
    from ..progress import track

    done = api.convert(**options, track=track)
    for path in done.clipped:
        say(f"note     {path}: samples beyond full scale were clipped")
    for error in done.bad:
        say(f"bad      {error}")
    say(f"files    {len(done.written)} written, {len(done.skipped)} already up to date, in:")
    kinds = ("written", "skipped", "clipped", "bad")
    files = {kind: list(map(str, getattr(done, kind))) for kind in kinds}
    print_result(options["to"], {"folder": options["to"], **files}, format)
    if done.bad:
        raise UserError(
            f"{counted(len(done.bad), 'file')} could not be converted, see above; repair or remove "
            "them"
        )
