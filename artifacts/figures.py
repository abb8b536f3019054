"""Figures of a run.

Colours are those of Okabe and Ito, which colour-blind readers tell apart; heads differ by line,
marker and hatch, too, so that the figures survive black-and-white print.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ..files import write_bytes
from ..pipeline.metrics import recalls, scores_of
from ..pipeline.statistics import intervals
from .results import GROUPS, RunResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes
    ----------
    png : bytes
        The file.
    width : float
        In inches, so that its text is of the size that it was drawn for.
    """

    png: bytes
    width: float


def draw_figures(results: RunResults) -> dict[str, "Figure"]:
    """Draw the figures of a run.

    Parameters
    ----------
    results : RunResults
        From :func:`~serpipe.artifacts.results.read_results`.

    Returns
    -------
    dict of str to Figure
        By name: ``layers`` where there are several, ``speakers``, ``groups`` where the corpus tells
        any, and ``confusion-HEAD``.
    """
    figures = {}
    if len(results.summary.layers) > 1:
        figures["layers"] = draw_layers(results)
    figures["speakers"] = draw_speakers(results)
    if _groups(results):
        figures["groups"] = draw_groups(results)
    for head in results.heads:
        figures[f"confusion-{head}"] = draw_confusion(results, head)
    return figures


def save_figures(folder: Path, figures: Mapping[str, "Figure"]) -> dict[str, Picture]:
    """Write figures as PNG and PDF, and return the PNG; the same figure gives the same bytes."""
    pictures = {}
    for name, figure in figures.items():
        pictures[name] = Picture(as_bytes(figure, "png"), figure.get_figwidth())
        write_bytes(folder / f"{name}.png", pictures[name].png)
        write_bytes(folder / f"{name}.pdf", as_bytes(figure, "pdf"))
    return pictures


def as_bytes(figure: "Figure", suffix: str) -> bytes:
    """Return a figure as ``"png"``, ``"pdf"`` or ``"svg"``, without a date."""
    from matplotlib import rc_context

    content = BytesIO()
    dates = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    with rc_context({"svg.hashsalt": "serpipe", "pdf.fonttype": 42}):
        figure.savefig(content, format=suffix, dpi=160, metadata=dates[suffix])
    return content.getvalue()


def draw_layers(results: RunResults) -> "Figure":
    """Draw the UAR of each layer with its interval, and the nested result of each head."""
    figure, axes = _new(results, "UAR of each layer held fixed (descriptive)", 8.5, 4.4)
    layers = list(results.summary.layers)
    for number, head in enumerate(results.heads):
        found = [intervals(results.by_speaker(head, layer))["uar"] for layer in layers]
        nested = intervals(results.by_speaker(head))["uar"]
        place = np.arange(len(layers)) + 0.08 * (number - (len(results.heads) - 1) / 2)
        values = 100 * np.array([each.value for each in found])
        ends = 100 * np.array([[e.value - e.low, e.high - e.value] for e in found]).T
        style = {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 5}
        axes.errorbar(
            place, values, yerr=None if np.isnan(ends).any() else ends, capsize=2, linewidth=1.4,
            linestyle=LINES[number], label=f"{head} (nested {100 * nested.value:.1f})", **style,
        )  # fmt: skip
    chance = 100 / len(results.summary.labels)
    axes.axhline(chance, color="0.5", linewidth=1, linestyle=":")
    axes.annotate(f"chance {chance:.1f}", (0, chance), xytext=(0, 3), color="0.35", fontsize=8,
                  textcoords="offset points")  # fmt: skip
    axes.set_xticks(np.arange(len(layers)), layers, rotation=45 if len(layers) > 14 else 0)
    axes.set_xlabel("layer")
    axes.set_ylabel("UAR in %, 95 % interval over speakers")
    axes.set_ylim(0, 100)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def draw_speakers(results: RunResults) -> "Figure":
    """Draw the UAR of each speaker as bars."""
    heads = results.heads
    counts = {head: results.counts(head) for head in heads}
    speakers = list(counts[heads[0]])
    bars = {h: [100 * float(scores_of(c).uar) for c in counts[h].values()] for h in heads}
    return _bars(results, "UAR of each speaker, nested", "speaker", speakers, bars)


def draw_groups(results: RunResults) -> "Figure":
    """Draw the UAR of each group of clips as bars."""
    bars: dict[str, list[float]] = {head: [] for head in results.heads}
    names = []
    for column in _groups(results):
        counts = {head: results.counts(head, by=column) for head in results.heads}
        names += [f"{column}\n{group or '(none)'}" for group in counts[results.heads[0]]]
        for head, found in counts.items():
            bars[head] += [100 * float(scores_of(count).uar) for count in found.values()]
    return _bars(results, "UAR by group of clips, nested", "group", names, bars)


def draw_confusion(results: RunResults, head: str) -> "Figure":
    """Draw who was taken for whom, in percent of the clips of each label."""
    labels = list(results.summary.labels)
    counts = results.by_speaker(head).sum(axis=0)
    side = 2.6 + 0.55 * len(labels)
    figure, axes = _new(results, f"{head}: who was taken for whom, nested", side + 0.8, side)
    with np.errstate(invalid="ignore"):
        share = 100 * counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(share.shape):
        dark = share[row, column] > 55
        axes.text(column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=8,
                  color="white" if dark else "black")  # fmt: skip
    places = np.arange(len(labels))
    axes.set_xticks(places, labels, rotation=45, ha="right")
    found = recalls(counts)
    axes.set_yticks(places, [f"{n} ({100 * r:.0f})" for n, r in zip(labels, found, strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth (recall in %)")
    return figure


def _bars(
    results: RunResults, title: str, axis: str, names: list[str], bars: Mapping[str, list[float]]
) -> "Figure":
    width = min(12.0, max(6.0, 2 + 0.34 * len(names) * max(len(bars), 1.5)))
    figure, axes = _new(results, title, width, 4.2)
    width = 0.8 / len(bars)
    for number, (head, values) in enumerate(bars.items()):
        place = np.arange(len(names)) + width * (number - (len(bars) - 1) / 2)
        axes.bar(place, values, width, label=head, color=COLOURS[number], edgecolor="black",
                 linewidth=0.4, hatch=("", "//", "..", "xx", "\\\\", "++")[number])  # fmt: skip
    axes.axhline(100 / len(results.summary.labels), color="0.4", linewidth=1, linestyle=":")
    axes.set_xticks(np.arange(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_xlabel(axis)
    axes.set_ylabel("UAR in %")
    axes.set_ylim(0, 100)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def _new(results: RunResults, title: str, width: float, height: float) -> tuple["Figure", "Axes"]:  # type: ignore[name-defined]  # noqa: F821
    """Return a figure whose title says the corpus, encoder, split and number of clips."""
    from matplotlib.figure import Figure

    summary = results.summary
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    about = (
        f"{summary.corpus}, {summary.encoder['encoder']}, {summary.split_title}, "
        f"n = {summary.clips} clips of {len(summary.speakers)} speakers"
    )
    marks = "".join(f"\n{warning.partition(':')[0]}" for warning in summary.warnings)
    figure.suptitle(f"{title}{marks}", fontsize=11, x=0.01, ha="left")
    lines = fill(about, int(13 * width))  # about as many letters as there is room for
    axes.set_title(lines, fontsize=7.5, color="0.3", loc="left")
    return figure, axes


def _groups(results: RunResults) -> list[str]:
    return [
        column
        for column in GROUPS
        if column != results.summary.target and len(set(results.clips.get(column, ()))) > 1
    ]
