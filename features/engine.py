"""What opens clips and embeds them: here, or the same on each worker of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import transformers

from .. import __version__
from ..corpora import Clip
from ..errors import BadClipError
from .audio import (
    CHANNEL_POLICY,
    RESAMPLER,
    check_channels,
    check_length,
    decode_waveform,
)
from .batching import (
    GPU_BATCH_SECONDS,
    Batch,
    Embeddings,
    HeardClip,
    embed_batches,
    plan,
)
from .decoding import Decoder, DecodingOptions
from .devices import choose_precision
from .encoder import Encoder, identity_fields, load_encoder
from .fingerprint import fingerprint
from .in_order import in_order
from .read_ahead import Content, read_ahead
from .training_record import TrainingRecord
from .trim import trim


class Engine(Protocol):
    """What an extraction needs of whoever opens and embeds its clips."""

    @property
    def key(self) -> Mapping[str, Any]:
        """All that the numbers depend on, besides the clips' content; JSON values."""

    @property
    def training(self) -> TrainingRecord | None:
        """What the encoder was trained on, if that is known."""

    def hear(self, clips: Sequence[Clip]) -> Iterator[HeardClip | BadClipError]:
        """Open clips, and tell of each, in their order, what it is or what is wrong with it."""

    def plan(self, clips: Sequence[HeardClip]) -> list[Batch]:
        """Sort clips into the batches in which they are embedded."""

    def embed(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Embeddings]]:
        """Embed batches, in any order."""

    @property
    def progress(self) -> object:
        """What is being done; its text may say how fast."""


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is made of.

    Attributes
    ----------
    encoder, revision, poolings, precision, max_seconds, compile_blocks
        As :func:`~serpipe.features.encoder.load_encoder` takes them.
    devices : str
        As :func:`~serpipe.features.devices.choose_devices` takes it, where the engine is made.
    trim_decibels, channels, dtype, batch_seconds
        As :func:`local_engine` takes them.
    """

    encoder: str
    revision: str | None = None
    poolings: tuple[str, ...] = ("mean",)
    devices: str = "auto"
    precision: str = "float32"
    max_seconds: float | None = None
    compile_blocks: bool = False
    trim_decibels: float | None = None
    channels: str = CHANNEL_POLICY
    dtype: str = "float32"
    batch_seconds: float = GPU_BATCH_SECONDS


@dataclass(frozen=True)
class LocalEngine:
    """An engine of this process.

    Attributes
    ----------
    encoders : tuple of Encoder
        Copies of one encoder, one per GPU; or one, on the CPU.
    key : mapping
        From :func:`cache_key`.
    trim_decibels : float or None
        Below which the ends of a clip are trimmed.
    channels : {"mean", "left", "right"}
        How several channels become one.
    batch_seconds : float
        Seconds of audio that share a batch on a GPU.
    workers : int
        Threads.
    decoder : Decoder or None
        Decodes in processes, for GPUs.
    """

    encoders: tuple[Encoder, ...]
    key: Mapping[str, Any]
    trim_decibels: float | None = None
    channels: str = CHANNEL_POLICY
    batch_seconds: float = GPU_BATCH_SECONDS
    workers: int = 1
    decoder: Decoder | None = None

    @property
    def training(self) -> TrainingRecord | None:
        """What the encoder was trained on, if that is known."""
        return self.encoders[0].training

    def hear(self, clips: Sequence[Clip]) -> Iterator[HeardClip | BadClipError]:
        """Open clips; decode each once, to know that it can be.

        Parameters
        ----------
        clips : sequence of Clip
            What to open.

        Yields
        ------
        HeardClip or BadClipError
            One for each, in their order.
        """
        front_end = self.encoders[0].front_end
        longest = self.encoders[0].maximum_samples
        rate = front_end.sampling_rate
        if self.decoder is not None:
            return self._hear_in_processes(self.decoder, clips)

        def hear(item: tuple[Clip, Content]) -> HeardClip | BadClipError:
            clip, content = item
            try:
                waveform, facts = decode_waveform(content(), rate, self.channels, file=clip.file)
                facts = replace(facts, fingerprint=fingerprint(waveform, rate))
                if self.trim_decibels is not None:
                    waveform = trim(waveform, self.trim_decibels)
                check_length(clip.file, len(waveform), rate, front_end.minimum_samples, longest)
            except BadClipError as error:
                return error
            return HeardClip(clip, facts)

        items = read_ahead(clips, lambda clip: clip.file)
        return in_order(hear, items, self.workers, ahead=16)

    def _hear_in_processes(
        self, decoder: Decoder, clips: Sequence[Clip]
    ) -> Iterator[HeardClip | BadClipError]:
        front_end, longest = self.encoders[0].front_end, self.encoders[0].maximum_samples
        rate, shortest = front_end.sampling_rate, front_end.minimum_samples
        for clip, checked in zip(clips, decoder.check(clips), strict=True):
            if isinstance(checked, BadClipError):
                yield checked
                continue
            try:
                check_length(clip.file, checked.n_samples, rate, shortest, longest)
            except BadClipError as error:
                yield error
            else:
                yield HeardClip(clip, checked.facts)

    def plan(self, clips: Sequence[HeardClip]) -> list[Batch]:
        """Sort clips into batches; on a CPU each is one of its own."""
        is_cpu = self.encoders[0].device.type == "cpu"
        seconds = 0.0 if is_cpu else self.batch_seconds
        return plan(clips, seconds, self.encoders[0].window_seconds)

    def embed(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Embeddings]]:
        """Embed batches, in their order.

        Parameters
        ----------
        batches : sequence of tuple of HeardClip
            From :meth:`plan`.

        Yields
        ------
        batch : tuple of HeardClip
        embeddings : dict of str to ndarray of float32, shape (n_layers, n_clips, width)
            By pooling.
        """
        try:
            yield from embed_batches(
                self.encoders,
                batches,
                self.workers,
                self.trim_decibels,
                self.channels,
                self.decoder,
            )
        finally:
            if self.decoder is not None:
                self.decoder.close()

    @property
    def progress(self) -> object:
        """What is being done: on a CPU a batch is one clip."""
        is_cpu = self.encoders[0].device.type == "cpu"
        return "embedding clips" if is_cpu else "embedding batches of clips"


def local_engine(
    encoders: Sequence[Encoder],
    *,
    trim_decibels: float | None = None,
    channels: str = CHANNEL_POLICY,
    dtype: str = "float32",
    batch_seconds: float = GPU_BATCH_SECONDS,
    workers: int = 1,
    decoder: Decoder | None = None,
) -> LocalEngine:
    """Return an engine of this process.

    Parameters
    ----------
    encoders : sequence of Encoder
        Copies of one encoder, one per GPU; or one, on the CPU.
    trim_decibels, channels, batch_seconds, workers
        As :class:`LocalEngine` has them.
    dtype : {"float32", "float16"}
        Of the stored numbers.
    decoder : Decoder, optional
        Has begun to decode; used if it does as the encoder needs it.

    Returns
    -------
    LocalEngine
    """
    key = cache_key(encoders[0], trim_decibels, dtype, channels)
    wanted = DecodingOptions(encoders[0].identity.sampling_rate, channels, trim_decibels)
    if decoder is not None and (not _decodes_ahead(encoders) or decoder.options != wanted):
        decoder.close()
        decoder = None
    if decoder is None and _decodes_ahead(encoders):
        decoder = Decoder(wanted, workers)
    return LocalEngine(
        tuple(encoders), key, trim_decibels, channels, batch_seconds, workers, decoder
    )


def _decodes_ahead(encoders: Sequence[Encoder]) -> bool:
    """Whether the encoder is so fast that processes must decode for it."""
    return encoders[0].device.type == "cuda"


def open_engine(
    options: EngineOptions,
    devices: Sequence[str],
    workers: int,
    decoder: Decoder | None = None,
) -> LocalEngine:
    """Load an encoder on each of some devices and make an engine of them.

    Parameters
    ----------
    options : EngineOptions
        What it is made of.
    devices : sequence of str
        In torch's words.
    workers : int
        Threads.
    decoder : Decoder, optional
        As :func:`local_engine` takes it.

    Returns
    -------
    LocalEngine

    Raises
    ------
    UserError, MachineError
        As :func:`~serpipe.features.encoder.load_encoder` raises them.
    """
    encoders = [
        load_encoder(
            options.encoder,
            revision=options.revision,
            poolings=options.poolings,
            device=device,
            precision=choose_precision(options.precision, device),
            max_seconds=options.max_seconds,
            compile_blocks=options.compile_blocks,
        )
        for device in devices
    ]
    return local_engine(
        encoders,
        trim_decibels=options.trim_decibels,
        channels=options.channels,
        dtype=options.dtype,
        batch_seconds=options.batch_seconds,
        workers=workers,
        decoder=decoder,
    )


def cache_key(
    encoder: Encoder,
    trim_decibels: float | None = None,
    dtype: str = "float32",
    channels: str = CHANNEL_POLICY,
) -> dict[str, Any]:
    """Return all that the numbers of a cache depend on, besides the clips' content.

    Parameters
    ----------
    encoder : Encoder
        What will compute them.
    trim_decibels : float, optional
        Threshold of silence.
    dtype : {"float32", "float16"}
        Of the stored numbers.
    channels : {"mean", "left", "right"}
        How several channels become one.

    Returns
    -------
    dict
        JSON values.

    Raises
    ------
    UserError
        If there is no such choice of channels.
    """
    check_channels(channels)  # a typo would become part of the key
    device = encoder.device
    is_cuda = device.type == "cuda"
    return {
        **identity_fields(encoder.identity),
        "poolings": list(encoder.poolings),
        "channels": channels,
        "resampler": RESAMPLER,
        "trim_decibels": trim_decibels,
        "max_seconds": encoder.max_seconds,
        "precision": encoder.precision,
        "compiled": encoder.compiled,
        "dtype": dtype,
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "serpipe": __version__,
    }
