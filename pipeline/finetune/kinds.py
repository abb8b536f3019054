"""What can be trained: an encoder with a head, or a network from scratch. Both look alike here.

A kind knows how to build a model, at which rates its parameters learn, and how it is saved; the
rest of the training is the same.
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

#: Of weights that are matrices; biases and norms are left alone.
WEIGHT_DECAY = 0.01
#: Of the state matrices and steps of S4D, as its authors train them: no faster, and never decayed.
_STATE_SPACE = ("log_dt", "log_minus_a_real", "a_imaginary")
_STATE_SPACE_RATE = 1e-3


class Kind(Protocol):
    """What the training asks of either kind."""

    @property
    def head(self) -> str:
        """What it is called among the heads of a run."""

    @property
    def name(self) -> str:
        """What the encoder is called, or the network."""

    @property
    def front_end(self) -> FrontEnd:
        """From waveforms to its inputs."""

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that it can be trained on."""

    @property
    def identity(self) -> dict[str, Any]:
        """What its first weights depend on, as the key of a cache tells it."""

    @property
    def training(self) -> TrainingRecord | None:
        """What its first weights were trained on, if that is known."""

    def build(self, outputs: Sequence[str], task: str) -> Any:
        """Make the model, the same every time."""

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Return the highest rate of each parameter that is trained, by name."""

    def last(self, model: Any) -> nn.Linear:
        """Return the layer whose outputs are the scores."""

    def save(self, model: Any, folder: Path, about: Mapping[str, Any]) -> None:
        """Save a trained model, with what is to be known of it."""


@dataclass(frozen=True)
class EncoderWithHead:
    """A pretrained encoder and a new head.

    Attributes
    ----------
    checkpoint : Checkpoint
        The encoder.
    options : TrainingOptions
        How it is trained.
    source : str
        What :func:`~serpipe.features.checkpoint.load_checkpoint` loaded it from, for processes of
        their own.
    """

    checkpoint: Checkpoint
    options: TrainingOptions
    source: str

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to another process without the weights, which torch cannot pickle for all."""
        checkpoint = self.checkpoint
        revision = None if checkpoint.revision in ("local", "built-in") else checkpoint.revision
        return _reload, (self.source, revision, self.options, checkpoint.weights_sha256)

    @property
    def layers(self) -> list[str]:
        """The layers that the head sums, as a cache names them; see ``place_of_layer``."""
        config: Any = self.checkpoint.model.config
        return [*map(str, range(int(config.num_hidden_layers) + 1)), FINAL_NORM]

    @property
    def head(self) -> str:
        """What it is called among the heads of a run."""
        return "finetuned"

    @property
    def name(self) -> str:
        """What the encoder is called."""
        return self.checkpoint.name

    @property
    def front_end(self) -> FrontEnd:
        """From waveforms to its inputs."""
        return self.checkpoint.front_end

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that it can be trained on."""
        front_end = self.front_end
        samples = front_end.minimum_samples
        if self.options.specaugment and not self.checkpoint.is_whisper:
            while front_end.frames(samples) <= MASK_FRAMES:  # no stretch is longer than its clip
                samples += front_end.sampling_rate // 100
        return samples

    @property
    def identity(self) -> dict[str, Any]:
        """What its first weights depend on, as the key of a cache tells it."""
        return checkpoint_identity(self.checkpoint)

    @property
    def training(self) -> TrainingRecord | None:
        """What its first weights were trained on, if that is known."""
        return self.checkpoint.training

    def build(self, outputs: Sequence[str], task: str) -> Any:
        """Make the model, the same every time."""
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
        """Return the highest rate of each parameter that is trained, by name.

        What is new learns at ``head_learning_rate``. A block of the encoder learns at
        ``learning_rate``, times ``layer_decay`` for each block between it and the head; what is
        below the blocks counts as one more, a norm above them as none.

        References
        ----------
        Howard & Ruder (2018), *Universal Language Model Fine-tuning for Text Classification*,
        section 3.2, discriminative fine-tuning: a rate for each layer.
        """
        new = head_parameters(model)
        n_blocks = int(model.config.num_hidden_layers)
        stable = getattr(model.config, "do_stable_layer_norm", False)
        ends_in_norm = stable or self.checkpoint.is_whisper
        found = {}
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            block = re.search(r"encoder\.layers\.(\d+)\.", name)
            above = n_blocks - 1 - int(block[1]) if block else n_blocks
            if ends_in_norm and re.search(r"encoder\.layer_norm\.", name):
                above = 0
            own = self.options.learning_rate * self.options.layer_decay**above
            is_new = name in new or is_lora(name)
            found[name] = self.options.head_learning_rate if is_new else own
        return found

    def last(self, model: Any) -> nn.Linear:
        """Return the layer whose outputs are the scores."""
        classifier: nn.Linear = model.classifier
        return classifier

    def save(self, model: Any, folder: Path, about: Mapping[str, Any]) -> None:
        """Save a trained model, with what is to be known of it, as ``serpipe`` in its config."""
        merge_lora(model)
        model.config.serpipe = dict(about)
        save_model(model, self.front_end, folder)


@dataclass(frozen=True)
class Network:
    """A small network, from scratch.

    Attributes
    ----------
    name : str
        One of ``NETWORKS``.
    options : TrainingOptions
        How it is trained; ``head_learning_rate`` is that of all its parameters.
    """

    name: str
    options: TrainingOptions

    @property
    def head(self) -> str:
        """What it is called among the heads of a run."""
        return self.name

    @property
    def front_end(self) -> FrontEnd:
        """From waveforms to its inputs."""
        return network_front_end()

    @property
    def minimum_samples(self) -> int:
        """The shortest clip that it can be trained on."""
        return self.front_end.minimum_samples

    @property
    def identity(self) -> dict[str, Any]:
        """What its first weights depend on, as the key of a cache tells it."""
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
        """Nothing: its first weights are random."""
        return None

    def build(self, outputs: Sequence[str], task: str) -> NetworkModel:
        """Make the model, the same every time."""
        return NetworkModel(self.name, outputs, self.options.seed)

    def rates(self, model: nn.Module) -> dict[str, float]:
        """Return the highest rate of each parameter that is trained, by name."""
        rate = self.options.head_learning_rate
        return {
            name: min(rate, _STATE_SPACE_RATE) if name.endswith(_STATE_SPACE) else rate
            for name, _ in model.named_parameters()
        }

    def last(self, model: NetworkModel) -> nn.Linear:
        """Return the layer whose outputs are the scores."""
        head: Any = model.network.head
        last: nn.Linear = head
        return last

    def save(self, model: NetworkModel, folder: Path, about: Mapping[str, Any]) -> None:
        """Save a trained model, with what is to be known of it."""
        save_network(model, folder, about)


def checkpoint_identity(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what the numbers of a checkpoint depend on, as the key of a cache tells it."""
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
        raise UserError(
            f"{source}: has changed since it was loaded; expected a checkpoint that stays as it "
            "is; run the same command again"
        )
    return EncoderWithHead(checkpoint, options, source)


def optimizer(kind: Kind, model: nn.Module) -> torch.optim.AdamW:
    """Return the optimiser of a model: AdamW, a group for each rate, with decay and without.

    References
    ----------
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
    """Make a layer that says standardised ratings say them in their own units.

    Parameters
    ----------
    last : Linear
        From :meth:`Kind.last`.
    mean, deviation : float
        Of the ratings that it was trained on.
    """
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
