"""A figure of a recording's timeline: the scores of its windows."""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UserError, counted
from ..models.prediction import (
    TRAINED_ON,
    UNLIKE_TRAINING,
    Prediction,
    Segment,
    Turn,
    Window,
)
from .figures import COLOURS, LINES, PLAIN_TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Number of windows up to which markers are large; of more, they would overlap.
_MAX_LARGE_MARKERS = 120


def draw_timeline(prediction: Prediction, model_name: str, scores_are: str) -> "Figure":
    """Draw the scores of each window of a recording over time.

    Labels are rows of a heat map, with a marker on the chosen label; ratings are lines. Where
    windows overlap, each is drawn around its centre. Pauses between segments are empty, and a turn
    of a speaker is drawn up to the beginning of the next.

    Name of the model and calibration of the probabilities (``scores_are``; empty for ratings) are
    for the caption. Raise UserError if the recording has no windows.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    windows = prediction.timeline
    if not windows:
        raise UserError(f"{prediction.source}: has no windows to draw; cut it with --window")
    names = list(prediction.scores)
    is_rating = not prediction.label
    values = np.array([[window.scores.get(name, np.nan) for window in windows] for name in names])
    centres = np.array([(window.start + window.end) / 2 for window in windows])
    if isinstance(windows[0], Segment | Turn):
        edges, cells = _with_pauses(windows, values)
    else:
        between = (centres[:-1] + centres[1:]) / 2
        edges, cells = np.r_[windows[0].start, between, windows[-1].end], values
    height = 3.6 if is_rating else 1.9 + 0.32 * len(names)
    with rc_context(PLAIN_TEXT):
        figure = Figure(figsize=(9.0, height), layout="constrained")
        axes = figure.subplots()
        if is_rating:
            _draw_ratings(axes, centres, values, names)
            whole = ", ".join(f"{name} {value:.2f}" for name, value in prediction.scores.items())
        else:
            mesh = axes.pcolormesh(
                edges, np.arange(len(names) + 1) - 0.5, cells, cmap="Blues", vmin=0, vmax=1
            )
            figure.colorbar(mesh, ax=axes, label="probability", pad=0.01)
            _draw_labels(axes, centres, [window.label for window in windows], names)
            whole = f"{prediction.label} {prediction.scores[prediction.label]:.2f}"
        axes.set_xlim(0, prediction.seconds)
        axes.set_xlabel("time (s)")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(
            f"{prediction.source}: {whole} over all {windows[0].part}s", loc="left", fontsize=11
        )
        longest = max(window.end - window.start for window in windows)
        length = "of" if windows[0].part == "window" else "of up to"
        caption = f"{counted(len(windows), windows[0].part)} {length} {longest:.2f} s"
        caption += f"; model {model_name}"
        caption += f"; probabilities: {scores_are}" if scores_are else ""
        if prediction.trained_on:
            caption += f"; {TRAINED_ON}: the model was trained on this very recording"
        if prediction.unlike_training:
            caption += f"; {UNLIKE_TRAINING}: unlike all clips that the model was trained on"
        figure.supxlabel(fill(caption, 130), fontsize=7.5, color="0.3", x=0.01, ha="left")
    return figure


def _with_pauses(
    windows: Sequence[Window], values: "np.ndarray"
) -> tuple["np.ndarray", "np.ndarray"]:
    """Return the edges of segments and of the pauses between them, and values: NaN in pauses."""
    edges, columns = [windows[0].start], []
    for number, window in enumerate(windows):
        following = windows[number + 1].start if number + 1 < len(windows) else window.end
        end = min(window.end, following)
        if window.start > edges[-1]:
            edges.append(window.start)
            columns.append(np.full(len(values), np.nan))
        if end > edges[-1]:
            edges.append(end)
            columns.append(values[:, number])
    return np.array(edges), np.stack(columns, axis=1)


def _draw_labels(axes: "Axes", centres: "np.ndarray", chosen: list[str], names: list[str]) -> None:
    axes.set_yticks(np.arange(len(names)), names)
    axes.invert_yaxis()
    points = [(x, names.index(label)) for x, label in zip(centres, chosen, strict=True) if label]
    if not points:
        return
    x, y = zip(*points, strict=True)
    axes.scatter(
        x,
        y,
        s=22 if len(centres) <= _MAX_LARGE_MARKERS else 5,
        color=COLOURS[1],
        edgecolors="white",
        linewidths=0.6,
        label="label of the window",
    )
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)


def _draw_ratings(
    axes: "Axes", centres: "np.ndarray", values: "np.ndarray", names: list[str]
) -> None:
    for number, (name, row) in enumerate(zip(names, values, strict=True)):
        axes.plot(
            centres,
            row,
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number % len(LINES)],
            marker="o",
            markersize=4 if len(centres) <= _MAX_LARGE_MARKERS else 0,
            label=name,
        )
    axes.set_ylabel(names[0] if len(names) == 1 else "rating")
    if len(names) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
