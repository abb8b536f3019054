"""What a model says of a recording, and the windows that a long recording is cut into."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ...display import data_frame, text_table
from ...errors import UserError

#: Windows begin at least this far apart, in seconds: a recording has no more than so many.
MINIMUM_HOP = 0.05


@dataclass(frozen=True)
class Window:
    """A window of a recording.

    Attributes
    ----------
    start, end : float
        In seconds.
    label : str
        The label that is likeliest; empty for ratings, and where there is nothing to hear.
    scores : mapping of str to float
        Probability of each label, or value of each rating; empty where there is nothing to hear.
    """

    start: float
    end: float
    label: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """What a model says of a recording.

    Attributes
    ----------
    source : str
        The recording.
    seconds : float
        How long it is.
    label : str
        The label that is likeliest; empty for ratings.
    scores : mapping of str to float
        Probability of each label, or value of each rating.
    timeline : tuple of Window
        The windows that it was cut into; empty if it was heard at once.
    trained_on : bool or None
        Whether the model was trained on this very recording: then the prediction says nothing about
        others. None if that is not known.
    """

    source: str
    seconds: float
    label: str
    scores: Mapping[str, float]
    timeline: tuple[Window, ...]
    trained_on: bool | None = None

    def __repr__(self) -> str:
        """Return the scores, or the timeline, as a short table."""
        title = f"{self.source}, {self.seconds:.2f} s"
        title += f": {self.label}" if self.label else ""
        title += ", TRAINED ON" if self.trained_on else ""
        scores = sorted(self.scores.items(), key=lambda score: -score[1])
        if not self.timeline:
            kind = "probability" if self.label else "rating"
            rows = [(name, f"{value:.3f}") for name, value in scores]
            return f"{title}\n{text_table(('label' if self.label else '', kind), rows)}"
        windows = [
            (
                f"{each.start:.2f} - {each.end:.2f} s",
                *(
                    [each.label, f"{each.scores[each.label]:.3f}" if each.label else ""]
                    if self.label
                    else [f"{each.scores[name]:.3f}" if each.scores else "" for name in self.scores]
                ),
            )
            for each in self.timeline
        ]
        columns = ("label", "probability") if self.label else tuple(self.scores)
        return f"{title}\n{text_table(('window', *columns), windows)}"

    def to_pandas(self) -> Any:
        """Return a row for the whole recording, and one for each window, as pandas has them.

        Returns
        -------
        pandas.DataFrame
            Columns ``source``, ``part`` (``whole`` or ``window``), ``start`` and ``end`` in
            seconds, ``label``, and ``score_NAME`` for each score; NaN where nothing is heard.

        Raises
        ------
        UserError
            If pandas is not installed.
        """
        columns = dict(zip(self.scores, score_columns(list(self.scores)), strict=True))
        whole = Window(0.0, self.seconds, self.label, self.scores)
        return data_frame(
            [
                {
                    "source": self.source,
                    "part": part,
                    "start": each.start,
                    "end": each.end,
                    "label": each.label,
                    **{column: each.scores.get(name, math.nan) for name, column in columns.items()},
                }
                for part, parts in (("whole", (whole,)), ("window", self.timeline))
                for each in parts
            ]
        )


def csv_columns(outputs: Sequence[str]) -> list[str]:
    """Return the columns of predictions as CSV, from the command line and from the server.

    Parameters
    ----------
    outputs : sequence of str
        Labels or ratings of the model.

    Returns
    -------
    list of str
        Of each row the source; the part, ``"whole"`` or ``"window"``; where it starts and ends, in
        seconds; the label; whether the model was trained on the recording; and the scores.
    """
    return ["source", "part", "start", "end", "label", "trained_on", *score_columns(outputs)]


def score_columns(outputs: Sequence[str]) -> list[str]:
    """Return the names of columns of scores, which are plain words, whatever the labels are.

    Parameters
    ----------
    outputs : sequence of str
        Labels or ratings.

    Returns
    -------
    list of str
        In the same order; all different, of ASCII letters, digits and ``_``.

    Examples
    --------
    >>> score_columns(["angry", "Müde", "very tired", "怒"])
    ['score_angry', 'score_Mude', 'score_very_tired', 'score_4']
    """
    names: list[str] = []
    for number, output in enumerate(outputs, 1):
        letters = unicodedata.normalize("NFKD", output).encode("ascii", "ignore").decode()
        name = "score_" + (re.sub(r"\W+", "_", letters).strip("_") or str(number))
        while name in names:
            name += f"_{number}"
        names.append(name)
    return names


def windows(n_samples: int, rate: int, window: float, hop: float) -> list[tuple[int, int]]:
    """Cut a recording into windows of one length that cover all of it.

    Parameters
    ----------
    n_samples : int
        Its length.
    rate : int
        In Hz.
    window, hop : float
        Length of a window, and from the beginning of one to that of the next, in seconds.

    Returns
    -------
    list of (int, int)
        First sample of each window, and the one after its last. The last window is flush with the
        end. A recording shorter than one window is one window.

    Raises
    ------
    UserError
        If windows would leave gaps, or be too many.
    """
    if not (math.isfinite(window * rate) and math.isfinite(hop) and MINIMUM_HOP <= hop <= window):
        raise UserError(
            f"--window {window:g} --hop {hop:g}: expected {MINIMUM_HOP:g} s <= hop <= window, so "
            "that windows leave no gap; mend them"
        )
    size = round(window * rate)
    step = min(round(hop * rate), size)
    if n_samples <= size:
        return [(0, n_samples)]
    starts = [*range(0, n_samples - size, step), n_samples - size]
    return [(start, start + size) for start in starts]


def equal_windows(n_samples: int, longest: int) -> list[tuple[int, int]]:
    """Cut a recording into as few windows of equal length as there can be.

    Parameters
    ----------
    n_samples : int
        Its length.
    longest : int
        Most samples of a window.

    Returns
    -------
    list of (int, int)
        As :func:`windows` returns them; lengths differ by one sample at most.
    """
    count = max(1, math.ceil(n_samples / longest))
    edges = [n_samples * number // count for number in range(count + 1)]
    return list(pairwise(edges))
