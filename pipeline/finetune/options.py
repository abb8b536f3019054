"""The options of a training; imports nothing heavy, so that they can be checked early."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from ...choices import TRAINING_PRECISIONS, check_choice
from ...errors import UserError

#: Changes of training clips, in the order in which they are applied.
AUGMENTATIONS = ("speed", "pitch", "noise")


@dataclass(frozen=True)
class TrainingOptions:
    """How an encoder and its head, or a network, are trained.

    Networks have other defaults: :meth:`for_networks`.

    Attributes
    ----------
    epochs : int
        Maximum number of epochs, over which the learning rates fall linearly to zero; by default 60
        for a network.
    patience : int
        Stop after so many epochs without a better UAR (CCC for ratings) on the validation speakers;
        by default 15 for a network.
    batch_size : int
        Clips per batch; by default 16 for a network.
    accumulate : int
        Batches per step of the optimiser.
    learning_rate : float
        Peak learning rate of the encoder.
    head_learning_rate : float
        Peak learning rate of all new parameters: layer weights, projection, classifier.
    layer_decay : float
        Factor of the encoder's learning rate from each block to the one below.
    warmup : float
        Fraction of the steps over which the learning rates rise from zero.
    precision : {"float32", "bf16", "fp16"}
        Precision of matrix products; weights stay in float32.
    train_front_end : bool
        Train the convolutions of the encoder as well.
    specaugment : bool
        Mask spans of time during training.
    augment : sequence of str
        Augment half of the training clips at random, differently in each epoch: ``speed``,
        ``pitch``, ``noise``, joined by commas.
    mixup : float
        Mix pairs of training clips with weights from beta(A, A); 0 disables it.
    label_smoothing : float
        Fraction of each label that is spread evenly over all labels.
    lora : int
        Rank of LoRA matrices (peft) to train instead of the encoder's own weights; 0 for none.
    gradient_checkpointing : bool
        Recompute hidden states in the backward pass, to save memory.
    """

    epochs: int = 20
    patience: int = 5
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 3e-5
    head_learning_rate: float = 1e-3
    layer_decay: float = 1.0
    warmup: float = 0.1
    precision: str = "float32"
    train_front_end: bool = False
    specaugment: bool = False
    augment: Sequence[str] = ()
    mixup: float = 0.0
    label_smoothing: float = 0.0
    lora: int = 0
    gradient_checkpointing: bool = False
    #: Of new weights, the order of clips, dropout and masking: that of the folds.
    seed: int = 0

    @classmethod
    def for_networks(cls, **changes: Any) -> "TrainingOptions":
        """Return the options with other defaults for networks: more epochs and larger batches."""
        return replace(cls(epochs=60, patience=15, batch_size=16), **changes)

    def check(self, device: str) -> None:
        """Raise a UserError that names an option that cannot be used, on this torch device."""
        self.check_inference(device)
        for name in ("epochs", "patience", "accumulate"):
            self._check_range(name, getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "head_learning_rate", "warmup", "label_smoothing"):
            self._check_range(name, 0 <= getattr(self, name) < 1, "from 0 to below 1")
        self._check_range("layer_decay", 0 < self.layer_decay <= 1, "above 0 and at most 1")
        self._check_range("mixup", 0 <= self.mixup <= 100, "from 0 to 100, such as 0.4")
        self._check_range("lora", 0 <= self.lora <= 1024, "a rank from 0 to 1024, such as 8")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise UserError(f"--augment {name}: choose some of {','.join(AUGMENTATIONS)}")
        if "pitch" in self.augment and find_spec("av") is None:
            raise UserError(
                "--augment pitch: needs PyAV, which is not installed; pip install "
                "'serpipe[formats]'"
            )
        if self.lora and find_spec("peft") is None:
            raise UserError(
                "--lora: needs peft, which is not installed; pip install 'serpipe[finetune]'"
            )
        if self.lora and (self.layer_decay < 1 or self.train_front_end):
            option = "--train-front-end" if self.train_front_end else "--layer-decay"
            raise UserError(
                f"--lora with {option}: --lora does not train the encoder's own weights; omit one "
                "of the two"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "started as several processes (WORLD_SIZE), but one process starts the others, one "
                "for each GPU; start `serpipe finetune` without a launcher"
            )
        if device.startswith("cuda") and device != "cuda:0":
            raise UserError(
                f"--device {device}: the first GPU must be cuda:0; choose which GPUs are visible "
                "with the environment variable CUDA_VISIBLE_DEVICES"
            )

    def check_inference(self, device: str) -> None:
        """Refuse a batch size or precision that cannot be used on a torch device."""
        self._check_range("batch_size", self.batch_size >= 1, "at least 1")
        check_choice("--precision", self.precision, TRAINING_PRECISIONS)
        if self.precision == "fp16" and not device.startswith("cuda"):
            raise UserError(f"--precision fp16: needs a GPU, not {device}; use float32 or bf16")

    def _check_range(self, name: str, allowed: bool, limits: str) -> None:
        if not allowed:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} {getattr(self, name):g}: must be {limits}")

    def check_network(self) -> None:
        """Raise a UserError that names an option that is only for encoders."""
        for option, is_set in (
            ("--train-front-end", self.train_front_end),
            ("--specaugment", self.specaugment),
            ("--gradient-checkpointing", self.gradient_checkpointing),
            ("--layer-decay", self.layer_decay < 1),
            ("--lora", self.lora > 0),
        ):
            if is_set:
                raise UserError(
                    f"{option} with --network: is for pretrained encoders; omit one of the two"
                )
