"""From waveforms to what an encoder takes, and how many frames come out. One class per kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from .audio import Waveform


class FrontEnd(Protocol):
    """What the extractor asks of a kind of encoder input."""

    @property
    def sampling_rate(self) -> int:
        """The rate that the encoder was trained on, in Hz."""

    @property
    def normalise(self) -> bool:
        """Whether each clip is scaled first."""

    @property
    def minimum_samples(self) -> int:
        """The shortest clip."""

    @property
    def maximum_samples(self) -> int | None:
        """The longest clip; ``None`` is no limit."""

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return the encoder's keyword arguments for a batch of clips."""

    def frames(self, n_samples: int) -> int:
        """Return the number of frames that carry a clip of ``n_samples``."""


def normalise(waveform: Waveform) -> Waveform:
    """Bring one clip to zero mean and unit variance, as ``Wav2Vec2FeatureExtractor`` does.

    Parameters
    ----------
    waveform : ndarray of float32, shape (n_samples,)
        One clip alone, before any padding: statistics over a padded batch would be wrong.

    Returns
    -------
    ndarray of float32, shape (n_samples,)
        ``(x - mean) / sqrt(variance + 1e-7)``.
    """
    scaled: Waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    return scaled.astype(np.float32)


@dataclass(frozen=True)
class WaveformFrontEnd:
    """For wav2vec 2.0 and its kin: samples in, frames by strided convolutions.

    Attributes
    ----------
    sampling_rate : int
        In Hz.
    normalise : bool
        ``do_normalize`` of the checkpoint's own preprocessor configuration.
    kernels, strides : tuple of int
        Of the convolutional front end.
    """

    sampling_rate: int
    normalise: bool
    kernels: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def maximum_samples(self) -> None:
        """There is no limit."""

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that gives one frame, in samples (400, or 25 ms, for wav2vec 2.0)."""
        samples = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            samples = (samples - 1) * stride + kernel
        return samples

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Stack clips of equal length; normalise each alone.

        Parameters
        ----------
        waveforms : sequence of ndarray of float32, shape (n_samples,)
            All of the same length. Encoders with a group norm take their statistics over time,
            so that any padding, masked or not, would change every frame.

        Returns
        -------
        dict of str to Tensor
            ``input_values``, float32, shape (n_clips, n_samples).

        Raises
        ------
        ValueError
            If the lengths differ.
        """
        if len({len(waveform) for waveform in waveforms}) != 1:
            raise ValueError("a batch must hold clips of one length: padding changes their values")
        if self.normalise:
            waveforms = [normalise(waveform) for waveform in waveforms]
        return {"input_values": torch.from_numpy(np.stack(waveforms))}

    def frames(self, n_samples: int) -> int:
        """Return the number of frames that the convolutions make of ``n_samples``."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples


@dataclass(frozen=True)
class LogMelFrontEnd:
    """For Whisper: log-mel spectrogram of a 30 s window, padded as the checkpoint demands.

    Attributes
    ----------
    extractor : WhisperFeatureExtractor
        The checkpoint's own.
    samples_per_frame : int
        320 for Whisper: a hop of 160 samples and a convolution of stride 2.
    """

    extractor: Any
    samples_per_frame: int

    @property
    def sampling_rate(self) -> int:
        """In Hz."""
        return int(self.extractor.sampling_rate)

    @property
    def normalise(self) -> bool:
        """Whether waveforms are scaled before the spectrogram."""
        return bool(getattr(self.extractor, "do_normalize", False))

    @property
    def minimum_samples(self) -> int:
        """One window of the Fourier transform."""
        return int(self.extractor.n_fft)

    @property
    def maximum_samples(self) -> int:
        """The whole window, 30 s."""
        return int(self.extractor.n_samples)

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return ``input_features``, float32, shape (n_clips, n_mels, n_mel_frames)."""
        features = self.extractor(
            list(waveforms),
            sampling_rate=self.sampling_rate,
            do_normalize=self.normalise,
            return_attention_mask=self.normalise,
            return_tensors="pt",
        )
        return {"input_features": features["input_features"]}

    def frames(self, n_samples: int) -> int:
        """Return the frames that carry the clip; those of the padding after it are not pooled."""
        return -(-n_samples // self.samples_per_frame)
