"""The server against calling the model in a plain loop, in one run.

python benchmarks/serve.py --repeat 3

plain   model.predict(file), one file after the other
N       a real server on loopback, asked by N clients at once; each asks for its next clip as soon
        as it has its answer

Both hear the same files with the same model on the same device; the server is a process of its own,
and idle while the loop runs. Loading is not counted; each has heard a few clips before its time is
taken. Latency is from the first byte sent to the last one received. Of many clips every n-th by
length is taken, so that any number of clips has the corpus' mix of lengths. With --repeat all ways
are run in turn, so that a slow minute of the machine hits all, and the fastest of each counts.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from serpipe.artifacts.model import Model, load_model
from serpipe.corpora import scan
from serpipe.corpora.data import find_source
from serpipe.provenance import provenance


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="sample")
    parser.add_argument("--model", help="as for serpipe serve; by default the one that ships")
    parser.add_argument("--encoder")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = find_source(arguments.data)
    found = [Path(str(clip.file)) for clip in scan(data.folder, data.corpus).clips]
    by_length = sorted(found, key=lambda file: file.stat().st_size)
    step = max(1, len(by_length) // arguments.clips)
    files = by_length[::step][: arguments.clips]
    # Long and short ones mixed, the same for all.
    files = [files[n] for n in np.random.default_rng(0).permutation(len(files))]
    model = load_model(arguments.model, device=arguments.device, encoder=arguments.encoder)
    contents = [file.read_bytes() for file in files]
    results: dict[str, list[float]] = {}
    given = {"--model": arguments.model, "--encoder": arguments.encoder}
    options = [word for name, value in given.items() if value for word in (name, value)]
    options += ["--queue", str(max(64, *arguments.clients)), "--timeout", "600"]
    options += ["--max-wait", "600", "--device", arguments.device]
    with server(*options) as (address, _):
        plain(model, files[:4])
        asyncio.run(ask(address, contents[:8], 8))
        for _ in range(arguments.repeat):
            keep(results, "plain loop", plain(model, files))
            for n in arguments.clients:
                name = f"server, {n} client{'s' * (n > 1)}"
                keep(results, name, asyncio.run(ask(address, contents, n)))
    print(f"{len(files)} clips of {arguments.data} on {arguments.device}\n")
    print("| way | clips/s | against plain | p50, ms | p99, ms |")
    print("|---|---:|---:|---:|---:|")
    rates = {name: len(files) / taken[0] for name, taken in results.items()}
    for name, taken in results.items():
        half, most = (1000 * float(np.quantile(taken[1:], q)) for q in (0.5, 0.99))
        ratio = rates[name] / rates["plain loop"]
        print(f"| {name} | {rates[name]:.2f} | {ratio:.2f} | {half:.0f} | {most:.0f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps({**results, "provenance": provenance()}, indent=1))


def keep(results: dict[str, list[float]], name: str, taken: list[float]) -> None:
    """Keep the faster one: the seconds of all clips, then those of each."""
    if name not in results or taken[0] < results[name][0]:
        results[name] = taken


def plain(model: Model, files: list[Path]) -> list[float]:
    """Call the model in a loop."""
    taken = []
    start = time.perf_counter()
    for file in files:
        began = time.perf_counter()
        model.predict(file)
        taken.append(time.perf_counter() - began)
    return [time.perf_counter() - start, *taken]


@contextmanager
def server(*options: str) -> Iterator[tuple[str, int]]:
    """Run a server with some options; give its address and its process id."""
    code = "from serpipe.cli import main; main()"
    command = [sys.executable, "-c", code, "serve", "--port", "0", *options]
    environment = {name: value for name, value in os.environ.items() if name != "SERPIPE_TOKEN"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://\S+", line):
                break
        else:
            sys.exit("".join(lines))
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


async def ask(address: str, contents: list[bytes], clients: int) -> list[float]:
    """Ask for all of them."""
    waiting, taken = iter(contents), []
    limits = httpx.Limits(max_connections=None)

    async def client(session: Any) -> None:
        for content in waiting:
            began = time.perf_counter()
            answer = await session.post("/recognize", files={"audio": ("clip", content)})
            answer.raise_for_status()
            taken.append(time.perf_counter() - began)

    async with httpx.AsyncClient(
        base_url=address, timeout=600, limits=limits, trust_env=False
    ) as session:
        start = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return [time.perf_counter() - start, *taken]


if __name__ == "__main__":
    main()
