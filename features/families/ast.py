"""The Audio Spectrogram Transformer (AST)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...errors import UserError
from ..audio import Waveform
from ..checkpoint_limits import CONFIG, EXTRACTOR, Limits
from ..front_end import FrontEnd, SpectrogramFrontEnd
from .family import Family, Stack


class AudioSpectrogramTransformer(Family):
    """AST of Gong et al. (2021): patches of a spectrogram of 10.24 s.

    A frame is the mean over the patches of one step in time. The two tokens that are no patches are
    not pooled.
    """

    title = "AST"
    model_types = ("audio-spectrogram-transformer",)
    classes = ("ASTModel",)
    input = "mel filter bank"
    frames_per_second = 10
    layers = "`0` … `L`, `final_norm`"
    window_seconds = 10.24
    extractor = "ASTFeatureExtractor"
    block_pattern = r"(?:^|\.)encoder\.layer\.(\d{1,6})\."
    config_limits = Limits(
        integers={
            "patch_size": (1, 512),
            "frequency_stride": (1, 512),
            "time_stride": (1, 512),
            "max_length": (1, 1 << 14),
        },
        floats=dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), (0, 1)),
        choices={"qkv_bias": (True, False)},
    )
    extractor_limits = Limits(
        integers={
            "sampling_rate": (16000, 16000),
            "num_mel_bins": (1, 512),
            "max_length": (1, 1 << 14),
        },
        floats={"mean": (-1000, 1000), "std": (0.001, 1000)},
    )

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end, whose spectrogram must have the size that the encoder needs."""
        given = (extractor.num_mel_bins, extractor.max_length)
        needed = (config.num_mel_bins, config.max_length)
        if given != needed:
            raise UserError(
                f"{name}: {EXTRACTOR} gives {given[0]} mel bins and {given[1]} steps, but {CONFIG} "
                f"needs {needed[0]} and {needed[1]}; download the checkpoint again"
            )
        n_frames = (config.max_length - config.patch_size) // config.time_stride + 1
        return PatchFrontEnd(extractor, int(config.time_stride), int(n_frames))

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder."""
        n_bins, _ = encoder.embeddings.get_shape(encoder.config)

        def to_frames(states: torch.Tensor) -> torch.Tensor:
            patches = states[:, 2:].float()  # in order of frequency, then of time
            return patches.reshape(len(states), n_bins, -1, states.shape[2]).mean(dim=1)

        return Stack(encoder.layers, encoder.layernorm, to_frames)


@dataclass(frozen=True)
class PatchFrontEnd(SpectrogramFrontEnd):
    """For AST: a Kaldi filter bank of the whole window, padded as the checkpoint requires.

    The feature extractor of transformers computes it by torchaudio if that is installed, with
    differences of rounding.
    """

    #: Steps of the spectrogram between frames.
    time_stride: int
    #: Frames of the whole window.
    n_frames: int
    #: Window and hop of the spectrogram, which are fixed, in samples.
    window: int = 400
    hop: int = 160

    @property
    def minimum_samples(self) -> int:
        """One step of the spectrogram."""
        return self.window

    @property
    def maximum_samples(self) -> int:
        """The whole window, 10.24 s."""
        return self.hop * int(self.extractor.max_length)

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return the spectrograms of the whole window, none of the clips being longer.

        ``input_values`` is float32, shape (n_clips, n_steps, n_mels).
        """
        return {"input_values": self.spectrograms(waveforms, "input_values")}

    def frames(self, n_samples: int) -> int:
        """Return the number of frames that begin within a clip."""
        n_steps = (n_samples - self.window) // self.hop + 1
        return min(math.ceil(n_steps / self.time_stride), self.n_frames)
