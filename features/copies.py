"""Find clips that hold the same recording in other bytes: another format, level, rate or cut.

Equal samples are found by their hash. For the rest, fingerprints suggest which clips may be copies,
and their waveforms decide: aligned where their cross-correlation is largest, copies agree, but
different utterances do not, not even repetitions of a sentence by the same speaker.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import Clip
from ..corpora.rater_rows import decode_counts
from ..corpora.speakers import canonical_speaker
from ..errors import BadClipError, MachineError, SerpipeError
from ..progress import Track, no_track
from ..remote import Remote
from .audio import CHANNEL_POLICY, Waveform, read_waveform
from .decoding import DecodedClip
from .fingerprint import BAND, RATE, find_candidates, to_common_rate
from .in_order import in_order

#: Correlation in the telephone band from which two clips are one recording, as they are and with
#: whitened spectra. Measured in benchmarks/copies.py: different clips of RAVDESS have 0.3 and 0.1
#: at most.
SAME_RECORDING, SAME_WHITENED = 0.8, 0.5
#: Width of the band over which a spectrum is smoothed to whiten it.
_WHITENED_HERTZ = 100
#: Shares of the shorter clip's samples, and of the energy of either clip, that must be compared.
_COMPARED_SAMPLES, _COMPARED_ENERGY = 0.7, 0.5
#: Samples of a block (0.25 s), and how many decibels below the loudest it may be to count.
_BLOCK, _BLOCK_DECIBELS = RATE // 4, 20


@dataclass(frozen=True)
class _Comparison:
    """The indices of two contents, and whether they are one recording; None if unknown."""

    first: int
    second: int
    same: bool | None


def mark_recordings(
    decoded: Sequence[DecodedClip],
    known: Mapping[str, str] | None = None,
    *,
    channels: str = CHANNEL_POLICY,
    workers: int = 1,
    track: Track[Any] = no_track,
) -> list[DecodedClip]:
    """Find which clips hold the same recording, and mark each clip with its recording.

    The clips have fingerprints. ``known`` leads from the hash of the samples to the recording that
    an earlier search found: known clips are not compared with each other again.

    Return the clips in the same order, each with ``recording`` (the smallest hash of samples among
    the copies) and, if a file could not be read again to be compared, ``unconfirmed_copy_of``;
    without fingerprints, which nothing else needs.
    """
    known = known or {}
    first_with: dict[str, DecodedClip] = {}
    for each in decoded:
        first_with.setdefault(content_hash(each), each)
    contents = sorted(first_with)  # indices do not depend on the order of the clips
    clips = [first_with[content] for content in contents]
    pairs = find_candidates([each.facts.fingerprint for each in clips]).tolist()
    new = [(a, b) for a, b in pairs if not (contents[a] in known and contents[b] in known)]
    compared = list(_compare_all(clips, new, channels, workers, track))
    joined = [(pair.first, pair.second) for pair in compared if pair.same]
    leader: dict[str, int] = {}
    for index, content in enumerate(contents):
        if content in known:
            joined.append((leader.setdefault(known[content], index), index))
    smallest = _smallest_connected(len(contents), joined)
    recording = {
        content: contents[index] for content, index in zip(contents, smallest, strict=True)
    }
    unconfirmed: dict[str, str] = {}
    for pair in compared:
        if pair.same is None and smallest[pair.first] != smallest[pair.second]:
            for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
                unconfirmed.setdefault(contents[one], clips[other].clip.path)
    return [
        DecodedClip(
            each.clip,
            replace(each.facts, fingerprint=b""),
            recording[content_hash(each)],
            unconfirmed.get(content_hash(each), ""),
        )
        for each in decoded
    ]


def content_hash(decoded: DecodedClip) -> str:
    """Return the hash of a clip's samples, or of its bytes if the samples were not hashed."""
    return decoded.facts.audio_sha256 or decoded.facts.sha256


def keep_consistent(decoded: Sequence[DecodedClip], bad: list[BadClipError]) -> list[DecodedClip]:
    """Omit recordings with two speakers or emotions, of which at most one is right.

    ``bad`` receives an error for each clip that contradicts an earlier one.
    """
    firsts: dict[str, DecodedClip] = {}
    kept = []
    for each in decoded:
        first = firsts.setdefault(each.recording, each)
        theirs, ours = first.clip, each.clip
        if _person_and_emotion(theirs) == _person_and_emotion(ours):
            kept.append(each)
            continue
        if each.facts.sha256 == first.facts.sha256:
            relation = f"is byte for byte {theirs.file}"
        else:
            relation = f"is the same recording as {theirs.file} in other bytes"
        bad.append(
            BadClipError(
                str(ours.file),
                f"{relation}, but has another {_differences(ours, theirs)}",
                "one speaker and emotion for each recording",
                "find out which is right and remove the other",
            )
        )
    return kept


def _person_and_emotion(clip: Clip) -> tuple[str, str]:
    """Return the speaker and emotion, which must agree in two clips of one recording."""
    emotion = clip.shared_emotion or clip.emotion
    if decode_counts(emotion) is not None:
        emotion = ""  # raters need not agree, even on the same recording
    return canonical_speaker(clip.speaker_id or clip.speaker), emotion


def _differences(ours: Clip, theirs: Clip) -> str:
    """Return in which of speaker and emotion two clips differ, and their values."""
    (person, emotion), (other_person, other_emotion) = map(_person_and_emotion, (ours, theirs))
    differences = []
    if person != other_person:
        differences.append(f"speaker ({ours.speaker} here, {theirs.speaker} there)")
    if emotion != other_emotion:
        values = f"{ours.emotion or 'none'} here, {theirs.emotion or 'none'} there"
        differences.append(f"emotion ({values})")
    return " and another ".join(differences)


def same_recording(one: Waveform, other: Waveform) -> bool:
    """Whether two waveforms, at 8000 Hz, are the same recording, perhaps filtered."""
    return (
        correlation(one, other) >= SAME_RECORDING
        or correlation(one, other, whiten=True) >= SAME_WHITENED
    )


def correlation(one: Waveform, other: Waveform, *, whiten: bool = False) -> float:
    """Correlate two waveforms at 8000 Hz in the telephone band, aligned where they agree most.

    If ``whiten``, each spectrum is flattened first, so that a filter does not matter; noise then
    counts for more.

    Return a number from 0 to 1: the largest absolute value, over all shifts, of the correlation of
    the overlapping analytic signals, divided by the root of the product of their energies; or, if
    that is less, the median of the same over the blocks of the overlap, so that a loud beep in two
    recordings does not make them one. A shift counts if most of the shorter clip overlaps, and half
    of the energy of one of them.

    References
    ----------
    Knapp & Carter (1976), *The generalized correlation method for estimation of time delay*, IEEE
    Transactions on Acoustics, Speech, and Signal Processing 24(4): whitening before correlation.
    """
    from scipy import fft

    first, second = _analytic(one, whiten), _analytic(other, whiten)
    n = fft.next_fast_len(len(one) + len(other))
    product = fft.fft(first, n) * np.conj(fft.fft(second, n))
    shortest = min(len(one), len(other))
    least = int(np.ceil(_COMPARED_SAMPLES * shortest))
    shifts = np.arange(least - len(other), len(one) - least + 1)
    products = np.abs(fft.ifft(product, n)[shifts])
    start, stop = np.maximum(shifts, 0), np.minimum(shifts + len(other), len(one))
    sums = [np.concatenate([[0.0], np.cumsum(np.abs(each) ** 2)]) for each in (first, second)]
    energy = sums[0][stop] - sums[0][start]
    others = sums[1][stop - shifts] - sums[1][start - shifts]
    totals = [max(float(each[-1]), 1e-20) for each in sums]
    enough = np.maximum(energy / totals[0], others / totals[1]) >= _COMPARED_ENERGY
    # Almost silent overlaps divide by next to nothing.
    enough &= (energy > 1e-6 * totals[0]) & (others > 1e-6 * totals[1])
    if not enough.any():
        return 0.0
    ratio = np.where(enough, products / np.sqrt(np.where(enough, energy * others, 1.0)), 0.0)
    best = int(ratio.argmax())
    overlap = slice(start[best], stop[best])
    moved = slice(start[best] - shifts[best], stop[best] - shifts[best])
    blocks = _median_of_blocks(first[overlap], second[moved])
    return float(min(ratio[best], blocks, 1.0))


def _median_of_blocks(one: NDArray[np.complex128], other: NDArray[np.complex128]) -> float:
    """Return the median correlation of aligned signals over the blocks that are not silent."""
    n = max(len(one) // _BLOCK, 1)
    size = len(one) // n
    a, b = (each[: n * size].reshape(n, size) for each in (one, other))
    energies = (np.abs(a) ** 2).sum(axis=1), (np.abs(b) ** 2).sum(axis=1)
    audible = [each > each.max() * 10 ** (-_BLOCK_DECIBELS / 10) for each in energies]
    both = audible[0] & audible[1]
    if not both.any():
        return 0.0
    products = np.abs((a * np.conj(b)).sum(axis=1))[both]
    return float(np.median(products / np.sqrt(energies[0][both] * energies[1][both])))


def _analytic(waveform: Waveform, whiten: bool) -> NDArray[np.complex128]:
    """Return the analytic signal in the telephone band, whose phase a filter may turn."""
    from scipy import fft

    n = fft.next_fast_len(len(waveform))
    spectrum = fft.fft(waveform.astype(np.float64), n)
    low, high = (edge * n // RATE for edge in BAND)
    band = spectrum[low:high]
    if whiten and len(band):
        width = min(max(_WHITENED_HERTZ * n // RATE, 1), len(band))
        power = np.convolve(np.abs(band) ** 2, np.full(width, 1 / width), "same")
        band = band / np.sqrt(power + 1e-3 * power.mean() + 1e-20)
    signal = np.zeros(n, np.complex128)
    signal[low:high] = band
    analytic: NDArray[np.complex128] = fft.ifft(signal)[: len(waveform)]
    return analytic


def _compare_all(
    clips: Sequence[DecodedClip],
    pairs: Sequence[tuple[int, int]],
    channels: str,
    workers: int,
    track: Track[Any],
) -> Iterator[_Comparison]:
    """Compare pairs, sorted by their first clip, which is decoded once for all its pairs."""
    unreachable: list[MachineError] = []  # a store that does not answer is not tried again

    def load(index: int) -> Waveform | None:
        decoded = clips[index]
        if unreachable and isinstance(decoded.clip.file, Remote):
            return None
        try:
            waveform, facts = read_waveform(decoded.clip.file, RATE, channels)
        except SerpipeError as error:
            unreachable.extend([error] if isinstance(error, MachineError) else [])
            return None
        return to_common_rate(waveform, RATE) if facts == decoded.facts else None

    def compare(task: tuple[int, list[int]]) -> list[_Comparison]:
        first, others = task
        waveform, comparisons = load(first), []
        for index in others:
            other = None if waveform is None else load(index)
            if waveform is None or other is None:
                comparisons.append(_Comparison(first, index, None))
            else:
                same = same_recording(waveform, other)
                comparisons.append(_Comparison(first, index, same))
        return comparisons

    tasks = [
        (first, [second for _, second in group])
        for first, group in groupby(pairs, key=lambda pair: pair[0])
    ]
    if tasks:
        results = in_order(compare, tasks, workers, ahead=workers)
        for comparisons in track(results, "comparing possible copies", len(tasks)):
            yield from comparisons


def _smallest_connected(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """Return, for each of n indices, the smallest that it is connected with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first, second = np.array(pairs, np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    _, component = connected_components(graph, directed=False)
    _, smallest = np.unique(component, return_index=True)
    indices: list[int] = smallest[component].tolist() if n else []
    return indices
