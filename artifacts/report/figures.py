"""Figures of a run.

Colours are those of Okabe and Ito, which colour-blind readers can distinguish; heads differ by
line, marker and hatch, too, so that the figures survive black-and-white print.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import counted
from ...files import write_bytes
from ...pipeline.measures import Measure
from ...pipeline.metrics import recalls
from ...pipeline.probability_scores import BINS, reliability, risk_coverage
from ...pipeline.statistics import Interval, intervals
from ..run.csv_files import NESTED
from ..run.results import RunResults
from ..score_text import score_text
from .comparison import RunsCompared, matrices
from .enrolment_table import CurvePoint
from .probabilities import HeadProbabilities
from .report import Report
from .result_tables import RESOLVED, n_labels
from .table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
HATCHES = ("", "//", "..", "xx", "\\\\", "++")
#: More bars than this cannot be distinguished side by side.
MAX_BARS = 120
#: Names come from outside: a dollar sign in them starts no formula.
PLAIN_TEXT: Any = {"text.parse_math": False}
_CHANCE: dict[str, Any] = {"color": "black", "linewidth": 1.2, "linestyle": ":"}
_BESIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0), "frameon": False}


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    png: bytes
    width: float  #: In inches, at which its text has the intended size.


def draw_figures(results: RunResults, report: Report) -> dict[str, "Figure"]:
    """Draw the figures of a run, by name; ``report`` is that of the run.

    They are ``layers`` where there are several, ``speakers``, ``groups`` where the corpus has any,
    ``enrolment`` where it was measured, ``reliability`` and ``risk-coverage`` where there are
    probabilities, and ``confusion-HEAD``, or ``ratings-HEAD`` for ratings.
    """
    from matplotlib import rc_context

    figures = {}
    with rc_context(PLAIN_TEXT):
        if len(results.summary.layers) > 1:
            figures["layers"] = draw_layers(results)
        figures["speakers"] = draw_speakers(results)
        if results.group_columns:
            figures["groups"] = draw_groups(results)
        if report.curves:
            figures["enrolment"] = draw_enrolment(results, report.curves)
        if report.probabilities:
            figures["reliability"] = draw_reliability(results, report.probabilities)
            figures["risk-coverage"] = draw_risk_coverage(results, report.probabilities)
        for head in results.heads:
            if results.summary.labels:
                figures[f"confusion-{head}"] = draw_confusion(results, head)
            else:
                figures[f"ratings-{head}"] = draw_ratings(results, head)
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
    with rc_context({"svg.hashsalt": "serpipe", "pdf.fonttype": 42, **PLAIN_TEXT}):
        figure.savefig(content, format=suffix, dpi=160, metadata=dates[suffix])
    return content.getvalue()


def draw_layers(results: RunResults) -> "Figure":
    """Draw the first score of each layer with its interval, and the nested one of each head."""
    measure, heads, layers = results.measure, results.heads, list(results.summary.layers)
    title = f"{measure.title} of each layer held fixed (descriptive)"
    figure, axes = _new(results, title, 8.5, 4.4)
    first = {head: [results.scores(head, layer)[measure.key] for layer in layers] for head in heads}
    for number, head in enumerate(heads):
        nested = score_text(results.scores(head)[measure.key].value, measure)
        axes.errorbar(
            np.arange(len(layers)) + 0.08 * (number - (len(heads) - 1) / 2),
            measure.scale * np.array([each.value for each in first[head]]),
            yerr=error_bars(first[head], measure),
            capsize=2, linewidth=1.4, markersize=5, linestyle=LINES[number],
            label=f"{head} ({results.result_kind} {nested})", color=COLOURS[number],
            marker=MARKERS[number],
        )  # fmt: skip
    chance = measure.scale * measure.chance(len(results.summary.labels))
    axes.axhline(chance, color="0.5", linewidth=1, linestyle=":")
    axes.annotate(
        f"chance {chance:.{1 if chance else 0}f}", (0, chance), xytext=(0, 3), color="0.35",
        fontsize=8, textcoords="offset points",
    )  # fmt: skip
    axes.set_xticks(np.arange(len(layers)), layers, rotation=45 if len(layers) > 14 else 0)
    axes.set_xlabel("layer")
    axes.set_ylabel(measure.title + measure.unit + _interval_label(chain(*first.values())))
    if measure.in_percent:
        axes.set_ylim(0, 100)
    axes.legend(**_BESIDE)
    return figure


def draw_speakers(results: RunResults) -> "Figure":
    """Draw each speaker's first score as bars: side by side, or a row per head if they are many."""
    heads, measure = results.heads, results.measure
    counts = {head: results.counts(head) for head in heads}
    speakers = list(counts[heads[0]])
    first = {
        head: [Interval(float(measure.first(c)), np.nan, np.nan) for c in counts[head].values()]
        for head in heads
    }
    title = f"{measure.title} of each speaker, {results.result_kind}"
    chance = measure.scale * measure.chance(len(results.summary.labels))
    crowded = len(heads) * len(speakers) > MAX_BARS
    rows = [[head] for head in heads] if crowded else [list(heads)]
    width = _bars_width(rows[0], speakers)
    figure, _ = _new(
        results, title, width, 4.2 if len(rows) == 1 else 2.0 * len(rows) + 1.2, rows=len(rows)
    )
    for axes, shown in zip(figure.axes, rows, strict=True):
        _bars(axes, speakers, {head: first[head] for head in shown}, measure, list(heads))
        axes.axhline(chance, **_CHANCE, label="chance")
        axes.set_ylabel(measure.title + measure.unit)
        axes.legend(**_BESIDE)
    for axes in figure.axes[:-1]:
        axes.tick_params(labelbottom=False)
    if len(speakers) > 30:
        figure.axes[-1].tick_params(axis="x", labelrotation=90, labelsize=6)
    figure.axes[-1].set_xlabel("speaker")
    return figure


def draw_groups(results: RunResults) -> "Figure":
    """Draw the first score of each group of clips as bars, with its interval."""
    heads, measure = results.heads, results.measure
    groups = {head: results.groups(head) for head in heads}
    keys = list(groups[heads[0]])
    first = {
        head: [intervals(groups[head][key], measure)[measure.key] for key in keys] for head in heads
    }
    figure, axes = _new(
        results,
        f"{measure.title} by group of clips, {results.result_kind}",
        _bars_width(heads, keys),
        4.2,
    )
    _bars(axes, [f"{column}\n{group or '(none)'}" for column, group in keys], first, measure)
    for position, key in enumerate(keys):  # chance is higher in a group that lacks a label
        column, group = key
        n = n_labels(results, results.group_of_clip(column) == group)
        chance = measure.scale * measure.chance(n)
        axes.hlines(
            chance,
            position - 0.45,
            position + 0.45,
            **_CHANCE,
            label="" if position else "chance",
        )
    axes.set_xlabel("group")
    axes.set_ylabel(measure.title + measure.unit + _interval_label(chain(*first.values())))
    axes.legend(**_BESIDE)
    return figure


def draw_enrolment(results: RunResults, curves: Mapping[str, Sequence[CurvePoint]]) -> "Figure":
    """Draw the first score by number of enrolled clips, with its interval and the hard case.

    Heads are drawn side by side at each number, so that their intervals can be told apart.
    """
    measure = results.measure
    title = f"{measure.title} by number of enrolled clips of each test speaker"
    figure, axes = _new(results, title, 8.5, 4.4)
    numbers = sorted({each.n_clips for points in curves.values() for each in points})
    positions = {n_clips: index for index, n_clips in enumerate(numbers)}
    for number, (head, points) in enumerate(curves.items()):
        offset = (number - (len(curves) - 1) / 2) * min(0.14, 0.7 / len(curves))
        x = [positions[each.n_clips] + offset for each in points]
        shown = [each.enrolled[measure.key] for each in points]
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)],
            "markersize": 5, "linewidth": 1.4,
        }  # fmt: skip
        axes.errorbar(
            x, [measure.scale * each.value for each in shown], yerr=error_bars(shown, measure),
            capsize=2, elinewidth=0.9, linestyle=LINES[0], label=f"{head}, any clips", **style,
        )  # fmt: skip
        plain = [measure.scale * each.plain[measure.key].value for each in points]
        axes.plot(
            x, plain, linestyle=LINES[3], color=style["color"], linewidth=1,
            label=f"{head}, not enrolled, same clips",
        )  # fmt: skip
        hard = [(at, each) for at, each in zip(x, points, strict=True) if each.by_label]
        if hard:
            axes.plot(
                [at for at, _ in hard],
                [measure.scale * each.mean_of_labels[0] for _, each in hard],
                linestyle=LINES[1], fillstyle="none", label=f"{head}, clips of one label", **style,
            )  # fmt: skip
    axes.set_xticks(list(positions.values()), list(map(str, positions)))
    axes.set_xlabel("enrolled clips")
    axes.set_ylabel(f"{measure.title}{measure.unit}")
    axes.legend(**_BESIDE)
    return figure


def draw_reliability(
    results: RunResults, probabilities: Mapping[str, HeadProbabilities]
) -> "Figure":
    """Draw the share of right predictions over the probability of the predicted label."""
    title = f"Reliability of the probabilities, {results.result_kind}"
    figure, axes = _new(results, title, 7.0, 5.0)
    axes.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=":", label="calibrated")
    for head, each in probabilities.items():
        number = results.heads.index(head) % len(COLOURS)
        bins = reliability(each.confidence, each.is_right, each.weights)
        axes.plot(
            bins.confidence, bins.share_right, color=COLOURS[number], linestyle=LINES[number],
            linewidth=1.2, label=head if each.is_calibrated else f"{head} (not calibrated)",
        )  # fmt: skip
        axes.scatter(
            bins.confidence, bins.share_right, s=4 + 200 * bins.weight, color=COLOURS[number],
            marker=MARKERS[number], alpha=0.7, linewidths=0,
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel(f"probability of the predicted label, {BINS} equal bins; area: share of clips")
    axes.set_ylabel("share of right predictions")
    axes.legend(**_BESIDE)
    return figure


def draw_risk_coverage(
    results: RunResults, probabilities: Mapping[str, HeadProbabilities]
) -> "Figure":
    """Draw the share of errors among the clips with the highest probabilities."""
    title = f"Errors if only the most probable predictions are kept, {results.result_kind}"
    figure, axes = _new(results, title, 7.0, 4.4)
    for head, each in probabilities.items():
        number = results.heads.index(head) % len(COLOURS)
        coverage, risk = risk_coverage(each.confidence, each.is_right, each.weights)
        axes.plot(
            100 * coverage, 100 * risk, color=COLOURS[number], linestyle=LINES[number],
            linewidth=1.2, label=head,
        )  # fmt: skip
    axes.set_xlim(0, 100)
    axes.set_ylim(0, None)
    axes.set_xlabel("coverage: share of clips that are kept (%), every label counting alike")
    axes.set_ylabel("risk: errors among them (%)")
    axes.legend(**_BESIDE)
    return figure


def draw_ratings(results: RunResults, head: str) -> "Figure":
    """Draw predicted ratings over true ones, a dot for each clip."""
    figure, axes = _new(results, f"{head}: ratings predicted, {results.result_kind}", 5.4, 5.0)
    truth, predicted = results.truth, results.predicted[head][NESTED]
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    axes.plot(ends, ends, color="0.5", linewidth=1, linestyle=":", label="as rated")
    axes.scatter(truth, predicted, s=9, color=COLOURS[0], alpha=0.5, linewidths=0)
    axes.set_xlabel(f"{results.summary.target}, as rated")
    axes.set_ylabel(f"{results.summary.target}, predicted")
    axes.legend(frameon=False)
    return figure


def draw_confusion(results: RunResults, head: str) -> "Figure":
    """Draw the confusion matrix, in percent of the clips of each label."""
    labels = list(results.summary.labels)
    counts = results.by_speaker(head).sum(axis=0)
    side = 2.0 + 0.45 * len(labels)
    title = f"{head}: confusion matrix, {results.result_kind}"
    figure, axes = _new(results, title, side + 0.8, side)
    with np.errstate(invalid="ignore"):
        percentages = 100 * counts / counts.sum(axis=1, keepdims=True)
    axes.imshow(percentages, cmap="Blues", vmin=0, vmax=100)
    texts = [[f"{value:.0f}" for value in row] for row in percentages]
    write_cells(axes, texts, percentages > 55, fontsize=8)
    positions = np.arange(len(labels))
    axes.set_xticks(positions, labels, rotation=45, ha="right")
    rows = [f"{n} ({100 * r:.0f})" for n, r in zip(labels, recalls(counts), strict=True)]
    axes.set_yticks(positions, rows)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth (recall in %)")
    return figure


def draw_comparison(compared: RunsCompared) -> dict[str, "Figure"]:
    """Draw runs side by side: ``runs``, their scores, and ``comparisons``, the differences.

    There are no ``comparisons`` where no two could be compared.
    """
    from matplotlib import rc_context

    with rc_context(PLAIN_TEXT):
        caption = "; ".join(
            [
                compared.shared,
                *(
                    f"{name}: {title}"
                    for name, title in zip(compared.names, compared.titles, strict=True)
                ),
            ]
        ).removeprefix("; ")
        scored = compared.scored
        measure = compared.measure
        first = [each.scores[measure.key] for each in scored]
        figure, axes = _forest(
            f"{measure.title} of each run and head",
            caption,
            [each.name for each in scored],
            first,
            measure,
        )
        for position, each in enumerate(scored):
            axes.vlines(
                measure.scale * each.chance,
                position - 0.4,
                position + 0.4,
                **_CHANCE,
                label="" if position else "chance",
            )
        if measure.in_percent:
            axes.set_xlim(0, 100)
        axes.set_xlabel(measure.title + measure.unit + _interval_label(first))
        axes.legend(**_BESIDE)
        figures = {"runs": figure}
        for table in matrices(scored):
            figures[table.name] = draw_matrix(table, caption, measure)
        if compared.pairs:
            pairs = [f"{pair.first} - {pair.second}" for pair in compared.pairs]
            figure, axes = _forest(
                f"Differences in {measure.title}; filled: resolved, p (Holm) below {RESOLVED}",
                caption,
                pairs,
                [pair.difference for pair in compared.pairs],
                measure,
                [pair.p_holm < RESOLVED for pair in compared.pairs],
            )
            axes.axvline(0, color="black", linewidth=1)
            axes.set_xlabel(f"difference in {measure.title}{measure.unit}, 95 % interval")
            figures["comparisons"] = figure
        return figures


def draw_matrix(table: Table, caption: str, measure: Measure) -> "Figure":
    """Draw a cross-corpus matrix: the first score, the corpus trained on down the side."""
    trained, tested = [row[0] for row in table.rows], table.header[1:]
    scores = {
        (each["trained_on"], each["tested_on"]): measure.scale * each[measure.key]
        for each in table.records
    }
    values = np.array([[scores.get((a, b), np.nan) for b in tested] for a in trained])
    figure, (axes,) = titled_axes(
        table.title, caption, 3.2 + 0.9 * len(tested), 2.0 + 0.6 * len(trained)
    )
    axes.imshow(values, cmap="Blues", vmin=0, vmax=measure.scale, aspect="auto")
    texts = [[score_text(float(v) / measure.scale, measure) for v in row] for row in values]
    write_cells(axes, texts, values > 0.55 * measure.scale)
    axes.set_xticks(np.arange(len(tested)), tested)
    axes.set_yticks(np.arange(len(trained)), trained)
    axes.set_xlabel(f"tested on ({measure.title}{measure.unit})")
    axes.set_ylabel("trained on")
    return figure


def write_cells(
    axes: "Axes", texts: Sequence[Sequence[str]], is_dark: NDArray[np.bool_], **style: Any
) -> None:
    """Write the values into the cells of a heat map; empty ones are omitted."""
    for row, column in np.ndindex(is_dark.shape):
        if text := texts[row][column]:
            colour = "white" if is_dark[row, column] else "black"
            axes.text(column, row, text, ha="center", va="center", color=colour, **style)


def error_bars(scores: Sequence[Interval], measure: Measure) -> NDArray[np.float64] | None:
    """Return the lengths of error bars, shape (2, n_scores); None if no score has an interval."""
    ends = np.array([[each.value - each.low, each.high - each.value] for each in scores]).T
    return None if np.isnan(ends).all() else measure.scale * ends


def _forest(
    title: str,
    caption: str,
    names: list[str],
    shown: list[Interval],
    measure: Measure,
    filled: list[bool] | None = None,
) -> tuple["Figure", "Axes"]:
    """Return a figure of one value and its interval per line, the first on top."""
    figure, (axes,) = titled_axes(title, caption, 9.0, 1.6 + 0.3 * len(names))
    for position, each in enumerate(shown):
        is_filled = filled is None or filled[position]
        bars = error_bars([each], measure)
        axes.errorbar(
            measure.scale * each.value,
            position,
            xerr=None if bars is None or np.isnan(bars).any() else bars,
            capsize=3, color=COLOURS[0], marker="o",
            markerfacecolor=COLOURS[0] if is_filled else "white",
        )  # fmt: skip
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure, axes


def _bars_width(heads: Sequence[str], names: Sequence[object]) -> float:
    return min(12.0, max(6.0, 2 + 0.34 * len(names) * max(len(heads), 1.5)))


def _bars(
    axes: "Axes",
    names: list[str],
    bars: Mapping[str, Sequence[Interval]],
    measure: Measure,
    heads: Sequence[str] | None = None,
) -> None:
    """Draw bars in groups; a head keeps its colour whatever other heads are drawn with it."""
    width = 0.8 / len(bars)
    heads = heads or list(bars)
    for number, (head, shown) in enumerate(bars.items()):
        style = heads.index(head) % len(COLOURS)
        axes.bar(
            np.arange(len(names)) + width * (number - (len(bars) - 1) / 2),
            measure.scale * np.array([each.value for each in shown]),
            width, label=head, color=COLOURS[style], edgecolor="black", linewidth=0.4,
            hatch=HATCHES[style], yerr=error_bars(shown, measure),
            error_kw={"linewidth": 1, "capsize": 2},
        )  # fmt: skip
    axes.set_xticks(np.arange(len(names)), names)
    axes.set_xlim(-0.6, len(names) - 0.4)
    if measure.in_percent:
        axes.set_ylim(0, 100)


def _interval_label(shown: Iterable[Interval]) -> str:
    """Return the part of an axis label on intervals, if there are any."""
    return "" if all(np.isnan(each.low) for each in shown) else ", 95 % interval"


def _new(
    results: RunResults, title: str, width: float, height: float, rows: int = 1
) -> tuple["Figure", "Axes"]:
    """Return a figure with a caption: corpus, encoder, split and number of clips."""
    summary = results.summary
    marks = "".join(f"\n{mark.name}" for mark in summary.marks)
    caption = (
        f"{summary.corpus}, {summary.encoder['encoder']}, {summary.split_title}, "
        f"n = {counted(summary.clips, 'clip')} of {counted(len(summary.speakers), 'speaker')}"
    )
    figure, (axes, *_) = titled_axes(title + marks, caption, width, height, rows)
    return figure, axes


def titled_axes(
    title: str, caption: str, width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple["Figure", list["Axes"]]:
    """Return a figure with a title and a caption, and its panels row by row.

    ``width`` and ``height`` are in inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    lines = fill(caption, int(14 * (width - 0.3)))  # about as many letters as fit
    figure.supxlabel(lines, fontsize=7.5, color="0.3", x=0.01, ha="left")
    return figure, panels
