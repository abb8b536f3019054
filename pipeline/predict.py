"""What a model says of a recording, and the windows that a long recording is cut into."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from ..errors import UserError

#: Windows begin at least this far apart, in seconds: a recording has no more than so many.
MINIMUM_HOP = 0.05


@dataclass(frozen=True)
class Segment:
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
    timeline : tuple of Segment
        The windows that it was cut into; empty if it was heard at once.
    trained_on : bool or None
        Whether the model was trained on this very recording: then the prediction says nothing about
        others. None if that is not known.
    """

    source: str
    seconds: float
    label: str
    scores: Mapping[str, float]
    timeline: tuple[Segment, ...]
    trained_on: bool | None = None


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
