"""The per-layer accuracy table: on a terminal, as Markdown, as CSV."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..pipeline.metrics import Scores, score
from .run import RunSummary, read_predictions, read_summary

if TYPE_CHECKING:
    from rich.console import Group

METRICS = (("UAR", "uar"), ("acc", "accuracy"), ("F1", "macro_f1"))


@dataclass(frozen=True)
class LayerTable:
    """Scores by layer and head, with what must stand above and below them.

    Attributes
    ----------
    heads : tuple of str
        Names of the heads, in the order of the columns.
    rows : tuple of (str, tuple of Scores)
        Layer, and the scores of each head.
    facts : tuple of (str, str)
        What stands above: corpus, encoder, split, heads.
    notes : tuple of str
        What stands below.
    columns : tuple of (str, str)
        What identifies the table in a CSV file: names and values.
    """

    heads: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Scores, ...]], ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]

    def best(self, head: int) -> float:
        """Return the highest UAR of a head."""
        return max(scores[head].uar for _, scores in self.rows)


def layer_table(run: Path) -> LayerTable:
    """Score the saved predictions of a run.

    Parameters
    ----------
    run : Path
        The folder of a run.

    Returns
    -------
    LayerTable
    """
    summary = read_summary(run)
    heads = tuple(summary.heads)
    if not heads:
        raise UserError(
            f"{run}: no head is fitted yet; expected at least one; run the same `serpipe fit` again"
        )
    by_head = {head: read_predictions(run, head, summary.layers, summary.clips) for head in heads}
    rows = tuple(
        (layer, tuple(score(*by_head[head][layer]) for head in heads)) for layer in summary.layers
    )
    encoder = summary.encoder
    revision = str(encoder["revision"])
    return LayerTable(
        heads=heads,
        rows=rows,
        facts=(
            (
                "corpus",
                f"{summary.corpus}: {summary.clips} clips, {len(summary.speakers)} speakers, "
                f"{len(summary.labels)} emotions",
            ),
            (
                "encoder",
                f"{encoder['encoder']} ({revision[:12]}), {len(summary.layers)} layers, "
                f"{summary.pooling} pooling, {encoder['precision']} on {encoder['device']}",
            ),
            ("split", f"leave one speaker out ({summary.split}), {len(summary.speakers)} folds"),
            *((head, _describe(summary, head)) for head in heads),
        ),
        notes=_notes(summary),
        columns=(
            ("corpus", summary.corpus),
            ("encoder", str(encoder["encoder"])),
            ("revision", revision),
            ("pooling", summary.pooling),
            ("split", summary.split),
            ("clips", str(summary.clips)),
            ("speakers", str(len(summary.speakers))),
        ),
    )


def as_terminal(table: LayerTable) -> "Group":
    """Return the table as something that rich prints: the best UAR of each head in bold."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name, value in table.facts:
        facts.add_row(Text(name, style="bold"), Text(value))
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column("layer")
    for head in table.heads:
        for title, _ in METRICS:
            grid.add_column(f"{head}\n{title}" if title == "UAR" else f"\n{title}", justify="right")
    for layer, scores in table.rows:
        cells: list[Text] = [Text(layer)]
        for number, head_scores in enumerate(scores):
            for title, name in METRICS:
                value = getattr(head_scores, name)
                best = title == "UAR" and value == table.best(number)
                cells.append(Text(_percent(value), style="bold green" if best else ""))
        grid.add_row(*cells)
    return Group(facts, grid, *(Text(note) for note in table.notes))


def as_markdown(table: LayerTable) -> str:
    """Return the table as Markdown: the best UAR of each head in bold."""
    lines = [f"- {name}: {value}" for name, value in table.facts]
    header = ["layer", *(f"{head} {title}" for head in table.heads for title, _ in METRICS)]
    lines += ["", _markdown_row(header), _markdown_row(["---", *["---:"] * (len(header) - 1)])]
    for layer, scores in table.rows:
        cells = [layer]
        for number, head_scores in enumerate(scores):
            for title, name in METRICS:
                value = getattr(head_scores, name)
                best = title == "UAR" and value == table.best(number)
                cells.append(f"**{_percent(value)}**" if best else _percent(value))
        lines.append(_markdown_row(cells))
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes), ""])


def as_csv(table: LayerTable) -> str:
    """Return the table as CSV, a row per layer and head, scores from 0 to 1 in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names, values = zip(*table.columns, strict=True)
    writer.writerow([*names, "head", "layer", *(name for _, name in METRICS)])
    for layer, scores in table.rows:
        for head, head_scores in zip(table.heads, scores, strict=True):
            measured = [getattr(head_scores, name) for _, name in METRICS]
            writer.writerow([*values, head, layer, *measured])
    return text.getvalue()


def _describe(summary: RunSummary, head: str) -> str:
    told = summary.heads[head]
    return f"{told.title}, " + ", ".join(f"{k}={v:g}" for k, v in told.parameters.items())


def _notes(summary: RunSummary) -> tuple[str, ...]:
    notes = [
        "Scores in %, over all out-of-fold predictions. UAR: unweighted average recall, chance "
        f"{100 / len(summary.labels):.1f}; acc: accuracy; F1: macro-averaged.",
        "Hyper-parameters were fixed beforehand. The curve over layers is descriptive: to take "
        "its best row is to choose on the test speakers.",
    ]
    left = [head for head in summary.planned if head not in summary.heads]
    if left:
        notes.append(f"NOT WHOLE: {', '.join(left)} not fitted yet; run `serpipe fit` again.")
    for head, told in summary.heads.items():
        fits = sum(len(folds) for folds in told.not_converged.values())
        if fits:
            notes.append(f"{head}: {fits} fit(s) did not converge, see run.json.")
    return tuple(notes)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
