"""The server with more requests at once than it takes, and with large uploads.

python benchmarks/serve_limits.py

burst    N clips of the sample at once, each sent once; then the same, each sent again after the
         time that the refusal names. Latency is from the first byte sent to the last one received.
uploads  N stereo WAV files of 21 MiB, ten at a time, each sent until it is answered. Memory is the
         resident set of the server's process, without its decoders.

The server has its default options.
"""

import argparse
import asyncio
import io
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import soundfile
from serpipe.corpora import scan
from serpipe.corpora.data import find_source
from serve import server  # type: ignore[import-not-found]  # it lies beside this script

#: Statuses of an answer that says when to come back.
_COME_BACK = (429, 503)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--burst", type=int, default=300)
    parser.add_argument("--uploads", type=int, default=60)
    arguments = parser.parse_args()
    data = find_source("sample")
    clips = [Path(str(clip.file)).read_bytes() for clip in scan(data.folder, data.corpus).clips]
    contents = [clips[n % len(clips)] for n in range(arguments.burst)]
    noise = 0.1 * np.random.default_rng(0).standard_normal((48_000 * 115, 2))
    large = io.BytesIO()
    soundfile.write(large, noise, 48_000, format="WAV", subtype="PCM_16")
    with server("--device", "cpu") as (address, process):
        asyncio.run(send(address, clips[:4], again=False))
        for again in (False, True):
            print("sent until answered:" if again else "sent once:")
            asyncio.run(send(address, contents, again=again, shown=True))
        print(f"memory before uploads: {resident(process)} MiB")
        uploads = [large.getvalue()] * arguments.uploads
        asyncio.run(send(address, uploads, again=True, at_once=10, process=process, shown=True))
        time.sleep(15)
        print(f"memory after 15 s without requests: {resident(process)} MiB")


async def send(
    address: str,
    contents: Sequence[bytes],
    *,
    again: bool,
    at_once: int = 10_000,
    process: int | None = None,
    shown: bool = False,
) -> None:
    """Send audio, and print how it was answered."""
    statuses: Counter[int] = Counter()
    taken, told, peak = [], [], 0
    places = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=address, timeout=600, limits=limits, trust_env=False
    ) as session:

        async def one(content: bytes) -> None:
            nonlocal peak
            async with places:
                began = time.perf_counter()
                while True:
                    files = {"audio": ("clip", content)}
                    answer = await session.post("/recognize", files=files)
                    statuses[answer.status_code] += 1
                    peak = max(peak, resident(process)) if process else 0
                    if answer.status_code not in _COME_BACK:
                        taken.append(time.perf_counter() - began)
                        return
                    told.append(int(answer.headers["Retry-After"]))
                    if not again:
                        return
                    await asyncio.sleep(told[-1])

        start = time.perf_counter()
        await asyncio.gather(*(one(content) for content in contents))
        seconds = time.perf_counter() - start
    if shown:
        half, most = np.quantile(taken, [0.5, 0.99])
        print(
            f"  {dict(statuses)} in {seconds:.1f} s; p50 {half:.1f} s, p99 {most:.1f} s; "
            f"Retry-After {min(told, default=0)} to {max(told, default=0)} s, "
            f"{len(set(told))} values" + (f"; memory at most {peak} MiB" if process else "")
        )


def resident(process: int) -> int:
    """Return the resident memory of a process in MiB; of Linux alone."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) >> 10


if __name__ == "__main__":
    main()
