"""What shards cost, and what they save when a cache grows: seconds and bytes written.

python benchmarks/shards.py --clips 100000 --more 1000

Random rows of the shape of Whisper tiny.en, half of its layers: a cache in one file and in four
shards, then each with more clips. What the extraction writes after the encoder is done, no more:
rows come from memory, and the old ones from the old cache.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from serpipe.corpora import CLIP_COLUMNS
from serpipe.features.cache import Cache, open_cache
from serpipe.features.cache_rows import BLOCK_ROWS
from serpipe.features.cache_write import RowSource, write_cache, write_shards

WIDTH = 384
KEY = {"layers": ["0", "1", "2"], "poolings": ["mean"], "width": WIDTH, "dtype": "float32"}


def main() -> None:
    """Write both, let both grow, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--more", type=int, default=1000)
    given = parser.parse_args()
    print("| | seconds | MB written | reading a layer, s |\n|---|---:|---:|---:|")
    few, all_ = table(given.clips, 0), table(given.clips, given.more)
    is_new = ~np.isin(all_["sha256"], few["sha256"])
    place = np.where(is_new, -1, np.cumsum(~is_new) - 1)  # of each clip in the old cache
    first = list(blocks(np.arange(given.clips), drawn))
    added = list(blocks(np.flatnonzero(is_new), drawn))
    each = -(-given.clips // 4)
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        path = Path(scratch) / "file.h5"
        tell("one file", path, partial(write_cache, path, KEY, {}, few, first))
        kept = list(blocks(np.flatnonzero(~is_new), stored(open_cache(path), place)))
        grow = partial(write_cache, path, KEY, {}, all_, kept + added)
        tell(f"one file, {given.more} clips more", path, grow)
        path = Path(scratch) / "shards.h5"
        tell("four shards", path, partial(write_shards, path, KEY, {}, few, first, each))
        old = (open_cache(path), place)
        grow = partial(write_shards, path, KEY, {}, all_, added, each, old)
        tell(f"four shards, {given.more} clips more", path, grow)


def table(n_clips: int, more: int) -> dict[str, NDArray[Any]]:
    """Return a clip table in which the ``more`` clips stand in the middle."""
    names = np.array(
        [f"{n:07d}" for n in range(n_clips // 2)]
        + [f"{n_clips // 2 - 1:07d}-{n:05d}" for n in range(more)]
        + [f"{n:07d}" for n in range(n_clips // 2, n_clips)]
    )
    columns = {column: np.full(len(names), "told by the corpus") for column in CLIP_COLUMNS}
    hashes = np.array([name.rjust(64, "0") for name in names])
    return columns | {"name": names, "sha256": hashes, "seconds": np.full(len(names), 3.6)}


def drawn(rows: NDArray[np.intp]) -> Callable[[str, str], NDArray[np.float32]]:
    """Return numbers that differ from row to row."""
    return lambda pooling, layer: (
        np.repeat(rows[:, None], WIDTH, axis=1).astype(np.float32) + np.float32(layer)
    )


def stored(old: Cache, place: NDArray[np.intp]) -> Callable[[NDArray[np.intp]], Any]:
    """Return what reads rows of the old cache."""
    return lambda rows: lambda pooling, layer: old.read_rows(pooling, layer, place[rows])


def blocks(rows: NDArray[np.intp], source: Callable[[Any], Any]) -> Iterable[RowSource]:
    """Yield rows as an extraction does: some thousands at a time."""
    for start in range(0, len(rows), BLOCK_ROWS):
        some = rows[start : start + BLOCK_ROWS]
        yield some, source(some)


def tell(name: str, path: Path, write: Callable[[], None]) -> None:
    """Print how long it takes, how many bytes of files are new, and how long a layer is read."""
    before = {(file.stat().st_ino, file.stat().st_mtime_ns) for file in path.parent.rglob("*.h5")}
    began = time.perf_counter()
    write()
    seconds = time.perf_counter() - began
    after = [file.stat() for file in path.parent.rglob("*.h5") if file.is_file()]
    new = sum(s.st_size for s in after if (s.st_ino, s.st_mtime_ns) not in before)
    opened, began = open_cache(path), time.perf_counter()
    opened.embeddings("1")
    print(f"| {name} | {seconds:.1f} | {new / 1e6:.1f} | {time.perf_counter() - began:.2f} |")


if __name__ == "__main__":
    main()
