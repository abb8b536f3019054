"""Remove silence at the ends of a clip."""

import numpy as np

from .audio import Waveform

#: Samples of a window and between windows.
WINDOW, HOP = 2048, 512


def trim(waveform: Waveform, decibels: float) -> Waveform:
    """Return a view of a clip without windows at its ends that are much quieter than the loudest.

    They are removed if they are more than ``decibels`` quieter (30 is usual); all are kept of a
    clip that is silent. The windows are those of ``librosa.effects.trim``, so that published
    numbers can be reproduced: root mean square over 2048 samples every 512, centred, zeros beyond
    the ends.
    """
    power = np.pad(waveform.astype(np.float64) ** 2, WINDOW // 2)
    energy = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(waveform) + 1, HOP)
    windows = (energy[starts + WINDOW] - energy[starts]) / WINDOW
    loud = np.nonzero(windows > windows.max(initial=0.0) * 10 ** (-decibels / 10))[0]
    if not len(loud):
        return waveform
    return waveform[loud[0] * HOP : min(len(waveform), (loud[-1] + 1) * HOP)]
