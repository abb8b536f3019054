"""Resident memory of an extraction as the number of clips grows, with an encoder that does nothing.

python benchmarks/memory.py --clips 20000 200000

The clips are links to a few real files, so that reading and decoding are real; the encoder returns
random rows of the shape of wav2vec2-base (13 layers x 768), so that shards and the final file are.
To be quick, only every 50th clip is decoded; the others are told of without.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

LAYERS, WIDTH = tuple(str(number) for number in range(13)), 768


def main() -> None:
    """Run each size in a process of its own and print the peak of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
        return
    print("| clips | peak resident MiB | at the start | seconds | file MiB |")
    print("|---:|---:|---:|---:|---:|")
    for clips in arguments.clips:
        command = [sys.executable, __file__, "--one", str(clips)]
        child = subprocess.run(command, check=True, capture_output=True, text=True)
        told = json.loads(child.stdout.splitlines()[-1])
        print(
            f"| {clips} | {told['peak']:.0f} | {told['start']:.0f} "
            f"| {told['seconds']:.0f} | {told['file']:.0f} |"
        )


def measure(n_clips: int) -> dict[str, float]:
    """Extract ``n_clips`` clips and return the peak of resident memory."""
    import numpy as np
    import torch
    from serpipe.corpora import scan
    from serpipe.corpora.data import find_source
    from serpipe.features import batching, decoding
    from serpipe.features.audio import read_waveform
    from serpipe.features.encoder import EncoderIdentity
    from serpipe.features.engine import local_engine
    from serpipe.features.extract import extract

    identity = EncoderIdentity(
        encoder="stub",
        revision="local",
        weights_sha256="0",
        config_sha256="0",
        model_type="stub",
        layers=LAYERS,
        width=WIDTH,
        sampling_rate=16000,
        normalise=True,
    )
    row = np.random.default_rng(0).standard_normal((len(LAYERS), 1, WIDTH), dtype=np.float32)
    encoder: Any = SimpleNamespace(
        identity=identity,
        front_end=SimpleNamespace(sampling_rate=16000, minimum_samples=400, maximum_samples=None),
        maximum_samples=None,
        window_seconds=0.0,
        device=torch.device("cpu"),
        precision="float32",
        poolings=("mean",),
        max_seconds=None,
        compiled=False,
        embed=lambda waveforms: {"mean": row + len(waveforms[0])},
    )
    data = find_source("sample")
    real = scan(data.folder, data.corpus).clips
    clips = [replace(real[n % len(real)], name=f"{n:07d}", path=f"{n:07d}") for n in range(n_clips)]
    waveform, facts = read_waveform(real[0].file, 16000)
    number = iter(range(10**9))

    def decode(content: bytes, rate: int, *_: object, file: Path) -> Any:
        n = next(number)
        loaded = read_waveform(file, rate)[0] if n % 50 == 0 else waveform
        return loaded, replace(facts, sha256=hashlib.sha256(str(n).encode()).hexdigest())

    def load(decoded: Any, *_: object) -> Any:
        return decode(b"", 16000, file=decoded.clip.file)[0]

    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    with (
        mock.patch.object(decoding, "decode_waveform", decode),
        mock.patch.object(batching, "load_clip", load),
        tempfile.TemporaryDirectory() as scratch,
    ):
        out = Path(scratch) / "c.h5"
        extract(local_engine([encoder], workers=2), clips, out, provenance={"corpus": "x"})
        size = out.stat().st_size / 2**20
    return {
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "start": start,
        "seconds": time.perf_counter() - began,
        "file": size,
    }


if __name__ == "__main__":
    main()
