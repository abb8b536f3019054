"""Predict a long recording of clips and pauses: memory, speed, and the segments that are found.

python benchmarks/long_recording.py --data DIR --hours 3 --vad silero energy

The recording is made of clips of RAVDESS (or another folder of clips) in a random order of fixed
seed, with pauses of 2 to 22 s between them and white noise under all of it: 75 dB below full scale
(quiet), and in a second recording 55 dB (noisy). What is taken for the speech in a clip: from the
first to the last frame of 32 ms less than 40 dB below its loudest, before noise is added; pauses
inside it are not cut. A segment that is found is right if its intersection with such
a part is at least half of their union (IoU), each part counted once; recall is the share of parts
that are found, precision the share of segments that are right.

Memory is the peak of the resident set of `serpipe predict --vad`, in a process of its own, for
quiet recordings of several lengths.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from serpipe.corpora.scan import audio_files
from serpipe.features.audio import read_waveform
from serpipe.features.convert import SUFFIXES
from serpipe.features.options import SegmentOptions
from serpipe.features.speech import find_segments
from serpipe.features.streaming import AudioStream

RATE, FRAME = 16_000, 512
PAUSES = (2.0, 22.0)
#: The shortest pause and the longest segment: the defaults.
PAUSE, LONGEST = SegmentOptions.pause, SegmentOptions.longest_segment
#: Noise in decibels relative to full scale.
QUIET, NOISY = -75.0, -55.0

Span = tuple[float, float]


def main() -> None:
    """Make the recordings, predict them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of clips")
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument(
        "--minutes", nargs="+", type=float, default=[1, 10, 60, 180, 360], help="to predict"
    )
    parser.add_argument("--vad", nargs="+", default=["silero", "energy"])
    parser.add_argument("--model", type=Path, help="by default the head that ships")
    arguments = parser.parse_args()
    files = [arguments.data / name for name in sorted(audio_files(arguments.data, SUFFIXES))]
    seconds = 3600 * arguments.hours
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "recording.wav"
        print("| noise | detector | parts | segments | recall | precision | seconds |")
        print("|---|---|---:|---:|---:|---:|---:|")
        for name, noise in (("noisy", NOISY), ("quiet", QUIET)):
            parts = make_recording(path, files, seconds, noise)
            for vad in arguments.vad:
                began = time.perf_counter()
                found = find_segments(AudioStream(path, RATE), vad, PAUSE, LONGEST)
                took = time.perf_counter() - began
                right = match(parts, [(start / RATE, end / RATE) for start, end in found])
                print(
                    f"| {name} | {vad} | {len(parts)} | {len(found)} | {right / len(parts):.3f} "
                    f"| {right / max(1, len(found)):.3f} | {took:.0f} |",
                    flush=True,
                )
        print("\n| recording | segments | peak MiB | seconds |\n|---|---:|---:|---:|")
        for minutes in arguments.minutes:
            make_recording(path, files, 60 * minutes, QUIET)
            n_segments, peak, took = predict(path, arguments.vad[0], arguments.model)
            print(f"| {minutes:g} minutes | {n_segments} | {peak:.0f} | {took:.0f} |", flush=True)


def make_recording(path: Path, files: list[Path], seconds: float, noise: float) -> list[Span]:
    """Write clips, pauses and noise until ``seconds`` are reached; return the parts with speech."""
    draw, hiss = np.random.default_rng(0), np.random.default_rng(1)
    parts: list[Span] = []
    end = 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as out:

        def write(samples: NDArray[np.float32]) -> None:
            nonlocal end
            noisy = samples + 10 ** (noise / 20) * hiss.standard_normal(len(samples))
            out.write(np.clip(noisy, -1, 1))
            end += len(samples)

        for file in clips(files, draw):
            waveform = read_waveform(file, RATE)[0]
            pause = np.zeros(round(draw.uniform(*PAUSES) * RATE), np.float32)
            if (end + len(pause) + len(waveform)) / RATE > seconds:
                write(np.zeros(max(0, round(seconds * RATE) - end), np.float32))
                break
            write(pause)
            levels = frame_levels(waveform)
            loud = np.flatnonzero(levels > levels.max() - 40)
            parts.append(((end + loud[0] * FRAME) / RATE, (end + (loud[-1] + 1) * FRAME) / RATE))
            write(waveform)
    return parts


def clips(files: list[Path], draw: np.random.Generator) -> Iterator[Path]:
    """Yield files in a random order, again and again."""
    while True:
        yield from (files[number] for number in draw.permutation(len(files)))


def frame_levels(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the level of each frame in decibels relative to full scale."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power: NDArray[np.float64] = np.mean(frames**2, axis=1)
    return np.asarray(10 * np.log10(np.maximum(power, 1e-12)))


def predict(path: Path, vad: str, model: Path | None) -> tuple[int, float, float]:
    """Return the number of segments in a prediction, its peak memory in MiB, and its seconds."""
    command = [sys.executable, "-m", "serpipe", "predict", str(path), f"--vad={vad}"]
    command += ["--format", "jsonl", "--device", "cpu"]
    command += [] if model is None else ["--model", str(model)]
    began = time.perf_counter()
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, peak_memory(process.pid))
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(process.returncode)
        out.seek(0)
        timeline = json.loads(out.read())["timeline"]
    seconds = time.perf_counter() - began
    return len(timeline), peak, seconds


def peak_memory(process: int) -> float:
    """Return the peak of the resident set of a process that runs, in MiB (on Linux)."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def match(parts: list[Span], segments: list[Span]) -> int:
    """Return how many segments are right, each for another part."""
    right, number = 0, 0
    for start, end in segments:
        while number < len(parts) and parts[number][1] <= start:
            number += 1
        if number == len(parts):
            break
        first, last = parts[number]
        common = min(end, last) - max(start, first)
        if common > 0 and common / (max(end, last) - min(start, first)) >= 0.5:
            right += 1
            number += 1
    return right


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
