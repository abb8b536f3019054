"""Compare the engines and precisions of an encoder on a CPU: speed, and error against float32.

Each way embeds the same clips, one at a time and in turn, in one thread. Processor time is
compared, which depends less on what else the machine does than the time on the clock. ``plain`` is
the loop of transformers' documentation.

    python benchmarks/engines.py --encoder ENCODER --data DIR
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from serpipe.features.audio import read_waveform
from serpipe.features.encoder import Encoder, load_encoder
from serpipe.features.names import BUILT_IN

WAYS = [("torch", "float32"), ("torch", "bf16"), ("openvino", "float32"), ("openvino", "bf16")]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of audio files")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = sorted(each for each in arguments.data.rglob("*") if each.suffix in (".wav", ".flac"))
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, arguments.clips).astype(int)]
    clips = [read_waveform(file, 16000)[0] for file in chosen]
    encoders = {
        way: load_encoder(arguments.encoder, engine=way[0], precision=way[1]) for way in WAYS
    }
    runs: dict[Any, Callable[[np.ndarray], np.ndarray]] = {
        way: _embedder(encoder) for way, encoder in encoders.items()
    }
    runs["plain", "float32"] = _plain(str(BUILT_IN.get(arguments.encoder, arguments.encoder)))
    seconds = {way: [np.inf] * len(clips) for way in runs}
    results: dict[Any, dict[int, np.ndarray]] = {way: {} for way in runs}
    for _ in range(arguments.repeat + 1):  # the fastest of all counts, and the first warms up
        for index, clip in enumerate(clips):
            for way, run in runs.items():
                start = time.process_time()
                results[way][index] = run(clip)
                taken = time.process_time() - start
                seconds[way][index] = min(seconds[way][index], taken)
    exact = results["torch", "float32"]
    audio = sum(map(len, clips)) / 16000
    reference = sum(seconds["torch", "float32"])
    plain = sum(seconds["plain", "float32"])
    print("| engine | precision | audio-s per core-s | times torch | times plain | error |")
    print("|---|---|---:|---:|---:|---:|")
    for way in [("plain", "float32"), *WAYS]:
        total = sum(seconds[way])
        errors = [_error(results[way][i], exact[i]) for i in exact] if way in encoders else [0.0]
        print(
            f"| {way[0]} | {way[1]} | {audio / total:.1f} | {reference / total:.2f} | "
            f"{plain / total:.2f} | {max(errors):.1e} |"
        )
    print({way: dict(encoder.engine) for way, encoder in encoders.items() if encoder.engine})


def _embedder(encoder: Encoder) -> Callable[[np.ndarray], np.ndarray]:
    return lambda clip: encoder.embed([clip])["mean"][:, 0]


def _plain(source: str) -> Callable[[np.ndarray], np.ndarray]:
    extractor = transformers.AutoFeatureExtractor.from_pretrained(source)
    model = transformers.AutoModel.from_pretrained(source, dtype=torch.float32).eval()
    model = getattr(model, "encoder", model) if model.config.model_type == "whisper" else model

    def run(clip: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            inputs = extractor(clip, sampling_rate=16000, return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states
            return np.stack([each[0].mean(dim=0).numpy() for each in states])

    return run


def _error(ours: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest relative error over the layers."""
    difference = np.linalg.norm(ours - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return float(difference.max())


if __name__ == "__main__":
    main()
