"""Write tables, figures and pages: into the folder of a run, or elsewhere."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write_text
from ..models.bundle import read_bundle_summary
from ..run.results import RunResults
from .card import card
from .comparison import RunsCompared
from .figures import draw_comparison, draw_figures, save_figures
from .page import HardClips, hardest_clips, render_page
from .report import Report, write_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Names of tables and figures of reports, besides those that belong to a head.
REPORTED = frozenset(
    {"nested", "probe", "baselines", "comparisons", "members", "layers", "classes",
     "probabilities", "reliability", "risk-coverage", "groups", "gaps", "raters", "speakers",
     "few-speakers", "confusion", "runs", "enrolment",
     "scores", "critical-difference", "cost", "missing", "layer-scores"}  # of studies
)  # fmt: skip
#: With which the names of those begin that belong to a head.
_PREFIXES = (
    *("confusion-", "enrolment-", "layers-", "matrix-", "pairs-"),
    *("perturbed-", "ratings-", "results-"),
)


def publish(
    results: RunResults, report: Report, audio: Path | None = None, out: Path | None = None
) -> Path:
    """Write tables, figures and the page of a run, and a model card into each bundle.

    ``audio`` is the folder of the clips, to play the hardest in the page, which is returned. By
    default files are written into ``RUN/report``; with ``out``, nothing is written into the run:
    the cards are in ``out``, too. Raise UserError if a bundle is damaged.
    """
    summary = results.summary
    head = results.heads[0]
    page = write_page(
        out or results.run / "report",
        f"{summary.corpus}: {summary.target} from {summary.encoder['encoder']}",
        report,
        draw_figures(results, report),
        HardClips(head, hardest_clips(results, head, audio), audio),
    )
    for head in results.heads:
        bundle = results.run / "bundles" / head
        if bundle.is_dir():  # there is none for shuffled labels
            path = out / f"card-{head}.md" if out else bundle / "README.md"
            write_text(path, card(results, head, read_bundle_summary(bundle)))
    return page


def publish_comparison(folder: Path, compared: RunsCompared, report: Report) -> Path:
    """Write tables, figures and the page of compared runs, and return the page."""
    title = f"{len(compared.titles)} runs compared: {', '.join(compared.names)}"
    return write_page(folder, title, report, draw_comparison(compared))


def write_page(
    folder: Path,
    title: str,
    report: Report,
    figures: Mapping[str, "Figure"],
    hardest: HardClips | None = None,
) -> Path:
    """Write tables, figures and the page of a report, and return the page.

    Those of an earlier report in the folder that this one lacks are removed.
    """
    _remove_earlier(folder, {*(table.name for table in report.tables), *figures})
    write_report(folder, report)
    page = folder / "index.html"
    write_text(page, render_page(title, report, save_figures(folder, figures), hardest))
    return page


def _remove_earlier(folder: Path, names: Collection[str]) -> None:
    """Remove tables and figures of an earlier report that this one lacks."""
    if not (folder / "results.json").is_file():
        return
    for path in folder.iterdir():
        stem = path.stem if path.suffix in (".csv", ".tex", ".png", ".pdf") else ""
        ours = stem in REPORTED or stem.startswith(_PREFIXES)
        if ours and stem not in names:
            path.unlink()
