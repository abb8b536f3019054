"""wav2vec 2.0 and the encoders of its shape: strided convolutions over samples, then blocks."""

from typing import Any, ClassVar

from ..checkpoint_limits import check_frames
from ..front_end import FrontEnd, WaveformFrontEnd
from ..padding import Valid, ValidForAll, make_padding_exact
from .family import Family, Stack


class Wav2Vec2(Family):
    """wav2vec 2.0, HuBERT, WavLM, data2vec-audio and UniSpeech: one shape, several trainings."""

    title = "wav2vec 2.0, XLS-R, HuBERT, WavLM, data2vec-audio, UniSpeech, UniSpeech-SAT"
    model_types: ClassVar[tuple[str, ...]] = (
        "wav2vec2",
        "hubert",
        "wavlm",
        "data2vec-audio",
        "unispeech",
        "unispeech-sat",
    )
    classes: ClassVar[tuple[str, ...]] = (
        "Wav2Vec2Model", "HubertModel", "WavLMModel", "Data2VecAudioModel", "UniSpeechModel",
        "UniSpeechSatModel",
    )  # fmt: skip
    layers = "`0` … `L`; `final_norm` of large models"
    is_trainable = True
    is_exportable = True
    unused = ("adapter.",)

    def front_end(self, name: str, config: Any, extractor: Any) -> FrontEnd:
        """Return the front end of a checkpoint."""
        front_end = self.waveform_front_end(config, extractor)
        check_frames(name, front_end.frames(front_end.sampling_rate))
        return front_end

    def waveform_front_end(self, config: Any, extractor: Any) -> WaveformFrontEnd:
        """Return the front end, which has not been checked."""
        return WaveformFrontEnd(
            sampling_rate=int(extractor.sampling_rate),
            normalise=bool(extractor.do_normalize),
            kernels=tuple(config.conv_kernel),
            strides=tuple(config.conv_stride),
        )

    def stack(self, encoder: Any) -> Stack:
        """Return the blocks of an encoder.

        Models whose blocks end in a norm apply ``layer_norm`` before the first block.
        """
        return Stack(encoder.encoder.layers, getattr(encoder.encoder, "layer_norm", None))

    def make_exact(self, encoder: Any, valid: Valid | ValidForAll) -> None:
        """Mask the group norm and the positional convolutions."""
        make_padding_exact(encoder, valid)

    def encoder_in_classifier(self, model: Any) -> Any:
        """Return the encoder within transformers' model for audio classification."""
        return model.base_model

    def freeze_front_end(self, model: Any) -> None:
        """Exclude the convolutions from training."""
        model.freeze_feature_encoder()

    def ends_in_norm(self, config: Any) -> bool:
        """Whether a norm follows the last block."""
        return bool(getattr(config, "do_stable_layer_norm", False))
