"""Predictions as rows of a table, CSV or JSON, and the description of the model."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from ...errors import counted
from .prediction import (
    TRAINED_ON,
    UNLIKE_TRAINING,
    Prediction,
    PredictionBySpeaker,
    Window,
    csv_columns,
    speaker_of,
)
from .saved_model import Model

TRAINED_ON_NOTE = (
    f"{TRAINED_ON}: the model was trained on this very recording; this prediction is no "
    "evidence of how well it works on new recordings"
)
UNLIKE_TRAINING_NOTE = (
    f"{UNLIKE_TRAINING}: the recording is unlike all clips that the model was trained on (another "
    "microphone, language or kind of sound); its score says nothing about this prediction"
)
#: Widths of a column of seconds, and of one of labels.
_NUMBER, _LABEL = 9, 10
_SILENCE = "(nothing heard)"
_NO_ANSWER = "(no answer)"


def as_json_line(prediction: Prediction) -> str:
    """Return a prediction as one line of JSON."""
    return json.dumps(asdict(prediction), allow_nan=False)


def csv_header(model: Model, by_speaker: bool) -> str:
    """Return the names of the columns of :func:`csv_rows`; the last is ``speaker``, if known."""
    return _csv([*csv_columns(model.predictor.outputs), *(["speaker"] if by_speaker else [])])


def csv_rows(prediction: Prediction, model: Model) -> Iterator[str]:
    """Yield a row for the recording and one for each of its parts, scores in full precision."""
    flags = [
        "" if flag is None else str(flag).lower()
        for flag in (prediction.trained_on, prediction.unlike_training)
    ]
    for part, each in prediction.parts:
        scores = [each.scores.get(name, "") for name in model.predictor.outputs]
        speaker = [speaker_of(each)] if isinstance(prediction, PredictionBySpeaker) else []
        cells = [prediction.source, part, each.start, each.end, each.label, *flags, *scores]
        yield _csv([*cells, *speaker])


def table_header(model: Model, sources: Sequence[str]) -> str:
    """Return the header of :func:`table_rows`."""
    columns = ["label", "probability"] if model.labels else list(model.predictor.outputs)
    return _row("file", "seconds", columns, _width(sources))


def table_rows(
    prediction: Prediction, model: Model, sources: Sequence[str], timeline: bool
) -> Iterator[str]:
    """Yield a row for the recording and, if ``timeline``, one for each speaker and each window.

    The first column is as wide as the longest of ``sources``, all that will be printed.
    """

    def cells(part: Window) -> list[str]:
        if model.labels:
            if not part.label:
                return [_NO_ANSWER if part.scores else _SILENCE, ""]
            return [part.label, f"{part.scores[part.label]:.2f}"]
        return [f"{value:.3f}" for value in part.scores.values()] or [_SILENCE]

    width = _width(sources)
    (_, whole), *_ = prediction.parts
    marks = [TRAINED_ON] if prediction.trained_on else []
    marks += [UNLIKE_TRAINING] if prediction.unlike_training else []
    yield _row(prediction.source, f"{prediction.seconds:.2f}", [*cells(whole), *marks], width)
    for speaker in prediction.speakers if isinstance(prediction, PredictionBySpeaker) else ():
        part = Window(0.0, speaker.seconds, speaker.label, speaker.scores)
        turns = counted(speaker.turns, "turn")
        yield _row(f"  {turns}", f"{speaker.seconds:.2f}", [*cells(part), speaker.speaker], width)
    for each in prediction.timeline if timeline else ():
        span = f"  {each.start:.2f} - {each.end:.2f} s"
        name = [speaker_of(each)] if speaker_of(each) else []
        yield _row(span, f"{each.end - each.start:.2f}", [*cells(each), *name], width)


def describe(model: Model) -> list[str]:
    """Return the description of a model that is printed before its predictions, as lines."""
    card = {name: _printable(str(value)) for name, value in model.card.items()}
    return [
        f"model    {_printable(model.name)}: {card['what']}",
        *([f"revision {card['revision']}"] if "revision" in card else []),
        f"score    {card['score']}",
        f"data     {card['corpus']}; licence {card['licence']}",
        "         its predictions of clips that it was trained on say nothing about others",
        *(f"WARNING: {_printable(warning)}" for warning in model.card["warnings"]),
    ]


def probability_note(model: Model) -> list[str]:
    """Return a line on the calibration of the probabilities; none for ratings."""
    note = _printable(str(model.card["probabilities"]))
    return [f"probabilities: {note}"] if note else []


def _row(first: str, seconds: str, columns: Sequence[str], width: int) -> str:
    cells = "".join(f"  {cell:<{_LABEL}}" for cell in columns)
    return f"{_printable(first):<{width}}{seconds:>{_NUMBER}}{cells}".rstrip()


def _width(sources: Sequence[str]) -> int:
    return max([20, *(len(_printable(source)) for source in sources)])


def _printable(text: str) -> str:
    """Escape characters that would control a terminal: file names may contain any."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _csv(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
