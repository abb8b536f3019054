"""Write all that a report leaves: in the folder of its run, or in one of its own."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..files import write_text
from .bundle import read_bundle_summary
from .card import card
from .comparison import RunsCompared
from .figures import draw_comparison, draw_figures, save_figures
from .page import HardClips, hardest_clips, render_page
from .report import Report, write_report
from .results import RunResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def publish(
    results: RunResults, report: Report, audio: Path | None = None, out: Path | None = None
) -> Path:
    """Write tables, figures and the page of a run, and a model card into each bundle.

    Parameters
    ----------
    results : RunResults
        The run.
    report : Report
        What is said of it.
    audio : Path, optional
        The folder of the clips, to hear the hardest in the page.
    out : Path, optional
        Where to; ``RUN/report`` by default.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        If ``audio`` is no folder, or a bundle is damaged.
    """
    if audio and not audio.is_dir():
        raise UserError(f"{audio}: no such folder; expected that of the clips; see --audio")
    summary = results.summary
    head = results.heads[0]
    page = _write(
        out or results.run / "report",
        f"{summary.corpus}: {summary.target} from {summary.encoder['encoder']}",
        report,
        draw_figures(results),
        HardClips(head, hardest_clips(results, head, audio), audio),
    )
    for head in results.heads:
        bundle = results.run / "bundles" / head
        if bundle.is_dir():  # labels that were shuffled leave none
            told = read_bundle_summary(bundle)
            write_text(bundle / "README.md", card(results, head, told))
    return page


def publish_comparison(folder: Path, compared: RunsCompared, report: Report) -> Path:
    """Write tables, figures and the page of compared runs.

    Parameters
    ----------
    folder : Path
        Where to.
    compared : RunsCompared
        What to draw.
    report : Report
        What is said of it.

    Returns
    -------
    Path
        The page.
    """
    title = f"{len(compared.titles)} runs compared"
    return _write(folder, title, report, draw_comparison(compared))


def _write(
    folder: Path,
    title: str,
    report: Report,
    figures: Mapping[str, "Figure"],
    hardest: HardClips | None = None,
) -> Path:
    write_report(folder, report)
    page = folder / "index.html"
    write_text(page, render_page(title, report, save_figures(folder, figures), hardest))
    return page
