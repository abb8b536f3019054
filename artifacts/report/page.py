"""The report as one page: no network, no script, everything inside it but the clips' audio."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import UserError
from ..models.prediction import score_columns
from ..run.results import RunResults
from ..run.run import NESTED, predictions_name, read_table
from .figures import Picture
from .report import Report, made_by

HARDEST = 20
#: At which the text of a figure is as large as that around it.
PIXELS_PER_INCH = 84


@dataclass(frozen=True)
class HardClip:
    """A clip whose true label scored far below another, or whose rating was far off.

    Attributes
    ----------
    path, speaker, truth, predicted : str
        Which, and what was said of it.
    margin : float
        By how much the best other label scored higher than the truth, or by how much the rating
        was off.
    address : str
        Of its audio on this machine; empty if it is not there.
    """

    path: str
    speaker: str
    truth: str
    predicted: str
    margin: float
    address: str = ""


def hardest_clips(results: RunResults, head: str, audio: Path | None = None) -> list[HardClip]:
    """Find the clips that a head got wrong most surely.

    Parameters
    ----------
    results : RunResults
        A run.
    head : str
        One of its heads.
    audio : Path, optional
        The folder of the clips, to link their audio.

    Returns
    -------
    list of HardClip
        At most twenty, the hardest first.
    """
    found = []
    path = results.run / predictions_name(head)
    labels = results.summary.labels
    columns = dict(zip(labels, score_columns(labels), strict=True))
    for row in read_table(results.run, predictions_name(head), results.summary):
        if row["layer"] != NESTED or row["truth"] == row["predicted"]:
            continue
        if results.summary.labels:
            # Earlier versions named the columns otherwise.
            scores = {
                label: _number(row.get(column, row.get(f"score {label}")), path)
                for label, column in columns.items()
            }
            true = scores.pop(row["truth"])
            margin = max(scores.values()) - true
        else:
            truth, said = (_number(row[column], path) for column in ("truth", "predicted"))
            margin = abs(truth - said)
            row |= {"truth": f"{truth:.2f}", "predicted": f"{said:.2f}"}
        found.append((-margin, row["path"], row))
    hardest = []
    for below, name, row in sorted(found, key=lambda each: each[:2])[:HARDEST]:
        address = _address(audio, name) if audio else ""
        hardest.append(
            HardClip(name, row["speaker"], row["truth"], row["predicted"], -below, address)
        )
    return hardest


@dataclass(frozen=True)
class HardClips:
    """The hardest clips of a head.

    Attributes
    ----------
    head : str
        Whose.
    clips : sequence of HardClip
        The hardest first.
    audio : Path or None
        The folder of the clips, if it was given.
    """

    head: str
    clips: Sequence[HardClip]
    audio: Path | None


def render_page(
    title: str,
    report: Report,
    pictures: Mapping[str, Picture],
    hardest: HardClips | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    title : str
        What it is about.
    report : Report
        What is said.
    pictures : mapping of str to Picture
        From :func:`~serpipe.artifacts.report.figures.save_figures`.
    hardest : HardClips, optional
        Clips to list, and to hear.

    Returns
    -------
    str
        HTML.
    """
    from jinja2 import Environment, StrictUndefined

    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    # Names come from files of others: everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page: str = environment.from_string(template).render(
        title=title,
        report=report,
        figures=[
            (
                name,
                base64.b64encode(picture.png).decode(),
                round(PIXELS_PER_INCH * picture.width),
            )
            for name, picture in pictures.items()
        ],
        hardest=hardest,
        made_by=made_by(report),
    )
    return page


def _address(folder: Path, path: str) -> str:
    """Return the address of a clip inside the folder; a path that leads out of it has none."""
    root = folder.resolve()
    file = (root / path).resolve()
    return file.as_uri() if file.is_relative_to(root) and file.is_file() else ""


def _number(text: str | None, path: Path) -> float:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        raise UserError(f"{path}: {text!r} is no score; expected a number; fit again") from None
    return -math.inf if math.isnan(value) else value
