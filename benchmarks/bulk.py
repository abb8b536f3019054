"""Memory and speed of `predict FOLDER --out FILE.jsonl` as the number of recordings grows.

python benchmarks/bulk.py --files 10000 100000

The recordings are links to clips of half a second in folders of 1000, so that the walk, decoding
and writing are real. The model gives fixed scores, so that its speed does not hide theirs. Each
number of files is predicted in a process of its own, which then reads the file again, as a command
that continues it does.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

#: Links to one clip: ext4 allows 65 000.
LINKS = 50_000


def main() -> None:
    """Run each number of files in a process of its own and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.one)))
        return
    print("| files | peak MiB | at the start | files per second | seconds to read it again |")
    print("|---:|---:|---:|---:|---:|")
    for n_files in arguments.files:
        command = [sys.executable, __file__, "--one", str(n_files)]
        child = subprocess.run(command, check=True, capture_output=True, text=True)
        result = json.loads(child.stdout.splitlines()[-1])
        print(
            f"| {n_files} | {result['peak']:.0f} | {result['start']:.0f} "
            f"| {n_files / result['seconds']:.0f} | {result['again']:.1f} |",
            flush=True,
        )


def measure(n_files: int) -> dict[str, float]:
    """Predict ``n_files`` files; return peak memory in MiB and seconds."""
    import numpy as np
    import serpipe
    import soundfile
    from serpipe.artifacts.models.predictors import ClipScores

    loaded = serpipe.load()
    scores = np.full(len(loaded.labels), 1 / len(loaded.labels))
    predictor = replace(
        loaded.predictor, score=lambda clips: [ClipScores(loaded.labels[0], scores) for _ in clips]
    )
    model = replace(loaded, predictor=predictor)
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / "calls", Path(scratch) / "out.jsonl"
        folder.mkdir()
        draw = np.random.default_rng(0)
        for number in range(n_files):
            if number % LINKS == 0:
                clip = Path(scratch) / f"clip-{number}.wav"
                soundfile.write(clip, 0.1 * draw.standard_normal(8000), 16000)
            if number % 1000 == 0:
                below = folder / f"{number // 1000:04d}"
                below.mkdir()
            os.link(clip, below / f"{number:07d}.wav")
        start = peak()
        began = time.perf_counter()
        summary = serpipe.predict(folder, model=model, device="cpu").write(out)
        seconds = time.perf_counter() - began
        assert summary.recordings == n_files
        began = time.perf_counter()
        assert serpipe.predict(folder, model=model, device="cpu").write(out) == summary
        again = time.perf_counter() - began
    return {"peak": peak(), "start": start, "seconds": seconds, "again": again}


def peak() -> float:
    """Return the peak of the resident set of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
