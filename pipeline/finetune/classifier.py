"""A trained classifier, of ours or of others: loaded whole, or not at all.

What a checkpoint lacks, plain transformers fills with random numbers, and only warns: such a model
scores like chance, or a little better, and looks like a bad one. Here every weight must be there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...choices import TRAINING_PRECISIONS, check_choice
from ...errors import MachineError, UserError, counted
from ...features.checkpoint import LOG_MEL_MODELS, Checkpoint, load_as, load_checkpoint
from .data import Examples, Sounds
from .model import keep_padding_out
from .options import TrainingOptions
from .train import predict

#: Names of the two kinds of head, as runs record them.
STANDARD, DENSE_TANH = "standard", "mean, dense, tanh, linear"
#: What the last layer of the second kind is called: by ehcalabres; by m3hrdadfi and audeering.
_LAST_LAYERS = ("output", "out_proj")


@dataclass(frozen=True)
class Classifier:
    """A trained model that tells labels or ratings from clips.

    Attributes
    ----------
    checkpoint : Checkpoint
        Its identity, over all weights; the model; from waveforms to its inputs. In batches, padding
        changes no score.
    head : str
        Which kind of head it has.
    outputs : tuple of str
        What its scores are called, in their order.
    """

    checkpoint: Checkpoint
    head: str
    outputs: tuple[str, ...]

    @property
    def problem_type(self) -> str:
        """What its configuration says that it was trained for; empty if nothing."""
        return str(getattr(self._config, "problem_type", None) or "")

    @property
    def _config(self) -> Any:
        return self.checkpoint.model.config


def load_classifier(name: str, revision: str | None = None) -> Classifier:
    """Load a trained classifier.

    Parameters
    ----------
    name : str
        Hub id or local folder of a model that ``AutoModelForAudioClassification`` loads, or of one
        whose head is ``classifier.dense`` with ``classifier.output`` or ``classifier.out_proj``.
    revision : str or None
        Branch, tag or commit of a hub id.

    Returns
    -------
    Classifier

    Raises
    ------
    UserError
        If the checkpoint is not there, of an unknown kind, or lacks a weight or has one too many.
    MachineError
        If the hub cannot be reached.
    """
    if (Path(name) / "network.json").is_file():
        raise UserError(
            f"--model {name}: a network of `serpipe finetune --network`; expected a model of "
            "transformers; its own run holds its scores"
        )
    checkpoint = load_checkpoint(name, revision, load=_load_model, option="--model")
    model: Any = checkpoint.model
    named = model.config.id2label
    if sorted(named) != list(range(len(named))):
        raise UserError(
            f"{name}: its config.json numbers labels {', '.join(map(str, sorted(named)))}; "
            f"expected 0 to {len(named) - 1}; mend its id2label"
        )
    if not all(str(label).isprintable() for label in named.values()):
        raise UserError(
            f"{name}: its id2label contains characters that cannot be printed; rename them"
        )
    if not checkpoint.is_whisper:
        keep_padding_out(model, model.base_model, checkpoint.front_end)
    head = STANDARD if isinstance(model.classifier, nn.Linear) else DENSE_TANH
    return Classifier(checkpoint, head, tuple(str(named[n]) for n in range(len(named))))


def check_options(options: TrainingOptions, device: str) -> None:
    """Refuse what cannot be computed with.

    Parameters
    ----------
    options : TrainingOptions
        Of these, batch size and precision are used.
    device : str
        In torch's words.

    Raises
    ------
    UserError
        Names the option.
    """
    if options.batch_size < 1:
        raise UserError(f"--batch-size {options.batch_size}: expected at least 1")
    check_choice("--precision", options.precision, TRAINING_PRECISIONS)
    if options.precision == "fp16" and not device.startswith("cuda"):
        raise UserError(
            f"--precision fp16: is not for {device}; expected a GPU; take float32, or bf16"
        )


def run_classifier(
    classifier: Classifier, sounds: Sounds, options: TrainingOptions, device: str
) -> NDArray[np.float64]:
    """Score clips.

    Parameters
    ----------
    classifier : Classifier
        From :func:`load_classifier`.
    sounds : Sounds
        The clips.
    options : TrainingOptions
        Batch size and precision.
    device : str
        In torch's words.

    Returns
    -------
    ndarray of float64, shape (n_clips, n_outputs)
        What the model gives before any softmax, in the order of the clips.

    Raises
    ------
    UserError
        If some are not finite numbers.
    MachineError
        If memory does not hold a batch.
    """
    unknown = np.zeros((len(sounds.heard), len(classifier.outputs)), np.float32)
    examples = Examples(sounds, range(len(unknown)), unknown)
    try:
        return predict(classifier.checkpoint.model, examples, options, device)
    except UserError:  # whose words are those of a training, here and below
        raise UserError(
            f"{classifier.checkpoint.name}: gives scores that are not finite numbers; expected "
            "numbers; take --precision float32, or another --model"
        ) from None
    except MachineError:
        raise MachineError(
            f"memory does not hold a batch of {counted(options.batch_size, 'clip')}; expected it "
            "to; take a smaller --batch-size"
        ) from None


def _load_model(name: str, source: str, revision: str | None, config: Any) -> nn.Module:
    """Load all weights of the kind of model that they are of."""
    import transformers

    # What only training uses is switched off before loading, so that it asks for no weights.
    config.layerdrop = config.mask_time_prob = config.mask_feature_prob = 0.0
    config.apply_spec_augment = False
    standard = transformers.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING[type(config)]
    model, missing, unexpected = _load_as(standard, name, source, revision, config)
    is_dense = "classifier.dense.weight" in unexpected
    if is_dense and config.model_type not in LOG_MEL_MODELS:
        pooling = getattr(config, "pooling_mode", None) or "mean"
        if pooling != "mean":
            raise UserError(
                f"{name}: pools its states by {pooling!r}; expected 'mean'; choose another --model"
            )
        for last in _LAST_LAYERS:
            if f"classifier.{last}.weight" in unexpected:
                kind = _dense_tanh(standard, last)
                model, missing, unexpected = _load_as(kind, name, source, revision, config)
                break
    fix = "fetch it again, or choose another --model"
    if missing:
        raise UserError(
            f"{name}: {missing[0]} is missing{_others(missing)}; expected all weights of a trained "
            f"classifier: transformers would put random numbers there; {fix}"
        )
    if unexpected:
        raise UserError(
            f"{name}: {unexpected[0]} is no part of its classifier{_others(unexpected)}; expected "
            f"the classifier of transformers for {config.model_type}, or one of dense and output "
            f"layer; {fix}"
        )
    return model


def _load_as(
    kind: Any, name: str, source: str, revision: str | None, config: Any
) -> tuple[nn.Module, list[str], list[str]]:
    """Load as a class; return the model, and names of weights that are missing or too many."""
    model, told = load_as(kind, name, source, revision, config)
    missing = sorted([*told["missing_keys"], *map(str, told["mismatched_keys"])])
    # The vector that stands for masked frames is used in training alone.
    unused = "masked_spec_embed"
    return model, missing, sorted(key for key in told["unexpected_keys"] if unused not in key)


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
