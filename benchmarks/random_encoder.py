"""Save a randomly initialised encoder at its real size: speed does not depend on what it learnt.

python benchmarks/random_encoder.py wav2vec2-base FOLDER
"""

import sys

import torch
import transformers


def main() -> None:
    """Save the encoder named first into the folder named second."""
    name, folder = sys.argv[1:]
    torch.manual_seed(0)
    large = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    }
    config = {
        "wav2vec2-base": transformers.Wav2Vec2Config(),
        "xls-r-300m": transformers.Wav2Vec2Config(**large),
        "hubert-base": transformers.HubertConfig(),
        "wavlm-large": transformers.WavLMConfig(**large),
    }[name]
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


if __name__ == "__main__":
    main()
