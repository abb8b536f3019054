"""The command ``serpipe predict``."""

import io
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import api
from ..errors import MachineError, UserError, counted
from .output import print_line, say

if TYPE_CHECKING:
    from ..api.prediction import PredictedRecordings
    from ..artifacts.models.prediction import Prediction


class PredictionFormat(StrEnum):
    """How predictions are printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def predict(
    options: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the predictions to this file. Lines of JSON are written one by one, and a "
            "file of them is continued.",
            show_default="standard output",
        ),
    ] = None,
    format: Annotated[
        PredictionFormat | None,
        typer.Option(
            help="Output format; jsonl is a line of JSON for each recording.",
            show_default="by the suffix of --out, else table",
        ),
    ] = None,
) -> None:
    """Predict the emotion of recordings with a head or model that was trained before.

    A label is the most likely of those that the model knows; it is not what a person feels. How the
    model scored, and by which protocol, is printed to standard error.
    """
    from ..api.prediction import check_new_file
    from ..files import make_folder
    from ..progress import track
    from ..remote import as_location

    chosen_format = _format_of(format, out)
    if out is not None:
        if "plot" in options and out.resolve() == Path(options["plot"]).resolve():
            raise UserError(f"--out {out}: is also the file of --plot; name another file")
        check_new_file("--out", out, [as_location(each) for each in options.get("inputs", ())])
    predictions = api.predict(**options, track=track, say=say)
    is_continued = chosen_format is PredictionFormat.JSONL and predictions.can_be_continued
    if out is not None and is_continued:
        from ..artifacts.models.prediction_text import probability_note

        for line in probability_note(predictions.model):
            say(line)
        predictions.write(out)
        return
    if out is not None:
        check_new_file("--out", out, map(as_location, predictions.sources))
        make_folder(out.parent)
    with _printer(chosen_format, predictions, out) as show:
        for each in predictions:
            show(each)


def _format_of(format: PredictionFormat | None, out: Path | None) -> PredictionFormat:
    if format is not None or out is None:
        return format or PredictionFormat.TABLE
    suffix = out.suffix[1:].lower()
    if suffix not in (PredictionFormat.CSV, PredictionFormat.JSON, PredictionFormat.JSONL):
        raise UserError(
            f"--out {out}: the suffix names no format; use .csv, .json or .jsonl, or set --format"
        )
    return PredictionFormat(suffix)


@contextmanager
def _printer(
    format: PredictionFormat, predictions: "PredictedRecordings", out: Path | None
) -> "Iterator[Callable[[Prediction], None]]":
    """Yield a function that prints a prediction; JSON, a single text, is printed at the end.

    With ``out``, predictions are written there at the end, or printed if the disk is full.
    """
    from ..artifacts.models import prediction_text as texts
    from ..artifacts.report.table import byte_order_mark
    from ..files import write_text

    model, is_lines = predictions.model, format is PredictionFormat.JSONL
    sources = () if is_lines else predictions.sources
    as_json: list[dict[str, Any]] = []
    lines: list[str] = []
    n_shown = 0
    echo: Callable[[str], None] = print_line if out is None else lines.append

    def show(prediction: "Prediction") -> None:
        nonlocal n_shown
        n_shown += 1
        if format is PredictionFormat.JSON:
            as_json.append(asdict(prediction))
        elif format is PredictionFormat.JSONL:
            echo(texts.as_json_line(prediction))
        elif format is PredictionFormat.CSV:
            echo("\n".join(texts.csv_rows(prediction, model)))
        else:
            echo("\n".join(texts.table_rows(prediction, model, sources, predictions.has_timeline)))

    if format is PredictionFormat.CSV:
        into_file = out is not None
        if not into_file and isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.isatty():
            sys.stdout.reconfigure(encoding="utf-8")  # a file, whatever the terminal shows
            into_file = _is_file(sys.stdout)  # in a pipe, the mark would be part of the first name
        mark = byte_order_mark("".join([*sources, *model.predictor.outputs])) if into_file else ""
        echo(mark + texts.csv_header(model, predictions.by_speaker))
    elif format is PredictionFormat.TABLE:
        echo(texts.table_header(model, sources))
    note = texts.probability_note(model)
    if format in (PredictionFormat.CSV, PredictionFormat.JSONL):  # which have fixed columns
        for line in note:
            say(line)
    is_complete = False
    try:
        yield show
        is_complete = True
    except UserError:  # raised after the last prediction, if recordings cannot be used
        is_complete = True
        raise
    finally:
        if format is PredictionFormat.JSON:
            content = {"model": dict(model.card), "predictions": as_json}
            echo(json.dumps(content, indent=1, allow_nan=False))
        elif format is PredictionFormat.TABLE:
            for line in note:
                echo(line)
        if out is not None and n_shown:
            text = "".join(f"{line}\n" for line in lines)
            # A command that was stopped does not replace the results of an earlier one.
            partial = out.with_name(f"{out.stem}.partial{out.suffix}")
            path = partial if out.exists() and not is_complete else out
            try:
                write_text(path, text)
                say(f"written  {counted(n_shown, 'prediction')} in {path}")
            except MachineError:
                typer.echo(text, nl=False)
                raise


def _is_file(stream: io.TextIOWrapper) -> bool:
    """Whether a stream writes into a regular file."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):  # it has no descriptor
        return False
