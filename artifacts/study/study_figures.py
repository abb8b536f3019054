"""The figures of a study: scores, critical differences, layers, and cost against score."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..report.figures import (
    COLOURS,
    MARKERS,
    PLAIN_TEXT,
    error_bars,
    titled_axes,
    write_cells,
)
from ..run.csv_files import NESTED
from ..score_text import score_text
from .comparison import Compared, Group
from .study_report import MethodCost, best_nuisance, known_costs, pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Panels side by side.
_MOST_COLUMNS = 4
#: The cells of a heat map are annotated if a row has at most this many.
_MOST_ANNOTATED = 26


def draw_study(
    title: str, groups: Sequence[Group], costs: Sequence[MethodCost]
) -> dict[str, "Figure"]:
    """Draw the figures of a study, by name.

    Parameters
    ----------
    title : str
        Title of the study.
    groups : sequence of Group
        The results by head and split. Scores are those of the first group; layers are those of all
        heads with its split.
    costs : sequence of MethodCost
        Costs of the encoders of the first group.

    Returns
    -------
    dict of str to Figure
        ``scores``; ``critical-difference`` where corpora are the unit of the test; ``layers-NAME``
        for each encoder with several layers, and ``layers-NAME-SCORE`` for heads that have another
        score; ``cost`` where a cost is known.
    """
    from matplotlib import rc_context

    if not groups:
        return {}
    first = groups[0]
    figures = {}
    with rc_context(PLAIN_TEXT):
        figures["scores"] = draw_scores(first, title)
        if first.compared and first.compared.rank_test:
            figures["critical-difference"] = draw_critical_difference(first, first.compared, title)
        for measure in {group.measure.key: group.measure for group in groups}.values():
            for method in first.methods:
                rows = [
                    (group, corpus)
                    for corpus in dict.fromkeys(each for group in groups for each in group.corpora)
                    for group in groups
                    if group.split == first.split
                    and group.measure is measure
                    and (method, corpus) in group.results
                ]
                layers = [group.results[method, c].summary.layers for group, c in rows]
                # A corpus may have other layers by its own options.
                rows = [row for row, each in zip(rows, layers, strict=True) if each == layers[0]]
                if layers and len(layers[0]) > 1:
                    other = "" if measure is first.measure else f"-{measure.key}"
                    name = f"layers-{_file_name(method)}{other}"
                    figures[name] = draw_layers(method, rows, title)
        shown = [name for name in MethodCost.TITLES if len(known_costs(costs, name)) > 1]
        if shown:
            figures["cost"] = draw_costs(first, costs, shown, title)
    return figures


def draw_scores(group: Group, title: str) -> "Figure":
    """Draw the first score of each encoder with its interval, a panel for each corpus."""
    measure, methods = group.measure, group.methods
    rows = math.ceil(len(group.corpora) / _MOST_COLUMNS)
    columns = math.ceil(len(group.corpora) / rows)
    label = max(map(len, methods)) * 0.08
    width = max(5.5, label + (4.2 if columns == 1 else 2.6 * columns))
    figure, panels = titled_axes(
        f"{measure.title} of each encoder",
        f"{title}; {group.head}, {group.split}; dotted: chance; dashed: nuisance baseline",
        width,
        (1.2 + 0.32 * len(methods)) * rows + 0.5,
        rows,
        columns,
    )
    for axes, corpus in zip(panels, group.corpora, strict=False):
        shown = [method for method in methods if (method, corpus) in group.results]
        for position, method in enumerate(methods):
            if method not in shown:
                continue
            score = group.first(method, corpus)
            bars = error_bars([score], measure)
            axes.errorbar(
                measure.scale * score.value,
                position,
                xerr=None if bars is None or np.isnan(bars).any() else bars,
                capsize=3, color=COLOURS[0], marker="o",
            )  # fmt: skip
        results = group.results[shown[0], corpus]
        chance = measure.scale * measure.chance(len(results.summary.labels))
        axes.axvline(chance, color="black", linewidth=1, linestyle=":")
        nuisance = best_nuisance(results)
        if not math.isnan(nuisance):
            axes.axvline(measure.scale * nuisance, color="0.45", linewidth=1, linestyle="--")
        axes.set_title(corpus, fontsize=10)
        axes.set_yticks(np.arange(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.grid(axis="x", color="0.9")
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{measure.title}{measure.unit}, 95 % interval", fontsize=9)
    for number, axes in enumerate(panels):
        if number % columns:
            axes.tick_params(labelleft=False)
        axes.set_visible(number < len(group.corpora))
    return figure


def draw_critical_difference(group: Group, compared: Compared, title: str) -> "Figure":
    """Draw mean ranks on a line, and a bar over encoders that are not resolved from each other.

    References
    ----------
    The diagram of Demšar (2006), *Statistical comparisons of classifiers over multiple data sets*.
    """
    assert compared.rank_test
    critical = compared.rank_test.critical_difference
    ranked = sorted(compared.ranks.items(), key=lambda item: item[1])
    n, half = len(ranked), math.ceil(len(ranked) / 2)
    bars = _cliques(ranked, compared)
    depth = 0.3 * len(bars) + 0.35
    figure, (axes,) = titled_axes(
        f"Mean ranks over {len(compared.corpora)} corpora, critical difference {critical:.2f}",
        f"{title}; {group.head}, {group.split}; {group.measure.title}; bars join encoders that are "
        f"not resolved from each other ({compared.test})",
        7.5,
        1.7 + 0.3 * (len(bars) + half),
    )
    axes.set_axis_off()
    margin = 0.45 * (n - 1)
    axes.set_xlim(1 - margin, n + margin)
    axes.set_ylim(-depth - 0.4 * half - 0.1, 1.0)
    line: dict[str, Any] = {"color": "black", "linewidth": 1, "clip_on": False}
    axes.plot([1, n], [0, 0], **line)
    for tick in range(1, n + 1):
        axes.plot([tick, tick], [0, 0.1], **line)
        axes.text(tick, 0.16, str(tick), ha="center", va="bottom", fontsize=9)
    axes.plot([1, 1 + critical], [0.62, 0.62], **{**line, "linewidth": 2})
    for end in (1, 1 + critical):
        axes.plot([end, end], [0.56, 0.68], **line)
    axes.text(1 + critical / 2, 0.7, "critical difference", ha="center", va="bottom", fontsize=8)
    for number, (first, last) in enumerate(bars):
        y = -0.22 - 0.3 * number
        ends = [ranked[first][1] - 0.04, ranked[last][1] + 0.04]
        axes.plot(ends, [y, y], color=COLOURS[0], linewidth=4, solid_capstyle="butt")
    for number, (method, rank) in enumerate(ranked):
        left = number < half
        step = number if left else n - 1 - number
        y = -depth - 0.4 * step
        end = 1 - 0.1 * margin if left else n + 0.1 * margin
        axes.plot([rank, rank, end], [0, y, y], **{**line, "linewidth": 0.8})
        offset = -0.05 * margin if left else 0.05 * margin
        axes.text(
            end + offset, y, f"{method}  {rank:.2f}" if left else f"{rank:.2f}  {method}",
            ha="right" if left else "left", va="center", fontsize=9,
        )  # fmt: skip
    return figure


def _cliques(ranked: Sequence[tuple[str, float]], compared: Compared) -> list[tuple[int, int]]:
    """Return first and last position of the largest groups of which no pair is resolved."""
    resolved = {frozenset((pair.better, pair.worse)) for pair in compared.pairs if pair.is_resolved}
    spans: list[tuple[int, int]] = []
    for first in range(len(ranked)):
        last = first
        while last + 1 < len(ranked) and not any(
            frozenset((ranked[each][0], ranked[last + 1][0])) in resolved
            for each in range(first, last + 1)
        ):
            last += 1
        if last > first and not any(last <= end for _, end in spans):
            spans.append((first, last))
    return spans


def draw_layers(method: str, rows: Sequence[tuple[Group, str]], title: str) -> "Figure":
    """Draw the first score of each layer held fixed, a row for each corpus and head.

    The colour is the distance from the best layer of the row, so that corpora of different
    difficulty can be compared.
    """
    first_group, corpus = rows[0]
    layers = list(first_group.results[method, corpus].summary.layers)
    values = np.full((len(rows), len(layers)), np.nan)
    names, texts = [], []
    several = len({group.head for group, _ in rows}) > 1
    for number, (group, corpus) in enumerate(rows):
        results, measure = group.results[method, corpus], group.measure
        scores = [results.by_speaker(group.head, layer).sum(axis=0) for layer in layers]
        of_row = np.array([float(measure.first(each)) for each in scores])
        values[number] = measure.scale * (of_row - of_row.max())
        nested = score_text(results.scores(group.head, NESTED)[measure.key].value, measure)
        names.append(f"{corpus}, {group.head} ({nested})" if several else f"{corpus} ({nested})")
        texts.append([
            f"{measure.scale * each:.0f}" if measure.in_percent else f"{each:.2f}"
            for each in of_row
        ])  # fmt: skip
    measure = first_group.measure
    width = max(5.5, 1.6 + 0.085 * max(map(len, names)) + 0.42 * min(len(layers), 30))
    figure, (axes,) = titled_axes(
        f"{method}: {measure.title} of each layer held fixed (descriptive)",
        f"{title}; {first_group.split}; in parentheses: the nested result; framed: the best layer "
        "of a row",
        width,
        max(2.7, 1.9 + 0.34 * len(rows)),
    )
    # Differences of less than five points look small even where there are no larger ones.
    lowest = min(float(np.nanmin(values)), -0.05 * measure.scale)
    image = axes.imshow(values, cmap="Blues", vmin=lowest, vmax=0, aspect="auto")
    if len(layers) <= _MOST_ANNOTATED:
        write_cells(axes, texts, values > 0.45 * lowest, fontsize=8)
    for number, row in enumerate(values):
        best = int(np.argmax(row))
        axes.plot(
            [best - 0.5, best + 0.5, best + 0.5, best - 0.5, best - 0.5],
            [number - 0.5, number - 0.5, number + 0.5, number + 0.5, number - 0.5],
            color=COLOURS[1], linewidth=1.8, clip_on=False,
        )  # fmt: skip
    axes.set_xlim(-0.5, len(layers) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xticks(np.arange(len(layers)), layers, rotation=45 if len(layers) > 14 else 0)
    axes.set_yticks(np.arange(len(names)), names)
    axes.set_xlabel("layer")
    unit = "points" if measure.in_percent else measure.title
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.set_label(f"{unit} from the best layer", fontsize=8)
    return figure


def draw_costs(
    group: Group, costs: Sequence[MethodCost], names: Sequence[str], title: str
) -> "Figure":
    """Draw the mean score against each cost, with a line through the Pareto front."""
    measure = group.measure
    figure, panels = titled_axes(
        f"Cost against mean {measure.title}",
        f"{title}; {group.head}, {group.split}; line: Pareto front; costs measured on this machine",
        max(4.6, 3.6 * len(names)),
        3.6,
        1,
        len(names),
    )
    style = {each.method: number for number, each in enumerate(costs)}
    for axes, name in zip(panels, names, strict=True):
        known = known_costs(costs, name)
        front = pareto_front(costs, name)
        axes.plot(
            [each.cost(name) for each in front],
            [measure.scale * each.score for each in front],
            color="0.6", linewidth=1, linestyle="--", zorder=1, drawstyle="steps-post",
        )  # fmt: skip
        for each in known:
            number = style[each.method]
            axes.scatter(
                each.cost(name), measure.scale * each.score, s=42, zorder=2,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[(number + number // len(MARKERS)) % len(MARKERS)],
                label=each.method,
            )  # fmt: skip
        _log_scale(axes, [each.cost(name) for each in known])
        axes.margins(0.15)
        axes.set_xlabel(MethodCost.TITLES[name], fontsize=9)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    panels[0].set_ylabel(f"mean {measure.title}{measure.unit}")
    handles = {
        label: handle
        for axes in panels
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(handles.values()), list(handles), loc="outside right upper", frameon=False, fontsize=9
    )
    return figure


def _log_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Use a logarithmic scale for costs that also shows zero: acoustic features have no weights."""
    from matplotlib.ticker import EngFormatter, NullFormatter

    positive = [value for value in values if value > 0]
    if len(positive) == len(values):
        axes.set_xscale("log")
    elif positive:
        axes.set_xscale("symlog", linthresh=10 ** math.floor(math.log10(min(positive))))
    # The default labels are formulas, which are switched off because names come from users.
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _file_name(method: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in method).strip("-")
