"""The families of encoders that can be loaded, one module for each shape of encoder.

``docs/how-to/add-an-encoder-family.md`` describes how to add one.
"""

from .ast import AudioSpectrogramTransformer
from .audio_towers import Qwen2Audio, Voxtral
from .clap import Clap
from .conformer import Wav2Vec2Bert, Wav2Vec2Conformer
from .family import Family, Part, Stack
from .moonshine import Moonshine
from .parakeet import Parakeet
from .sew import Sew, SewD
from .wav2vec2 import Wav2Vec2
from .whisper import Whisper

__all__ = ["FAMILIES", "SUPPORTED", "Family", "Part", "Stack", "family_of"]

FAMILIES: tuple[Family, ...] = (
    Wav2Vec2(),
    Whisper(),
    Wav2Vec2Bert(),
    Wav2Vec2Conformer(),
    Sew(),
    SewD(),
    Qwen2Audio(),
    Voxtral(),
    AudioSpectrogramTransformer(),
    Clap(),
    Moonshine(),
    Parakeet(),
)

_FAMILY_OF = {model_type: family for family in FAMILIES for model_type in family.model_types}
#: The values of ``model_type`` that can be loaded.
SUPPORTED = tuple(_FAMILY_OF)


def family_of(model_type: str) -> Family:
    """Return the family of a ``model_type``, one of ``SUPPORTED``."""
    return _FAMILY_OF[model_type]
