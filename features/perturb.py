"""Perturb the waveform of a clip: noise, a telephone line, MP3, a room, gain, clipping, a cut.

What is random depends on the seed, the perturbation and the content of the clip alone, not on the
order of the clips or their batches.
"""

import hashlib
import io

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .audio import Waveform
from .perturbation import Perturbation

#: Rate of a telephone line, and the edges of its pass band, all in Hz (ITU-T G.712).
TELEPHONE_RATE, TELEPHONE_BAND = 8_000, (300, 3_400)
#: Rate in Hz at which MP3 is encoded. Its frames there have 8 to 160 kbit/s.
MP3_RATE, MP3_BIT_RATES = 16_000, (8, 160)
#: Delay in samples of MP3 below 48 kbit/s, where the header has no room to state it: 576 of the
#: encoder, LAME, and 529 of any decoder.
MP3_DELAY = 576 + 529
#: Frequency in Hz below which the power density of the noise is constant; that of pink noise would
#: grow without limit.
LOWEST_NOISE = 50


def perturb(waveform: Waveform, rate: int, perturbation: Perturbation, sha256: str) -> Waveform:
    """Perturb one clip.

    Parameters
    ----------
    waveform : ndarray of float32, shape (n_samples,)
        The clip; full scale is 1.
    rate : int
        Its sampling rate in Hz.
    perturbation : Perturbation
        What is done to it; docs/method.md defines each kind.
    sha256 : str
        Hash of the content of the clip, from which its noise or room is drawn.

    Returns
    -------
    ndarray of float32, shape (n_samples,)
        ``shorter`` returns fewer samples.
    """
    value = 0.0 if perturbation.value is None else perturbation.value
    kind = perturbation.kind
    changed: NDArray[np.floating]
    if kind == "noise":
        changed = _add_noise(waveform, rate, value, _generator(perturbation, sha256))
    elif kind == "telephone":
        changed = _telephone(waveform, rate)
    elif kind == "mp3":
        changed = _mp3(waveform, rate, value)
    elif kind == "reverb":
        changed = _reverberate(waveform, rate, value, _generator(perturbation, sha256))
    elif kind == "gain":
        changed = np.clip(waveform * 10 ** (value / 20), -1, 1)
    elif kind == "clip":
        level = np.quantile(np.abs(waveform[waveform != 0]), 1 - value / 100)
        changed = np.clip(waveform, -level, level)
    else:
        kept = min(len(waveform), round(value * rate))
        start = (len(waveform) - kept) // 2
        changed = waveform[start : start + kept]
    return np.ascontiguousarray(changed, dtype=np.float32)


def _generator(perturbation: Perturbation, sha256: str) -> np.random.Generator:
    text = f"{perturbation.seed} {perturbation} {sha256}"
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def _add_noise(
    waveform: Waveform, rate: int, decibels: float, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Add pink noise (power proportional to 1 / f), so many decibels below the whole clip."""
    n = len(waveform)
    spectrum = np.fft.rfft(draw.standard_normal(n))
    spectrum /= np.sqrt(np.maximum(np.fft.rfftfreq(n, 1 / rate), LOWEST_NOISE))
    noise = np.fft.irfft(spectrum, n)
    noise *= np.sqrt(_power(waveform) / _power(noise) / 10 ** (decibels / 10))
    return waveform + noise


def _telephone(waveform: Waveform, rate: int) -> NDArray[np.float32]:
    """Limit a clip to the telephone band at 8 kHz, and encode and decode it as G.711 mu-law."""
    from scipy.signal import butter, sosfilt

    narrow = soxr.resample(waveform, rate, TELEPHONE_RATE, quality="VHQ")
    sections = butter(4, TELEPHONE_BAND, "bandpass", fs=TELEPHONE_RATE, output="sos")
    limited = np.clip(sosfilt(sections, narrow), -1, 1)
    decoded = _encode_and_decode(limited, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    return _at_length(soxr.resample(decoded, TELEPHONE_RATE, rate, quality="VHQ"), len(waveform))


def _mp3(waveform: Waveform, rate: int, kilobits: float) -> NDArray[np.float32]:
    """Encode and decode a clip as MP3 at a constant bit rate."""
    at_rate = waveform if rate == MP3_RATE else soxr.resample(waveform, rate, MP3_RATE, "VHQ")
    lowest, highest = MP3_BIT_RATES
    decoded = _encode_and_decode(
        at_rate,
        MP3_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        bitrate_mode="CONSTANT",
        # How libsndfile states a bit rate; it refuses 1.
        compression_level=min((highest - kilobits) / (highest - lowest), 0.9999),
    )
    if len(decoded) > len(at_rate):
        decoded = decoded[MP3_DELAY:]
    if rate != MP3_RATE:
        decoded = soxr.resample(decoded, MP3_RATE, rate, "VHQ")
    return _at_length(decoded, len(waveform))


def _encode_and_decode(
    samples: NDArray[np.floating], rate: int, **file_format: str | float
) -> NDArray[np.float32]:
    """Write a clip to a file in memory and read it again; its format is as soundfile takes it."""
    content = io.BytesIO()
    soundfile.write(content, samples, rate, **file_format)
    content.seek(0)
    decoded: NDArray[np.float32] = soundfile.read(content, dtype="float32")[0]
    return decoded


def _reverberate(
    waveform: Waveform, rate: int, seconds: float, draw: np.random.Generator
) -> NDArray[np.float64]:
    """Convolve a clip with a synthetic room; its length and its power stay the same.

    The response is the direct sound and, with the same energy, white noise whose power falls by 60
    dB in the given time.

    References
    ----------
    Polack (1988), *La transmission de l'énergie sonore dans les salles*, PhD thesis, Université du
    Maine: late reverberation as exponentially decaying noise.
    """
    from scipy.signal import fftconvolve

    times = np.arange(1, round(seconds * rate)) / rate
    tail = draw.standard_normal(len(times)) * 10 ** (-3 * times / seconds)
    response = np.concatenate([[1.0], tail / np.sqrt(np.sum(tail**2))])
    changed: NDArray[np.float64] = fftconvolve(waveform, response)[: len(waveform)]
    changed *= np.sqrt(_power(waveform) / _power(changed))
    return changed


def _power(samples: NDArray[np.floating]) -> float:
    return max(float(np.mean(np.square(samples, dtype=np.float64))), 1e-20)


def _at_length(samples: NDArray[np.float32], length: int) -> NDArray[np.float32]:
    """Cut or pad a clip at its end by the few samples that resampling adds or loses."""
    return np.pad(samples[:length], (0, max(length - len(samples), 0)))
