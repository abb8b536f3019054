"""The encoder of Moonshine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...errors import UserError
from ..audio import Waveform
from ..checkpoint_limits import CONFIG, Limits, check_frames
from ..front_end import FrontEnd, WaveformFrontEnd
from ..padding import MaskedGroupNorm, Valid, ValidForAll
from .family import Family, Part, Stack

#: The three convolutions of every Moonshine.
_KERNELS, _STRIDES = (127, 7, 3), (64, 3, 2)


class Moonshine(Family):
    """The encoder of Moonshine of Jeffries et al. (2024), without its decoder.

    In a padded batch, transformers takes the statistics of the group norm over the padding, too,
    and attends to frames that the convolutions compute partly from it. Here the norm is over the
    clip, and only whole frames are attended to.
    """

    title = "Moonshine"
    model_types = ("moonshine",)
    classes = ("MoonshineEncoder",)
    frames_per_second = 41.7
    shortest_milliseconds = 56
    layers = "`0` … `L`, `final_norm`"
    block_pattern = r"^layers\.(\d{1,6})\."
    parts: ClassVar[Mapping[str, Part]] = {
        "moonshine": Part(
            "models.moonshine.modeling_moonshine.MoonshineEncoder",
            "MoonshineConfig",
            ("model.encoder.", "encoder."),
        )
    }
    config_limits = Limits(
        integers={
            "encoder_num_hidden_layers": (1, 256),
            "encoder_num_attention_heads": (1, 1024),
            "encoder_num_key_value_heads": (1, 1024),
            "head_dim": (1, 1 << 12),
        },
        choices={
            "attention_bias": (True, False),
            "pad_head_dim_to_multiple_of": (None, 1, 2, 4, 8, 16, 32, 64, 128),
        },
    )

    def n_blocks(self, config: Any) -> int:
        """Return the number of blocks of the encoder."""
        return int(config.encoder_num_hidden_layers)

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end; refuse rotary positions that depend on the length of a batch."""
        rotary = config.rope_parameters
        share = rotary.get("partial_rotary_factor", 1.0)
        if rotary.get("rope_type") != "default" or not 0 < share <= 1:
            raise UserError(
                f"{name}: the rotary positions in its {CONFIG} are {str(rotary)[:200]}; only those "
                "of type 'default' with a partial_rotary_factor of up to 1 are supported; choose "
                "another --encoder"
            )
        front_end = MoonshineFrontEnd(
            int(extractor.sampling_rate), bool(extractor.do_normalize), _KERNELS, _STRIDES
        )
        check_frames(name, front_end.frames(front_end.sampling_rate))
        return front_end

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder."""
        return Stack(encoder.layers, encoder.layer_norm)

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Mask the group norm; the front end corrects the mask of the attention."""
        encoder.groupnorm = MaskedGroupNorm(encoder.groupnorm, valid, _KERNELS[0], _STRIDES[0])


@dataclass(frozen=True)
class MoonshineFrontEnd(WaveformFrontEnd):
    """Samples, with a mask that leaves as many frames as the convolutions give for a clip alone."""

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Stack prepared clips; if their lengths differ, pad them with zeros and add a mask.

        ``input_values`` is float32, shape (n_clips, n_samples). ``attention_mask``, int64 of the
        same shape, is not that of samples: the encoder reads one element for each frame, in steps
        of the product of the strides.
        """
        inputs = super().inputs(waveforms)
        if "attention_mask" in inputs:
            step = 1
            for stride in self.strides:
                step *= stride
            ends = torch.tensor([step * self.frames(len(waveform)) for waveform in waveforms])
            mask = inputs["attention_mask"]
            inputs["attention_mask"] = (torch.arange(mask.shape[1]) < ends[:, None]).long()
        return inputs
