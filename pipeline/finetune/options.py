"""The options of a training; imports nothing heavy, so that they can be checked early."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from ...choices import TRAINING_PRECISIONS, check_choice
from ...errors import UserError

#: Precision of products in training; weights are always kept in float32.
PRECISIONS = TRAINING_PRECISIONS
#: Changes of training clips, in the order in which they are applied.
AUGMENTATIONS = ("speed", "pitch", "noise")


@dataclass(frozen=True)
class TrainingOptions:
    """How an encoder and its head are trained."""

    #: Maximum number of passes over the training clips, over which the learning rates fall linearly
    #: to zero.
    epochs: int = 20
    #: Epochs without a better score on the validation speakers after which training stops.
    patience: int = 5
    batch_size: int = 8  #: Clips per batch.
    accumulate: int = 1  #: Batches per step of the optimiser.
    learning_rate: float = 3e-5  #: Peak learning rate of the encoder.
    #: Peak learning rate of all new parameters: layer weights, projection and classifier.
    head_learning_rate: float = 1e-3
    warmup: float = 0.1  #: Share of the steps over which the learning rates rise from zero.
    precision: str = "float32"  #: Precision of products; the 16-bit ones by torch's autocast.
    train_front_end: bool = False  #: Whether the convolutions before the blocks are trained, too.
    specaugment: bool = False  #: Whether spans of time are masked in training.
    #: Whether states are computed again in the backward pass, to save memory.
    gradient_checkpointing: bool = False
    #: Rank of the matrices that are trained instead of the encoder's own weights; 0 for none.
    lora: int = 0
    #: Factor of the encoder's learning rate from each block to the one below.
    layer_decay: float = 1.0
    augment: tuple[str, ...] = ()  #: Some of ``AUGMENTATIONS``.
    #: Both parameters of the beta distribution that mixes pairs of clips; 0 for no mixing.
    mixup: float = 0.0
    label_smoothing: float = 0.0  #: Share of each label that is distributed over all labels.
    seed: int = 0  #: Seed of the new weights, the order of clips, dropout and masking.

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
        check_choice("--precision", self.precision, PRECISIONS)
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


#: The defaults.
OF_ENCODERS = TrainingOptions()
OF_NETWORKS = TrainingOptions(epochs=60, patience=15, batch_size=16)
