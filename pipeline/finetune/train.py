"""One training by the Trainer of transformers: early stopping, resuming, the same numbers twice."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...errors import MachineError, UserError
from ..metrics import scores_of
from .data import ByLength, Examples, collator
from .model import head_parameters
from .options import TrainingOptions, say_nothing

#: Of weights that are matrices; biases and norms are left alone.
WEIGHT_DECAY = 0.01
#: What a model returns besides scores, and need not be gathered.
_NOT_SCORES = ["hidden_states", "attentions"]


def train(
    model: Any,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    folder: Path,
    device: str,
    *,
    epochs: int | None = None,
    say: Callable[[str], None] = say_nothing,
) -> list[float]:
    """Train a model; go on from the last checkpoint in the folder, if there is one.

    Parameters
    ----------
    model : PreTrainedModel
        From :func:`~serpipe.pipeline.finetune.model.build_model`. It is left with the weights of
        the best epoch, the first of several; without validation with those of the last.
    training : Examples
        What it learns.
    validation : Examples or None
        What the epoch is chosen by.
    options : TrainingOptions
        How.
    folder : Path
        For checkpoints, one after each epoch; the best and the last are kept.
    device : str
        ``"cpu"``, or where the Trainer finds its GPU.
    epochs : int, optional
        Stop after so many, on the way to ``options.epochs``.
    say : callable
        Told the score of each epoch.

    Returns
    -------
    list of float
        UAR on the validation clips after each epoch, from 0 to 1; empty without validation.

    Raises
    ------
    MachineError
        If memory does not hold a batch.
    """
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    last = epochs or options.epochs
    weights = class_weights(training.targets, model.config.num_labels)

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        each = nn.functional.cross_entropy(
            outputs["logits"].float(), labels, weight=weights.to(labels.device), reduction="sum"
        )
        return each / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    def measure(predictions: Any) -> dict[str, float]:
        predicted = np.argmax(predictions.predictions, axis=1)
        return {"uar": recall_of(predictions.label_ids, predicted, len(weights))}

    class Stop(TrainerCallback):  # type: ignore[misc]
        """Stop when there is nothing more to gain; all it knows is in the checkpoints."""

        def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if round(state.epoch) >= last:
                control.should_training_stop = True

        def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            scores = _scores(state.log_history)
            say(f"epoch {len(scores)} of {last}: UAR of validation speakers {100 * scores[-1]:.1f}")
            if _over(scores, options.patience):
                control.should_training_stop = True

    class ByLengthTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
            return ByLength(training.seconds, options.batch_size, options.seed)

    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with quiet(), _deterministic():
        trainer = ByLengthTrainer(
            model=model,
            args=_arguments(options, folder, device, validation is not None, training.all_held),
            data_collator=collator(training.sounds.front_end),
            train_dataset=training,
            eval_dataset=validation,
            compute_loss_func=loss,
            compute_metrics=measure,
            optimizers=(_optimizer(model, options), None),
            callbacks=[Stop()],
        )
        trainer.remove_callback(PrinterCallback)
        state = _last_state(folder)
        done = _scores(state["log_history"]) if state else []
        if not state or not (round(state["epoch"]) >= last or _over(done, options.patience)):
            checkpoint = str(_checkpoint(folder, state)) if state else None
            with _memory(options):
                trainer.train(resume_from_checkpoint=checkpoint, ignore_keys_for_eval=_NOT_SCORES)
            state = _last_state(folder)
    if state is None:
        raise MachineError(f"{folder}: no checkpoint was written; check the disk and try again")
    scores = _scores(state["log_history"])
    _load_weights(model, _checkpoint(folder, state, _best_step(state) if scores else None))
    return scores


def predict(
    model: Any, examples: Examples, options: TrainingOptions, device: str
) -> NDArray[np.float64]:
    """Score clips.

    Parameters
    ----------
    model : PreTrainedModel
        From :func:`train`.
    examples : Examples
        The clips.
    options : TrainingOptions
        Batch size and precision.
    device : str
        In torch's words.

    Returns
    -------
    ndarray of float64, shape (n_clips, n_labels)
        Logits, in the order of the examples.

    Raises
    ------
    UserError
        If some are not finite numbers.
    """
    collate = collator(examples.sounds.front_end)
    order = np.argsort(-np.asarray(examples.seconds), kind="stable")
    logits = np.empty((len(examples), model.config.num_labels))
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
    kind = torch.device(device).type
    model.to(device).eval()
    with _deterministic(), _memory(options), torch.inference_mode():
        for start in range(0, len(order), options.batch_size):
            places = order[start : start + options.batch_size].tolist()
            batch = collate([examples[place] for place in places])
            del batch["labels"]
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(kind, dtype) if dtype else contextlib.nullcontext():
                found = model(**inputs).logits
            logits[places] = found.float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise UserError(
            "training ended in scores that are not finite numbers; expected numbers; lower "
            "--learning-rate, or take --precision float32"
        )
    return logits


def class_weights(targets: Sequence[int], n_labels: int) -> torch.Tensor:
    """Return the weight of each label in the loss: the rarer, the more; their mean over clips is 1.

    Parameters
    ----------
    targets : sequence of int
        Of the training clips.
    n_labels : int
        How many labels there are; those without training clips have weight 0.

    Returns
    -------
    Tensor of float32, shape (n_labels,)
    """
    counts = np.bincount(targets, minlength=n_labels)
    there = counts > 0
    weights = np.zeros(n_labels)
    weights[there] = len(targets) / (there.sum() * counts[there])
    return torch.tensor(weights, dtype=torch.float32)


def recall_of(truth: NDArray[Any], predicted: NDArray[Any], n_labels: int) -> float:
    """Return the UAR over the labels that occur, from places of labels, shape (n_clips,) each."""
    counts = np.bincount(truth * n_labels + predicted, minlength=n_labels * n_labels)
    return float(scores_of(counts.reshape(n_labels, n_labels)).uar)


def _arguments(
    options: TrainingOptions, folder: Path, device: str, validated: bool, held: bool
) -> Any:
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup,
        bf16=options.precision == "bf16",
        fp16=options.precision == "fp16",
        use_cpu=device == "cpu",
        seed=options.seed,
        eval_strategy="epoch" if validated else "no",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=validated,
        metric_for_best_model="uar" if validated else None,
        greater_is_better=True if validated else None,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=0 if held else min(4, os.cpu_count() or 1),
        dataloader_pin_memory=device != "cpu",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # more would make the batches larger, unasked
    return arguments


def _optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    new = head_parameters(model)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = options.head_learning_rate if name in new else options.learning_rate
            decay = WEIGHT_DECAY if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def _scores(history: Sequence[dict[str, Any]]) -> list[float]:
    return [float(entry["eval_uar"]) for entry in history if "eval_uar" in entry]


def best_epoch(scores: Sequence[float]) -> int:
    """Return the place of the highest score, the first of several."""
    return int(np.argmax(np.nan_to_num(scores, nan=-1.0)))


def _over(scores: Sequence[float], patience: int) -> bool:
    return bool(scores) and len(scores) - 1 - best_epoch(scores) >= patience


def _best_step(state: dict[str, Any]) -> int:
    steps = [int(entry["step"]) for entry in state["log_history"] if "eval_uar" in entry]
    return steps[best_epoch(_scores(state["log_history"]))]


def _checkpoint(folder: Path, state: dict[str, Any], step: int | None = None) -> Path:
    return folder / f"checkpoint-{state['global_step'] if step is None else step}"


def _last_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of the last whole checkpoint; what a kill left of others is removed.

    The Trainer writes the state last: where it can be read, all else is there.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in folder.glob("checkpoint-*"):
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            found[int(state["global_step"])] = state
            math.ceil(state["epoch"]), state["log_history"]
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    return found[max(found)] if found else None


def _load_weights(model: nn.Module, checkpoint: Path) -> None:
    from safetensors.torch import load_file

    model.load_state_dict(load_file(checkpoint / "model.safetensors"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing: scores are told by ``say``."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Have torch take algorithms that give the same bits twice, and full float32 on GPUs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    kept = (cudnn.allow_tf32, cudnn.benchmark, memory.fill_uninitialized_memory)
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # for finding mistakes; it costs a tenth of the time
    cudnn.allow_tf32, cudnn.benchmark = False, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        cudnn.allow_tf32, cudnn.benchmark, memory.fill_uninitialized_memory = kept


@contextlib.contextmanager
def _memory(options: TrainingOptions) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not told and "allocate memory" not in str(error):  # torch's words on a CPU
            raise
        raise MachineError(
            f"memory does not hold a batch of {options.batch_size} clips; expected it to; take a "
            "smaller --batch-size with more --accumulate, or --gradient-checkpointing; what is "
            "done is kept"
        ) from None
