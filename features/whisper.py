"""Skip what Whisper would compute for padding alone, without changing a number.

The checkpoint demands 30 s; an utterance lasts three or four. Its frames attend to the padding's,
so that every block but the last has to compute them all. But

- of the last block, only the frames that carry the clip are pooled: only they need to be queries;
- before the positions are added, the spectrogram of padding is one constant, and so is what the
  two convolutions make of it: it is computed once, not 1500 times.
"""

from types import MethodType
from typing import Any

import torch
from torch import nn

from .padding import Valid, ValidForAll


class ConvolutionOverPadding(nn.Module):
    """A convolution over time whose input is constant after some point.

    Parameters
    ----------
    convolution : Conv1d
        The layer it stands for: kernel 3, padding 1, stride 1 or 2.
    valid : Valid
        Says how many frames carry the clips.
    steps_per_frame : int
        Input steps to a frame of the encoder.
    """

    #: Input steps after the last valid frame that the clip, its window or a kernel may reach.
    MARGIN = 16

    def __init__(self, convolution: nn.Conv1d, valid: Valid, steps_per_frame: int) -> None:
        super().__init__()
        self.convolution, self.valid = convolution, valid
        self.steps_per_frame = steps_per_frame

    @property
    def stride(self) -> tuple[int, ...]:
        """That of the convolution, which the encoder asks for."""
        return self.convolution.stride

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Convolve ``inputs`` of shape (n_clips, n_channels, n_steps)."""
        n_steps, stride = inputs.shape[2], self.convolution.stride[0]
        head = self.steps_per_frame * max(self.valid.frames or [n_steps]) + self.MARGIN
        if head + self.MARGIN >= n_steps:
            whole: torch.Tensor = self.convolution(inputs)
            return whole
        # The clip, a stretch of the constant, and the right edge with its zero padding.
        short = self.convolution(torch.cat([inputs[..., :head], inputs[..., -self.MARGIN :]], 2))
        edge = self.MARGIN // stride // 2
        constant = short[..., -edge - 1 : -edge]
        missing = n_steps // stride - short.shape[2]
        parts = [short[..., :-edge], constant.expand(-1, -1, missing), short[..., -edge:]]
        return torch.cat(parts, dim=2)


def skip_padding(encoder: Any, valid: Valid) -> None:
    """Make a Whisper encoder skip it.

    Parameters
    ----------
    encoder : WhisperEncoder
        Changed in place. Its last block then returns the frames that carry a clip, and no others.
    valid : Valid
        Set before each batch.
    """
    encoder.conv1 = ConvolutionOverPadding(encoder.conv1, valid, 2)
    encoder.conv2 = ConvolutionOverPadding(encoder.conv2, valid, 2)
    ask_for_valid_frames(encoder.layers[-1], valid)


def ask_for_valid_frames(last: Any, valid: Valid | ValidForAll) -> None:
    """Make a block return the frames that carry a clip, and no others.

    Parameters
    ----------
    last : WhisperEncoderLayer
        Changed in place. No block may come after it, as that would attend to all frames.
    valid : Valid or ValidForAll
        Set before each batch.
    """

    def forward(block: Any, states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        n_frames = max(valid.frames or [states.shape[1]])
        normed = block.self_attn_layer_norm(states)
        attended, _ = block.self_attn(normed[:, :n_frames], key_value_states=normed)
        states = states[:, :n_frames] + attended
        hidden = block.activation_fn(block.fc1(block.final_layer_norm(states)))
        result: torch.Tensor = states + block.fc2(hidden)
        if result.dtype == torch.float16:  # as transformers does, against overflow
            limit = torch.finfo(torch.float16).max - 1000
            result = result.clamp(-limit, limit)
        return result

    last.forward = MethodType(forward, last)
