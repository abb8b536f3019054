"""What is asked of a training; nothing heavy is imported here, so that it can be read early."""

import os
from dataclasses import dataclass
from importlib.util import find_spec

from ...choices import TRAINING_PRECISIONS, check_choice
from ...errors import UserError

#: Of weights and states while training; weights themselves are always kept in float32.
PRECISIONS = TRAINING_PRECISIONS
#: What training clips can be changed by, in the order in which it is done.
AUGMENTATIONS = ("speed", "pitch", "noise")


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
    lora : int
        Rank of the matrices that are trained in place of the encoder's own; 0 trains these.
    layer_decay : float
        By what the encoder's rate is multiplied from each block to the one before it.
    augment : tuple of str
        Some of ``AUGMENTATIONS``.
    mixup : float
        Both parameters of the beta distribution by which clips are mixed; 0 mixes none.
    label_smoothing : float
        Share of each label that is given to all labels alike.
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
    lora: int = 0
    layer_decay: float = 1.0
    augment: tuple[str, ...] = ()
    mixup: float = 0.0
    label_smoothing: float = 0.0
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
        for option, share in (
            ("--warmup", self.warmup),
            ("--label-smoothing", self.label_smoothing),
        ):
            if not 0 <= share < 1:
                raise UserError(f"{option} {share:g}: expected a share, from 0 to below 1")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay {self.layer_decay:g}: expected above 0, at most 1")
        if not 0 <= self.mixup <= 100:
            raise UserError(f"--mixup {self.mixup:g}: expected from 0 to 100, such as 0.4")
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise UserError(f"--augment {name}: expected some of {','.join(AUGMENTATIONS)}")
        if "pitch" in self.augment and find_spec("av") is None:
            raise UserError(
                "--augment pitch: PyAV is not installed; expected it, to shift pitch; "
                "pip install 'serpipe[formats]'"
            )
        if not 0 <= self.lora <= 1024:
            raise UserError(f"--lora {self.lora}: expected a rank, such as 8")
        if self.lora and find_spec("peft") is None:
            raise UserError(
                "--lora: peft is not installed; expected it; pip install 'serpipe[finetune]'"
            )
        if self.lora and (self.layer_decay < 1 or self.train_front_end):
            option = "--train-front-end" if self.train_front_end else "--layer-decay"
            raise UserError(
                f"--lora with {option}: the encoder's own weights are not trained then; expected "
                "one of the two; leave one out"
            )
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                "started as several processes (WORLD_SIZE); expected one, which starts one for "
                "each GPU; start `serpipe finetune` by itself"
            )
        if device.startswith("cuda") and device != "cuda:0":
            raise UserError(
                f"--device {device}: expected the first GPU to be cuda:0; choose the visible ones "
                "with the environment variable CUDA_VISIBLE_DEVICES"
            )
        check_choice("--precision", self.precision, PRECISIONS)
        if self.precision == "fp16" and not device.startswith("cuda"):
            raise UserError(
                f"--precision fp16: cannot be trained with on {device}; expected a GPU; "
                "take float32, or bf16"
            )

    def check_network(self) -> None:
        """Refuse what only an encoder can be trained with.

        Raises
        ------
        UserError
            Names the option.
        """
        for option, asked in (
            ("--train-front-end", self.train_front_end),
            ("--specaugment", self.specaugment),
            ("--gradient-checkpointing", self.gradient_checkpointing),
            ("--layer-decay", self.layer_decay < 1),
            ("--lora", self.lora > 0),
        ):
            if asked:
                raise UserError(
                    f"{option} with --network: is for pretrained encoders; expected one of the "
                    "two; leave one out"
                )


#: What is taken unless the user says otherwise.
OF_ENCODERS = TrainingOptions()
OF_NETWORKS = TrainingOptions(epochs=60, patience=15, batch_size=16)
