"""Save a randomly initialised encoder at its real size: speed does not depend on what it learnt.

python benchmarks/random_encoder.py wav2vec2-base FOLDER
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
#: Encoder: the class of transformers, and the settings that differ from its defaults.
SIZES: dict[str, tuple[str, dict[str, Any]]] = {
    "wav2vec2-base": ("Wav2Vec2", {}),
    "xls-r-300m": ("Wav2Vec2", _LARGE),
    "hubert-base": ("Hubert", {}),
    "wavlm-large": ("WavLM", _LARGE),
}


def save_encoder(folder: str | Path, kind: str, settings: Mapping[str, Any]) -> None:
    """Save an encoder with random weights, and its feature extractor."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    getattr(transformers, f"{kind}Model")(config).save_pretrained(folder)
    if kind == "Whisper":
        extractor: Any = transformers.WhisperFeatureExtractor()
    else:
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(folder)


if __name__ == "__main__":
    save_encoder(sys.argv[2], *SIZES[sys.argv[1]])
