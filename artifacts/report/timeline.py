"""A figure of a recording's timeline: the scores of its windows."""

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from ...errors import UserError, counted
from ..models.prediction import TRAINED_ON, UNLIKE_TRAINING, Prediction
from .figures import COLOURS, LINES, PLAIN_TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Number of windows up to which markers are large; of more, they would overlap.
_MAX_LARGE_MARKERS = 120


def draw_timeline(prediction: Prediction, model_name: str, scores_are: str) -> "Figure":
    """Draw the scores of each window of a recording over time.

    Labels are rows of a heat map, with a marker on the chosen label; ratings are lines. Where
    windows overlap, each is drawn around its centre.

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
    between = (centres[:-1] + centres[1:]) / 2
    edges = np.r_[windows[0].start, between, windows[-1].end]
    height = 3.6 if is_rating else 1.9 + 0.32 * len(names)
    with rc_context(PLAIN_TEXT):
        figure = Figure(figsize=(9.0, height), layout="constrained")
        axes = figure.subplots()
        if is_rating:
            _draw_ratings(axes, centres, values, names)
            whole = ", ".join(f"{name} {value:.2f}" for name, value in prediction.scores.items())
        else:
            mesh = axes.pcolormesh(
                edges, np.arange(len(names) + 1) - 0.5, values, cmap="Blues", vmin=0, vmax=1
            )
            figure.colorbar(mesh, ax=axes, label="probability", pad=0.01)
            _draw_labels(axes, centres, [window.label for window in windows], names)
            whole = f"{prediction.label} {prediction.scores[prediction.label]:.2f}"
        axes.set_xlim(0, prediction.seconds)
        axes.set_xlabel("time (s)")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.set_title(f"{prediction.source}: {whole} over all windows", loc="left", fontsize=11)
        longest = max(window.end - window.start for window in windows)
        caption = f"{counted(len(windows), 'window')} of {longest:.2f} s; model {model_name}"
        caption += f"; probabilities: {scores_are}" if scores_are else ""
        if prediction.trained_on:
            caption += f"; {TRAINED_ON}: the model was trained on this very recording"
        if prediction.unlike_training:
            caption += f"; {UNLIKE_TRAINING}: unlike all clips that the model was trained on"
        figure.supxlabel(fill(caption, 130), fontsize=7.5, color="0.3", x=0.01, ha="left")
    return figure


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
