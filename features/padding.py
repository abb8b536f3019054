"""Make padded batches exact: a clip has the same hidden states in a batch as alone.

An attention mask hides padding from the blocks, but three things come before the blocks:

- a group norm in the first convolution (``config.feat_extract_norm == "group"``) takes its
  statistics over time: here over the valid samples only;
- data2vec's stack of positional convolutions lets padding leak from layer to layer: here it is
  zeroed after each;
- in Whisper, which has no mask, most of the 30 s window is padding: see :mod:`.whisper`.
"""

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def counts_on(device: torch.device, counts: Sequence[int]) -> torch.Tensor:
    """Return counts as an int64 tensor on a device, without waiting for a busy GPU."""
    tensor = torch.tensor(counts)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class ValidForAll:
    """How much of each clip in the current batch is not padding, for all threads.

    For training: on a GPU, another thread recomputes states in the backward pass.
    """

    #: Valid samples of each clip; None if nothing is padded.
    samples: Sequence[int] | None = None
    #: Valid frames of each clip; None outside a batch.
    frames: Sequence[int] | None = None


class Valid(threading.local):
    """The attributes of :class:`ValidForAll`, for each thread separately."""

    samples: Sequence[int] | None = None
    frames: Sequence[int] | None = None


class MaskedGroupNorm(nn.Module):
    """A group norm of single channels, or of all together, over the valid part of each clip.

    It replaces ``norm`` and uses its weights. ``kernel`` and ``stride`` are those of the
    convolution before it, from samples to its steps.
    """

    def __init__(
        self, norm: nn.GroupNorm, valid: Valid | ValidForAll, kernel: int, stride: int
    ) -> None:
        super().__init__()
        if norm.num_groups != 1:
            check_channel_norm(norm)
        self.norm, self.valid, self.kernel, self.stride = norm, valid, kernel, stride

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Normalise ``states`` of shape (n_clips, n_channels, n_steps); same shape back."""
        if self.valid.samples is None:
            normed: torch.Tensor = self.norm(states)
            return normed
        steps = [(n - self.kernel) // self.stride + 1 for n in self.valid.samples]
        count = counts_on(states.device, steps)[:, None, None]
        real = torch.arange(states.shape[2], device=states.device) < count
        dims = (1, 2) if self.norm.num_groups == 1 else (2,)
        count = count * (self.norm.num_channels // self.norm.num_groups)
        exact = states.float()
        mean = torch.where(real, exact, 0.0).sum(dim=dims, keepdim=True) / count
        centred = torch.where(real, exact - mean, 0.0)
        variance = centred.square().sum(dim=dims, keepdim=True) / count
        return scale_channels(self.norm, centred, variance).to(states.dtype)


def check_channel_norm(norm: nn.GroupNorm) -> None:
    """Raise ValueError unless a group norm has one channel per group."""
    if norm.num_groups != norm.num_channels:
        raise ValueError("a group norm has more than one channel per group")


def scale_channels(
    norm: nn.GroupNorm, centred: torch.Tensor, variance: torch.Tensor
) -> torch.Tensor:
    """Return centred float32 states, scaled to unit variance and by the weights of a group norm.

    States have the shape (n_clips, n_channels, n_steps), the variance (n_clips, n_channels, 1), or
    (n_clips, 1, 1) if the norm is over all channels.
    """
    scaled = centred / (variance + norm.eps).sqrt()
    return scaled * norm.weight[:, None].float() + norm.bias[:, None].float()


def make_padding_exact(model: Any, valid: Valid | ValidForAll) -> None:
    """Replace or hook the modules in which padding would change the numbers of a clip.

    ``model`` takes waveforms; ``valid`` must be set before each batch.
    """
    config = model.config
    if getattr(config, "feat_extract_norm", "layer") == "group":
        first = model.feature_extractor.conv_layers[0]
        first.layer_norm = MaskedGroupNorm(
            first.layer_norm, valid, config.conv_kernel[0], config.conv_stride[0]
        )

    def after(module: nn.Module, args: Any, states: torch.Tensor) -> torch.Tensor:
        return zero_padding(states, valid)

    for layer in getattr(getattr(model.encoder, "pos_conv_embed", None), "layers", ()):
        layer.register_forward_hook(after)


def zero_padding(states: torch.Tensor, valid: Valid | ValidForAll) -> torch.Tensor:
    """Return states, shape (n_clips, n_channels, n_frames), with zeros beyond each clip."""
    if valid.samples is None or valid.frames is None:
        return states
    count = counts_on(states.device, valid.frames)[:, None, None]
    return torch.where(torch.arange(states.shape[2], device=states.device) < count, states, 0.0)
