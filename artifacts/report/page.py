"""The report as one HTML page: no network, no script, everything inside but the clips' audio."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ..run.csv_files import NESTED, predictions_name, read_table
from ..run.results import RunResults
from ..score_columns import score_columns
from .figures import Picture
from .report import Report, made_by

HARDEST = 20
#: Resolution at which the text of a figure is as large as that around it.
PIXELS_PER_INCH = 84


@dataclass(frozen=True)
class HardClip:
    """A clip whose true label scored far below another, or whose rating was far off."""

    path: str
    speaker: str
    truth: str
    predicted: str
    #: By how much the best other label scored higher than the truth, or the error of the rating.
    margin: float
    address: str = ""  #: URL of its audio on this machine; empty if the file does not exist.


def hardest_clips(results: RunResults, head: str, audio: Path | None = None) -> list[HardClip]:
    """Return the twenty clips with the most confident errors, the hardest first.

    ``audio`` is the folder of the clips, to link their audio.
    """
    path = results.run / predictions_name(head)
    labels = results.summary.labels
    columns = dict(zip(labels, score_columns(labels), strict=True))
    wrong = []
    for row in read_table(results.run, predictions_name(head), results.summary):
        if row["layer"] != NESTED or row["truth"] == row["predicted"]:
            continue
        if labels:
            scores = {  # earlier versions had other names of columns
                label: _number(row.get(column, row.get(f"score {label}")), path)
                for label, column in columns.items()
            }
            true = scores.pop(row["truth"])
            margin = max(scores.values()) - true
        else:
            truth, predicted = (_number(row[column], path) for column in ("truth", "predicted"))
            margin = abs(truth - predicted)
            row |= {"truth": f"{truth:.2f}", "predicted": f"{predicted:.2f}"}
        wrong.append((-margin, row["path"], row))
    return [
        HardClip(
            name,
            row["speaker"],
            row["truth"],
            row["predicted"],
            -negative_margin,
            _address(audio, name) if audio else "",
        )
        for negative_margin, name, row in sorted(wrong, key=lambda each: each[:2])[:HARDEST]
    ]


@dataclass(frozen=True)
class HardClips:
    """The hardest clips of a head."""

    head: str
    clips: Sequence[HardClip]  #: The hardest first.
    audio: Path | None  #: The folder of the clips, if given.


def render_page(
    title: str, report: Report, pictures: Mapping[str, Picture], hardest: HardClips | None = None
) -> str:
    """Return the page as HTML, with pictures by name and clips to list and play."""
    from jinja2 import Environment, StrictUndefined

    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    # Names come from outside: everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page: str = environment.from_string(template).render(
        title=title,
        report=report,
        figures=[
            (name, base64.b64encode(picture.png).decode(), round(PIXELS_PER_INCH * picture.width))
            for name, picture in pictures.items()
        ],
        hardest=hardest,
        made_by=made_by(report),
    )
    return page


def _address(folder: Path, path: str) -> str:
    """Return the URL of a clip inside the folder; empty for a path that leads out of it."""
    root = folder.resolve()
    file = (root / path).resolve()
    return file.as_uri() if file.is_relative_to(root) and file.is_file() else ""


def _number(text: str | None, path: Path) -> float:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise UserError(f"{path}: the score {text!r} is not a number; fit again") from None
    return -math.inf if math.isnan(value) else value
