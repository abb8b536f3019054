"""Peak memory and time of heads that stream against the same in memory, as clips grow.

python benchmarks/stream.py --clips 25000 100000

A cache of drawn embeddings, one layer of width 768, four labels, 50 speakers; `fit --split kfold:3`
with nothing to choose, in a process of its own for each way. `sgd` runs one epoch and `lgbm`
50 rounds.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH, LABELS = 768, ("angry", "happy", "neutral", "sad")
GRIDS = {"sgd": ("sgd.epochs=1", "sgd.C=0.01"), "lgbm": ("lgbm.n_estimators=50",)}


def main() -> None:
    """Fit each head both ways and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one)))
        return
    print("| clips | matrix, MiB | head | way | seconds | peak MiB | at the start | same labels |")
    print("|---:|---:|---|---|---:|---:|---:|---:|")
    for clips in arguments.clips:
        with tempfile.TemporaryDirectory() as folder:
            made = [sys.executable, __file__, "--one", folder, "make", str(clips)]
            subprocess.run(made, check=True, capture_output=True)
            for head in GRIDS:
                said = {}
                for way in ("memory", "streamed"):
                    command = [sys.executable, __file__, "--one", folder, head, way]
                    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                    told = json.loads(done.stdout.splitlines()[-1])
                    said[way] = predictions(Path(folder) / f"{head}-{way}", head)
                    pairs = zip(said["memory"], said[way], strict=True)
                    same = sum(one == other for one, other in pairs) / clips
                    print(
                        f"| {clips} | {clips * WIDTH * 4 / 2**20:.0f} | {head} | {way} "
                        f"| {told['seconds']:.0f} | {told['peak']:.0f} | {told['start']:.0f} "
                        f"| {100 * same:.2f} % |",
                        flush=True,
                    )


def measure(folder: str, head: str, way: str) -> dict[str, float]:
    """Make the cache, or fit one head in one way, and return seconds and MiB."""
    if head == "make":
        make(Path(folder), int(way))
        return {}
    import serpipe
    from serpipe.artifacts.report import report  # noqa: F401

    # As `fit` would load it, for a baseline that has all of the program in it.
    from serpipe.features.cache import open_cache

    cache = open_cache(Path(folder) / "cache.h5")
    start = peak()
    began = time.perf_counter()
    serpipe.fit(
        cache, head=head, protocol=serpipe.Protocol(split="kfold:3"), grid=GRIDS[head], jobs=1,
        out=Path(folder) / f"{head}-{way}", stream_past=0 if way == "streamed" else math.inf,
    )  # fmt: skip
    return {"seconds": time.perf_counter() - began, "start": start, "peak": peak()}


def make(folder: Path, n_clips: int) -> None:
    """Write a cache of drawn embeddings, a block at a time."""
    import numpy as np
    from numpy.typing import NDArray
    from serpipe.features.cache_write import write_cache

    draw = np.random.default_rng(0)
    label, speaker = draw.integers(0, len(LABELS), n_clips), np.arange(n_clips) % 50
    of_label, of_speaker = draw.standard_normal((4, WIDTH)), draw.standard_normal((50, WIDTH))
    names = np.array([f"{number:08d}" for number in range(n_clips)])
    clips = {
        **dict.fromkeys(("path", "name", "sha256"), names),
        "corpus": np.full(n_clips, "drawn"),
        "speaker": np.array([f"{number:02d}" for number in range(50)])[speaker],
        "sex": np.full(n_clips, "female"),
        "emotion": np.array(LABELS)[label],
        "seconds": np.full(n_clips, 3.0),
    }
    key = {
        "encoder": "drawn", "revision": "local", "precision": "float32", "device": "cpu",
        "layers": ["0"], "poolings": ["mean"], "width": WIDTH, "dtype": "float32",
    }  # fmt: skip

    def rows(positions: NDArray[np.intp]) -> Any:
        X = draw.standard_normal((len(positions), WIDTH), dtype=np.float32)
        X += 0.1 * of_label[label[positions]] + 0.3 * of_speaker[speaker[positions]]
        return lambda pooling, layer: X

    parts = (np.arange(n_clips)[start : start + 4096] for start in range(0, n_clips, 4096))
    write_cache(folder / "cache.h5", key, {}, clips, ((part, rows(part)) for part in parts))


def predictions(run: Path, head: str) -> list[str]:
    """Return the predicted labels of a run, in the order of its clips."""
    from serpipe.artifacts.run.results import read_results

    found: list[str] = read_results(run).predicted[head]["nested"].tolist()
    return found


def peak() -> float:
    """Return the largest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
