"""The questions that a family of encoders answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..checkpoint_limits import Limits
from ..front_end import FrontEnd
from ..padding import Valid, ValidForAll


def same_states(states: torch.Tensor) -> torch.Tensor:
    """Return the states unchanged: for encoders with one hidden state per frame."""
    return states


@dataclass(frozen=True)
class Stack:
    """The transformer blocks of an encoder, and how their hidden states become layers."""

    #: A ``ModuleList``; the first argument of each block, or ``hidden_states``, is its input.
    blocks: Any
    #: The norm after the last block, if the architecture has one.
    norm: nn.Module | None = None
    #: From hidden states as a block returns them to those of frames in order, shape (n_clips,
    #: n_frames, width).
    to_frames: Callable[[torch.Tensor], torch.Tensor] = same_states
    #: From the valid frames of the blocks to those of the norm.
    norm_frames: Callable[[int], int] = int


@dataclass(frozen=True)
class Part:
    """Where the encoder is in the checkpoint of a larger model, of which nothing else is read."""

    #: Names of the classes of the encoder and of its configuration, within transformers.
    model_class: str
    config_class: str
    #: Prefixes of the names of its weights; those with the first one that occurs are read.
    prefixes: tuple[str, ...]
    #: Where its configuration is in ``config.json``; None is the whole file.
    config_key: str | None = None


class Family:
    """A family of encoders: how it is loaded, what its input is, and where its layers are.

    A subclass describes each family; its instances have no state. Configurations (``config``) are
    those of transformers, of the encoder alone.
    """

    #: The name in the documentation.
    title: ClassVar[str]
    #: The ``model_type`` in ``config.json`` of the checkpoints that can be loaded.
    model_types: ClassVar[tuple[str, ...]]
    #: The classes of the encoder in transformers, for the documentation.
    classes: ClassVar[tuple[str, ...]]
    #: What the encoder reads, for the documentation.
    input: ClassVar[str] = "waveform"
    #: Hidden states per second of a clip, in published checkpoints.
    frames_per_second: ClassVar[float] = 50
    #: Its layers, for the documentation; see :mod:`serpipe.features.pooling`.
    layers: ClassVar[str] = "`0` … `L`"
    #: Relative error of every layer against plain transformers, which tests assert in float32.
    tolerance: ClassVar[float] = 1e-5
    #: The shortest clip that published checkpoints take, in milliseconds.
    shortest_milliseconds: ClassVar[int] = 25
    #: The length to which every clip is padded, without a mask, in published checkpoints; None
    #: means that clips are not padded.
    window_seconds: ClassVar[float | None] = None
    #: Whether it can be fine-tuned, and evaluated as a trained classifier.
    is_trainable: ClassVar[bool] = False
    #: Whether it can be exported to ONNX.
    is_exportable: ClassVar[bool] = False

    #: Class of the feature extractor in transformers; None is the class that transformers chooses.
    extractor: ClassVar[str | None] = None
    #: Limits of the configuration and of that of the feature extractor, beside the common ones.
    config_limits: ClassVar[Limits] = Limits()
    extractor_limits: ClassVar[Limits] = Limits()
    #: A regular expression for the names of the weights of blocks; its group is the block's number.
    block_pattern: ClassVar[str] = r"(?:^|\.)encoder\.layers\.(\d{1,6})\."
    #: Prefixes of weights that the hidden states do not depend on.
    unused: ClassVar[tuple[str, ...]] = ()
    #: By ``model_type``: those encoders of which nothing but the encoder is read.
    parts: ClassVar[Mapping[str, Part]] = {}

    @property
    def has_window(self) -> bool:
        """Whether every clip is padded to one length, without a mask."""
        return self.window_seconds is not None

    def model_class(self, config: Any) -> Any:
        """Return the transformers class whose weights are loaded, if it is not in ``parts``."""
        import transformers

        return transformers.MODEL_MAPPING[type(config)]

    def encoder(self, model: Any) -> nn.Module:
        """Return the encoder within a model of :meth:`model_class`."""
        encoder: nn.Module = model
        return encoder

    def n_blocks(self, config: Any) -> int:
        """Return the number of blocks."""
        return int(config.num_hidden_layers)

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return what makes the input of the encoder.

        ``extractor`` is the feature extractor of the checkpoint, whose name is for messages. Raise
        UserError if it does not fit the encoder, or if the variant is not supported.
        """
        raise NotImplementedError

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder."""
        raise NotImplementedError

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Change an encoder in place so that a clip has the same states in a batch as alone.

        ``valid`` is set before each batch.
        """

    # Only for families that can be fine-tuned:

    def encoder_in_classifier(self, model: Any) -> Any:
        """Return the encoder within transformers' model for audio classification."""
        raise NotImplementedError

    def freeze_front_end(self, model: Any) -> None:
        """Exclude the layers before the blocks of such a model from training."""
        raise NotImplementedError

    def ends_in_norm(self, config: Any) -> bool:
        """Whether a norm follows the last block."""
        raise NotImplementedError
