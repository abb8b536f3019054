"""What can be trained: an encoder with a head, or a network from scratch.

Each kind builds a model, sets the learning rates of its parameters and saves it; the rest of the
training is the same.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ...errors import UserError
from ...features.audio import CHANNEL_POLICY, RESAMPLER
from ...features.checkpoint import Checkpoint, load_checkpoint
from ...features.front_end import FrontEnd
from ...features.names import FINAL_NORM
from ...features.training_record import TrainingRecord
from .lora import is_lora, merge_lora
from .model import MASK_FRAMES, build_model, head_parameters, save_model
from .network_model import NetworkModel, network_front_end, save_network
from .options import TrainingOptions

#: Applied to weight matrices, not to biases and norms.
WEIGHT_DECAY = 0.01
#: State matrices and steps of S4D, which its authors train at no higher rate and without decay.
_STATE_SPACE = ("log_dt", "log_minus_a_real", "a_imaginary")
_STATE_SPACE_RATE = 1e-3


class Kind(Protocol):
    """The common interface of both kinds."""

    @property
    def head(self) -> str:
        """The name of the head in a run."""

    @property
    def name(self) -> str:
        """The name of the encoder or of the network."""

    @property
    def front_end(self) -> FrontEnd:
        """Turns waveforms into the model's inputs."""

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that can be trained on."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the initial weights depend on, in the form of a cache's key."""

    @property
    def training(self) -> TrainingRecord | None:
        """What the initial weights were trained on, if known."""

    def build(self, outputs: Sequence[str], task: str) -> Any:
        """Build the model, always with the same weights."""

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Return the peak learning rate of each trained parameter, by name."""

    def last(self, model: Any) -> nn.Linear:
        """Return the layer that computes the scores."""

    def save(self, model: Any, folder: Path, about: Mapping[str, Any]) -> None:
        """Save a trained model and its metadata."""


@dataclass(frozen=True)
class EncoderWithHead:
    """A pretrained encoder and a new head."""

    checkpoint: Checkpoint
    options: TrainingOptions
    #: Where :func:`~serpipe.features.checkpoint.load_checkpoint` loaded it from, so that other
    #: processes can load it, too.
    source: str

    def __post_init__(self) -> None:
        """Raise UserError if encoders of this family cannot be fine-tuned."""
        if not self.checkpoint.family.is_trainable:
            raise UserError(
                f"{self.source}: model type {self.checkpoint.model_type!r} is supported as a "
                "frozen encoder, and cannot be fine-tuned; choose another --encoder"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the weights, which torch cannot pickle for all encoders."""
        checkpoint = self.checkpoint
        revision = None if checkpoint.revision in ("local", "built-in") else checkpoint.revision
        return _reload, (self.source, revision, self.options, checkpoint.weights_sha256)

    @property
    def layers(self) -> list[str]:
        """The layers that the head sums, as a cache names them; see ``layer_index``."""
        config: Any = self.checkpoint.model.config
        return [*map(str, range(int(config.num_hidden_layers) + 1)), FINAL_NORM]

    @property
    def head(self) -> str:
        """The name of the head in a run."""
        return "finetuned"

    @property
    def name(self) -> str:
        """The name of the encoder."""
        return self.checkpoint.name

    @property
    def front_end(self) -> FrontEnd:
        """Turns waveforms into the model's inputs."""
        return self.checkpoint.front_end

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that can be trained on."""
        front_end = self.front_end
        samples = front_end.minimum_samples
        if self.options.specaugment and not self.checkpoint.family.has_window:
            while front_end.frames(samples) <= MASK_FRAMES:  # a mask must fit in its clip
                samples += front_end.sampling_rate // 100
        return samples

    @property
    def identity(self) -> dict[str, Any]:
        """What the initial weights depend on, in the form of a cache's key."""
        return checkpoint_identity(self.checkpoint)

    @property
    def training(self) -> TrainingRecord | None:
        """What the initial weights were trained on, if known."""
        return self.checkpoint.training

    def build(self, outputs: Sequence[str], task: str) -> Any:
        """Build the model, always with the same weights."""
        return build_model(
            self.checkpoint,
            outputs,
            task=task,
            train_front_end=self.options.train_front_end,
            specaugment=self.options.specaugment,
            lora=self.options.lora,
            seed=self.options.seed,
        )

    def rates(self, model: Any) -> dict[str, float]:
        """Return the peak learning rate of each trained parameter, by name.

        New parameters learn at ``head_learning_rate``. A block of the encoder learns at
        ``learning_rate``, times ``layer_decay`` for each block between it and the head; the part
        below the blocks counts as one more block, a norm above them as none. This is the
        discriminative fine-tuning of Howard & Ruder (2018), *Universal Language Model Fine-tuning
        for Text Classification*, section 3.2.
        """
        new = head_parameters(model)
        n_blocks = int(model.config.num_hidden_layers)
        ends_in_norm = self.checkpoint.family.ends_in_norm(model.config)
        rates = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            block = re.search(r"encoder\.layers\.(\d+)\.", name)
            above = n_blocks - 1 - int(block[1]) if block else n_blocks
            if ends_in_norm and re.search(r"encoder\.layer_norm\.", name):
                above = 0
            rate = self.options.learning_rate * self.options.layer_decay**above
            is_new = name in new or is_lora(name)
            rates[name] = self.options.head_learning_rate if is_new else rate
        return rates

    def last(self, model: Any) -> nn.Linear:
        """Return the layer that computes the scores."""
        classifier: nn.Linear = model.classifier
        return classifier

    def save(self, model: Any, folder: Path, about: Mapping[str, Any]) -> None:
        """Save a trained model and its metadata, as ``serpipe`` in its config."""
        merge_lora(model)
        model.config.serpipe = dict(about)
        save_model(model, self.front_end, folder)


@dataclass(frozen=True)
class Network:
    """A small network that is trained from scratch."""

    name: str  #: One of ``NETWORKS``.
    options: TrainingOptions  #: ``head_learning_rate`` is that of all parameters.

    @property
    def head(self) -> str:
        """The name of the head in a run."""
        return self.name

    @property
    def front_end(self) -> FrontEnd:
        """Turns waveforms into the model's inputs."""
        return network_front_end()

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that can be trained on."""
        return self.front_end.minimum_samples

    @property
    def identity(self) -> dict[str, Any]:
        """What the initial weights depend on, in the form of a cache's key."""
        return {
            "encoder": self.name,
            "revision": "from scratch",
            "weights_sha256": "",
            "config_sha256": "",
            "model_type": self.name,
            "width": 0,
            **_audio(self.front_end),
        }

    @property
    def training(self) -> TrainingRecord | None:
        """None, as the initial weights are random."""
        return None

    def build(self, outputs: Sequence[str], task: str) -> NetworkModel:
        """Build the model, always with the same weights."""
        return NetworkModel(self.name, outputs, self.options.seed)

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Return the peak learning rate of each trained parameter, by name."""
        rate = self.options.head_learning_rate
        return {
            name: min(rate, _STATE_SPACE_RATE) if name.endswith(_STATE_SPACE) else rate
            for name, _ in model.named_parameters()
        }

    def last(self, model: NetworkModel) -> nn.Linear:
        """Return the layer that computes the scores."""
        head: Any = model.network.head
        last: nn.Linear = head
        return last

    def save(self, model: NetworkModel, folder: Path, about: Mapping[str, Any]) -> None:
        """Save a trained model and its metadata."""
        save_network(model, folder, about)


def checkpoint_identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the outputs of a checkpoint depend on, in the form of a cache's key."""
    config: Any = checkpoint.model.config
    return {
        "encoder": checkpoint.name,
        "revision": checkpoint.revision,
        "weights_sha256": checkpoint.weights_sha256,
        "config_sha256": checkpoint.config_sha256,
        "model_type": checkpoint.model_type,
        "width": int(config.hidden_size),
        **_audio(checkpoint.front_end),
    }


def _reload(
    source: str, revision: str | None, options: TrainingOptions, weights_sha256: str
) -> EncoderWithHead:
    checkpoint = load_checkpoint(source, revision)
    if checkpoint.weights_sha256 != weights_sha256:
        raise UserError(f"{source}: has changed since it was loaded; run the same command again")
    return EncoderWithHead(checkpoint, options, source)


def optimizer(kind: Kind, model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW for a model, with a parameter group for each rate, with and without decay.

    Loshchilov & Hutter (2019), *Decoupled Weight Decay Regularization*, ICLR.
    """
    rates = kind.rates(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if name in rates:
            decayed = parameter.ndim > 1 and not name.endswith(_STATE_SPACE)
            group = rates[name], WEIGHT_DECAY if decayed else 0.0
            groups.setdefault(group, []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def rescale_outputs(last: nn.Linear, mean: float, deviation: float) -> None:
    """Rescale a layer that outputs ratings, standardised by mean and deviation, to their units."""
    with torch.no_grad():
        last.weight.mul_(deviation)
        last.bias.mul_(deviation).add_(mean)


def _audio(front_end: FrontEnd) -> dict[str, Any]:
    return {
        "sampling_rate": front_end.sampling_rate,
        "normalise": front_end.normalise,
        "poolings": ["mean"],
        "channels": CHANNEL_POLICY,
        "resampler": RESAMPLER,
    }
