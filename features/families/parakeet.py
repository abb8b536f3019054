"""The encoder of Parakeet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...errors import UserError
from ..audio import Waveform
from ..checkpoint_limits import CONFIG, EXTRACTOR, Limits
from ..front_end import FrontEnd, SpectrogramFrontEnd, masked_frames
from .family import Family, Part, Stack

_PARTS = ("parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")


class Parakeet(Family):
    """The Fast Conformer of Parakeet (Rekesh et al., 2023), without decoder.

    transformers masks padding in the subsampling, in the attention and before every convolution,
    which is exact.
    """

    title = "Parakeet"
    model_types = (*_PARTS, "parakeet_encoder")
    classes = ("ParakeetEncoder",)
    input = "log-mel spectrogram, normalised over the clip"
    frames_per_second = 12.5
    shortest_milliseconds = 20
    extractor = "ParakeetFeatureExtractor"
    block_pattern = r"^layers\.(\d{1,6})\."
    parts: ClassVar[Mapping[str, Part]] = {
        **dict.fromkeys(
            _PARTS,
            Part("ParakeetEncoder", "ParakeetEncoderConfig", ("encoder.",), "encoder_config"),
        ),
        "parakeet_encoder": Part("ParakeetEncoder", "ParakeetEncoderConfig", ("encoder.", "")),
    }
    config_limits = Limits(
        integers={
            "conv_kernel_size": (1, 511),
            "subsampling_factor": (2, 64),
            "subsampling_conv_channels": (1, 1 << 12),
            "subsampling_conv_kernel_size": (1, 31),
            "subsampling_conv_stride": (1, 8),
        },
        floats=dict.fromkeys(("dropout_positions", "layerdrop"), (0, 1)),
        choices=dict.fromkeys(("attention_bias", "convolution_bias", "scale_input"), (True, False)),
    )
    extractor_limits = Limits(integers={"win_length": (1, 1 << 13)}, floats={"preemphasis": (0, 1)})

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end, whose spectrogram must have the size that the encoder needs."""
        if extractor.feature_size != config.num_mel_bins:
            raise UserError(
                f"{name}: {EXTRACTOR} gives {extractor.feature_size} mel bins, but {CONFIG} needs "
                f"{config.num_mel_bins}; download the checkpoint again"
            )
        return SubsampledFrontEnd(
            extractor,
            kernel=int(config.subsampling_conv_kernel_size),
            stride=int(config.subsampling_conv_stride),
            n_convolutions=int(config.subsampling_factor).bit_length() - 1,
        )

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder; each ends in a norm of its own."""
        return Stack(encoder.layers)


@dataclass(frozen=True)
class SubsampledFrontEnd(SpectrogramFrontEnd):
    """For Parakeet: a log-mel spectrogram, from which strided convolutions make frames."""

    #: Of each of the convolutions, which are padded by (kernel - 1) // 2 on both sides.
    kernel: int
    stride: int
    n_convolutions: int

    @property
    def minimum_samples(self) -> int:
        """Two steps of the spectrogram: the variance of one is not defined."""
        return 2 * int(self.extractor.hop_length)

    @property
    def maximum_samples(self) -> None:
        """``None``: there is no limit."""

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return the spectrograms of clips, each normalised by itself.

        ``input_features`` is float32, shape (n_clips, n_steps, n_mels); ``attention_mask``, for
        clips of different numbers of steps, int64, shape (n_clips, n_steps).
        """
        features = self.spectrograms(waveforms)
        return masked_frames(features, [self.steps(len(waveform)) for waveform in waveforms])

    def steps(self, n_samples: int) -> int:
        """Return the number of steps of the spectrogram of a clip."""
        return n_samples // int(self.extractor.hop_length)

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of a clip after the convolutions."""
        frames, padding = self.steps(n_samples), (self.kernel - 1) // 2 * 2
        for _ in range(self.n_convolutions):
            frames = (frames + padding - self.kernel) // self.stride + 1
        return frames
