"""Train a model for each fold, and a final one on all clips."""

import contextlib
import gc
import math
import shutil
import statistics
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ...errors import MachineError, UserError, first_line
from ...features.training_record import record_clips, unite, write_record
from ...files import remove
from ...integrity import write_model_hashes
from ...progress import Say, Track
from ..fit import ALL, Choice, HeadFit, Predictions, Results
from ..folds import Fold, inner_folds
from ..marks import Mark, MarkKind
from ..plan import Plan
from ..search import FoldResult
from ..votes import shares_of
from . import END_TO_END
from .data import Examples, Sounds, Targets
from .kinds import Kind, rescale_outputs
from .options import TrainingOptions
from .probe import ProbeChoice, pooled_states, start_from_probe
from .processes import on_devices
from .train import best_epoch, predict, quiet, train

if TYPE_CHECKING:
    from ...cluster import Cluster


@dataclass(frozen=True)
class FoldTraining:
    """What the trainings of all folds have in common; called with a fold, it trains it."""

    plan: Plan
    sounds: Sounds
    kind: Kind
    options: TrainingOptions
    validation: Mapping[str, NDArray[np.intp]]  #: By fold, the clips on which its epoch is chosen.
    folder: Path  #: For checkpoints.
    logs: Path | None  #: For TensorBoard.
    say: Say  #: Prints a line.
    #: By fold, what the frozen probe chose; empty for a random head.
    choices: Mapping[str, ProbeChoice]
    #: Shape (n_layers, n_clips, width): means of the frozen encoder's layers over time, of all
    #: clips, each once, where there are choices.
    states: NDArray[np.float32] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the model's outputs: the labels, or the rating."""
        return self.plan.problem.names or [self.plan.target.column]

    @property
    def grid(self) -> dict[str, tuple[float, ...]]:
        """The epochs to choose from; epoch 0 is the probe before any training."""
        return {"epoch": tuple(range(0 if self.choices else 1, self.options.epochs + 1))}

    @property
    def shares(self) -> NDArray[np.float64] | None:
        """The share of raters of each label, where these are the targets of the training."""
        if self.plan.problem.weights is None:
            return None
        return shares_of(self.plan.clips, len(self.names))

    def once(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return some rows with one for each clip, which then has the shares as its targets."""
        once = self.plan.problem.once
        return rows if once is None else rows[once[rows]]

    def scale(self, rows: NDArray[np.intp]) -> tuple[float, float]:
        """Return mean and standard deviation of the ratings of some clips; 0 and 1 for labels."""
        if self.plan.problem.names:
            return 0.0, 1.0
        ratings = self.plan.problem.labels[rows]
        return float(ratings.mean()), float(ratings.std()) or 1.0

    def examples(self, rows: NDArray[np.intp], scale: tuple[float, float]) -> Examples:
        """Return clips of the plan, given their rows in its clip table."""
        labels = self.plan.problem.labels[rows]
        targets: Targets
        if (shares := self.shares) is not None:
            targets = shares[rows].astype(np.float32)
        elif self.plan.problem.names:
            targets = (labels[:, None] == np.array(self.names)).astype(np.float32)
        else:
            targets = ((labels[:, None] - scale[0]) / scale[1]).astype(np.float32)
        return Examples(self.sounds, self.plan.target.rows[rows].tolist(), targets)

    def model(self, fold: str, rows: NDArray[np.intp]) -> Any:
        """Return the initial model: the same for each fold, or with the fold's own probe."""
        model = self.kind.build(self.names, self.plan.task)
        if self.states is not None:
            problem, clips = self.plan.problem, self.plan.target.rows
            # Clips have states once, and a row for each of their labels.
            of_row = np.searchsorted(clips[: self.states.shape[1]], clips[rows])
            start_from_probe(
                model,
                self.choices[fold],
                self.states[:, of_row],
                problem.labels[rows],
                self.scale(rows),
                self.plan.protocol.seed,
                None if problem.weights is None else problem.weights[rows],
            )
        return model

    def __call__(self, index: int, device: str) -> FoldResult:
        """Train on the training speakers of a fold, without those of validation, and test."""
        folds = self.plan.split.folds
        fold = folds[index]
        validation = self.validation[fold.name]
        rows = np.setdiff1d(fold.train, validation)
        scale = self.scale(rows)
        model = self.model(fold.name, rows)
        validation = self.once(validation)
        if (shares := self.shares) is not None:  # the UAR chooses the epoch: it needs a majority
            best = shares[validation] == shares[validation].max(axis=1, keepdims=True)
            validation = validation[best.sum(axis=1) == 1]
            if not len(validation):
                raise UserError(
                    f"fold {fold.name}: no clip of its validation speakers has a majority of "
                    "raters to choose the epoch by; use another --split, or --labels majority"
                )
        title = f"{fold.name}, {index + 1} of {len(folds)}"
        scores = train(
            model,
            self.kind,
            self.examples(self.once(rows), scale),
            self.examples(validation, scale),
            self.options,
            self.fold_folder(index),
            device,
            started=bool(self.choices),
            logs=self.logs and self.logs / f"fold-{index + 1:04d}",
            say=lambda text: self.say(f"fold     {title}: {text}"),
        )
        outputs = predict(model, self.examples(fold.test, scale), self.options, device)
        outputs = outputs * scale[1] + scale[0]  # outside the model, whose 16 bits would round it
        predicted, probabilities = self.read_outputs(outputs, self.plan.problem.labels[rows])
        missing = len(self.grid["epoch"]) - len(scores)
        inner = (*scores, *[math.nan] * missing)
        return FoldResult(inner, best_epoch(scores), 0, predicted, probabilities, converged=True)

    def read_outputs(
        self, outputs: NDArray[np.float64], trained: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return predictions and probabilities; for ratings the predictions alone."""
        if not self.plan.problem.names:
            return outputs[:, 0], np.empty((len(outputs), 0))
        # A label that no training clip has is never predicted: nothing is known of it.
        unknown = ~np.isin(self.names, trained)
        outputs[:, unknown] = -np.inf
        probabilities = softmax(outputs, axis=1)
        probabilities[:, unknown] = np.nan
        return np.array(self.names)[np.argmax(outputs, axis=1)], probabilities

    def fold_folder(self, index: int) -> Path:
        """Return the folder for the checkpoints of a fold."""
        return self.folder / f"fold-{index + 1:04d}"

    def export(self, epochs: int, to: Path, name: str, device: str) -> None:
        """Train on all clips, and save the model atomically."""
        rows = self.plan.problem.everybody().train
        scale = self.scale(rows)
        model = self.model(ALL, rows)
        rows = self.once(rows)
        train(
            model,
            self.kind,
            self.examples(rows, scale),
            None,
            self.options,
            self.folder / "final",
            device,
            epochs=epochs,
            logs=self.logs and self.logs / "final",
        )
        rescale_outputs(self.kind.last(model), *scale)
        decoded = [self.sounds.clips[row] for row in self.plan.target.rows[rows].tolist()]
        clips = record_clips(
            [each.clip.corpus for each in decoded],
            [each.clip.speaker for each in decoded],
            [each.clip.path for each in decoded],
            [each.facts.audio_sha256 for each in decoded],
        )
        record = unite([self.kind.training, clips]) or clips
        about = {
            "run": name,
            "corpora": sorted(record.corpora),
            "speakers": len(np.unique(self.plan.problem.speakers[rows])),
            "clips": len(rows),
            "target": self.plan.target.column,
            "warnings": list(self.plan.warnings),
        }
        unfinished = to.with_name(f"{to.name}.unfinished")
        remove(unfinished)
        with quiet():
            self.kind.save(model, unfinished, about)
        write_record(unfinished, record)
        write_model_hashes(unfinished)
        unfinished.rename(to)

    def with_states(self, device: str) -> "FoldTraining":
        """Run the frozen encoder over all clips once, if heads start as the probe's solution."""
        if not self.choices or self.states is not None:
            return self
        model = self.kind.build(self.names, self.plan.task)
        every = self.once(np.arange(len(self.plan.problem.labels)))
        examples = self.examples(every, (0.0, 1.0))
        states = pooled_states(model, examples, self.options, device)
        del model
        _free_memory(device)  # for other processes
        return replace(self, states=states)


def train_folds(
    training: FoldTraining,
    stored: Results,
    store: Callable[[str, str, FoldResult], None],
    devices: Sequence[str],
    cluster: "Cluster | None",
    track: Track[Any],
) -> HeadFit:
    """Train all folds whose results are not stored yet, one at a time on each device.

    ``stored`` are results of an earlier run, by layer and fold. ``store`` is called with layer,
    fold and result as soon as a fold is done. With a cluster, its workers train the folds; raise
    MachineError if folds failed there.
    """
    problem = training.plan.problem
    folds = problem.folds
    results = dict(stored)
    missing = [n for n, fold in enumerate(folds) if (END_TO_END, fold.name) not in results]
    _free_memory(devices[0])
    trained = (
        _on_cluster(training, missing, cluster, devices[0].partition(":")[0])
        if cluster
        else on_devices(training, missing, devices)
    )
    with contextlib.closing(trained) as done:
        for index, result in track(done, "training folds", len(missing)):
            store(END_TO_END, folds[index].name, result)
            results[END_TO_END, folds[index].name] = result
            shutil.rmtree(training.fold_folder(index), ignore_errors=True)
    predicted = np.empty_like(problem.labels)
    scores = np.full((len(problem.labels), len(problem.names)), np.nan)
    for fold in folds:
        predicted[fold.test] = results[END_TO_END, fold.name].predicted
        scores[fold.test] = results[END_TO_END, fold.name].scores
    tested = Predictions(predicted[problem.tested], scores[problem.tested])
    first_epoch = int(training.grid["epoch"][0])

    def choice(fold: str) -> Choice:
        result = results[END_TO_END, fold]
        epoch = result.chosen + first_epoch
        return Choice(fold, END_TO_END, {"epoch": epoch}, result.inner[result.chosen])

    choices = tuple(choice(fold.name) for fold in folds)
    median = statistics.median_low(int(choice.params["epoch"]) for choice in choices)
    final = Choice(ALL, END_TO_END, {"epoch": median}, math.nan)
    return HeadFit(tested, {END_TO_END: tested}, choices, final, results)


def _on_cluster(
    training: FoldTraining, indices: Sequence[int], cluster: "Cluster", device: str
) -> Generator[tuple[int, FoldResult]]:
    """Train folds on the workers of a cluster, in whatever order."""
    from ...cluster import Failed, run_all

    # Workers have other working directories.
    decoded = tuple(replace(each, clip=each.clip.absolute()) for each in training.sounds.clips)
    shared = replace(
        training,
        sounds=replace(training.sounds, clips=decoded),
        folder=training.folder.resolve(),
        logs=training.logs and training.logs.resolve(),
    )
    failed: list[tuple[int, Failed]] = []
    for task, result in run_all(
        cluster, _train_on_worker, indices, device, large=shared, resources=cluster.resources
    ):
        if isinstance(result, Failed):
            failed.append((indices[task], result))
        else:
            yield indices[task], result
    if failed:
        raise MachineError(
            f"--cluster: fold {failed[0][0] + 1} and {len(failed) - 1} others failed too often "
            f"({first_line(failed[0][1].error)}); run the same command again: the finished folds "
            "are kept"
        )


def _train_on_worker(index: int, kind: str, training: FoldTraining) -> FoldResult:
    from ...cluster import device_here
    from ...features.devices import choose_devices

    return training(index, device_here(choose_devices(kind)))


def validation_clips(plan: Plan, fold: Fold) -> NDArray[np.intp]:
    """Return the rows of the training clips on which the epoch of a fold is chosen.

    They are the validation clips of the split, or those of a fifth of the training speakers, or of
    the groups of speakers that folds keep together. Raise UserError if there are too few speakers.
    """
    if fold.validation is not None:
        return fold.validation
    speakers = plan.problem.kept_together[fold.train]
    if len(np.unique(speakers)) < 2:
        raise UserError(
            f"fold {fold.name}: {speakers[0]} is the only training speaker, and none is left to "
            "choose the epoch by; use clips of more speakers, or another --split"
        )
    try:
        first = inner_folds(plan.problem.strata[fold.train], speakers)[0]
    except UserError:
        raise UserError(
            f"fold {fold.name}: its training speakers cannot be divided so that two labels are "
            "left to train on; use clips of more speakers"
        ) from None
    return fold.train[first.test]


def limit_folds(plan: Plan, max_folds: int | None) -> Plan:
    """Keep the first folds of a plan, marked as a trial.

    Raise UserError if there would be none.
    """
    folds = plan.split.folds
    if max_folds is None or max_folds >= len(folds):
        return plan
    if max_folds < 1:
        raise UserError(f"--max-folds {max_folds}: must be at least 1")
    kept = folds[:max_folds]
    title = f"{plan.split.title}, of which the first {max_folds} only"
    trial = Mark(
        MarkKind.TRIAL,
        f"{max_folds} of {len(folds)} folds were trained; the clips of the others are missing, and "
        "the score is not that of the corpus",
    )
    return replace(
        plan,
        split=replace(plan.split, title=title, folds=kept),
        problem=replace(plan.problem, folds=kept),
        marks=(*plan.marks, trial),
    )


def end_to_end_key(identity: Mapping[str, Any], precision: str, device: str) -> dict[str, Any]:
    """Return what the numbers depend on besides clips and options, as the key of a cache would."""
    import torch

    is_cuda = device.startswith("cuda")
    return {
        **identity,
        "layers": [END_TO_END],
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if is_cuda else device,
    }


def _free_memory(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()
