"""The audio encoders of language models that have the shape of Whisper's."""

from collections.abc import Mapping
from typing import Any, ClassVar

from ..front_end import FrontEnd
from ..padding import Valid, ValidForAll
from .family import Family, Part, Stack
from .whisper import skip_padding_in_convolutions, whisper_front_end


class Qwen2Audio(Family):
    """The audio tower of Qwen2-Audio, without the language model.

    After the last block, frames are averaged in pairs and normalised: ``final_norm`` has half the
    frames of the other layers. As in the model, a last frame without a pair is dropped.
    """

    title = "Qwen2-Audio (audio tower)"
    model_types = ("qwen2_audio", "qwen2_audio_encoder")
    classes = ("Qwen2AudioEncoder",)
    input = "log-mel spectrogram"
    layers = "`0` … `L`, `final_norm` (25 per second)"
    window_seconds = 30
    extractor = "WhisperFeatureExtractor"
    block_pattern = r"^layers\.(\d{1,6})\."
    parts: ClassVar[Mapping[str, Part]] = {
        "qwen2_audio": Part(
            "Qwen2AudioEncoder",
            "Qwen2AudioEncoderConfig",
            ("audio_tower.", "model.audio_tower."),
            "audio_config",
        ),
        "qwen2_audio_encoder": Part("Qwen2AudioEncoder", "Qwen2AudioEncoderConfig", ("",)),
    }

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end, whose spectrogram must have the size that the encoder needs."""
        return whisper_front_end(name, config, extractor)

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder."""
        return Stack(encoder.layers, encoder.layer_norm, norm_frames=pairs_of)

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Skip padding in the convolutions: in a window of fixed length no other clip matters."""
        skip_padding_in_convolutions(encoder, valid)


class Voxtral(Qwen2Audio):
    """The audio tower of Voxtral, without the language model."""

    title = "Voxtral (audio tower)"
    model_types = ("voxtral", "voxtral_encoder")
    classes = ("VoxtralEncoder",)
    layers = "`0` … `L`, `final_norm`"
    parts: ClassVar[Mapping[str, Part]] = {
        "voxtral": Part(
            "VoxtralEncoder",
            "VoxtralEncoderConfig",
            ("audio_tower.", "model.audio_tower."),
            "audio_config",
        ),
        "voxtral_encoder": Part("VoxtralEncoder", "VoxtralEncoderConfig", ("",)),
    }

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder."""
        return Stack(encoder.layers, encoder.layer_norm)


def pairs_of(frames: int) -> int:
    """Return the number of whole pairs of frames, at least one."""
    return max(1, frames // 2)
