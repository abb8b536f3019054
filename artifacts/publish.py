"""Write all that a report leaves in the folder of its run."""

from pathlib import Path

from ..files import write_text
from .bundle import bundle_text
from .card import card
from .figures import draw_figures, save_figures
from .page import render_page
from .report import Report, write_report
from .results import RunResults


def publish(results: RunResults, report: Report, audio: Path | None = None) -> Path:
    """Write tables, figures and the page to ``RUN/report``, and a model card into each bundle.

    Parameters
    ----------
    results : RunResults
        The run.
    report : Report
        What is said of it.
    audio : Path, optional
        The folder of the clips, to hear the hardest in the page.

    Returns
    -------
    Path
        The page.
    """
    folder = results.run / "report"
    write_report(folder, report)
    pictures = save_figures(folder, draw_figures(results))
    page = folder / "index.html"
    write_text(page, render_page(results, report, pictures, audio))
    for head in results.heads:
        bundle = results.run / "bundles" / head
        told = bundle_text(bundle)
        if told:
            write_text(bundle / "README.md", card(results, head, told))
    return page
