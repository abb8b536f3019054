"""What checks and embeds clips: in this process, or the same on each worker of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import soundfile
import torch
import transformers

from .._version import __version__
from ..choices import CHANNELS, check_choice
from ..corpora import Clip
from ..errors import BadClipError
from .audio import RESAMPLER, check_length
from .batching import Batch, Embeddings, embed_batches, plan
from .decoding import DecodedClip, Decoder, DecodingOptions, decode_in_threads
from .devices import choose_precision
from .encoder import Encoder, load_encoder
from .options import ExtractOptions
from .perturbation import REVISION, Perturbation
from .training_record import TrainingRecord


class Engine(Protocol):
    """Checks and embeds the clips of an extraction."""

    @property
    def key(self) -> Mapping[str, Any]:
        """All that the numbers depend on, besides the clips' content; JSON values."""

    @property
    def training(self) -> TrainingRecord | None:
        """What the encoder was trained on, if that is known."""

    def check(self, clips: Sequence[Clip]) -> Iterator[DecodedClip | BadClipError]:
        """Decode clips, and yield each as decoded, or why it cannot be used, in their order."""

    def plan(self, clips: Sequence[DecodedClip]) -> list[Batch]:
        """Sort clips into the batches in which they are embedded."""

    def embed(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Embeddings]]:
        """Embed batches, in any order."""

    def perturbed(self, perturbation: Perturbation) -> "Engine":
        """Return an engine with the same encoder that perturbs every clip first."""

    @property
    def progress(self) -> object:
        """The current work; its text may include the speed."""


@dataclass(frozen=True)
class LocalEngine:
    """An engine of this process."""

    #: Copies of one encoder, one per GPU; or one, on the CPU.
    encoders: tuple[Encoder, ...]
    #: From :func:`cache_key`.
    key: Mapping[str, Any]
    options: ExtractOptions = ExtractOptions()
    #: Number of threads.
    workers: int = 1
    #: Decodes in processes, for GPUs.
    decoder: Decoder | None = None

    @property
    def training(self) -> TrainingRecord | None:
        """What the encoder was trained on, if that is known."""
        return self.encoders[0].training

    @property
    def is_cpu(self) -> bool:
        """Whether the encoder runs on a CPU, where each clip is a batch of its own."""
        return self.encoders[0].device.type == "cpu"

    @property
    def decoding(self) -> DecodingOptions:
        """How clips are decoded for the encoder."""
        rate = self.encoders[0].identity.sampling_rate
        options = self.options
        return DecodingOptions(rate, options.channels, options.trim, options.perturbation)

    def check(self, clips: Sequence[Clip]) -> Iterator[DecodedClip | BadClipError]:
        """Yield each clip, decoded, or an error if the encoder cannot take it, in their order."""
        front_end, longest = self.encoders[0].front_end, self.encoders[0].maximum_samples
        rate, shortest = front_end.sampling_rate, front_end.minimum_samples
        if self.decoder is None:
            results = decode_in_threads(clips, self.decoding, self.workers)
        else:
            results = self.decoder.check(clips)
        for clip, result in zip(clips, results, strict=True):
            try:
                if isinstance(result, BadClipError):
                    raise result
                check_length(clip.file, result.n_samples, rate, shortest, longest)
            except BadClipError as error:
                yield error
            else:
                yield DecodedClip(clip, result.facts)

    def plan(self, clips: Sequence[DecodedClip]) -> list[Batch]:
        """Sort clips into batches; on a CPU each is one of its own."""
        seconds = 0.0 if self.is_cpu else self.options.batch_seconds
        return plan(clips, seconds, self.encoders[0].window_seconds)

    def embed(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Embeddings]]:
        """Embed batches, in their order."""
        return embed_batches(self.encoders, batches, self.workers, self.decoding, self.decoder)

    def perturbed(self, perturbation: Perturbation) -> "LocalEngine":
        """Return an engine with the same encoder that perturbs every clip first."""
        options = replace(self.options, perturbation=perturbation)
        return local_engine(self.encoders, options, workers=self.workers)

    @property
    def progress(self) -> object:
        """The current work: on a CPU a batch is one clip."""
        return "embedding clips" if self.is_cpu else "embedding batches of clips"


def local_engine(
    encoders: Sequence[Encoder],
    options: ExtractOptions = ExtractOptions(),
    *,
    workers: int = 1,
    decoder: Decoder | None = None,
) -> LocalEngine:
    """Return an engine of this process from loaded encoders: one per GPU, or one on the CPU.

    A ``decoder`` that has begun to decode is used if it decodes as the encoder needs it.
    """
    engine = LocalEngine(tuple(encoders), cache_key(encoders[0], options), options, workers)
    # Other devices are not so fast that processes must decode for them, and one thread decodes as
    # fast as one process. Workers of a cluster, which may not start processes, have one thread.
    is_fast = encoders[0].device.type == "cuda" and workers > 1
    if decoder is not None and (not is_fast or decoder.options != engine.decoding):
        decoder.close()
        decoder = None
    if is_fast and decoder is None:
        decoder = Decoder(engine.decoding, workers)
    return replace(engine, decoder=decoder)


def open_engine(
    options: ExtractOptions,
    devices: Sequence[str],
    workers: int,
    decoder: Decoder | None = None,
) -> LocalEngine:
    """Load an encoder on each of some torch devices and return an engine of them.

    Raise what :func:`~serpipe.features.encoder.load_encoder` raises.
    """
    encoders = [
        load_encoder(
            str(options.encoder),
            revision=options.revision,
            poolings=options.poolings,
            device=device,
            precision=choose_precision(options.precision, device),
            max_seconds=options.max_seconds,
            compile_blocks=options.compile_blocks,
            engine=options.engine,
        )
        for device in devices
    ]
    return local_engine(encoders, options, workers=workers, decoder=decoder)


def cache_key(encoder: Encoder, options: ExtractOptions = ExtractOptions()) -> dict[str, Any]:
    """Return, as JSON values, all that the numbers of a cache depend on besides the clips' content.

    Raise UserError if the choice of channels is unknown.
    """
    # A typo would become part of the key.
    check_choice("channels", options.channels, CHANNELS)
    device = encoder.device
    is_cuda = device.type == "cuda"
    return {
        **asdict(encoder.identity),
        "layers": list(encoder.identity.layers),
        "poolings": list(encoder.poolings),
        "channels": options.channels,
        "resampler": RESAMPLER,
        "trim_decibels": options.trim,
        "max_seconds": encoder.max_seconds,
        "precision": encoder.precision,
        "compiled": encoder.compiled,
        **encoder.engine,
        "dtype": options.dtype,
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "serpipe": __version__,
        **(_perturbation_key(options.perturbation) if options.perturbation else {}),
    }


def _perturbation_key(perturbation: Perturbation) -> dict[str, Any]:
    """Return the entries of a key that describe a perturbation, and what computes it."""
    return {
        "perturbation": str(perturbation),
        "perturbation_seed": perturbation.seed,
        "perturbation_revision": REVISION,
        "perturbed_by": f"libsndfile {soundfile.__libsndfile_version__}",
    }
