"""The two wav2vec encoders with convolutions inside their blocks."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...errors import UserError
from ..audio import Waveform
from ..checkpoint_limits import CONFIG, EXTRACTOR, Limits
from ..front_end import FrontEnd, SpectrogramFrontEnd, masked_frames
from ..padding import Valid, ValidForAll, zero_padding
from .family import Family, Stack
from .wav2vec2 import Wav2Vec2

_POSITIONS = Limits(
    integers={
        "max_source_positions": (1, 1 << 14),
        "conv_depthwise_kernel_size": (1, 511),
        "rotary_embedding_base": (1, 1 << 24),
    },
    floats={"conformer_conv_dropout": (0, 1)},
    choices={"position_embeddings_type": (None, "rotary", "relative", "relative_key")},
)


class Wav2Vec2Bert(Family):
    """w2v-BERT 2.0: pairs of mel frames, blocks with causal convolutions.

    Padding is masked in the attention and zeroed before the convolutions, which look backwards
    only. The feature extractor pads an odd number of mel frames; the model masks the pair with the
    padding, so that it is no frame, in a batch or alone.
    """

    title = "w2v-BERT 2.0"
    model_types = ("wav2vec2-bert",)
    classes = ("Wav2Vec2BertModel",)
    input = "mel filter bank, normalised over the clip"
    shortest_milliseconds = 35
    extractor = "SeamlessM4TFeatureExtractor"
    config_limits = Limits(
        integers={
            **_POSITIONS.integers,
            "feature_projection_input_dim": (1, 1 << 12),
            "left_max_position_embeddings": (0, 1 << 14),
            "right_max_position_embeddings": (0, 1 << 14),
        },
        floats=_POSITIONS.floats,
        choices=_POSITIONS.choices,
    )
    extractor_limits = Limits(integers={"num_mel_bins": (1, 512), "stride": (1, 32)})
    unused = ("adapter.", "intermediate_ffn.")

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end, whose features must have the size that the encoder needs."""
        given = extractor.num_mel_bins * extractor.stride
        needed = config.feature_projection_input_dim
        if given != needed:
            raise UserError(
                f"{name}: {EXTRACTOR} gives {given} features a frame, but {CONFIG} needs {needed}; "
                "download the checkpoint again"
            )
        return MelPairsFrontEnd(extractor)

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder; each ends in a norm of its own."""
        return Stack(encoder.encoder.layers)

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Let threads share the table of positions."""
        share_positions(encoder)


class Wav2Vec2Conformer(Wav2Vec2):
    """wav2vec 2.0 with Conformer blocks, whose convolutions look in both directions.

    transformers lets padding leak into these convolutions; here it is zeroed before each.
    """

    title = "wav2vec 2.0 Conformer"
    model_types = ("wav2vec2-conformer",)
    classes = ("Wav2Vec2ConformerModel",)
    layers = "`0` … `L`, `final_norm`"
    is_trainable = False
    is_exportable = False
    config_limits = _POSITIONS

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Mask the group norm, zero padding before convolutions, share the table of positions."""
        super().make_exact(encoder, valid)
        for block in encoder.encoder.layers:
            block.conv_module.depthwise_conv.register_forward_pre_hook(
                lambda module, args: (zero_padding(args[0], valid),)
            )
        share_positions(encoder)


@dataclass(frozen=True)
class MelPairsFrontEnd(SpectrogramFrontEnd):
    """For w2v-BERT 2.0: a Kaldi filter bank, two mel frames of which make one frame."""

    #: Its window and hop, which are fixed, in samples.
    window: int = 400
    hop: int = 160

    @property
    def stride(self) -> int:
        """The number of mel frames that make one frame."""
        return int(self.extractor.stride)

    @property
    def minimum_samples(self) -> int:
        """One frame, of two mel frames at least: the variance of one is not defined."""
        return self.window + self.hop * (max(2, self.stride) - 1)

    @property
    def maximum_samples(self) -> None:
        """``None``: there is no limit."""

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return the mel frames of clips, each normalised by itself.

        ``input_features`` is float32, shape (n_clips, n_frames, n_mels * stride);
        ``attention_mask``, for clips of different numbers of frames, int64, shape (n_clips,
        n_frames).
        """
        features = self.spectrograms(waveforms)
        return masked_frames(features, [self.frames(len(waveform)) for waveform in waveforms])

    def frames(self, n_samples: int) -> int:
        """Return the number of whole frames of a clip."""
        return ((n_samples - self.window) // self.hop + 1) // self.stride


class LockedPositions(nn.Module):
    """A table of positions that several threads may use.

    Rotary and relative positions of transformers keep the table of the last clip in the module. A
    thread with a clip of another length could replace it between the check and the use.
    """

    def __init__(self, positions: nn.Module) -> None:
        super().__init__()
        self.positions = positions
        self._lock = threading.Lock()

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the positions for states of shape (n_clips, n_frames, width)."""
        with self._lock:
            table: torch.Tensor = self.positions(states)
            return table


def share_positions(encoder: Any) -> None:
    """Let threads share the table of positions of an encoder, which is changed in place."""
    if encoder.encoder.embed_positions is not None:
        encoder.encoder.embed_positions = LockedPositions(encoder.encoder.embed_positions)
