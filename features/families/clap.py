"""The audio encoder of CLAP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ...errors import UserError
from ..audio import Waveform
from ..checkpoint_limits import CONFIG, EXTRACTOR, Limits
from ..front_end import FrontEnd, SpectrogramFrontEnd
from .family import Family, Part, Stack


class Clap(Family):
    """The audio encoder of CLAP of Wu et al. (2023), a Swin Transformer, without the text encoder.

    Layers are those of the last of its stages: earlier ones have narrower states. A frame is the
    mean over the patches of one step in time. The feature extractor repeats a clip as often as it
    fits into the window of 10 s, and all frames of the window are pooled, as in the model itself.

    Checkpoints with feature fusion fuse crops of clips longer than the window. There are none here,
    and ``is_longer`` is false for every clip. The feature extractor of transformers sets it for one
    random clip of a batch, so that the numbers of a clip would depend on chance.
    """

    title = "CLAP (audio encoder)"
    model_types = ("clap", "clap_audio_model")
    classes = ("ClapAudioModel",)
    input = "log-mel spectrogram, 48 kHz"
    frames_per_second = 3.2
    shortest_milliseconds = 21
    layers = "`0` … `L` of the last stage, `final_norm`"
    window_seconds = 10
    extractor = "ClapFeatureExtractor"
    # Of stages, not of the blocks in one: all stages must be there.
    block_pattern = r"^audio_encoder\.layers\.(\d{1,6})\."
    parts: ClassVar[Mapping[str, Part]] = {
        "clap": Part("ClapAudioModel", "ClapAudioConfig", ("audio_model.",), "audio_config"),
        "clap_audio_model": Part("ClapAudioModel", "ClapAudioConfig", ("audio_model.", "")),
    }
    config_limits = Limits(
        integers={
            "window_size": (1, 64),
            "spec_size": (16, 1 << 12),
            "patch_size": (1, 64),
            "patch_embed_input_channels": (1, 4),
            "patch_embeds_hidden_size": (1, 1 << 12),
            "aff_block_r": (1, 256),
        },
        floats={
            "mlp_ratio": (0.01, 64),
            "drop_path_rate": (0, 1),
            "hidden_dropout_prob": (0, 1),
            "attention_probs_dropout_prob": (0, 1),
        },
        lists={"depths": (1, 64), "num_attention_heads": (1, 1024), "patch_stride": (1, 64)},
        choices={
            **dict.fromkeys(
                ("qkv_bias", "enable_patch_layer_norm", "enable_fusion"), (True, False)
            ),
            "flatten_patch_embeds": (True,),
        },
    )
    extractor_limits = Limits(
        integers={"fft_window_size": (2, 1 << 13), "max_length_s": (1, 60)},
        floats={"frequency_min": (0, 1 << 20), "frequency_max": (0, 1 << 20)},
        choices={
            "truncation": ("fusion", "rand_trunc"),
            "padding": ("repeatpad", "repeat", "pad"),
            "top_db": (None,),
        },
    )

    def n_blocks(self, config: Any) -> int:
        """Return the number of stages."""
        return len(config.depths)

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end, whose spectrogram must have the size that the encoder needs."""
        if extractor.feature_size != config.num_mel_bins:
            raise UserError(
                f"{name}: {EXTRACTOR} gives {extractor.feature_size} mel bins, but {CONFIG} needs "
                f"{config.num_mel_bins}; download the checkpoint again"
            )
        n_steps = config.spec_size // config.patch_stride[1] // 2 ** (len(config.depths) - 1)
        return RepeatedFrontEnd(extractor, n_steps * (config.spec_size // config.num_mel_bins))

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of the last stage.

        The spectrogram is cut in time into parts that are put above each other in frequency, so
        that it is square; see ``reshape_mel2img`` of transformers.
        """
        inner = encoder.audio_encoder
        n_parts = inner.freq_ratio
        height, width = inner.input_resolutions[-1]

        def to_frames(states: torch.Tensor) -> torch.Tensor:
            patches = states.float().reshape(len(states), n_parts, height // n_parts, width, -1)
            return patches.mean(dim=2).flatten(1, 2)

        return Stack(inner.layers[-1].blocks, inner.norm, to_frames)


@dataclass(frozen=True)
class RepeatedFrontEnd(SpectrogramFrontEnd):
    """For CLAP: log-mel spectrogram of a window of 10 s, filled as the checkpoint requires."""

    #: Frames of the whole window.
    n_frames: int

    @property
    def minimum_samples(self) -> int:
        """The window of the Fourier transform."""
        return int(self.extractor.fft_window_size)

    @property
    def maximum_samples(self) -> int:
        """The whole window, 10 s."""
        return int(self.extractor.nb_max_samples)

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Return the spectrograms of the whole window, none of the clips being longer.

        ``input_features`` is float32, shape (n_clips, n_crops, n_steps, n_mels), in which crops are
        equal; ``is_longer`` is bool, shape (n_clips, 1).
        """
        return {
            "input_features": self.spectrograms(waveforms),
            "is_longer": torch.zeros(len(waveforms), 1, dtype=torch.bool),
        }

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of the window, which a clip of any length fills."""
        return self.n_frames
