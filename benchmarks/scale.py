"""What a cluster costs: two workers against one, and seconds a clip when computing costs nothing.

python benchmarks/scale.py --clips 10000 100000 1000000
python benchmarks/scale.py --workers

The first measures what is left when computing costs nothing: sending clips to two workers of this
machine, taking rows from them, writing the file. The second extracts the built-in sample by Whisper
tiny.en with one worker and with two.
"""

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LAYERS, WIDTH = ("0", "1", "2"), 32


def main() -> None:
    """Run each size in a process of its own and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", action="store_true", help="efficiency, instead")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
    elif arguments.workers:
        efficiency()
    else:
        print("| clips | opening, ms a clip | embedding, ms a clip | file, ms a clip | peak MiB |")
        print("|---:|---:|---:|---:|---:|")
        for clips in arguments.clips:
            command = [sys.executable, __file__, "--one", str(clips)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            told = json.loads(done.stdout.splitlines()[-1])
            each = " | ".join(f"{1000 * seconds / clips:.3f}" for seconds in told["seconds"])
            print(f"| {clips} | {each} | {told['peak']:.0f} |", flush=True)


def measure(n_clips: int) -> dict[str, Any]:
    """Extract ``n_clips`` clips that are not there, and return seconds of each phase."""
    import dask
    from serpipe.cluster import connect
    from serpipe.corpora import Clip
    from serpipe.features.cluster_engine import ClusterEngine
    from serpipe.features.extract import extract
    from serpipe.features.options import ExtractOptions

    began: list[float] = []

    def track(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
        began.append(time.perf_counter())
        yield from items
        began.append(time.perf_counter())

    clips = [
        Clip(Path(__file__), f"{n:07d}", f"{n:07d}", "stub", f"{n % 100:02d}", emotion="happy")
        for n in range(n_clips)
    ]
    with (
        dask.config.set({"distributed.worker.preload": [__file__]}),
        tempfile.TemporaryDirectory() as scratch,
        connect("local:2") as cluster,
    ):
        engine = ClusterEngine(cluster, ExtractOptions(encoder="stub"))
        extract(engine, clips, Path(scratch) / "c.h5", provenance={}, track=track)
        end = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": (began[1] - began[0], began[3] - began[2], end - began[3]), "peak": peak}


def dask_setup(worker: Any) -> None:
    """Give a worker of Dask an encoder that does nothing: this file is its preload."""
    from serpipe.features import cluster_engine

    replaced: Any = cluster_engine
    replaced.open_engine = lambda options, devices, workers: Stub()


class Stub:
    """An engine that knows clips by their names, and embeds nothing."""

    def __init__(self) -> None:
        import torch

        self.key = {"encoder": "stub", "revision": "stub", "model_type": "stub", "dtype": "float32",
                    "layers": list(LAYERS), "poolings": ["mean"], "width": WIDTH}  # fmt: skip
        self.encoders = [SimpleNamespace(device=torch.device("cpu"), window_seconds=0.0)]

    def check(self, clips: Any) -> Iterator[Any]:
        """Yield each clip as one of three seconds."""
        from serpipe.features.audio import AudioFacts
        from serpipe.features.decoding import DecodedClip

        for clip in clips:
            name = hashlib.sha256(clip.name.encode()).hexdigest()
            yield DecodedClip(clip, AudioFacts(name, 16000, 1, 48000))

    def embed(self, batches: Any) -> Iterator[Any]:
        """Return zeros."""
        import numpy as np

        for batch in batches:
            yield batch, {"mean": np.zeros((len(LAYERS), len(batch), WIDTH), np.float32)}


def efficiency() -> None:
    """Extract the sample by one worker, then by two."""
    import serpipe

    seconds: dict[int, list[float]] = {1: [], 2: []}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as scratch:
            began: list[float] = []

            def track(items: Iterable[Any], what: str, total: int) -> Iterator[Any]:
                began.append(time.perf_counter())  # noqa: B023
                yield from items

            serpipe.extract(
                options=serpipe.ExtractOptions("whisper-tiny.en"),
                out=Path(scratch) / "c.h5",
                cluster=f"local:{workers}",
                provenance={},
                track=track,
            )
            seconds[workers].append(time.perf_counter() - began[0])
    one, two = min(seconds[1]), min(seconds[2])
    print("| workers | seconds | efficiency |\n|---:|---:|---:|")
    print(f"| 1 | {one:.1f} | 1.00 |\n| 2 | {two:.1f} | {one / two / 2:.2f} |")


if __name__ == "__main__":
    main()
