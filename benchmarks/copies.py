"""How many copies of a recording are found, what is taken for one, and what the search costs.

python benchmarks/copies.py --data /path/to/RAVDESS --sources 1440 --clips 10000 100000 1000000

Copies of real clips, changed in many ways, are searched for among all clips of the corpus. Then the
correlation that decides is taken over pairs of different clips. For larger corpora fingerprints are
drawn: random hashes, with a planted copy for every hundredth clip that shares a quarter of them.

A copy is found if it gets the recording of its original. A false alarm is a clip, planted or not,
that gets the recording of a clip that it is not a copy of.
"""

import argparse
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, sosfilt
from serpipe.corpora import Clip
from serpipe.corpora.data import gather
from serpipe.features.audio import read_waveform
from serpipe.features.copies import correlation, mark_recordings
from serpipe.features.decoding import DecodedClip
from serpipe.features.fingerprint import RATE, find_candidates, fingerprint
from serpipe.features.in_order import in_order
from serpipe.features.trim import trim
from serpipe.provenance import cores

#: Of float64, shape (n_samples,) or (n_samples, n_channels).
Samples = Any
#: Copies of each kind for which the correlation with the original is computed.
CORRELATED = 40
DRAW = np.random.default_rng(0)


def noisy(x: Samples, decibels: float) -> Samples:
    noise = DRAW.standard_normal(len(x))
    return x + noise * np.sqrt(np.mean(x**2)) * 10 ** (-decibels / 20)


def filtered(x: Samples, rate: int, kind: str) -> Samples:
    return sosfilt(butter(2, 1000, kind, fs=rate, output="sos"), x)


def clipped(x: Samples) -> Samples:
    peak = np.abs(x).max()
    return np.clip(x, -peak / 3, peak / 3)


def trimmed(x: Samples, decibels: float = 30) -> Samples:
    return trim(x.astype(np.float32), decibels)


def padded(x: Samples, rate: int) -> Samples:
    return np.concatenate([np.zeros(rate // 2), x, np.zeros(rate // 2)])


def telephone(x: Samples, rate: int) -> Samples:
    sos = butter(4, [300, 3400], "bandpass", fs=8000, output="sos")
    return sosfilt(sos, soxr.resample(x, rate, 8000))


def without_pauses(x: Samples, rate: int) -> Samples:
    """Cut every stretch of 0.1 s or more that is 40 dB below the loudest, as a VAD does."""
    block = rate // 10
    blocks = x[: len(x) // block * block].reshape(-1, block)
    power = (blocks**2).mean(axis=1)
    return blocks[power > 1e-4 * power.max()].ravel()


#: From samples and their rate to those of the copy, and the format of its file.
CHANGES: dict[str, Callable[[Samples, int], tuple[Samples, int, str, str]]] = {
    "WAV of FLAC": lambda x, r: (x, r, "wav", "PCM_16"),
    "gain 0.8": lambda x, r: (0.8 * x, r, "wav", "PCM_16"),
    "gain 0.1": lambda x, r: (0.1 * x, r, "wav", "PCM_16"),
    "clipped at a third of the peak": lambda x, r: (clipped(x), r, "wav", "PCM_16"),
    "8 kHz": lambda x, r: (soxr.resample(x, r, 8000), 8000, "wav", "PCM_16"),
    "16 kHz": lambda x, r: (soxr.resample(x, r, 16000), 16000, "wav", "PCM_16"),
    "48 kHz": lambda x, r: (soxr.resample(x, r, 48000), 48000, "wav", "PCM_16"),
    "44.1 kHz": lambda x, r: (soxr.resample(x, r, 44100), 44100, "wav", "PCM_16"),
    "8 kHz, mu-law": lambda x, r: (soxr.resample(x, r, 8000), 8000, "wav", "ULAW"),
    "telephone: 300 to 3400 Hz, A-law": lambda x, r: (telephone(x, r), 8000, "wav", "ALAW"),
    "telephone: 300 to 3400 Hz, GSM 06.10": lambda x, r: (telephone(x, r), 8000, "wav", "GSM610"),
    "MP3": lambda x, r: (x, r, "mp3", "MPEG_LAYER_III"),
    "MP3, 8 kHz": lambda x, r: (soxr.resample(x, r, 8000), 8000, "mp3", "MPEG_LAYER_III"),
    "Opus": lambda x, r: (x, r, "ogg", "OPUS"),
    "Ogg Vorbis": lambda x, r: (x, r, "ogg", "VORBIS"),
    "first 50 ms cut": lambda x, r: (x[r // 20 :], r, "wav", "PCM_16"),
    "first 100 ms cut": lambda x, r: (x[r // 10 :], r, "wav", "PCM_16"),
    "last 100 ms cut": lambda x, r: (x[: -r // 10], r, "wav", "PCM_16"),
    "first 500 ms cut": lambda x, r: (x[r // 2 :], r, "wav", "PCM_16"),
    "last 500 ms cut": lambda x, r: (x[: -r // 2], r, "wav", "PCM_16"),
    "silence cut at both ends, 30 dB": lambda x, r: (trimmed(x), r, "wav", "PCM_16"),
    "silence cut at both ends, 20 dB": lambda x, r: (trimmed(x, 20), r, "wav", "PCM_16"),
    "silence cut everywhere": lambda x, r: (without_pauses(x, r), r, "wav", "PCM_16"),
    "500 ms cut at each end": lambda x, r: (x[r // 2 : -r // 2], r, "wav", "PCM_16"),
    "first half": lambda x, r: (x[: len(x) // 2], r, "wav", "PCM_16"),
    "500 ms of silence at each end": lambda x, r: (padded(x, r), r, "wav", "PCM_16"),
    "noise at 30 dB": lambda x, r: (noisy(x, 30), r, "wav", "PCM_16"),
    "noise at 20 dB": lambda x, r: (noisy(x, 20), r, "wav", "PCM_16"),
    "noise at 10 dB": lambda x, r: (noisy(x, 10), r, "wav", "PCM_16"),
    "offset": lambda x, r: (x + 0.05, r, "wav", "PCM_16"),
    "inverted": lambda x, r: (-x, r, "wav", "PCM_16"),
    "pre-emphasis": lambda x, r: (np.diff(x, prepend=0), r, "wav", "PCM_16"),
    "below 1 kHz removed": lambda x, r: (filtered(x, r, "highpass"), r, "wav", "PCM_16"),
    "above 1 kHz removed": lambda x, r: (filtered(x, r, "lowpass"), r, "wav", "PCM_16"),
    "one channel of two": lambda x, r: (np.stack([x, 0 * x], axis=1), r, "wav", "PCM_16"),
    "gain, 16 kHz, cut, noise, Ogg": lambda x, r: (
        noisy(0.5 * soxr.resample(x, r, 16000)[4800:], 30), 16000, "ogg", "VORBIS",
    ),
    "3 % faster": lambda x, r: (soxr.resample(x, 103, 100), r, "wav", "PCM_16"),
}  # fmt: skip


def main() -> None:
    """Measure, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--sources", type=int, default=40, help="clips of which copies are made")
    parser.add_argument("--kinds", nargs="+", default=list(CHANGES), choices=CHANGES)
    parser.add_argument("--clips", type=int, nargs="*", default=[10_000, 100_000])
    given = parser.parse_args()
    clips = gather([given.data], None, skip_bad=True).clips
    with tempfile.TemporaryDirectory() as folder:
        measure_recall(clips, Path(folder), given.sources, given.kinds)
    measure_strangers(clips)
    print("\n| clips (drawn) | search, s | planted copies found | peak MiB more |")
    print("|---:|---:|---:|---:|")
    for n_clips in given.clips:
        measure_search(n_clips)


def decode(clips: Sequence[Clip]) -> tuple[list[DecodedClip], float]:
    """Open clips as an extraction does; and how many ms a fingerprint took, on one core."""
    seconds = 0.0
    decoded = []
    for clip in clips:
        waveform, facts = read_waveform(clip.file, 16000)
        began = time.perf_counter()
        decoded.append(DecodedClip(clip, replace(facts, fingerprint=fingerprint(waveform, 16000))))
        seconds += time.perf_counter() - began
    return decoded, 1000 * seconds / len(clips)


def measure_recall(
    clips: Sequence[Clip], folder: Path, n_sources: int, kinds: Sequence[str]
) -> None:
    """Plant copies, and see which are found."""
    decoded, each = decode(clips)
    began = time.perf_counter()
    pairs = find_candidates([h.facts.fingerprint for h in decoded])
    searched = time.perf_counter() - began
    began = time.perf_counter()
    marked = mark_recordings(decoded, workers=cores())
    alone = {h.clip.path: h.recording for h in marked}
    print(f"{len(clips)} clips: {each:.1f} ms for a fingerprint; {searched:.2f} s to search, "
          f"{time.perf_counter() - began:.2f} s with {len(pairs)} pairs compared; "
          f"{len(clips) - len(set(alone.values()))} copies in the corpus\n")  # fmt: skip
    sources = DRAW.choice(len(clips), min(n_sources, len(clips)), replace=False)
    original = {h.clip.path: h for h in decoded}
    print("| copy | found | false alarms | lowest correlation | whitened | pairs | s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in kinds:  # one kind at a time: copies would lead to one another
        copies = []
        for source in sources:
            samples, rate = soundfile.read(clips[source].file)
            samples = samples if samples.ndim == 1 else samples.mean(axis=1)
            changed, new_rate, suffix, subtype = CHANGES[name](samples, rate)
            file = folder / f"{source}.{suffix}"
            soundfile.write(file, np.clip(changed, -1, 1), new_rate, subtype=subtype)
            more = {"of": clips[source].path}
            copies.append(replace(clips[source], file=file, path=file.name, more=more))
        planted, _ = decode(copies)
        pairs = find_candidates([h.facts.fingerprint for h in (*decoded, *planted)])
        began = time.perf_counter()
        marked = mark_recordings([*decoded, *planted], workers=cores())
        seconds = time.perf_counter() - began
        recording = {h.clip.path: h.recording for h in marked}
        found = sum(recording[h.clip.path] == recording[str(h.clip.more["of"])] for h in planted)
        lowest = [
            min(of_files(h, original[str(h.clip.more["of"])], whiten)
                for h in planted[:CORRELATED])
            for whiten in (False, True)
        ]  # fmt: skip
        print(f"| {name} | {found} of {len(planted)} | {false_alarms(marked, alone)} | "
              f"{lowest[0]:.2f} | {lowest[1]:.2f} | {len(pairs)} | {seconds:.1f} |",
              flush=True)  # fmt: skip


def false_alarms(marked: Sequence[DecodedClip], alone: Mapping[str, str]) -> int:
    """Count the clips that share a recording with a clip that they are not a copy of.

    ``alone`` has the recording of each clip of the corpus before copies were planted.
    """
    groups: dict[str, list[str]] = {}
    for each in marked:
        source = str(each.clip.more.get("of", each.clip.path))
        groups.setdefault(each.recording, []).append(alone[source])
    return sum(
        len(sources) - max(Counter(sources).values()) for sources in groups.values()
    )  # fmt: skip


def of_files(one: DecodedClip, other: DecodedClip, whiten: bool) -> float:
    waveforms = (read_waveform(each.clip.file, RATE)[0] for each in (one, other))
    return correlation(*waveforms, whiten=whiten)


def measure_strangers(clips: Sequence[Clip]) -> None:
    """Correlate different clips: takes of a sentence by one speaker, and any by one speaker."""
    speakers = sorted({clip.speaker for clip in clips})[::3]
    waveforms = {clip.path: read_waveform(clip.file, RATE)[0] for clip in clips
                 if clip.speaker in speakers}  # fmt: skip
    takes = [
        (one, other)
        for one, other in combinations([clip for clip in clips if clip.speaker in speakers], 2)
        if (one.speaker, one.statement) == (other.speaker, other.statement)
        and not np.array_equal(waveforms[one.path], waveforms[other.path])  # a fault of RAVDESS
    ]
    chosen = [takes[n] for n in DRAW.choice(len(takes), min(4000, len(takes)), replace=False)]
    chosen += [(a, b) for a, b in takes
               if (a.emotion, a.intensity) == (b.emotion, b.intensity)]  # fmt: skip

    for whiten, name in ((False, "as they are"), (True, "whitened")):

        def correlate(pair: tuple[Clip, Clip], whiten: bool = whiten) -> float:
            return correlation(*(waveforms[clip.path] for clip in pair), whiten=whiten)

        values = np.sort(list(in_order(correlate, chosen, cores(), ahead=8)))
        highest = ", ".join(f"{value:.2f}" for value in values[:-6:-1])
        print(f"\n{len(values)} pairs of clips of a sentence by one speaker, {name}: median "
              f"{np.median(values):.2f}, the highest {highest}")  # fmt: skip


def measure_search(n_clips: int) -> None:
    """Search among drawn fingerprints."""
    hashes = DRAW.integers(0, 2**32, (n_clips, 128), np.uint32)
    copied = np.arange(0, n_clips - 1, 100)
    hashes[copied + 1, :32] = hashes[copied, :32]
    prints = [row.astype("<u4").tobytes() for row in np.sort(hashes, axis=1)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    pairs = find_candidates(prints)
    seconds = time.perf_counter() - began
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    found = np.isin(copied, pairs[pairs[:, 1] == pairs[:, 0] + 1, 0]).mean()
    print(f"| {n_clips} | {seconds:.2f} | {100 * found:.1f} % of {len(copied)} | {more:.0f} |")


if __name__ == "__main__":
    main()
