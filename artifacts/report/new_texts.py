"""How much of a score rests on texts that were in training: advice of the check SER030."""

from ...errors import UserError
from ..run.results import RunResults, read_results
from ..run.summary import RunSummary
from ..score_text import score_text
from .selection import neighbours

#: Where no run shows it for the corpus at hand.
MEASURED = (
    "on RAVDESS with Whisper tiny.en 6.6 points of UAR, of which 3.2 for want of half of the "
    "training clips (docs/results.md)"
)


def worth_of_new_texts(results: RunResults, finding: str) -> str:
    """Return what to do about texts that are in training, and how much they are worth.

    Parameters
    ----------
    results : RunResults
        The run.
    finding : str
        The text of the finding, which begins with the name of the column.

    Returns
    -------
    str
        With the scores of the newest run beside it that holds out the column, if there is one with
        the same clips, embeddings and head; else with the cost that was measured on RAVDESS.
    """
    column, measure = finding.partition(":")[0], results.measure
    for folder, summary in neighbours(results.run):
        head = _common_head(results.summary, summary, column)
        if not head:
            continue
        try:
            other = read_results(folder)
        except UserError:  # damaged: a report on another run is no place to say so
            continue
        here, there = (each.scores(head)[measure.key].value for each in (results, other))
        return (
            f"with --hold-out {column} the {measure.title} of {head} is "
            f"{score_text(there, measure)} instead of {score_text(here, measure)}, which is due to "
            f"new texts and to fewer training clips ({folder.name})"
        )
    measured = f": {MEASURED}" if results.summary.labels else ""
    return f"new texts may score lower, --hold-out {column} tells by how much{measured}"


def _common_head(own: RunSummary, other: RunSummary, column: str) -> str:
    """Return a head of both runs if they differ in nothing that matters but the column held out."""
    if other.hold_out != column or other.warnings or not own.content:
        return ""
    same = ("content", "tested", "pooling", "normalise", "split", "layers")
    if any(getattr(own, name) != getattr(other, name) for name in same):
        return ""
    heads = [name for name in own.heads if name in other.heads]
    return next((name for name in heads if own.heads[name].grid == other.heads[name].grid), "")
