"""The baselines of the Odyssey 2024 emotion challenge, trained on MSP-Podcast.

They are ``3loi/SER-Odyssey-Baseline-WavLM-Categorical`` (labels), ``-Multi-Attributes`` and
``-Arousal``, ``-Dominance``, ``-Valence`` (ratings from 0 to 1) on the hub, whose code transformers
would run (``SERModel``), and serpipe does not. Here they are rebuilt in the form in which the
organisers published their training code (msplabresearch/MSP-Podcast_Challenge, ``net/pooling.py``
and ``net/ser.py``): WavLM large, attentive statistics pooling (Okabe et al., 2018, *Attentive
Statistics Pooling for Deep Speaker Embedding*, Interspeech), and fully connected layers.

The names of the weights and the entries of ``config.json`` are those that programs which use these
models name. No published weights have been loaded here. Not in any file, and taken from that code:
waveforms are scaled by ``(x - mean) / (std + 1e-6)`` with the ``mean`` and ``std`` of the training
data in ``config.json``, and the shape of WavLM is that of ``microsoft/wavlm-large`` in all that
``config.json`` does not name. What does not fit is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import UserError, counted
from ...features.audio import Waveform
from ...features.checkpoint import count_weights, load_with_prefix
from ...features.checkpoint_files import CheckpointFiles, Loaded, hash_config
from ...features.checkpoint_limits import (
    CONFIG,
    Limits,
    check_values,
    read_settings,
    read_weights,
    weight_names,
)
from ...features.families import family_of
from ...features.front_end import WaveformFrontEnd
from .published_model import PublishedConfig, PublishedModel

HEAD = "attentive statistics, fully connected layers"
_MODEL_TYPE = "wavlm"
_SAMPLING_RATE = 16000
_ENCODER, _POOLING, _LAYERS = "ssl_model.", "pool_model.", "ser_model."
_ATTRIBUTES = {"arousal", "valence", "dominance"}
_LIMITS = Limits(
    integers={
        "hidden_size": (1, 1 << 14),
        "num_hidden_layers": (1, 256),
        "num_attention_heads": (1, 1024),
        "classifier_hidden_layers": (1, 32),
        "num_classes": (1, 10_000),
    },
    floats={"mean": (-1, 1), "std": (0, 1)},
    choices={"ssl_type": ("microsoft/wavlm-large",)},
)


@dataclass(frozen=True)
class ScaledFrontEnd(WaveformFrontEnd):
    """Samples, scaled by the mean and the deviation of the training data."""

    mean: float = 0.0
    std: float = 1.0

    def inputs(self, waveforms: Sequence[Waveform]) -> dict[str, torch.Tensor]:
        """Stack scaled clips; if their lengths differ, pad them with zeros and add a mask."""
        return super().inputs([(each - self.mean) / (self.std + 1e-6) for each in waveforms])


class AttentiveStatistics(nn.Module):
    """The mean and the standard deviation over time, in which frames have learnt weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sap_linear = nn.Linear(width, width)
        self.attention = nn.Parameter(torch.zeros(width, 1))

    def forward(self, states: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """Pool states of shape (n_clips, n_frames, width) into (n_clips, 2 * width).

        ``valid``, bool, shape (n_clips, n_frames), says which frames are those of the clip; None
        means all.
        """
        scores = torch.tanh(self.sap_linear(states)) @ self.attention
        if valid is not None:
            scores = scores.masked_fill(~valid[:, :, None], -torch.inf)
        weights = scores.softmax(dim=1)
        mean = (states * weights).sum(dim=1)
        variance = (states.square() * weights).sum(dim=1) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-5).sqrt()], dim=1)


class Layers(nn.Module):
    """Fully connected layers, each with a layer norm and ReLU, and the outputs."""

    def __init__(self, width: int, n_layers: int, n_outputs: int) -> None:
        super().__init__()
        self.fc = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width if number else 2 * width, width), nn.LayerNorm(width), nn.ReLU()
            )
            for number in range(n_layers)
        )
        self.out = nn.Sequential(nn.Linear(width, n_outputs))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs, shape (n_clips, n_outputs)."""
        for layer in self.fc:
            states = layer(states)
        outputs: torch.Tensor = self.out(states)
        return outputs


class OdysseyModel(PublishedModel):
    """A baseline of the challenge; its submodules have the names of the published ones."""

    def __init__(self, config: PublishedConfig, encoder: Any, n_layers: int) -> None:
        super().__init__(config, HEAD)
        self.ssl_model = encoder
        with torch.device("meta"):  # their weights are loaded
            self.pool_model = AttentiveStatistics(config.hidden_size)
            self.ser_model = Layers(config.hidden_size, n_layers, len(config.id2label))

    def forward(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the ``logits`` or ratings, shape (n_clips, n_outputs)."""
        encoder: Any = self.ssl_model
        states = encoder(input_values, attention_mask=attention_mask).last_hidden_state
        valid = None
        if attention_mask is not None:
            valid = encoder._get_feature_vector_attention_mask(states.shape[1], attention_mask)
        return {"logits": self.ser_model(self.pool_model(states, valid))}


def load_odyssey(files: CheckpointFiles) -> Loaded | None:
    """Load a baseline of the challenge; None if the files are those of another model.

    Raise UserError if it lacks or exceeds weights, or its configuration is not supported.
    """
    path = files.find(CONFIG)
    settings = read_settings(path) if path else {}
    if path is None or "ssl_type" not in settings:
        return None
    check_values(path, settings, _LIMITS)
    if settings.get("sampling_rate", _SAMPLING_RATE) != _SAMPLING_RATE:
        raise UserError(f"{path}: sampling_rate must be {_SAMPLING_RATE}; choose another --model")
    labels = _labels(path, settings)
    config = PublishedConfig(settings["hidden_size"], labels, _problem_type(settings, labels))
    wavlm = _wavlm_config(settings)
    front_end = ScaledFrontEnd(
        _SAMPLING_RATE,
        False,
        tuple(wavlm.conv_kernel),
        tuple(wavlm.conv_stride),
        float(settings["mean"]),
        float(settings["std"]),
    )
    paths = files.weights()
    encoder = _load_encoder(files.name, paths, wavlm)
    model = OdysseyModel(config, encoder, settings["classifier_hidden_layers"])
    _load_head(files.name, paths, model)
    sizes = [settings[name] for name in _LIMITS.integers]
    return Loaded(_MODEL_TYPE, model, front_end, hash_config(config, front_end, sizes))


def _labels(path: Path, settings: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of the outputs; without any, those that transformers gives them."""
    n_outputs = settings["num_classes"]
    unnamed = {str(number): f"LABEL_{number}" for number in range(n_outputs)}
    given = settings.get("id2label", unnamed)
    if not isinstance(given, dict) or given.keys() != unnamed.keys():
        raise UserError(
            f"{path}: its id2label must name the outputs 0 to {n_outputs - 1}; complete it"
        )
    return {number: str(given[str(number)]) for number in range(n_outputs)}


def _problem_type(settings: Mapping[str, Any], labels: Mapping[int, str]) -> str:
    """Return what the outputs are, from their names; empty if there are several without names."""
    if len(labels) == 1 or {label.lower() for label in labels.values()} <= _ATTRIBUTES:
        return "regression"
    return "single_label_classification" if "id2label" in settings else ""


def _wavlm_config(settings: Mapping[str, Any]) -> Any:
    """Return the configuration of WavLM large, of the size that a model names."""
    import transformers

    return transformers.WavLMConfig(
        hidden_size=settings["hidden_size"],
        num_hidden_layers=settings["num_hidden_layers"],
        num_attention_heads=settings["num_attention_heads"],
        intermediate_size=4096,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )


def _load_encoder(name: str, paths: Sequence[Path], config: Any) -> nn.Module:
    import transformers

    kind, family = transformers.WavLMModel, family_of(_MODEL_TYPE)
    n_weights = count_weights(kind, family, config)
    model, report = load_with_prefix(kind, name, paths, _ENCODER, family, config, n_weights)
    unexpected = [key for key in report["unexpected_keys"] if key != "masked_spec_embed"]
    _check_weights(
        name,
        [_ENCODER + key for key in report["missing_keys"]],
        [_ENCODER + str(key) for key in report["mismatched_keys"]],
        [_ENCODER + key for key in unexpected],
    )
    encoder: nn.Module = model
    return encoder


def _load_head(name: str, paths: Sequence[Path], model: OdysseyModel) -> None:
    """Load the weights of everything but the encoder."""
    expected = {
        key: tensor.shape
        for key, tensor in model.state_dict().items()
        if not key.startswith(_ENCODER)
    }
    tensors = {
        key: tensor.float()
        for path in paths
        for prefix in (_POOLING, _LAYERS)
        for key, tensor in read_weights(path, prefix).items()
    }
    all_names = {key for path in paths for key in weight_names(path)}
    _check_weights(
        name,
        [key for key in expected if key not in tensors],
        [key for key, shape in expected.items() if key in tensors and tensors[key].shape != shape],
        [key for key in all_names if not key.startswith(_ENCODER) and key not in expected],
    )
    model.load_state_dict(tensors, strict=False, assign=True)


def _check_weights(
    name: str, missing: Sequence[str], wrong: Sequence[str], surplus: Sequence[str]
) -> None:
    """Raise UserError if weights are missing, have another shape, or are left over."""
    keys = [*sorted(missing), *sorted(wrong), *sorted(surplus)]
    if keys:
        raise UserError(
            f"{name}: {counted(len(missing), 'weight')} missing, {len(wrong)} of a wrong shape and "
            f"{len(surplus)} too many, first {keys[0]}; download it again, or choose another "
            "--model"
        )
