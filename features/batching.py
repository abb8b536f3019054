"""Run an encoder over clips, with decoding ahead of it. The order of results is that of the plan.

On a CPU each clip is computed alone, by one thread, with as many clips at once as there are cores:
no slower than batches there, and the numbers of a clip are the same bits whatever its neighbours,
the batch size, the number of cores or the order of the files. On a GPU clips of exactly equal
length share a batch, because for encoders with a group norm any padding would change every frame.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..corpora import Clip
from ..errors import BadClipError
from .audio import AudioFacts, Waveform, read_waveform
from .encoder import Encoder

#: Seconds of audio that share a batch on a GPU.
GPU_BATCH_SECONDS = 600.0

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class HeardClip:
    """A clip whose audio has been opened and found good."""

    clip: Clip
    facts: AudioFacts


Batch = tuple[HeardClip, ...]


def plan(clips: Iterable[HeardClip], batch_seconds: float) -> list[Batch]:
    """Sort clips by length into batches of one exact length.

    Parameters
    ----------
    clips : iterable of HeardClip
        In any order: the plan depends on their content alone.
    batch_seconds : float
        Most seconds of audio in a batch; a batch holds at least one clip.

    Returns
    -------
    list of tuple of HeardClip
        Longest first, so that memory runs out at the start or not at all.
    """
    batches: list[list[HeardClip]] = []
    length: tuple[int, int] | None = None
    for heard in sorted(clips, key=lambda heard: (-heard.facts.seconds, heard.facts.sha256)):
        facts = heard.facts
        full = bool(batches) and (len(batches[-1]) + 1) * facts.seconds > batch_seconds
        if (facts.frames, facts.sampling_rate) != length or full:
            batches.append([])
            length = (facts.frames, facts.sampling_rate)
        batches[-1].append(heard)
    return [tuple(batch) for batch in batches]


def embed_batches(
    encoder: Encoder, batches: Sequence[Batch], workers: int
) -> Iterator[tuple[Batch, dict[str, NDArray[np.float32]]]]:
    """Embed all batches.

    Parameters
    ----------
    encoder : Encoder
        Whose device decides where the work is done.
    batches : sequence of tuple of HeardClip
        See :func:`plan`.
    workers : int
        Threads that decode (for a GPU), or decode and compute (on a CPU).

    Yields
    ------
    batch : tuple of HeardClip
        As given.
    embeddings : dict of str to ndarray of float32, shape (n_layers, n_clips, width)
        By pooling.

    Raises
    ------
    BadClipError
        If a file is not what it was when it was checked.
    """
    rate = encoder.identity.sampling_rate
    if encoder.device.type != "cpu":
        loaded = in_order(lambda batch: _load(batch, rate), batches, workers, ahead=2)
        for batch, waveforms in zip(batches, loaded, strict=True):
            yield batch, encoder.embed(waveforms)
        return

    def work(batch: Batch) -> dict[str, NDArray[np.float32]]:
        torch.set_num_threads(1)  # holds for this worker thread: the clips are what runs at once
        return encoder.embed(_load(batch, rate))

    threads = torch.get_num_threads()
    try:
        yield from zip(batches, in_order(work, batches, workers, ahead=workers), strict=True)
    finally:
        torch.set_num_threads(threads)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Iterator[Result]:
    """Map in threads, in order, at most ``workers + ahead`` items at once in memory.

    Parameters
    ----------
    function : callable
        Of one item.
    items : iterable
        What to map.
    workers : int
        Number of threads.
    ahead : int
        Results that may wait to be taken.

    Yields
    ------
    object
        ``function(item)`` for each item; what it raises is raised here.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= workers + ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _load(batch: Batch, sampling_rate: int) -> list[Waveform]:
    waveforms = []
    for heard in batch:
        waveform, facts = read_waveform(heard.clip.file, sampling_rate)
        if facts != heard.facts:
            raise BadClipError(
                str(heard.clip.file),
                "has changed since it was checked",
                "files that stay as they are",
                "run the same command again",
            )
        waveforms.append(waveform)
    return waveforms
