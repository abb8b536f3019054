"""What reading ahead is worth: clips of a web server that answers late, against a plain loop.

python benchmarks/remote.py --delay 0.05 0.2

Opens the clips of the built-in sample (read, hash, decode, resample), as the first pass of
`serpipe extract` does: from the disk, from a server of this machine that waits before each answer,
and from the same server by a loop that reads a clip when it needs it, as a script does.
"""

import argparse
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

from serpipe.corpora import Clip
from serpipe.corpora.data import find_source
from serpipe.corpora.scan import scan
from serpipe.features.audio import decode_waveform, read_clip
from serpipe.features.survey import survey
from serpipe.remote import Remote

WORKERS = 2


def main() -> None:
    """Print a table: seconds for all clips, and by how much reading ahead is faster."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, nargs="+", default=[0.05], help="seconds")
    given = parser.parse_args()
    source = find_source("sample")
    here = scan(source.folder, source.corpus).clips
    survey(here, workers=WORKERS)
    print(f"{len(here)} clips, {WORKERS} threads that decode; from the disk {opened(here):.2f} s\n")
    print("| delay | plain loop, s | serpipe, s | times as fast |")
    print("|---:|---:|---:|---:|")
    for delay in given.delay:
        with server(str(source.folder), delay) as address:
            there = [replace(clip, file=Remote(f"{address}/{clip.path}")) for clip in here]
            began = time.perf_counter()
            for clip in there:
                decode_waveform(read_clip(Remote(str(clip.file))), None)
            plain = time.perf_counter() - began
            ahead = opened(there)
        print(f"| {1000 * delay:.0f} ms | {plain:.2f} | {ahead:.2f} | {plain / ahead:.1f} |")


def opened(clips: Sequence[Clip]) -> float:
    """Return how many seconds it takes to open clips."""
    began = time.perf_counter()
    assert all(each.facts for each in survey(clips, workers=WORKERS))
    return time.perf_counter() - began


class Late(SimpleHTTPRequestHandler):
    """Serves files, each some time after it was asked for."""

    delay = 0.0

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Wait, then serve."""
        time.sleep(self.delay)
        super().do_GET()


def serve(folder: str, delay: float, told: Connection) -> None:
    """Serve a folder for ever, in a process of its own."""
    Late.delay = delay
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Late, directory=folder)) as listening:
        told.send(listening.server_address[1])
        listening.serve_forever()


@contextmanager
def server(folder: str, delay: float) -> Iterator[str]:
    """Have a server, and its address."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=serve, args=(folder, delay, theirs), daemon=True)
    process.start()
    yield f"http://127.0.0.1:{ours.recv()}"
    process.terminate()


if __name__ == "__main__":
    main()
