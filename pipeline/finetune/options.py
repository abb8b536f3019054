"""What is asked of a training; nothing heavy is imported here, so that it can be read early."""

import os
from dataclasses import dataclass

from ...errors import UserError

#: Of weights and states while training; weights themselves are always kept in float32.
PRECISIONS = ("float32", "bf16", "fp16")


def say_nothing(text: str) -> None:
    """Take what would be told: the default for callers from Python."""


@dataclass(frozen=True)
class TrainingOptions:
    """How an encoder and its head are trained.

    Attributes
    ----------
    epochs : int
        Most passes over the training clips; the learning rates fall linearly to zero over them.
    patience : int
        Epochs without a better score on the validation speakers after which training stops.
    batch_size, accumulate : int
        Clips that are computed at once, and batches that make up one step.
    learning_rate, head_learning_rate : float
        Highest, of the encoder and of all that is new: weights of layers, projection, classifier.
    warmup : float
        Share of all steps over which the learning rates rise from zero.
    precision : {"float32", "bf16", "fp16"}
        Of products; the 16-bit ones by torch's autocast.
    train_front_end : bool
        Whether the convolutions before the blocks are trained, too.
    specaugment : bool
        Whether stretches of time are masked in training.
    gradient_checkpointing : bool
        Whether states are computed again on the way back, to save memory.
    seed : int
        Of the new weights, the order of clips, dropout and masking.
    """

    epochs: int = 20
    patience: int = 5
    batch_size: int = 8
    accumulate: int = 1
    learning_rate: float = 3e-5
    head_learning_rate: float = 1e-3
    warmup: float = 0.1
    precision: str = "float32"
    train_front_end: bool = False
    specaugment: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0

    def check(self, device: str) -> None:
        """Refuse what cannot be trained with.

        Parameters
        ----------
        device : str
            Where it will run, in torch's words.

        Raises
        ------
        UserError
            Names the option.
        """
        for option, value in (
            ("--epochs", self.epochs),
            ("--patience", self.patience),
            ("--batch-size", self.batch_size),
            ("--accumulate", self.accumulate),
        ):
            if value < 1:
                raise UserError(f"{option} {value}: expected at least 1")
        for option, rate in (
            ("--learning-rate", self.learning_rate),
            ("--head-learning-rate", self.head_learning_rate),
        ):
            if not 0 <= rate < 1:
                raise UserError(f"{option} {rate:g}: expected from 0 to less than 1, such as 3e-5")
        if not 0 <= self.warmup < 1:
            raise UserError(f"--warmup {self.warmup:g}: expected a share of the steps, below 1")
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "started as several processes (WORLD_SIZE); expected one: several GPUs are not "
                "used; start `serpipe finetune` by itself"
            )
        if self.precision not in PRECISIONS:
            raise UserError(f"--precision {self.precision}: expected {', '.join(PRECISIONS)}")
        if self.precision == "fp16" and not device.startswith("cuda"):
            raise UserError(
                f"--precision fp16: cannot be trained with on {device}; expected a GPU; "
                "take float32, or bf16"
            )
