"""Remove silence at the ends of a clip."""

import numpy as np

from .audio import Waveform

#: Samples of a window and between windows.
WINDOW, HOP = 2048, 512


def trim(waveform: Waveform, decibels: float) -> Waveform:
    """Remove windows at both ends that are more than ``decibels`` quieter than the loudest.

    The windows are those of ``librosa.effects.trim``, so that published numbers can be reproduced:
    root mean square over 2048 samples every 512, centred, zeros beyond the ends.

    Parameters
    ----------
    waveform : ndarray of float32, shape (n_samples,)
        One clip.
    decibels : float
        The threshold, positive; 30 is usual.

    Returns
    -------
    ndarray of float32, shape (n_left,)
        A view of ``waveform``; never empty unless it is.
    """
    power = np.pad(waveform.astype(np.float64) ** 2, WINDOW // 2)
    energy = np.concatenate([[0.0], np.cumsum(power)])
    starts = np.arange(0, len(waveform) + 1, HOP)
    windows = (energy[starts + WINDOW] - energy[starts]) / WINDOW
    loud = np.nonzero(windows > windows.max(initial=0.0) * 10 ** (-decibels / 10))[0]
    if not len(loud):
        return waveform
    return waveform[loud[0] * HOP : min(len(waveform), (loud[-1] + 1) * HOP)]
