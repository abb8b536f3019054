"""Random changes of training clips: speed, pitch, noise, and mixing two of them.

The random numbers depend on seed, epoch and clip alone, not on the batch or the number of processes
that read clips, so a resumed training draws the same.
"""

from collections.abc import Sequence

import numpy as np
import soxr

from ...features.audio import Waveform

#: Share of the clips of an epoch to which each change is applied.
SHARE = 0.5
#: Largest change of the speed, up or down, as in Ko et al. (2015) for speech recognition.
SPEED = 0.1
#: Largest shift of the pitch, up or down, in semitones.
SEMITONES = 2.0
#: Lowest and highest ratio of speech to noise, in decibels.
NOISE = (10.0, 30.0)


def augment(
    waveform: Waveform, rate: int, names: Sequence[str], draw: np.random.Generator
) -> Waveform:
    """Change a clip at random; the result is never shorter than 90 % of it.

    Parameters
    ----------
    waveform : ndarray of float32, shape (n_samples,)
        The clip.
    rate : int
        Its sampling rate in Hz.
    names : sequence of str
        Some of ``AUGMENTATIONS``: ``"speed"`` plays the clip faster or slower by up to a tenth,
        which changes its pitch, too; ``"pitch"`` shifts it by up to two semitones and keeps its
        length; ``"noise"`` adds white noise, 10 to 30 dB below the clip. Each is applied to half of
        the clips.
    draw : Generator
        Source of random numbers.

    References
    ----------
    Ko et al. (2015), *Audio augmentation for speech recognition*, Interspeech: changing the speed.
    """
    for name in names:
        skip, amount = draw.random(), draw.random()
        if skip >= SHARE:
            continue
        if name == "speed":
            waveform = change_speed(waveform, 1 + SPEED * (2 * amount - 1))
        elif name == "pitch":
            waveform = shift_pitch(waveform, rate, SEMITONES * (2 * amount - 1))
        else:
            decibels = NOISE[0] + (NOISE[1] - NOISE[0]) * amount
            waveform = add_noise(waveform, decibels, draw)
    return waveform


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Play a clip faster, which raises its pitch as well; a factor above 1 is faster and shorter.

    The result has the shape (n_samples / factor,).
    """
    changed: Waveform = soxr.resample(waveform, factor, 1.0, quality="HQ")
    return changed


def shift_pitch(waveform: Waveform, rate: int, semitones: float) -> Waveform:
    """Shift the pitch and keep the length: play a clip faster, then stretch it.

    It is stretched by the filter ``atempo`` of FFmpeg (overlapping windows, WSOLA), then padded
    with zeros or cut at the end by a few milliseconds, to the exact length. The rate is in Hz.
    """
    import av

    factor = 2 ** (semitones / 12)
    faster = change_speed(waveform, factor)
    graph = av.filter.Graph()
    source = graph.add_abuffer(sample_rate=rate, format="flt", layout="mono", time_base=None)
    tempo = graph.add("atempo", f"{1 / factor:.6f}")
    sink = graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    frame = av.AudioFrame.from_ndarray(faster[None, :].astype(np.float32), "flt", "mono")
    frame.sample_rate = rate
    graph.push(frame)
    graph.push(None)
    parts = []
    while True:
        try:
            pulled = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            break
        parts.append(pulled.to_ndarray().ravel())
    stretched = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    if 2 * len(stretched) < len(waveform):
        return waveform  # shorter than the filter's windows
    shifted = np.zeros_like(waveform)
    shifted[: len(stretched)] = stretched[: len(waveform)]
    return shifted


def add_noise(waveform: Waveform, decibels: float, draw: np.random.Generator) -> Waveform:
    """Add white Gaussian noise, whose power is so many decibels below the clip's."""
    power = float(np.mean(np.square(waveform, dtype=np.float64))) / 10 ** (decibels / 10)
    noise = draw.standard_normal(len(waveform), dtype=np.float32)
    noisy: Waveform = waveform + np.float32(np.sqrt(power)) * noise
    return noisy


def mix(waveform: Waveform, other: Waveform, share: float) -> Waveform:
    """Mix two clips that start together; the other is cut to the length of the first.

    The other is scaled to the root mean square of the first, so that loudness, which may depend on
    the label, does not change the shares. ``share``, from 0 to 1, is that of the first. Zhang et
    al. (2018), *mixup: Beyond Empirical Risk Minimization*, ICLR, equation 2.
    """
    mixed: Waveform = np.float32(share) * waveform
    length = min(len(waveform), len(other))
    size, other_size = (float(np.sqrt(np.mean(np.square(w)))) for w in (waveform, other))
    scale = size / other_size if other_size > 0 else 0.0
    mixed[:length] += np.float32((1 - share) * scale) * other[:length]
    return mixed
