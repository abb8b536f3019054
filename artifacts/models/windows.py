"""Cut long recordings into windows."""

import math
from itertools import pairwise

from ...errors import UserError

#: Least hop in seconds, which bounds the number of windows.
MINIMUM_HOP = 0.05


def windows(n_samples: int, rate: int, window: float, hop: float) -> list[tuple[int, int]]:
    """Cut a recording into windows of one length that cover all of it.

    Window and hop (the distance between the starts of windows) are in seconds, the rate in Hz.
    Return the first sample of each window, and the one after its last. The last window ends where
    the recording does. A recording shorter than a window is one window. Raise UserError if windows
    would leave gaps, or be too many.
    """
    if not (math.isfinite(window * rate) and math.isfinite(hop) and MINIMUM_HOP <= hop <= window):
        raise UserError(
            f"--window {window:g} --hop {hop:g}: choose a hop from {MINIMUM_HOP:g} s to the length "
            "of the window, so that windows leave no gaps"
        )
    size = round(window * rate)
    step = min(round(hop * rate), size)
    if n_samples <= size:
        return [(0, n_samples)]
    starts = [*range(0, n_samples - size, step), n_samples - size]
    return [(start, start + size) for start in starts]


def equal_windows(n_samples: int, longest: int) -> list[tuple[int, int]]:
    """Cut a recording into as few windows as possible of at most ``longest`` samples.

    The windows are returned as by :func:`windows`; their lengths differ by at most one sample.
    """
    count = max(1, math.ceil(n_samples / longest))
    edges = [n_samples * number // count for number in range(count + 1)]
    return list(pairwise(edges))
