"""Run an encoder over clips while the next ones are decoded; results come in the order of the plan.

On a CPU each clip is computed alone, by one thread, with as many clips at once as there are cores:
no slower than batches there, and the numbers of a clip are the same bits whatever its neighbours,
the batch size, the number of cores or the order of the files. On GPUs clips of similar length share
a batch; each GPU has a copy of the encoder and takes the next batch when it is free.
"""

import queue
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from .audio import Waveform
from .decoding import DecodedClip, Decoder, DecodingOptions, load_clip
from .encoder import Encoder, PreparedBatch
from .in_order import in_order
from .read_ahead import Content, read_ahead

#: Batches of one GPU at once: while the results of one are copied back, the next is computed.
LANES_PER_GPU = 2

#: Pooling -> array of shape (n_layers, n_clips, width).
Embeddings = dict[str, NDArray[np.float32]]
Batch = tuple[DecodedClip, ...]


def plan(
    clips: Iterable[DecodedClip], batch_seconds: float, window_seconds: float = 0.0
) -> list[Batch]:
    """Sort clips by length into batches, whatever their order.

    A batch ends where the length changes, if it is at least half full; otherwise it takes the next
    length as well. So clips of exactly equal length share a batch where the corpus has enough of
    them, and padding stays small where it has not. The longest clips come first, so that memory
    runs out at the start or not at all.

    A batch has at most ``batch_seconds`` of audio, padding included, but at least one clip.
    ``window_seconds`` is the length to which the encoder pads every shorter clip (Whisper: 30).
    """
    batches: list[list[DecodedClip]] = []
    for decoded in sorted(clips, key=lambda each: (-each.facts.seconds, each.facts.sha256)):
        batch = batches[-1] if batches else []
        longest = max(batch[0].facts.seconds, window_seconds) if batch else 0.0
        full = (len(batch) + 1) * longest > batch_seconds
        half_full = 2 * len(batch) * longest > batch_seconds
        new_length = bool(batch) and batch[-1].facts.seconds != decoded.facts.seconds
        if not batch or full or (half_full and new_length):
            batches.append([])
        batches[-1].append(decoded)
    return [tuple(batch) for batch in batches]


def embed_batches(
    encoders: Sequence[Encoder],
    batches: Sequence[Batch],
    workers: int,
    decoding: DecodingOptions,
    decoder: Decoder | None = None,
) -> Iterator[tuple[Batch, Embeddings]]:
    """Yield each batch with its embeddings, in order.

    ``encoders`` are copies of one encoder, one per GPU; or one, on the CPU. ``workers`` threads
    decode (for GPUs), or decode and compute (on a CPU); with a ``decoder``, its processes decode
    for the GPUs. Raise BadClipError if a file has changed since it was checked.
    """

    def load(batch: Sequence[tuple[DecodedClip, Content]]) -> list[Waveform]:
        if decoder is None:
            return [load_clip(decoded, decoding, content()) for decoded, content in batch]
        return [decoder.load(decoded, content) for decoded, content in batch]

    def request() -> Generator[list[tuple[DecodedClip, Content]]]:
        clips = (decoded for batch in batches for decoded in batch)
        with closing(read_ahead(clips, lambda decoded: decoded.clip.file)) as contents:
            for batch in batches:
                yield list(islice(contents, len(batch)))
            list(contents)  # to its end: closing it earlier would cancel its last requests

    if encoders[0].device.type == "cpu":

        def load_and_embed(batch: Sequence[tuple[DecodedClip, Content]]) -> Embeddings:
            torch.set_num_threads(1)  # of this worker thread: the clips run in parallel
            return encoders[0].embed(load(batch))

        threads = torch.get_num_threads()
        try:
            results = in_order(load_and_embed, request(), workers, ahead=workers)
            yield from zip(batches, results, strict=True)
        finally:
            torch.set_num_threads(threads)
        return

    def prepare(batch: Sequence[tuple[DecodedClip, Content]]) -> PreparedBatch:
        return encoders[0].prepare(load(batch))

    idle: queue.SimpleQueue[Lane] = queue.SimpleQueue()
    n_lanes = LANES_PER_GPU * len(encoders)
    for number in range(n_lanes):
        idle.put(Lane(encoders[number % len(encoders)]))

    def embed(batch: PreparedBatch) -> Embeddings:
        lane = idle.get()
        try:
            return lane.embed_prepared(batch)
        finally:
            idle.put(lane)

    prepared = in_order(prepare, request(), workers, ahead=n_lanes)
    computed = in_order(embed, prepared, n_lanes, ahead=n_lanes)
    yield from zip(batches, computed, strict=True)


class Lane:
    """An encoder and the size of the largest batch that fits the memory of its device."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.budget: int | None = None

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """Embed a batch, as :meth:`Encoder.embed` does, within the available memory."""
        return self.embed_prepared(self.encoder.prepare(waveforms))

    def embed_prepared(self, batch: PreparedBatch) -> Embeddings:
        """Embed a batch; when memory runs out, halve the budget and continue.

        Raise torch.OutOfMemoryError if a single clip does not fit.
        """
        waveforms = batch.waveforms
        size = len(waveforms) * max(len(waveform) for waveform in waveforms)
        if self.budget is None or size <= self.budget or len(waveforms) == 1:
            try:
                return self.encoder.embed_prepared(batch)
            except torch.OutOfMemoryError:
                if len(waveforms) == 1:
                    raise
                self.budget = size // 2
        # Outside the handler: an exception keeps the memory of the frames it has passed.
        if self.encoder.device.type == "cuda":
            torch.cuda.empty_cache()
        middle = len(waveforms) // 2
        halves = [self.embed(waveforms[:middle]), self.embed(waveforms[middle:])]
        return {name: np.concatenate([half[name] for half in halves], 1) for name in halves[0]}
