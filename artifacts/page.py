"""The report as one page: no network, no script, everything inside it but the clips' audio."""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .figures import Picture
from .report import Report
from .results import RunResults
from .run import NESTED, read_table

HARDEST = 20
#: At which the text of a figure is as large as that around it.
PIXELS_PER_INCH = 84


@dataclass(frozen=True)
class HardClip:
    """A clip whose true label scored far below another.

    Attributes
    ----------
    path, speaker, truth, predicted : str
        Which, and what was said of it.
    margin : float
        By how much the best other label scored higher than the truth.
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
    for row in read_table(results.run / "predictions" / f"{head}.csv"):
        if row["layer"] != NESTED or row["truth"] == row["predicted"]:
            continue
        scores = {label: _number(row.get(f"score {label}")) for label in results.summary.labels}
        true = scores.pop(row["truth"])
        margin = max(scores.values()) - true
        found.append((-margin, row["path"], row))
    hardest = []
    for below, path, row in sorted(found, key=lambda each: each[:2])[:HARDEST]:
        address = _address(audio, path) if audio else ""
        hardest.append(
            HardClip(path, row["speaker"], row["truth"], row["predicted"], -below, address)
        )
    return hardest


def render_page(
    results: RunResults,
    report: Report,
    pictures: Mapping[str, Picture],
    audio: Path | None = None,
) -> str:
    """Return the page.

    Parameters
    ----------
    results : RunResults
        The run.
    report : Report
        What is said of it.
    pictures : mapping of str to Picture
        From :func:`~serpipe.artifacts.figures.save_figures`.
    audio : Path, optional
        The folder of the clips, to hear the hardest.

    Returns
    -------
    str
        HTML.

    Raises
    ------
    UserError
        If ``audio`` is no folder.
    """
    from jinja2 import Environment, StrictUndefined

    if audio and not audio.is_dir():
        raise UserError(f"{audio}: no such folder; expected that of the clips; see --audio")
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    # Names come from files of others: everything is escaped.
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    summary = results.summary
    versions = summary.provenance.get("versions", {})
    page: str = environment.from_string(template).render(
        title=f"{summary.corpus}: {summary.target} from {summary.encoder['encoder']}",
        report=report,
        figures=[
            (
                name,
                base64.b64encode(picture.png).decode(),
                round(PIXELS_PER_INCH * picture.width),
            )
            for name, picture in pictures.items()
        ],
        head=results.heads[0],
        hardest=hardest_clips(results, results.heads[0], audio),
        audio=audio,
        command=summary.provenance.get("command", ""),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )
    return page


def _address(folder: Path, path: str) -> str:
    """Return the address of a clip inside the folder; a path that leads out of it has none."""
    root = folder.resolve()
    file = (root / path).resolve()
    return file.as_uri() if file.is_relative_to(root) and file.is_file() else ""


def _number(text: str | None) -> float:
    value = float(text) if text else math.nan
    return -math.inf if math.isnan(value) else value
