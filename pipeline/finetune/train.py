"""Train one model with the Trainer of transformers: early stopping, resuming, determinism."""

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

from ...errors import MachineError, UserError, counted
from ...integrity import check_model_files, write_model_hashes
from ...progress import Say, say_nothing
from ..measures import LABELS, RATINGS
from .data import ByLength, Collator, Examples, Targets, VariedExamples
from .kinds import Kind, optimizer
from .options import TrainingOptions

#: Outputs of a model that the Trainer need not gather.
_NOT_SCORES = ["hidden_states", "attentions"]
#: Remedies where a batch does not fit in memory.
_EVALUATION_MEMORY = "use a smaller --batch-size"
_TRAINING_MEMORY = (
    "use a smaller --batch-size with more --accumulate, or --gradient-checkpointing; finished "
    "epochs are kept"
)


def train(
    model: Any,
    kind: Kind,
    training: Examples,
    validation: Examples | None,
    options: TrainingOptions,
    folder: Path,
    device: str,
    *,
    epochs: int | None = None,
    started: bool = False,
    logs: Path | None = None,
    say: Say = say_nothing,
) -> list[float]:
    """Train a model; resume from the last checkpoint in the folder, if there is one.

    Parameters
    ----------
    model, kind
        From ``kind.build``. The model ends with the weights of the best epoch, the first of
        several; without validation with those of the last.
    training, validation
        Training clips, and clips on which the epoch is chosen.
    options : TrainingOptions
        Training options.
    folder : Path
        For checkpoints, one after each epoch; the best and the last are kept.
    device : str
        ``"cpu"``, or the GPU that the Trainer finds.
    epochs : int, optional
        Stop after so many of ``options.epochs``.
    started : bool
        Whether the model counts as epoch 0, since its head is already fitted.
    logs : Path, optional
        Folder of TensorBoard's logs.
    say : callable
        Prints the score of each epoch.

    Returns
    -------
    list of float
        UAR (0 to 1) or CCC on the validation clips, before training if ``started``, and after each
        epoch; empty without validation.

    Raises
    ------
    MachineError
        If a batch does not fit in memory.
    """
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    last = options.epochs if epochs is None else epochs
    if not last:
        return []
    title = "CCC" if training.targets.shape[1] == 1 else "UAR"
    before: list[float] = []
    if started and validation is not None:
        outputs = predict(model, validation, options, device)
        before = [score_of(validation.targets, outputs)]
        say(f"before training: {title} of validation speakers {_shown(before[0], title)}")
    first_weights = {
        name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items() if before
    }
    loss = make_loss(training.targets, options.label_smoothing)

    def measure(predictions: Any) -> dict[str, float]:
        return {"score": score_of(predictions.label_ids, predictions.predictions)}

    class Stop(TrainerCallback):  # type: ignore[misc]
        """Early stopping; its whole state is in the checkpoints."""

        def on_epoch_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if round(state.epoch) >= last:
                control.should_training_stop = True

        def on_evaluate(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            scores = _scores(state.log_history)
            shown = _shown(scores[-1], title)
            say(f"epoch {len(scores)} of {last}: {title} of validation speakers {shown}")
            if _over(before + scores, options.patience):
                control.should_training_stop = True

        def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            write_model_hashes(_checkpoint(folder, {}, state.global_step))

    varied = VariedExamples(training, options) if options.augment or options.mixup else None

    class ByLengthTrainer(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, train_dataset: Any = None) -> ByLength:
            on_epoch = varied.set_epoch if varied else None
            return ByLength(training.seconds, options.batch_size, options.seed, on_epoch)

    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    # With a GPU, other processes read and augment clips; on a CPU they would compete for time.
    needs_workers = device.startswith("cuda") and (varied is not None or not training.all_held)
    workers = min(4, os.cpu_count() or 1) if needs_workers else 0
    with quiet(), deterministic():
        trainer = ByLengthTrainer(
            model=model,
            args=_arguments(options, folder, device, validation is not None, workers, logs),
            data_collator=Collator(training.sounds.front_end),
            train_dataset=varied or training,
            eval_dataset=validation,
            compute_loss_func=loss,
            compute_metrics=measure,
            optimizers=(optimizer(kind, model), None),
            callbacks=[Stop(), *_logging(logs)],
        )
        trainer.remove_callback(PrinterCallback)
        state = _last_state(folder)
        done = before + _scores(state["log_history"]) if state else []
        if not state or not (round(state["epoch"]) >= last or _over(done, options.patience)):
            checkpoint = str(_checkpoint(folder, state)) if state else None
            with out_of_memory(options.batch_size, _TRAINING_MEMORY):
                trainer.train(resume_from_checkpoint=checkpoint, ignore_keys_for_eval=_NOT_SCORES)
            state = _last_state(folder)
    if state is None:
        raise MachineError(f"{folder}: no checkpoint was written; check the disk and try again")
    scores = before + _scores(state["log_history"])
    if before and best_epoch(scores) == 0:
        model.load_state_dict(first_weights)
    else:
        step = _best_step(state) if scores else None
        _load_weights(model, _checkpoint(folder, state, step))
    return scores


def make_loss(targets: Targets, label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Return the loss of a training, as the Trainer calls it.

    For labels it is the cross-entropy, weighted by :func:`class_weights` of the training clips,
    with the share ``label_smoothing`` of each label distributed over all labels; for ratings 1 -
    CCC over the batch, with variances over n. Training on the CCC: Weninger et al. (2016),
    *Discriminatively trained recurrent neural networks for continuous dimensional emotion
    recognition from audio*, IJCAI.
    """
    n_outputs = targets.shape[1]
    weights = class_weights(targets) if n_outputs > 1 else None

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"].float()
        if weights is None:
            value = 1 - concordance(logits[:, 0], labels[:, 0])
        else:
            value = nn.functional.cross_entropy(
                logits, labels, weight=weights.to(labels.device), label_smoothing=label_smoothing
            )
        # The Trainer counts the numbers in the labels of all batches of a step.
        return value if num_items_in_batch is None else value * labels.numel() / num_items_in_batch

    return loss


def concordance(predicted: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return the concordance correlation coefficient of a batch; 0 where nothing varies."""
    mean_p, mean_t = predicted.mean(), truth.mean()
    covariance = ((predicted - mean_p) * (truth - mean_t)).mean()
    spread = (predicted - mean_p).square().mean() + (truth - mean_t).square().mean()
    return 2 * covariance / (spread + (mean_p - mean_t).square() + 1e-8)


def predict(
    model: Any,
    examples: Examples,
    options: TrainingOptions,
    device: str,
    *,
    evaluated: str = "",
) -> NDArray[np.float64]:
    """Compute the scores of clips, with batch size and precision of the options.

    Return logits or ratings, shape (n_clips, n_outputs), in the order of the examples.
    ``evaluated`` is, for messages, the name of a model that is only evaluated and not trained.
    Raise UserError if some scores are not finite numbers; MachineError if a batch does not fit in
    memory.
    """
    logits = np.empty((len(examples), examples.targets.shape[1]))
    for rows, _, outputs in run_batches(model, examples, options, device, bool(evaluated)):
        logits[rows] = outputs["logits"].float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise UserError(
            f"{evaluated}: gives scores that are not finite numbers; use --precision float32, or "
            "another --model"
            if evaluated
            else "training ended in scores that are not finite numbers; lower --learning-rate, or "
            "use --precision float32"
        )
    return logits


def run_batches(
    model: Any,
    examples: Examples,
    options: TrainingOptions,
    device: str,
    is_evaluation: bool = False,
    **arguments: Any,
) -> Iterator[tuple[list[int], dict[str, torch.Tensor], Any]]:
    """Run a model over clips in batches of similar length, without gradients.

    Yield which of the examples are in the batch, the model's inputs on the device, and what the
    model returned. ``is_evaluation`` says, for messages, that nothing is trained in this run;
    ``arguments`` are further ones of the model.
    """
    collate = Collator(examples.sounds.front_end)
    order = np.argsort(-np.asarray(examples.seconds), kind="stable")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
    device_type = torch.device(device).type
    model.to(device).eval()
    remedy = _EVALUATION_MEMORY if is_evaluation else _TRAINING_MEMORY
    with deterministic(), out_of_memory(options.batch_size, remedy), torch.inference_mode():
        for start in range(0, len(order), options.batch_size):
            rows = order[start : start + options.batch_size].tolist()
            batch = collate([examples[row] for row in rows])
            del batch["labels"]
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            with torch.autocast(device_type, dtype) if dtype else contextlib.nullcontext():
                outputs = model(**inputs, **arguments)
            yield rows, inputs, outputs


def class_weights(targets: Targets) -> torch.Tensor:
    """Return the weight of each label in the loss, inverse to its frequency; mean over clips 1.

    ``targets`` are those of the training clips, 1 for the label of each. Labels without training
    clips have weight 0.
    """
    counts = targets.sum(axis=0)
    occurs = counts > 0
    weights = np.zeros(len(counts))
    weights[occurs] = len(targets) / (occurs.sum() * counts[occurs])
    return torch.tensor(weights, dtype=torch.float32)


def score_of(targets: NDArray[Any], outputs: NDArray[Any]) -> float:
    """Return the score that reports show: the UAR over the labels that occur (0 to 1), or the CCC.

    Both arrays have the shape (n_clips, n_outputs): targets are 1 for the label of each clip, or
    its rating; outputs are logits, or ratings.
    """
    n_labels = targets.shape[1]
    if n_labels == 1:
        return float(np.nan_to_num(RATINGS.first_of(targets[:, 0], outputs[:, 0]), nan=-1.0))
    truth, predicted = targets.argmax(axis=1), outputs.argmax(axis=1)
    counts = np.bincount(truth * n_labels + predicted, minlength=n_labels * n_labels)
    return float(LABELS.first(counts.reshape(n_labels, n_labels)))


def _arguments(
    options: TrainingOptions,
    folder: Path,
    device: str,
    validated: bool,
    workers: int,
    logs: Path | None,
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
        metric_for_best_model="score" if validated else None,
        greater_is_better=True if validated else None,
        logging_strategy="epoch" if logs else "no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=workers,
        dataloader_pin_memory=device != "cpu",
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # with more, batches would be larger than requested
    return arguments


def _logging(logs: Path | None) -> list[Any]:
    """Return the callback that writes logs for TensorBoard."""
    if logs is None:
        return []
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    return [TensorBoardCallback(SummaryWriter(str(logs)))]


def _shown(score: float, title: str) -> str:
    return f"{100 * score:.1f}" if title == "UAR" else f"{score:.3f}"


def _scores(history: Sequence[dict[str, Any]]) -> list[float]:
    return [float(entry["eval_score"]) for entry in history if "eval_score" in entry]


def best_epoch(scores: Sequence[float]) -> int:
    """Return the index of the highest score, the first of several."""
    return int(np.argmax(np.nan_to_num(scores, nan=-1.0)))


def _over(scores: Sequence[float], patience: int) -> bool:
    return bool(scores) and len(scores) - 1 - best_epoch(scores) >= patience


def _best_step(state: dict[str, Any]) -> int:
    steps = [int(entry["step"]) for entry in state["log_history"] if "eval_score" in entry]
    return steps[best_epoch(_scores(state["log_history"]))]


def _checkpoint(folder: Path, state: dict[str, Any], step: int | None = None) -> Path:
    return folder / f"checkpoint-{state['global_step'] if step is None else step}"


def _last_state(folder: Path) -> dict[str, Any] | None:
    """Return the state of the last complete checkpoint; remove those that a kill left incomplete.

    The Trainer writes the state last: if it can be read, the rest is complete. The hashes are
    written after that. If a file does not match its hash, no checkpoint is used, since later ones
    depend on earlier ones.
    """
    states: dict[int, dict[str, Any]] = {}
    for path in folder.glob("checkpoint-*"):
        try:
            check_model_files(path)
        except UserError:
            shutil.rmtree(folder, ignore_errors=True)
            return None
        try:
            state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            states[int(state["global_step"])] = state
            math.ceil(state["epoch"]), state["log_history"]
        except (OSError, ValueError, KeyError, TypeError):
            shutil.rmtree(path, ignore_errors=True)
    return states[max(states)] if states else None


def _load_weights(model: nn.Module, checkpoint: Path) -> None:
    from safetensors.torch import load_file

    model.load_state_dict(load_file(checkpoint / "model.safetensors"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from printing; ``say`` prints the scores."""
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
def deterministic() -> Iterator[None]:
    """Make torch use reproducible algorithms, and full float32 on GPUs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    kept = (cudnn.allow_tf32, cudnn.benchmark, memory.fill_uninitialized_memory)
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # a debugging aid that takes a tenth of the time
    cudnn.allow_tf32, cudnn.benchmark = False, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        cudnn.allow_tf32, cudnn.benchmark, memory.fill_uninitialized_memory = kept


@contextlib.contextmanager
def out_of_memory(batch_size: int, remedy: str) -> Iterator[None]:
    """Raise a MachineError with a remedy if a batch does not fit in memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if not known and "allocate memory" not in str(error):  # what torch raises on a CPU
            raise
        raise MachineError(
            f"a batch of {counted(batch_size, 'clip')} does not fit in memory; {remedy}"
        ) from None
