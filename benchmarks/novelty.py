"""How many recordings are flagged as unlike training: of new speakers, and of other sounds.

python benchmarks/novelty.py --cache features/cache/ravdess-whisper-tiny.en.h5 --others DIR

False alarms: each speaker is left out in turn, and measured by a detector of the others. Detection:
by a detector of all speakers, of 20 synthesised clips each of music (chords and melodies), white
and pink noise and tones, and of the recordings in each folder.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from serpipe.corpora.scan import audio_files
from serpipe.features.audio import decode_waveform, read_clip
from serpipe.features.cache import open_cache
from serpipe.features.convert import SUFFIXES
from serpipe.features.encoder import load_encoder
from serpipe.pipeline.novelty import fit_novelty_detector

RATE, SECONDS, CLIPS = 16_000, 4, 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="of whisper-tiny.en")
    parser.add_argument("--layer", default="3")
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache)
    X, speakers = cache.embeddings(arguments.layer, "mean"), cache.clips["speaker"]
    flagged = {}
    for speaker in np.unique(speakers):
        is_left_out = speakers == speaker
        detector = fit_novelty_detector(X[~is_left_out], speakers[~is_left_out])
        assert detector is not None
        flagged[speaker] = detector.distances(X[is_left_out]) > 1
    every = np.concatenate(list(flagged.values()))
    worst = max(flagged, key=lambda speaker: flagged[speaker].mean())
    print(
        f"speakers left out: {every.sum()} of {len(every)} clips flagged ({every.mean():.1%}), "
        f"most of {worst} ({flagged[worst].mean():.1%})"
    )
    detector = fit_novelty_detector(X, speakers)
    assert detector is not None
    encoder = load_encoder("whisper-tiny.en", poolings=["mean"])
    row = encoder.identity.layers.index(arguments.layer)
    for name, sounds in {**synthesised(), **dict(recordings(arguments.others))}.items():
        embedded = [encoder.embed([sound])["mean"][row, 0] for sound in sounds]
        distances = detector.distances(np.stack(embedded))
        print(
            f"{name}: {(distances > 1).sum()} of {len(distances)} flagged, distance "
            f"{distances.min():.1f} to {distances.max():.1f}, median {np.median(distances):.1f}"
        )


def synthesised() -> Mapping[str, list[NDArray[np.float32]]]:
    """Return sounds that are not speech."""
    return {
        name: [make(np.random.default_rng(seed)) for seed in range(CLIPS)]
        for name, make in (("music", music), ("white", white), ("pink", pink), ("tone", tone))
    }


def music(draw: np.random.Generator) -> NDArray[np.float32]:
    """Return chords or a melody of decaying notes with four overtones."""
    scale = 220 * 2 ** (np.array([0, 2, 4, 5, 7, 9, 11, 12]) / 12)
    is_chord = bool(draw.integers(2))
    step = RATE // (2 if is_chord else 4)
    sound = np.zeros(SECONDS * RATE)
    for start in range(0, len(sound), step):
        time = np.arange(min(2 * step, len(sound) - start)) / RATE
        root = draw.integers(8)
        for degree in (root, root + 2, root + 4) if is_chord else (root,):
            for overtone in range(1, 6):
                wave = np.sin(2 * np.pi * scale[degree % 8] * overtone * time)
                sound[start : start + len(time)] += wave / overtone * np.exp(-3 * time)
    return np.asarray(0.3 * sound / np.abs(sound).max(), np.float32)


def white(draw: np.random.Generator) -> NDArray[np.float32]:
    """Return white noise."""
    return (0.1 * draw.standard_normal(SECONDS * RATE)).astype(np.float32)


def pink(draw: np.random.Generator) -> NDArray[np.float32]:
    """Return noise whose power falls with frequency."""
    spectrum = np.fft.rfft(draw.standard_normal(SECONDS * RATE))
    sound = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)))
    return np.asarray(0.1 * sound / sound.std(), np.float32)


def tone(draw: np.random.Generator) -> NDArray[np.float32]:
    """Return a sine."""
    phase = 2 * np.pi * draw.uniform(100, 3000) * np.arange(SECONDS * RATE) / RATE
    return (0.3 * np.sin(phase)).astype(np.float32)


def recordings(folders: list[Path]) -> Iterator[tuple[str, list[NDArray[np.float32]]]]:
    """Yield the recordings in each folder."""
    for folder in folders:
        files = [folder / name for name in sorted(audio_files(folder, SUFFIXES))]
        yield (
            folder.name,
            [decode_waveform(read_clip(file), RATE, "mean", file=file)[0] for file in files],
        )


if __name__ == "__main__":
    main()
