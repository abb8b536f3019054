"""Predictions as rows of a table, CSV or JSON; and what is said of the model beside them."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from .prediction import Prediction, csv_columns
from .saved_model import Model

#: Stands in the table beside a recording that the model was trained on.
TRAINED_ON = "TRAINED ON"
TRAINED_ON_NOTE = (
    f"{TRAINED_ON}: the model was trained on this very recording; this prediction is no "
    "evidence of how well it works on new recordings"
)
#: Width of a column of seconds, and of one of labels at the least.
_NUMBER, _LABEL = 9, 10


def as_json_line(prediction: Prediction) -> str:
    """Return a prediction as one line of JSON."""
    return json.dumps(asdict(prediction), allow_nan=False)


def csv_header(model: Model) -> str:
    """Return the names of the columns of :func:`csv_rows`."""
    return _csv(csv_columns(model.listener.outputs))


def csv_rows(prediction: Prediction, model: Model) -> Iterator[str]:
    """Yield a row for the whole recording, then one for each window; seconds, scores in full."""
    whole = ("whole", 0.0, prediction.seconds, prediction.label, prediction.scores)
    trained_on = "" if prediction.trained_on is None else str(prediction.trained_on).lower()
    parts = [("window", s.start, s.end, s.label, s.scores) for s in prediction.timeline]
    for part, start, end, label, scores in [whole, *parts]:
        values = [scores.get(name, "") for name in model.listener.outputs]
        yield _csv([prediction.source, part, start, end, label, trained_on, *values])


def table_header(model: Model, sources: Sequence[str]) -> str:
    """Return the head of :func:`table_rows`."""
    columns = ["label", "probability"] if model.labels else list(model.listener.outputs)
    return _row("file", "seconds", columns, _width(sources))


def table_rows(
    prediction: Prediction, model: Model, sources: Sequence[str], timeline: bool
) -> Iterator[str]:
    """Yield a row for the recording and, if they are asked for, one for each window.

    Parameters
    ----------
    prediction : Prediction
        What to print.
    model : Model
        What said it.
    sources : sequence of str
        All that will be printed: the first column is as wide as the longest of them.
    timeline : bool
        Whether windows are.

    Yields
    ------
    str
    """

    def cells(label: str, scores: dict[str, float]) -> list[str]:
        if model.labels:
            return [label, f"{scores[label]:.2f}"] if label else ["(nothing heard)", ""]
        return [f"{value:.3f}" for value in scores.values()] or ["(nothing heard)"]

    width = _width(sources)
    whole = cells(prediction.label, dict(prediction.scores))
    if prediction.trained_on:
        whole.append(TRAINED_ON)
    yield _row(prediction.source, f"{prediction.seconds:.2f}", whole, width)
    for each in prediction.timeline if timeline else ():
        span = f"  {each.start:.2f} - {each.end:.2f} s"
        yield _row(
            span, f"{each.end - each.start:.2f}", cells(each.label, dict(each.scores)), width
        )


def describe(model: Model) -> list[str]:
    """Return what is to be said of a model before what it says: lines of a name and a text."""
    card = model.card
    told = [
        f"model    {_printable(model.name)}: {_printable(str(card['what']))}",
        f"score    {_printable(str(card['score']))}",
        f"data     {_printable(str(card['corpus']))}; licence {_printable(str(card['licence']))}",
        "         its predictions of clips that it was trained on say nothing about others",
    ]
    return [*told, *(f"WARNING: {_printable(warning)}" for warning in card["warnings"])]


def probability_note(model: Model) -> list[str]:
    """Return a line that says whether the probabilities are calibrated; none for ratings."""
    told = _printable(str(model.card["probabilities"]))
    return [f"probabilities: {told}"] if told else []


def _row(first: str, seconds: str, columns: Sequence[str], width: int) -> str:
    cells = "".join(f"  {cell:<{_LABEL}}" for cell in columns)
    return f"{_printable(first):<{width}}{seconds:>{_NUMBER}}{cells}".rstrip()


def _width(sources: Sequence[str]) -> int:
    return max([20, *(len(_printable(source)) for source in sources)])


def _printable(text: str) -> str:
    """Return text without what would do something to a terminal: file names may be anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _csv(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
