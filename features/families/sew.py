"""SEW and SEW-D: wav2vec 2.0 whose blocks see several frames of the convolutions as one."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..checkpoint_limits import Limits
from ..front_end import WaveformFrontEnd, samples_of
from ..padding import Valid, ValidForAll, counts_on
from .family import Stack
from .wav2vec2 import Wav2Vec2


class Sew(Wav2Vec2):
    """SEW of Wu et al. (2022), *Performance-Efficiency Trade-offs in Unsupervised Pre-training*.

    Layers have the frames that the blocks compute, before they are upsampled again. In a padded
    batch transformers attends to the last frame of a clip even if part of it is padding, a frame
    that the clip does not have alone; here it is masked.
    """

    title = "SEW"
    model_types = ("sew",)
    classes = ("SEWModel",)
    frames_per_second = 25
    shortest_milliseconds = 45
    layers = "`0` … `L`"
    is_trainable = False
    is_exportable = False
    config_limits = Limits(integers={"squeeze_factor": (1, 64)})

    def waveform_front_end(self, config: Any, extractor: Any) -> WaveformFrontEnd:
        """Return the front end, which has not been checked."""
        of_convolutions = super().waveform_front_end(config, extractor)
        return SqueezedFrontEnd(**vars(of_convolutions), squeeze_factor=int(config.squeeze_factor))

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder; each ends in a norm of its own."""
        return Stack(encoder.encoder.layers)

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Mask the group norm, and in the attention all but whole frames."""
        super().make_exact(encoder, valid)

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            real = real_frames(args[0], valid)
            if real is None:
                return None
            mask = torch.zeros_like(real, dtype=args[0].dtype)
            mask = mask.masked_fill(~real, torch.finfo(mask.dtype).min)
            return args, kwargs | {"attention_mask": mask}

        for block in encoder.encoder.layers:
            block.register_forward_pre_hook(before, with_kwargs=True)


class SewD(Sew):
    """SEW-D, with the disentangled attention of DeBERTa."""

    title = "SEW-D"
    model_types = ("sew-d",)
    classes = ("SEWDModel",)
    block_pattern = r"(?:^|\.)encoder\.encoder\.layer\.(\d{1,6})\."
    config_limits = Limits(
        integers={
            "squeeze_factor": (1, 64),
            "max_position_embeddings": (1, 1 << 14),
            "position_buckets": (-1, 1 << 12),
            "max_relative_positions": (-1, 1 << 14),
            "attention_head_size": (1, 1 << 12),
            "conv_kernel_size": (0, 0),  # a convolution that padding would leak into
        },
        floats={"feature_layer_norm_eps": (1e-20, 0.1)},
        choices={"share_att_key": (True, False), "relative_attention": (True, False)},
    )

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder; each ends in a norm of its own."""
        return Stack(encoder.encoder.encoder.layer)

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Mask the group norm, and in the attention all but whole frames."""
        Wav2Vec2.make_exact(self, encoder, valid)

        def before(module: nn.Module, args: Any) -> Any:
            real = real_frames(args[0], valid)
            return None if real is None else (args[0], real, *args[2:])

        for block in encoder.encoder.encoder.layer:
            block.register_forward_pre_hook(before)


@dataclass(frozen=True)
class SqueezedFrontEnd(WaveformFrontEnd):
    """Samples, from which strided convolutions and an average over time make frames."""

    #: Frames of the convolutions that the blocks see as one; an incomplete one is dropped.
    squeeze_factor: int

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that gives one frame, in samples."""
        return samples_of(self.squeeze_factor, self.kernels, self.strides)

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of the blocks."""
        return super().frames(n_samples) // self.squeeze_factor


def real_frames(states: torch.Tensor, valid: Valid | ValidForAll) -> torch.Tensor | None:
    """Return whether each frame of states, shape (n_clips, n_frames, width), is one of the clip.

    Shape (n_clips, 1, 1, n_frames); None if nothing is padded.
    """
    if valid.samples is None or valid.frames is None:
        return None
    count = counts_on(states.device, valid.frames)[:, None, None, None]
    return torch.arange(states.shape[1], device=states.device) < count
