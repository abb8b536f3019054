"""Train end to end fold by fold, and record it as a run that reports read like any other."""

import contextlib
import gc
import math
import shutil
import statistics
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..corpora.data import Data
from ..errors import MachineError, UserError, counted, first_line
from ..features.cache import Cache
from ..features.extract import clip_columns
from ..features.training_record import record_clips, unite, write_record
from ..files import json_value, make_folder, remove
from ..integrity import write_model_hashes
from ..pipeline.finetune.augment import SPEED
from ..pipeline.finetune.data import Examples, Sounds, Targets, decode_all
from ..pipeline.finetune.kinds import EncoderWithHead, Kind, rescale_outputs
from ..pipeline.finetune.options import TrainingOptions
from ..pipeline.finetune.probe import LINEAR, ProbeChoice, pooled_states, start_from_probe
from ..pipeline.finetune.processes import on_devices
from ..pipeline.finetune.train import best_epoch, predict, quiet, train
from ..pipeline.fit import ALL, Choice, HeadFit, Predictions
from ..pipeline.folds import Fold, inner_folds
from ..pipeline.measures import MEASURES
from ..pipeline.protocol import Plan, Protocol, make_plan
from ..pipeline.ratings import Ratings
from ..pipeline.search import FoldResult
from ..pipeline.target import DEFAULT
from ..progress import Say, Track, no_track, say_nothing
from .latest import RUNS
from .parts import FOLDER, part_writer, read_parts, remove_parts
from .record import heads_there, save_nuisance_once
from .results import RunResults
from .run import (
    SETTINGS_VERSION,
    HeadSummary,
    RunSummary,
    content_hash,
    read_summary,
    run_name,
    save_clips,
    save_predictions,
    save_search,
    tested_hashes,
    update_hashes,
    write_summary,
)

if TYPE_CHECKING:
    from ..cluster import Cluster

LAYER = "end to end"
#: Below the run's folder: checkpoints of what is being trained; the model for others; logs.
TRAINING, MODEL, LOGS = f"{FOLDER}/training", "model", "tensorboard"


def record_finetuning(
    found: Data,
    kind: Kind,
    options: TrainingOptions,
    protocol: Protocol | None = None,
    *,
    devices: Sequence[str] = ("cpu",),
    cluster: "Cluster | None" = None,
    max_folds: int | None = None,
    export: bool = True,
    ratings: Ratings | None = None,
    probe: RunResults | None = None,
    start: bool = True,
    logs: bool = False,
    provenance: Mapping[str, Any],
    out: Path | None = None,
    given_name: str = "",
    skip_bad: bool = False,
    workers: int = 1,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Path:
    """Train a model on the training speakers of each fold; test it; save all of it.

    A finished fold is kept; the one that was being trained goes on from its last epoch.

    Parameters
    ----------
    found : Data
        The clips.
    kind : Kind
        What is trained: an encoder with a head, or a network.
    options : TrainingOptions
        How it is trained.
    protocol : Protocol, optional
        Target, labels, split and seed of the folds; what it says of layers and embeddings is not
        used.
    devices : sequence of str
        In torch's words. On several, as many folds are trained at once; the numbers are the same.
    cluster : Cluster, optional
        Whose workers train the folds, side by side, each on a device of such a kind; all else is
        done here.
    max_folds : int, optional
        Train the first folds only: a trial, marked as such.
    export : bool
        Whether to train a model on all speakers in the end, for as many epochs as the median of
        the folds took.
    ratings : Ratings, optional
        Of the target, from a file of their own.
    probe : RunResults, optional
        The run of the frozen probe: of the same clips, labels and folds.
    start : bool
        Whether an encoder's head begins as the probe's solution, if there is a probe.
    logs : bool
        Whether to write logs for TensorBoard.
    provenance : mapping
        JSON values to store beside the results.
    out : Path, optional
        The run's folder.
    given_name : str
        What the user calls the run in tables and figures.
    skip_bad : bool
        Leave bad clips out, instead of stopping before the long work.
    workers : int
        Threads that decode.
    track : callable
        Shows progress.
    say : callable
        Told what happens. With several devices it must be picklable.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If the options, the clips, ``probe`` or ``out`` do not fit.
    MachineError
        If memory does not hold a batch.
    """
    options.check(devices[0])
    shortest = kind.minimum_samples
    if "speed" in options.augment:  # played faster, it must still be long enough
        shortest = math.ceil(shortest * (1 + SPEED)) + 1
    sounds = decode_all(
        found.clips,
        kind.front_end,
        minimum_samples=shortest,
        skip_bad=skip_bad,
        workers=workers,
        track=track,
        say=say,
    )
    table = dict(
        sorted(clip_columns(sounds.heard, kind.training).items())
    )  # in the order of a cache
    asked = protocol or Protocol()
    if asked.target not in (*table, DEFAULT) and not ratings:
        raise UserError(
            f"--target {asked.target}: no such column of the clips; expected one of "
            f"{', '.join(table)}; name one of labels or numbers"
        )
    key = _key(kind, options, devices[0])
    where = Path(f"{found.name}-{kind.name.replace('/', '--')}")
    # A cache without embeddings: what is planned is what `serpipe fit` would plan.
    plan = make_plan(Cache(where, key, {"corpus": found.title}, table, ()), asked, ratings)
    if plan.task == "regression" and options.label_smoothing:
        raise UserError(
            f"--label-smoothing: {plan.target.column} is a number; expected labels; leave it out"
        )
    validation = {fold.name: validation_clips(plan, fold) for fold in plan.split.folds}
    choices: dict[str, ProbeChoice] = {}
    everybody, plan = plan, _trial(plan, max_folds)
    trial = plan is not everybody
    if probe:
        if trial:
            raise UserError(
                f"--probe {probe.run}: with --max-folds {max_folds} other clips are tested; "
                "expected one of the two; leave one out"
            )
        _check_probe(probe, plan)
        if start and isinstance(kind, EncoderWithHead):
            choices = _probe_choices(probe, kind)
    content = content_hash(key, {}, plan.clips)
    settings = {
        "format": SETTINGS_VERSION,
        "content": content,
        "options": asdict(options),
        "protocol": asdict(plan.protocol),
        "folds": [[fold.name, fold.test.tolist()] for fold in plan.split.folds],
        "start": {fold: choice.identity for fold, choice in choices.items()},
    }
    name = run_name(where.with_name(where.name + ".h5"), plan.split.name, [kind.head], settings)
    run = out or RUNS / name
    done = heads_there(run, name, provenance)
    earlier_name = read_summary(run).given_name if done else ""
    if kind.head not in done:  # a model stands for the folds: it is trained after them
        shutil.rmtree(run / MODEL, ignore_errors=True)
    make_folder(run)
    training = FoldTraining(
        plan=plan,
        sounds=sounds,
        kind=kind,
        options=options,
        validation=validation,
        folder=run / TRAINING,
        logs=run / LOGS if logs else None,
        say=say,
        choices=choices,
    )

    beside = probe.run.resolve().name if probe else None

    def summarise() -> None:
        summary = _summary(name, content, found, training, key, provenance, done)
        write_summary(run, replace(summary, probe=beside, given_name=given_name or earlier_name))

    if kind.head in done:
        remove_parts(run, kind.head)
        # The newest run is the one that was asked for last; the probe beside it may be another.
        told = read_summary(run)
        write_summary(
            run,
            replace(told, probe=beside or told.probe, given_name=given_name or told.given_name),
        )
    else:
        summarise()  # before the work: what is left of a stopped run says that it is not whole
        save_clips(run, plan.tested_clips, plan.tested_labels, plan.split.folds)
        training = _with_states(training, devices[0])
        fit = _train_folds(training, run, devices, cluster, track)
        save_predictions(
            run, kind.head, fit, plan.tested_clips, plan.tested_labels, plan.split.folds
        )
        save_search(run, kind.head, training.grid, fit)
        done[kind.head] = _summarise(training, fit)
        summarise()
        remove_parts(run, kind.head)
    if export and not trial and not (run / MODEL).is_dir():
        epochs = int(done[kind.head].final["parameters"]["epoch"])
        whom = "all but the test speakers" if plan.split.kind.holds_out else "all speakers"
        say(f"final    {whom}, {counted(epochs, 'epoch')}: the median of the folds")
        _with_states(training, devices[0]).export(epochs, run / MODEL, name, devices[0])
    remove_parts(run, "training")
    save_nuisance_once(run, plan)
    update_hashes(run)
    return run


@dataclass(frozen=True)
class FoldTraining:
    """What the trainings of all folds have in common; called with a fold, it trains it.

    Attributes
    ----------
    plan : Plan
        Folds and labels.
    sounds : Sounds
        The audio.
    kind : Kind
        What is trained.
    options : TrainingOptions
        How.
    validation : mapping of str to ndarray of int
        By fold, the clips that its epoch is chosen by.
    folder : Path
        For checkpoints.
    logs : Path or None
        For TensorBoard.
    say : callable
        Told what happens.
    choices : mapping of str to ProbeChoice
        By fold, what the frozen probe chose; empty for a random head.
    states : ndarray of float32, shape (n_layers, n_clips, width), optional
        Means of the frozen encoder's layers, of all clips of the plan, where there are choices.
    """

    plan: Plan
    sounds: Sounds
    kind: Kind
    options: TrainingOptions
    validation: Mapping[str, NDArray[np.intp]]
    folder: Path
    logs: Path | None
    say: Say
    choices: Mapping[str, ProbeChoice]
    states: NDArray[np.float32] | None = None

    @property
    def names(self) -> list[str]:
        """What the model's outputs are called: the labels, or the rating."""
        return self.plan.problem.names or [self.plan.target.column]

    @property
    def grid(self) -> dict[str, tuple[float, ...]]:
        """The epochs that can be chosen; 0 is the probe before any training."""
        return {"epoch": tuple(range(0 if self.choices else 1, self.options.epochs + 1))}

    def scale(self, train: NDArray[np.intp]) -> tuple[float, float]:
        """Return mean and deviation of the ratings of some clips; 0 and 1 for labels."""
        if self.plan.problem.names:
            return 0.0, 1.0
        ratings = self.plan.problem.labels[train]
        return float(ratings.mean()), float(ratings.std()) or 1.0

    def examples(self, rows: NDArray[np.intp], scale: tuple[float, float]) -> Examples:
        """Return clips of the plan, by their positions in it."""
        labels = self.plan.problem.labels[rows]
        targets: Targets
        if self.plan.problem.names:
            targets = (labels[:, None] == np.array(self.names)).astype(np.float32)
        else:
            targets = ((labels[:, None] - scale[0]) / scale[1]).astype(np.float32)
        return Examples(self.sounds, self.plan.target.rows[rows].tolist(), targets)

    def model(self, fold: str, rows: NDArray[np.intp]) -> Any:
        """Return the model to begin with: the same for each fold, or with the fold's own probe."""
        model = self.kind.build(self.names, self.plan.task)
        if self.states is not None:
            start_from_probe(
                model,
                self.choices[fold],
                self.states[:, rows],
                self.plan.problem.labels[rows],
                self.scale(rows),
                self.plan.protocol.seed,
            )
        return model

    def __call__(self, number: int, device: str) -> FoldResult:
        """Train on a fold's speakers but those of validation, and test; folds count from 0."""
        folds = self.plan.split.folds
        fold = folds[number]
        validation = self.validation[fold.name]
        rows = np.setdiff1d(fold.train, validation)
        scale = self.scale(rows)
        model = self.model(fold.name, rows)
        told = f"{fold.name}, {number + 1} of {len(folds)}"
        scores = train(
            model,
            self.kind,
            self.examples(rows, scale),
            self.examples(validation, scale),
            self.options,
            self.folder_of(number),
            device,
            started=bool(self.choices),
            logs=self.logs and self.logs / f"fold-{number + 1:04d}",
            say=lambda text: self.say(f"fold     {told}: {text}"),
        )
        outputs = predict(model, self.examples(fold.test, scale), self.options, device)
        outputs = outputs * scale[1] + scale[0]  # not in the model: its 16 bits would round them
        predicted, shares = self.tell(outputs, self.plan.problem.labels[rows])
        missing = len(self.grid["epoch"]) - len(scores)
        inner = (*scores, *[math.nan] * missing)
        return FoldResult(inner, best_epoch(scores), 0, predicted, shares, converged=True)

    def tell(
        self, outputs: NDArray[np.float64], trained: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Return predictions and probabilities; of ratings these alone."""
        if not self.plan.problem.names:
            return outputs[:, 0], np.empty((len(outputs), 0))
        # A label that no training clip has is not predicted: nothing is known of it.
        unknown = ~np.isin(self.names, trained)
        outputs[:, unknown] = -np.inf
        shares = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        shares[:, unknown] = np.nan
        return np.array(self.names)[np.argmax(outputs, axis=1)], shares

    def folder_of(self, number: int) -> Path:
        """Return where the checkpoints of a fold are."""
        return self.folder / f"fold-{number + 1:04d}"

    def export(self, epochs: int, to: Path, name: str, device: str) -> None:
        """Train on all clips, and save the model, whole or not at all."""
        rows = self.plan.problem.everybody().train
        scale = self.scale(rows)
        model = self.model(ALL, rows)
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
        heard = [self.sounds.heard[row] for row in self.plan.target.rows[rows].tolist()]
        clips = record_clips(
            [each.clip.corpus for each in heard],
            [each.clip.speaker for each in heard],
            [each.clip.path for each in heard],
            [each.facts.audio_sha256 for each in heard],
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


def _with_states(training: FoldTraining, device: str) -> FoldTraining:
    """Run the frozen encoder over all clips once, if heads begin as the probe's solution."""
    if not training.choices or training.states is not None:
        return training
    plan, options = training.plan, training.options
    everyone = np.arange(len(plan.problem.labels))
    model = training.kind.build(training.names, plan.task)
    examples = training.examples(everyone, (0.0, 1.0))
    training = replace(training, states=pooled_states(model, examples, options, device))
    del model
    _empty(device)  # other processes want the memory
    return training


def _empty(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        gc.collect()
        torch.cuda.empty_cache()


def _key(kind: Kind, options: TrainingOptions, device: str) -> dict[str, Any]:
    """Return what the numbers depend on besides clips and options, as a cache tells it."""
    import torch

    is_cuda = device.startswith("cuda")
    return {
        **kind.identity,
        "layers": [LAYER],
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if is_cuda else device,
    }


def validation_clips(plan: Plan, fold: Fold) -> NDArray[np.intp]:
    """Return the training clips by which the epoch is chosen.

    Parameters
    ----------
    plan : Plan
        Of the run.
    fold : Fold
        One of its folds.

    Returns
    -------
    ndarray of int
        The validation clips that the split names, or those of a fifth of the training speakers, or
        of the groups of speakers that folds keep together. Positions in the clip table.

    Raises
    ------
    UserError
        If there are too few speakers to set some aside.
    """
    if fold.validation is not None:
        return fold.validation
    speakers = plan.problem.kept_together[fold.train]
    if len(np.unique(speakers)) < 2:
        raise UserError(
            f"fold {fold.name}: one training speaker, {speakers[0]}; expected at least 2, one to "
            "choose the epoch by; take clips of more speakers, or another --split"
        )
    try:
        first = inner_folds(plan.problem.strata[fold.train], speakers)[0]
    except UserError:
        raise UserError(
            f"fold {fold.name}: its training speakers cannot be divided so that two labels are "
            "left to train on; expected labels from several speakers; take clips of more speakers"
        ) from None
    return fold.train[first.test]


def _check_probe(probe: RunResults, plan: Plan) -> None:
    fold_of = {int(place): fold.name for fold in plan.split.folds for place in fold.test}
    table = plan.tested_clips
    ours = set(
        zip(
            table["path"].tolist(),
            table["speaker"].tolist(),
            map(str, plan.tested_labels.tolist()),
            [fold_of[place] for place in sorted(fold_of)],
            strict=True,
        )
    )
    columns = (probe.clips[name].tolist() for name in ("path", "speaker", "label", "fold"))
    theirs = set(zip(*columns, strict=True))
    if theirs != ours:
        first = sorted(theirs ^ ours)[0]
        only = f"{probe.run}" if first in theirs else "this one"
        raise UserError(
            f"--probe {probe.run}: other clips, labels or folds, such as {' '.join(first)} of "
            f"{only} alone; expected a run of the same clips, speakers, labels and folds; name "
            "another, or choose --data, --split, --target, --map and --keep as it did"
        )


def _probe_choices(probe: RunResults, kind: EncoderWithHead) -> dict[str, ProbeChoice]:
    """Return what the probe chose for each fold and for all speakers, if a head can begin so."""
    summary = probe.summary
    fix = "name another, or begin with --random-head"
    if summary.encoder.get("weights_sha256") != kind.checkpoint.weights_sha256:
        raise UserError(
            f"--probe {probe.run}: of {summary.encoder['encoder']}, with other weights; expected "
            f"{kind.name}, to begin with its solution; {fix}"
        )
    linear = [head for head in LINEAR if head in summary.heads]
    if not linear or summary.normalise != "none" or summary.pooling != "mean":
        raise UserError(
            f"--probe {probe.run}: holds {', '.join(summary.heads)} on {summary.pooling} pooling, "
            f"normalised by {summary.normalise}; expected {' or '.join(LINEAR)} on the mean, not "
            f"normalised, to begin with its solution; {fix}"
        )
    told = summary.heads[linear[0]]
    wrong = [
        str(choice["layer"])
        for choice in (*told.choices, told.final)
        if choice["layer"] not in kind.layers
    ]
    if wrong:
        raise UserError(
            f"--probe {probe.run}: chose {wrong[0]}; expected one of the layers "
            f"{', '.join(kind.layers)}, to begin with its solution; {fix}"
        )
    return {
        str(choice["fold"]): ProbeChoice(
            linear[0], str(choice["layer"]), dict(choice["parameters"])
        )
        for choice in (*told.choices, told.final)
    }


def _trial(plan: Plan, max_folds: int | None) -> Plan:
    """Keep the first folds only, and mark what comes of it."""
    folds = plan.split.folds
    if max_folds is None or max_folds >= len(folds):
        return plan
    if max_folds < 1:
        raise UserError(f"--max-folds {max_folds}: expected at least 1")
    some = folds[:max_folds]
    title = f"{plan.split.title}, of which the first {max_folds} only"
    warning = (
        f"TRIAL: {max_folds} of {len(folds)} folds were trained; the clips of the others are "
        "missing, and the score is not that of the corpus"
    )
    return replace(
        plan,
        split=replace(plan.split, title=title, folds=some),
        problem=replace(plan.problem, folds=some),
        warnings=(*plan.warnings, warning),
    )


def _train_folds(
    training: FoldTraining,
    run: Path,
    devices: Sequence[str],
    cluster: "Cluster | None",
    track: Track[Any],
) -> HeadFit:
    head, problem = training.kind.head, training.plan.problem
    folds, names = problem.folds, problem.names
    n_points = len(training.grid["epoch"])
    there = read_parts(run, head, [LAYER], folds, np.array(names), n_points)
    keep = part_writer(run, head, [LAYER], [fold.name for fold in folds], names)
    results = dict(there)
    left = [n for n, fold in enumerate(folds) if (LAYER, fold.name) not in results]
    _empty(devices[0])
    trained = (
        _on_cluster(training, left, cluster, devices[0].partition(":")[0])
        if cluster
        else on_devices(training, left, devices)
    )
    with contextlib.closing(trained) as done:
        for number, result in track(done, "training folds", len(left)):
            keep(LAYER, folds[number].name, result)
            results[LAYER, folds[number].name] = result
            shutil.rmtree(training.folder_of(number), ignore_errors=True)
    predicted = np.empty_like(problem.labels)
    scores = np.full((len(problem.labels), len(names)), np.nan)
    for fold in folds:
        predicted[fold.test] = results[LAYER, fold.name].predicted
        scores[fold.test] = results[LAYER, fold.name].scores
    tested = Predictions(predicted[problem.tested], scores[problem.tested])
    first = int(training.grid["epoch"][0])
    choices = tuple(_choice(fold.name, results[LAYER, fold.name], first) for fold in folds)
    median = statistics.median_low(int(choice.params["epoch"]) for choice in choices)
    final = Choice(ALL, LAYER, {"epoch": median}, math.nan)
    return HeadFit(tested, {LAYER: tested}, choices, final, results)


def _on_cluster(
    training: FoldTraining, left: Sequence[int], cluster: "Cluster", device: str
) -> Generator[tuple[int, FoldResult]]:
    """Train folds on the workers of a cluster, in whatever order."""
    from ..cluster import Failed, run_all

    heard = tuple(replace(each, clip=each.clip.absolute()) for each in training.sounds.heard)
    there = replace(
        training,
        sounds=replace(training.sounds, heard=heard),
        folder=training.folder.resolve(),
        logs=training.logs and training.logs.resolve(),
    )
    lost: list[tuple[int, Failed]] = []
    for place, told in run_all(
        cluster, _train_there, left, device, large=there, resources=cluster.resources
    ):
        if isinstance(told, Failed):
            lost.append((left[place], told))
        else:
            yield left[place], told
    if lost:
        raise MachineError(
            f"--cluster: fold {lost[0][0] + 1} and {len(lost) - 1} others failed too often "
            f"({first_line(lost[0][1].error)}); expected all to be trained; the others are kept: "
            "run the same command again"
        )


def _train_there(number: int, kind: str, training: FoldTraining) -> FoldResult:
    from ..cluster import device_here
    from ..features.devices import choose_devices

    return training(number, device_here(choose_devices(kind)))


def _choice(fold: str, result: FoldResult, first_epoch: int) -> Choice:
    epoch = result.chosen + first_epoch
    return Choice(fold, LAYER, {"epoch": epoch}, result.inner[result.chosen])


def _summarise(training: FoldTraining, fit: HeadFit) -> HeadSummary:
    def describe(choice: Choice) -> dict[str, Any]:
        return {
            "fold": choice.fold,
            "layer": choice.layer,
            "parameters": choice.params,
            "inner_score": json_value(choice.inner_score),
        }

    speakers = training.plan.problem.speakers
    labels = bool(training.plan.problem.names)
    return HeadSummary(
        title="fine-tuned" if isinstance(training.kind, EncoderWithHead) else training.kind.name,
        scores_are="probabilities (softmax), not calibrated" if labels else "none",
        grid=training.grid,
        choices=[
            describe(choice)
            | {"validation": np.unique(speakers[training.validation[choice.fold]]).tolist()}
            for choice in fit.choices
        ],
        final=describe(fit.final),
        fits={
            "points": int(sum(np.isfinite(r.inner).sum() for r in fit.results.values())),
            "pruned": 0,
            "inner_not_converged": 0,
        },
        not_converged={},
    )


def _summary(
    name: str,
    content: str,
    found: Data,
    training: FoldTraining,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    done: Mapping[str, HeadSummary],
) -> RunSummary:
    plan, options = training.plan, training.options
    title = MEASURES[plan.task].title
    begin = "; begun with the frozen probe's head" if training.choices else ""
    return RunSummary(
        name=name,
        corpus=found.title,
        encoder={**key, "training": asdict(options)},
        pooling="mean",
        target=plan.target.column,
        changes=plan.target.changes,
        normalise="none",
        split=plan.split.name,
        split_title=plan.split.title,
        inner=f"epoch chosen by the {title} of speakers held out of the training speakers of each "
        f"fold, with early stopping after {counted(options.patience, 'epoch')} without a "
        f"better{begin}",
        warnings=plan.warnings,
        seed=plan.protocol.seed,
        layers=[LAYER],
        labels=plan.problem.names,
        speakers=np.unique(plan.tested_clips["speaker"]).tolist(),
        clips=len(plan.tested_labels),
        content=content,
        planned=[training.kind.head],
        heads=dict(done),
        provenance={
            **provenance,
            "cache": {
                "corpus": found.title, "licence": found.licence, "citation": found.citation,
            },
        },
        task=plan.task,
        assumptions=plan.assumptions,
        findings=plan.findings,
        group=plan.group,
        groups=plan.tested_groups,
        **tested_hashes(plan.tested_clips, plan.tested_labels, plan.split.folds),
    )  # fmt: skip


def probe_advice(run: Path) -> str:
    """Say how a fine-tuned run is compared with its frozen probe."""
    return (
        "note     what training gained shows only beside the frozen probe: serpipe extract and fit "
        f"with the same data, encoder, split and labels, then serpipe report {run} PROBE_RUN"
    )
