"""Load a trained audio classifier, trained by serpipe or by others, with all its weights.

transformers only warns and fills in random numbers for weights that a checkpoint lacks: such a
model scores at chance or a little above, and looks like a bad one. Here every weight is required.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import UserError
from ...features.checkpoint import Checkpoint, load_as, load_checkpoint, switch_off_training
from ...features.families import family_of
from .data import Examples, Sounds
from .emotion2vec_plus import load_emotion2vec_plus
from .model import keep_padding_out
from .odyssey import load_odyssey
from .options import TrainingOptions
from .published_model import PublishedModel
from .train import predict

#: The two kinds of head, as runs record them.
STANDARD, DENSE_TANH = "standard", "mean, dense, tanh, linear"
#: Names of the last layer of the second kind: by ehcalabres; by m3hrdadfi and audeering.
_LAST_LAYERS = ("output", "out_proj")


@dataclass(frozen=True)
class Classifier:
    """A trained model that predicts labels or ratings."""

    #: Its identity, over all weights; the model; its front end. Padding in batches changes no
    #: score.
    checkpoint: Checkpoint
    head: str  #: Which kind of head it has.
    outputs: tuple[str, ...]  #: Names of its scores, in their order.

    @property
    def problem_type(self) -> str:
        """What it was trained for, from its configuration; empty if unknown."""
        return str(getattr(self._config, "problem_type", None) or "")

    @property
    def _config(self) -> Any:
        return self.checkpoint.model.config


def load_classifier(name: str, revision: str | None = None) -> Classifier:
    """Load a trained classifier, by hub id and revision or from a local folder.

    It is a model that ``AutoModelForAudioClassification`` loads, or one whose head is
    ``classifier.dense`` with ``classifier.output`` or ``classifier.out_proj``, an emotion2vec+, or
    a baseline of the Odyssey 2024 challenge. Raise UserError if
    the checkpoint does not exist, is of an unknown kind, or lacks or exceeds the weights;
    MachineError if the hub cannot be reached.
    """
    if (Path(name) / "network.json").is_file():
        raise UserError(
            f"--model {name}: is a network of `serpipe finetune --network`, not a model of "
            "transformers; its scores are in its own run"
        )
    checkpoint = load_checkpoint(
        name,
        revision,
        load=_load_model,
        layouts=(load_emotion2vec_plus, load_odyssey),
        option="--model",
    )
    model: Any = checkpoint.model
    id2label = model.config.id2label
    if sorted(id2label) != list(range(len(id2label))):
        raise UserError(
            f"{name}: its config.json numbers labels {', '.join(map(str, sorted(id2label)))}; "
            f"correct its id2label to 0 to {len(id2label) - 1}"
        )
    if not all(str(label).isprintable() for label in id2label.values()):
        raise UserError(
            f"{name}: its id2label contains characters that cannot be printed; rename them"
        )
    outputs = tuple(str(id2label[n]) for n in range(len(id2label)))
    if isinstance(model, PublishedModel):
        return Classifier(checkpoint, model.head, outputs)
    if not checkpoint.family.has_window:
        keep_padding_out(model, model.base_model, checkpoint.front_end)
    head = STANDARD if isinstance(model.classifier, nn.Linear) else DENSE_TANH
    return Classifier(checkpoint, head, outputs)


def run_classifier(
    classifier: Classifier, sounds: Sounds, options: TrainingOptions, device: str
) -> NDArray[np.float64]:
    """Compute the scores of clips, with batch size and precision of the options.

    Return the model's outputs before any softmax, shape (n_clips, n_outputs), in the order of the
    clips. Raise UserError if some are not finite numbers; MachineError if a batch does not fit in
    memory.
    """
    unknown = np.zeros((len(sounds.clips), len(classifier.outputs)), np.float32)
    examples = Examples(sounds, range(len(unknown)), unknown)
    checkpoint = classifier.checkpoint
    return predict(checkpoint.model, examples, options, device, evaluated=checkpoint.name)


def _load_model(name: str, folder: Path, config: Any) -> nn.Module:
    """Load the weights into the class of model that they fit."""
    import transformers

    switch_off_training(config)
    standard = transformers.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING[type(config)]
    model, missing, unexpected = _load_as(standard, name, folder, config)
    is_dense = "classifier.dense.weight" in unexpected
    if is_dense and not family_of(config.model_type).has_window:
        pooling = getattr(config, "pooling_mode", None) or "mean"
        if pooling != "mean":
            raise UserError(
                f"{name}: pools its states by {pooling!r}, not by 'mean'; choose another --model"
            )
        for last in _LAST_LAYERS:
            if f"classifier.{last}.weight" in unexpected:
                kind = _dense_tanh(standard, last)
                model, missing, unexpected = _load_as(kind, name, folder, config)
                break
    remedy = "download it again, or choose another --model"
    if missing:
        raise UserError(
            f"{name}: {missing[0]} is missing{_others(missing)}, and transformers would fill in "
            f"random numbers; {remedy}"
        )
    if unexpected:
        raise UserError(
            f"{name}: {unexpected[0]} is not part of its classifier{_others(unexpected)}, which "
            f"must be that of transformers for {config.model_type}, or a dense and an output "
            f"layer; {remedy}"
        )
    return model


def _load_as(
    kind: Any, name: str, folder: Path, config: Any
) -> tuple[nn.Module, list[str], list[str]]:
    """Load as a class; return the model, and the names of missing and of surplus weights."""
    model, report = load_as(kind, name, folder, config)
    missing = sorted([*report["missing_keys"], *map(str, report["mismatched_keys"])])
    unused = "masked_spec_embed"  # the vector that replaces masked frames in training
    return model, missing, sorted(key for key in report["unexpected_keys"] if unused not in key)


def _others(keys: list[str]) -> str:
    return f" (and {len(keys) - 1} more)" if keys[1:] else ""


def _dense_tanh(standard: Any, last: str) -> Any:
    """Return a class like the standard one, but for its head.

    Its head is that of m3hrdadfi's ``Wav2Vec2ForSpeechClassification``: the mean of the last hidden
    states over the frames of the clip, a dense layer, tanh, an output layer.
    """
    from transformers.modeling_outputs import SequenceClassifierOutput

    class Head(nn.Module):
        def __init__(self, width: int, n_outputs: int) -> None:
            super().__init__()
            self.dense = nn.Linear(width, width)
            self.add_module(last, nn.Linear(width, n_outputs))

        def forward(self, pooled: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.get_submodule(last)(torch.tanh(self.dense(pooled)))
            return scores

    class DenseTanh(standard):  # type: ignore[misc]
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            del self.projector
            self.classifier = Head(config.hidden_size, config.num_labels)

        def forward(
            self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None
        ) -> Any:
            states = self.base_model(input_values, attention_mask=attention_mask).last_hidden_state
            if attention_mask is None:
                pooled = states.mean(dim=1)
            else:
                real = self._get_feature_vector_attention_mask(states.shape[1], attention_mask)
                states = torch.where(real[:, :, None], states, 0.0)
                pooled = states.sum(dim=1) / real.sum(dim=1, keepdim=True)
            return SequenceClassifierOutput(logits=self.classifier(pooled))

    return DenseTanh
