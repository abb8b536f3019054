"""emotion2vec and emotion2vec+."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..checkpoint_limits import check_frames
from ..emotion2vec_network import Emotion2vec as Network
from ..emotion2vec_network import Emotion2vecConfig
from ..front_end import FrontEnd, WaveformFrontEnd
from .family import Family, Stack

#: Of all published checkpoints, in Hz.
_SAMPLING_RATE = 16000


@dataclass(frozen=True)
class Emotion2vecFrontEnd(WaveformFrontEnd):
    """Samples, scaled as torch's ``layer_norm`` does it."""

    #: What is added to the variance.
    epsilon: float = 1e-5


class Emotion2vec(Family):
    """emotion2vec of Ma et al. (2024), which transformers does not have.

    The blocks of the prenet, which the published code keeps apart, are the first of the encoder's
    blocks. Layer ``0`` is their input, with positional information and after a layer norm; the last
    layer is what FunASR returns. The extra tokens are not pooled.
    """

    title = "emotion2vec, emotion2vec+"
    model_types: ClassVar[tuple[str, ...]] = ("emotion2vec",)
    classes: ClassVar[tuple[str, ...]] = ()

    def n_blocks(self, config: Emotion2vecConfig) -> int:
        """Return the number of blocks, those of the prenet included."""
        return config.n_blocks

    def front_end(self, name: str, config: Emotion2vecConfig, extractor: Any = None) -> FrontEnd:
        """Return the front end of a checkpoint, which has no feature extractor."""
        front_end = Emotion2vecFrontEnd(
            _SAMPLING_RATE,
            config.normalise,
            tuple(kernel for _, kernel, _ in config.convolutions),
            tuple(stride for _, _, stride in config.convolutions),
        )
        check_frames(name, front_end.frames(_SAMPLING_RATE))
        return front_end

    def stack(self, encoder: Network) -> Stack:
        """Return the blocks of an encoder, which itself keeps padding out of its numbers."""
        return Stack(encoder.blocks, to_frames=encoder.without_extra_tokens)
