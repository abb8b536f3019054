"""Run an encoder over clips, with decoding ahead of it. The order of results is that of the plan.

On a CPU each clip is computed alone, by one thread, with as many clips at once as there are cores:
no slower than batches there, and the numbers of a clip are the same bits whatever its neighbours,
the batch size, the number of cores or the order of the files. On GPUs clips of like length share a
batch; each GPU has a copy of the encoder and takes the next batch when it is done.
"""

import queue
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from ..corpora import Clip
from ..errors import BadClipError
from .audio import CHANNEL_POLICY, AudioFacts, Waveform, decode_waveform, read_clip
from .decoding import Decoder
from .encoder import Encoder, PreparedBatch
from .in_order import in_order
from .read_ahead import Content, read_ahead
from .trim import trim

#: Seconds of audio that share a batch on a GPU.
GPU_BATCH_SECONDS = 600.0

#: Batches of one GPU at once: while the results of one are copied back, the next is computed.
LANES_PER_GPU = 2

Embeddings = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class HeardClip:
    """A clip whose audio has been opened and found good.

    Attributes
    ----------
    clip : Clip
        The clip.
    facts : AudioFacts
        What its audio tells.
    recording : str
        Identifies what it holds, equal for copies; from
        :func:`serpipe.features.copies.mark_recordings`, before that empty.
    unconfirmed_copy_of : str
        Path of a clip that may hold the same recording and could not be compared with it.
    """

    clip: Clip
    facts: AudioFacts
    recording: str = ""
    unconfirmed_copy_of: str = ""


Batch = tuple[HeardClip, ...]


def plan(
    clips: Iterable[HeardClip], batch_seconds: float, window_seconds: float = 0.0
) -> list[Batch]:
    """Sort clips by length into batches.

    A batch ends where the length changes, if it is at least half full; else the next length joins
    it. So clips of exactly equal length share a batch where the corpus has enough of them, and
    padding stays small where it has not.

    Parameters
    ----------
    clips : iterable of HeardClip
        In any order: the plan depends on their content alone.
    batch_seconds : float
        Most seconds of audio in a batch, padding included; a batch holds at least one clip.
    window_seconds : float
        What the encoder pads every clip to at the least (Whisper: 30).

    Returns
    -------
    list of tuple of HeardClip
        Longest first, so that memory runs out at the start or not at all.
    """
    batches: list[list[HeardClip]] = []
    for heard in sorted(clips, key=lambda heard: (-heard.facts.seconds, heard.facts.sha256)):
        batch = batches[-1] if batches else []
        longest = max(batch[0].facts.seconds, window_seconds) if batch else 0.0
        full = (len(batch) + 1) * longest > batch_seconds
        half_full = 2 * len(batch) * longest > batch_seconds
        new_length = bool(batch) and batch[-1].facts.seconds != heard.facts.seconds
        if not batch or full or (half_full and new_length):
            batches.append([])
        batches[-1].append(heard)
    return [tuple(batch) for batch in batches]


def embed_batches(
    encoders: Sequence[Encoder],
    batches: Sequence[Batch],
    workers: int,
    trim_decibels: float | None = None,
    channels: str = CHANNEL_POLICY,
    decoder: Decoder | None = None,
) -> Iterator[tuple[Batch, Embeddings]]:
    """Embed all batches.

    Parameters
    ----------
    encoders : sequence of Encoder
        Copies of one encoder, one per GPU; or one, on the CPU.
    batches : sequence of tuple of HeardClip
        See :func:`plan`.
    workers : int
        Threads that decode (for GPUs), or decode and compute (on a CPU).
    trim_decibels : float, optional
        Trim silence at the ends of each clip, see :func:`.trim.trim`.
    channels : {"mean", "left", "right"}
        How several channels become one.
    decoder : Decoder, optional
        Has decoded the clips or can decode them, for GPUs; else threads decode them.

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
    rate = encoders[0].identity.sampling_rate

    def load_one(heard: HeardClip, content: Content) -> Waveform:
        if decoder is None:
            return load_clip(heard, rate, trim_decibels, channels, content)
        waveform = decoder.load(heard.clip.file, heard.facts, content)
        if waveform is None:
            raise _changed(heard)
        return waveform

    def load(batch: Sequence[tuple[HeardClip, Content]]) -> list[Waveform]:
        return [load_one(heard, content) for heard, content in batch]

    def ask() -> Generator[list[tuple[HeardClip, Content]]]:
        clips = (heard for batch in batches for heard in batch)
        with closing(read_ahead(clips, lambda heard: heard.clip.file)) as contents:
            for batch in batches:
                yield list(islice(contents, len(batch)))
            list(contents)  # to its end: closed before that, it calls off what it has asked for

    if encoders[0].device.type == "cpu":

        def load_and_embed(batch: Sequence[tuple[HeardClip, Content]]) -> Embeddings:
            torch.set_num_threads(1)  # of this worker thread: the clips are what runs at once
            return encoders[0].embed(load(batch))

        threads = torch.get_num_threads()
        try:
            results = in_order(load_and_embed, ask(), workers, ahead=workers)
            yield from zip(batches, results, strict=True)
        finally:
            torch.set_num_threads(threads)
        return

    def prepare(batch: Sequence[tuple[HeardClip, Content]]) -> PreparedBatch:
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

    prepared = in_order(prepare, ask(), workers, ahead=n_lanes)
    computed = in_order(embed, prepared, n_lanes, ahead=n_lanes)
    yield from zip(batches, computed, strict=True)


class Lane:
    """An encoder and the largest batch that its device's memory has turned out to hold.

    Parameters
    ----------
    encoder : Encoder
        Whose batches to embed.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.budget: int | None = None

    def embed(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """Embed a batch, as :meth:`Encoder.embed` does, within the memory there is."""
        return self.embed_prepared(self.encoder.prepare(waveforms))

    def embed_prepared(self, batch: PreparedBatch) -> Embeddings:
        """Embed a batch; when memory runs out, halve the budget and continue.

        Parameters
        ----------
        batch : PreparedBatch
            From :meth:`Encoder.prepare`.

        Returns
        -------
        dict of str to ndarray of float32, shape (n_layers, n_clips, width)
            By pooling.

        Raises
        ------
        torch.OutOfMemoryError
            If a single clip does not fit.
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


def load_clip(
    heard: HeardClip,
    sampling_rate: int,
    trim_decibels: float | None,
    channels: str = CHANNEL_POLICY,
    content: Content | None = None,
) -> Waveform:
    """Read a clip again, and make sure that it is the one that was checked."""
    found = content() if content else read_clip(heard.clip.file)
    waveform, facts = decode_waveform(found, sampling_rate, channels, file=heard.clip.file)
    if facts != heard.facts:
        raise _changed(heard)
    return waveform if trim_decibels is None else trim(waveform, trim_decibels)


def _changed(heard: HeardClip) -> BadClipError:
    return BadClipError(
        str(heard.clip.file),
        "has changed since it was checked",
        "files that stay as they are",
        "run the same command again",
    )
