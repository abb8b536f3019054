"""The encoder of Whisper, without computing what padding alone would need.

The checkpoint takes windows of 30 s; an utterance lasts three or four. Its frames attend to those
of the padding, so that every block but the last must compute them all. But

- of the last block, only the frames of the clip are pooled: only they need to be queries;
- before positions are added, the spectrogram of padding is constant, and so is the output of the
  two convolutions: it is computed once, not 1500 times.
"""

from types import MethodType
from typing import Any

import torch
from torch import nn

from ...errors import UserError
from ..checkpoint_limits import CONFIG, EXTRACTOR
from ..front_end import FrontEnd, LogMelFrontEnd
from ..padding import Valid, ValidForAll
from .family import Family, Stack


class Whisper(Family):
    """The encoder of Whisper, without its decoder."""

    title = "Whisper"
    model_types = ("whisper",)
    classes = ("WhisperEncoder",)
    input = "log-mel spectrogram"
    layers = "`0` … `L`, `final_norm`"
    window_seconds = 30
    is_trainable = True
    is_exportable = True
    unused = ("projector.", "classifier.")

    def model_class(self, config: Any) -> Any:
        """Return the class of Whisper that has no decoder."""
        import transformers

        return transformers.WhisperForAudioClassification

    def encoder(self, model: Any) -> nn.Module:
        """Return the encoder of that class."""
        encoder: nn.Module = model.encoder
        return encoder

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end, whose spectrogram must have the size that the encoder needs."""
        return whisper_front_end(name, config, extractor)

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder."""
        return Stack(encoder.layers, encoder.layer_norm)

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Skip padding: in a window of fixed length no other clip matters."""
        skip_padding(encoder, valid)

    def encoder_in_classifier(self, model: Any) -> Any:
        """Return the encoder within transformers' model for audio classification."""
        return model.encoder

    def freeze_front_end(self, model: Any) -> None:
        """Exclude the two convolutions from training."""
        for convolution in (model.encoder.conv1, model.encoder.conv2):
            convolution.requires_grad_(False)

    def ends_in_norm(self, config: Any) -> bool:
        """Whether a norm follows the last block."""
        return True


def whisper_front_end(name: str, config: Any, extractor: Any) -> LogMelFrontEnd:
    """Return the front end of an encoder of the shape of Whisper.

    ``name`` is that of the checkpoint, for messages. Raise UserError if the spectrogram has another
    size than the encoder needs.
    """
    # The second of two convolutions has a stride of 2.
    given = (extractor.feature_size, extractor.nb_max_frames)
    needed = (config.num_mel_bins, 2 * config.max_source_positions)
    if given != needed:
        raise UserError(
            f"{name}: {EXTRACTOR} gives {given[0]} mel bins and {given[1]} steps, but {CONFIG} "
            f"needs {needed[0]} and {needed[1]}; download the checkpoint again"
        )
    return LogMelFrontEnd(extractor, extractor.n_samples // config.max_source_positions)


class ConvolutionOverPadding(nn.Module):
    """A convolution over time whose input is constant after some point.

    It replaces ``convolution``: kernel 3, padding 1, stride 1 or 2. ``steps_per_frame`` counts
    input steps per frame of the encoder.
    """

    #: Input steps after the last valid frame that the clip, its window or a kernel may reach.
    MARGIN = 16

    def __init__(
        self, convolution: nn.Conv1d, valid: Valid | ValidForAll, steps_per_frame: int
    ) -> None:
        super().__init__()
        self.convolution, self.valid = convolution, valid
        self.steps_per_frame = steps_per_frame

    @property
    def stride(self) -> tuple[int, ...]:
        """The stride of the convolution, which the encoder reads."""
        return self.convolution.stride

    @property
    def weight(self) -> torch.Tensor:
        """The weight of the convolution, whose dtype some encoders read."""
        return self.convolution.weight

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


def skip_padding(encoder: Any, valid: Valid | ValidForAll) -> None:
    """Make a Whisper encoder skip padding; ``valid`` must be set before each batch.

    It is changed in place. Its last block then returns only the frames of a clip.
    """
    skip_padding_in_convolutions(encoder, valid)
    compute_valid_frames_only(encoder.layers[-1], valid)


def skip_padding_in_convolutions(encoder: Any, valid: Valid | ValidForAll) -> None:
    """Make the convolutions of an encoder skip padding; it is changed in place."""
    encoder.conv1 = ConvolutionOverPadding(encoder.conv1, valid, 2)
    encoder.conv2 = ConvolutionOverPadding(encoder.conv2, valid, 2)


def compute_valid_frames_only(last: Any, valid: Valid | ValidForAll) -> None:
    """Make a block compute and return only the frames of a clip.

    It is changed in place and must be the last: a later block would attend to all frames. ``valid``
    must be set before each batch.
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
