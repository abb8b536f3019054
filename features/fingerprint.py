"""Acoustic fingerprints show which clips may hold the same recording in changed files.

A fingerprint consists of the peaks of a spectrogram, so that level, polarity, format and sampling
rate do not matter, and cuts or additions at the ends only remove or add peaks [1]_. Of all
combinations of three neighbouring peaks the clip keeps those with the smallest hashes, from which
the overlap of two sets can be estimated without the sets [2]_.

.. [1] Wang (2003), "An industrial-strength audio search algorithm", ISMIR.
.. [2] Broder (1997), "On the resemblance and containment of documents", SEQUENCES.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import soxr
from numpy.typing import NDArray

from .audio import Waveform

#: Rate in Hz at which clips are fingerprinted and compared, and the telephone band, which nearly
#: every channel and format preserves and which contains no mains hum.
RATE = 8000
BAND = (300, 3400)
#: Seconds of a longer clip that are used, from its start.
MOST_SECONDS = 60

#: Samples of a spectrogram's window (128 ms) and between windows (20 ms).
_WINDOW, _HOP = 1024, 160
#: A peak is the largest value within this many frames and bins on each side (0.12 s, 86 Hz)...
_FRAMES_AROUND, _BINS_AROUND = 6, 11
#: ... and at most this many decibels below the loudest of the clip: weaker peaks drown in noise.
_PEAK_DECIBELS = 30
#: A peak is combined with two of this many that follow it.
_FOLLOWING = 4
#: Frames and bins that count as one, because resampling and trimming shift peaks slightly.
_SAME_FRAMES, _SAME_BINS = 2, 2
#: Hashes that a fingerprint keeps.
_KEPT = 128

#: Hashes that the fingerprints of two clips must share for the clips to be compared.
_SHARED = 4
#: Candidates of a clip, those that share most hashes; a pair counts if either has the other.
_MOST_CANDIDATES = 8
#: A hash connects a clip with at most this many others: one that is everywhere says nothing.
_MOST_NEIGHBOURS = 32
#: A hash that more clips have, such as that of a jingle, connects none of them.
_MOST_HOLDERS = 200
#: Hashes that are sorted at once.
_SORTED_AT_ONCE = 1 << 24


def to_common_rate(waveform: Waveform, sampling_rate: int) -> Waveform:
    """Return the first minute of a clip, one channel, at ``RATE``; its rate is given in Hz."""
    waveform = waveform[: MOST_SECONDS * sampling_rate]
    if sampling_rate != RATE:
        waveform = soxr.resample(waveform, sampling_rate, RATE, quality="MQ")
    return np.ascontiguousarray(waveform, np.float32)


def fingerprint(waveform: Waveform, sampling_rate: int) -> bytes:
    """Return the fingerprint of a clip of one channel: at most 128 ascending hashes of 32 bits.

    It is empty for a clip with fewer than three peaks, such as a tone or a fraction of a second.
    """
    frames, bins = _peaks(to_common_rate(waveform, sampling_rate))
    coarse = bins.astype(np.uint64) // _SAME_BINS
    n = len(frames)
    combined = []
    for second, third in combinations(range(1, _FOLLOWING + 1), 2):
        first = slice(0, max(n - third, 0))
        two, three = (slice(each, each + first.stop) for each in (second, third))
        code = coarse[first]
        for others in (coarse[two], coarse[three]):
            code = code * 512 + others
        for later in (frames[two], frames[three]):
            code = code * 4096 + ((later - frames[first]) // _SAME_FRAMES).astype(np.uint64)
        combined.append(code)
    hashes = np.unique(_scramble(np.concatenate(combined)))[:_KEPT]
    return hashes.astype("<u4").tobytes()


def _peaks(waveform: Waveform) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return frame and bin of each peak of the spectrogram, in the order of time."""
    from scipy import fft
    from scipy.ndimage import maximum_filter1d

    padded = np.pad(waveform, (0, max(_WINDOW - len(waveform), 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP]
    low, high = (edge * _WINDOW // RATE for edge in BAND)
    spectrum = fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32), axis=1)[:, low:high]
    power = spectrum.real**2 + spectrum.imag**2
    largest = maximum_filter1d(power, 2 * _BINS_AROUND + 1, axis=1)
    largest = maximum_filter1d(largest, 2 * _FRAMES_AROUND + 1, axis=0)
    floor = power.max() * 10 ** (-_PEAK_DECIBELS / 10)
    frames, bins = np.nonzero((power == largest) & (power > floor))
    return frames, bins


def _scramble(codes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Map codes to evenly distributed numbers: the finaliser of MurmurHash3."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        codes = (codes ^ (codes >> np.uint64(33))) * np.uint64(factor)
    return (codes >> np.uint64(32)).astype(np.uint32)


def find_candidates(fingerprints: Sequence[bytes]) -> NDArray[np.intp]:
    """Return the pairs of clips with similar fingerprints: int, shape (n_pairs, 2).

    Each pair holds the indices of two clips, the lower first; pairs are sorted. Time and memory
    grow with the number of clips (times its logarithm), not with its square: only clips that share
    a hash are paired.
    """
    n_clips = len(fingerprints)
    sizes = np.array([len(each) // 4 for each in fingerprints], np.intp)
    hashes = np.frombuffer(b"".join(fingerprints), "<u4")
    clips = np.repeat(np.arange(n_clips, dtype=np.int32), sizes)
    n_parts = -(-len(hashes) // _SORTED_AT_ONCE)
    shared_by = [np.empty(0, np.int64)]
    for part in range(n_parts):
        mine = np.flatnonzero(hashes % n_parts == part)
        mine = mine[np.argsort(hashes[mine], kind="stable")]  # clips stay in order
        starts = np.flatnonzero(np.diff(hashes[mine], prepend=hashes[mine][:1] ^ 1))
        holders = np.diff(starts, append=len(mine))
        mine = mine[np.repeat(holders <= _MOST_HOLDERS, holders)]
        values, owners = hashes[mine], clips[mine].astype(np.int64)
        for step in range(1, _MOST_NEIGHBOURS + 1):
            same = np.flatnonzero(values[step:] == values[:-step])
            if not len(same):
                break
            shared_by.append(owners[same] * n_clips + owners[same + step])
    codes, shared = np.unique(np.concatenate(shared_by), return_counts=True)
    pairs = np.stack([codes // max(n_clips, 1), codes % max(n_clips, 1)], axis=1)
    enough = np.minimum(_SHARED, np.maximum(sizes[pairs].min(axis=1) // 4, 1))
    kept = shared >= enough
    pairs, shared = pairs[kept], shared[kept]
    best: NDArray[np.intp] = pairs[
        _among_best(pairs[:, 0], shared) | _among_best(pairs[:, 1], shared)
    ]
    return best


def _among_best(clips: NDArray[np.intp], shared: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return whether each pair is among the pairs of its clip that share most hashes."""
    order = np.lexsort((-shared, clips))
    starts = np.searchsorted(clips[order], clips[order])
    best = np.empty(len(clips), np.bool_)
    best[order] = np.arange(len(clips)) - starts < _MOST_CANDIDATES
    return best
