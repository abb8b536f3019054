"""The commands ``serpipe cache ...``."""

from typing import Any

import typer

from .. import api
from ..errors import UserError
from .output import ResultFormat, ResultFormatOption, print_json, say


def describe(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Print what a cache contains."""
    facts = api.describe_cache(**options, say=say)
    if format is ResultFormat.JSON:
        print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name:<16} {value}")


def verify(options: dict[str, Any], format: ResultFormatOption = ResultFormat.TABLE) -> None:
    """Check every number against its checksum; exit code 2 if the file is damaged."""
    from ..remote import as_location

    path, errors = api.verify_cache(**options, say=say)
    shown = as_location(options.get("file", path))
    if format is ResultFormat.JSON:
        print_json({"file": str(shown), "wrong": errors})
    if errors:
        raise UserError(
            f"{shown}: {'; '.join(errors)}; make it again with `serpipe extract --overwrite`"
        )
    if format is ResultFormat.TABLE:
        typer.echo(f"{shown}: intact, all checksums are correct")
