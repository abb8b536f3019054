"""From waveforms to the inputs of an encoder, and its number of frames: a class for each kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from .audio import Waveform


class FrontEnd(Protocol):
    """A kind of encoder input."""

    @property
    def sampling_rate(self) -> int:
        """The sampling rate of the encoder, in Hz."""

    @property
    def normalise(self) -> bool:
        """Whether each clip is normalised first."""

    @property
    def minimum_samples(self) -> int:
        """The shortest clip, in samples."""

    @property
    def maximum_samples(self) -> int | None:
        """The longest clip, in samples; ``None`` is no limit."""

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return the encoder's keyword arguments for a batch of prepared clips."""

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of a clip of ``n_samples``."""


#: What ``Wav2Vec2FeatureExtractor`` adds to the variance. A front end with another value has it as
#: ``epsilon``.
EPSILON = 1e-7


def normalise(waveform: Waveform, epsilon: float = EPSILON) -> Waveform:
    """Scale one clip to zero mean and unit variance, as ``Wav2Vec2FeatureExtractor`` does.

    That is ``(x - mean) / sqrt(variance + epsilon)``, before any padding: statistics over a padded
    batch would be wrong.
    """
    scaled: Waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + epsilon)
    return scaled.astype(np.float32)


def prepare(front_end: FrontEnd, waveform: Waveform) -> Waveform:
    """Return a whole clip, normalised if the checkpoint requires it, before it is cut."""
    if not front_end.normalise:
        return waveform
    return normalise(waveform, getattr(front_end, "epsilon", EPSILON))


def samples_of(frames: int, kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Return the fewest samples from which strided convolutions make a number of frames."""
    for kernel, stride in zip(reversed(kernels), reversed(strides), strict=True):
        frames = (frames - 1) * stride + kernel
    return frames


@dataclass(frozen=True)
class WaveformFrontEnd:
    """For the wav2vec 2.0 family: samples, from which strided convolutions make frames."""

    sampling_rate: int
    #: ``do_normalize`` of the checkpoint's own preprocessor configuration.
    normalise: bool
    #: Of the convolutions, like the strides.
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def maximum_samples(self) -> None:
        """``None``: there is no limit."""

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that gives one frame, in samples (400, or 25 ms, for wav2vec 2.0)."""
        return samples_of(1, self.kernels, self.strides)

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Stack prepared clips; if their lengths differ, pad them with zeros and add a mask.

        ``input_values`` is float32, shape (n_clips, n_samples); ``attention_mask``, for clips of
        different lengths, int64 of the same shape.
        """
        lengths = [len(waveform) for waveform in waveforms]
        stacked = np.zeros((len(waveforms), max(lengths)), dtype=np.float32)
        mask = np.zeros(stacked.shape, dtype=np.int64)
        for row, waveform in enumerate(waveforms):
            stacked[row, : len(waveform)] = waveform
            mask[row, : len(waveform)] = 1
        inputs = {"input_values": torch.from_numpy(stacked)}
        if min(lengths) < max(lengths):
            inputs["attention_mask"] = torch.from_numpy(mask)
        return inputs

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of ``n_samples`` after the convolutions."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples


@dataclass(frozen=True)
class SpectrogramFrontEnd:
    """What front ends share whose spectrogram the feature extractor of a checkpoint computes."""

    #: The feature extractor, of transformers.
    extractor: Any

    @property
    def sampling_rate(self) -> int:
        """In Hz."""
        return int(self.extractor.sampling_rate)

    @property
    def normalise(self) -> bool:
        """False: not the waveform but the spectrogram is scaled, if anything is."""
        return False

    def spectrograms(
        self, waveforms: Sequence[Waveform], name: str = "input_features", **options: Any
    ) -> torch.Tensor:
        """Return what the extractor returns under a name, float32; options are those it takes."""
        features = self.extractor(
            list(waveforms), sampling_rate=self.sampling_rate, return_tensors="pt", **options
        )
        spectrograms: torch.Tensor = features[name].float()
        return spectrograms


@dataclass(frozen=True)
class LogMelFrontEnd(SpectrogramFrontEnd):
    """For Whisper: log-mel spectrogram of a 30 s window, padded as the checkpoint requires."""

    #: 320 for Whisper: a hop of 160 samples and a convolution of stride 2.
    samples_per_frame: int

    @property
    def normalise(self) -> bool:
        """Whether waveforms are normalised before the spectrogram."""
        return bool(getattr(self.extractor, "do_normalize", False))

    @property
    def minimum_samples(self) -> int:
        """The window of the Fourier transform."""
        return int(self.extractor.n_fft)

    @property
    def maximum_samples(self) -> int:
        """The whole window, 30 s."""
        return int(self.extractor.n_samples)

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return log-mel spectrograms of the whole window, none of the clips being longer.

        Only the clips and one window of zeros after them go through the Fourier transform: the
        spectrogram of the zeros beyond is the same constant in every bin and step.
        ``input_features`` is float32, shape (n_clips, n_mels, n_steps).
        """
        hop = self.extractor.hop_length
        longest = max(len(waveform) for waveform in waveforms) + 2 * self.extractor.n_fft
        computed = min(self.extractor.n_samples, -(-longest // hop) * hop)
        features = self.spectrograms(waveforms, max_length=computed, return_attention_mask=False)
        missing = self.extractor.nb_max_frames - features.shape[2]
        padding = features[:, :, -1:].expand(-1, -1, missing)
        return {"input_features": torch.cat([features, padding], dim=2)}

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of a clip, without those of the padding after it."""
        # Not of a negative number: division in ONNX, to which this is exported, rounds to zero.
        return (n_samples + self.samples_per_frame - 1) // self.samples_per_frame


def masked_frames(features: torch.Tensor, frames: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return features without frames beyond every clip, and a mask if clips differ in length.

    ``features`` have the shape (n_clips, n_frames, n_features); ``frames`` are the valid frames of
    each clip.
    """
    longest = max(frames)
    inputs = {"input_features": features[:, :longest].contiguous()}
    if min(frames) < longest:
        inputs["attention_mask"] = (torch.arange(longest) < torch.tensor(frames)[:, None]).long()
    return inputs
