"""Fine-tune an encoder fold by fold, and record it as a run that reports read like any other."""

import math
import shutil
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora.data import Data
from ..errors import BadClipsError, UserError
from ..features.audio import CHANNEL_POLICY, RESAMPLER
from ..features.cache import Cache
from ..features.checkpoint import Checkpoint
from ..features.extract import clip_columns, one_speaker_each
from ..files import json_value, make_folder
from ..pipeline.finetune.data import Examples, Sounds, open_clips
from ..pipeline.finetune.model import MASK_FRAMES, build_model, save_model
from ..pipeline.finetune.options import TrainingOptions, say_nothing
from ..pipeline.finetune.train import best_epoch, predict, quiet, train
from ..pipeline.fit import ALL, Choice, HeadFit, Predictions
from ..pipeline.folds import Fold, inner_folds
from ..pipeline.protocol import Plan, Protocol, make_plan
from ..pipeline.search import FoldResult
from ..progress import Track, no_track
from .latest import RUNS
from .parts import FOLDER, part_writer, read_parts, remove_parts
from .record import heads_there
from .results import RunResults
from .run import (
    FORMAT_VERSION,
    HeadSummary,
    RunSummary,
    content_hash,
    run_name,
    save_clips,
    save_fit,
    write_summary,
)

HEAD = "finetuned"
LAYER = "end to end"
#: Below the run's folder: checkpoints of what is being trained; the model for others.
TRAINING, MODEL = f"{FOLDER}/training", "model"


def record_finetuning(
    found: Data,
    checkpoint: Checkpoint,
    options: TrainingOptions,
    protocol: Protocol | None = None,
    *,
    device: str = "cpu",
    max_folds: int | None = None,
    export: bool = True,
    probe: RunResults | None = None,
    provenance: Mapping[str, Any],
    out: Path | None = None,
    skip_bad: bool = False,
    workers: int = 1,
    track: Track[Any] = no_track,
    say: Callable[[str], None] = say_nothing,
) -> Path:
    """Train an encoder and a head on the training speakers of each fold; test it; save all of it.

    A finished fold is kept; the one that was being trained goes on from its last epoch.

    Parameters
    ----------
    found : Data
        The clips.
    checkpoint : Checkpoint
        The encoder to begin with.
    options : TrainingOptions
        How it is trained.
    protocol : Protocol, optional
        Target, labels, split and seed of the folds; what it says of layers and embeddings is not
        used.
    device : str
        In torch's words.
    max_folds : int, optional
        Train the first folds only: a trial, marked as such.
    export : bool
        Whether to train a model on all speakers in the end, for as many epochs as the median of
        the folds took.
    probe : RunResults, optional
        A run that must be of the same clips and labels.
    provenance : mapping
        JSON values to store beside the results.
    out : Path, optional
        The run's folder.
    skip_bad : bool
        Leave bad clips out, instead of stopping before the long work.
    workers : int
        Threads that decode.
    track : callable
        Shows progress.
    say : callable
        Told what happens.

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
    options.check(device)
    sounds = _open(found, checkpoint, options, skip_bad, workers, track, say)
    table = dict(sorted(clip_columns(sounds.heard).items()))  # in the order of a cache
    asked = protocol or Protocol()
    if asked.target not in table:
        raise UserError(
            f"--target {asked.target}: no such column of the clips; expected one of "
            f"{', '.join(table)}; name one of labels"
        )
    key = _key(checkpoint, options, device)
    where = Path(f"{found.name}-{checkpoint.name.replace('/', '--')}")
    # A cache without embeddings: what is planned is what `serpipe fit` would plan.
    plan = make_plan(Cache(where, key, {"corpus": found.title}, table, ()), asked)
    if plan.task != "classification":
        raise UserError(
            f"--target {plan.target.column}: is a number; expected labels; ratings are regressed "
            "by `serpipe fit` alone"
        )
    validation = {fold.name: _validation(plan, fold) for fold in plan.split.folds}
    if probe:
        _check_probe(probe, plan, max_folds)
    plan = _trial(plan, max_folds)
    content = content_hash(key, {}, plan.clips)
    settings = {
        "format": FORMAT_VERSION,
        "content": content,
        "options": asdict(options),
        "protocol": asdict(plan.protocol),
        "folds": [[fold.name, fold.test.tolist()] for fold in plan.split.folds],
    }
    name = run_name(where.with_name(where.name + ".h5"), plan.split.name, [HEAD], settings)
    run = out or RUNS / name
    done = heads_there(run, name, provenance)
    if HEAD not in done:  # a model stands for the folds: it is trained after them
        shutil.rmtree(run / MODEL, ignore_errors=True)
    make_folder(run)
    training = _Training(plan, sounds, checkpoint, options, run / TRAINING, device, say)

    def summarise() -> None:
        write_summary(run, _summary(name, content, found, plan, options, key, provenance, done))

    if HEAD in done:
        remove_parts(run, HEAD)
        (run / "run.json").touch()  # the newest run is the one that was asked for last
    else:
        summarise()  # before the work: what is left of a stopped run says that it is not whole
        save_clips(run, plan.tested_clips, plan.tested_labels, plan.split.folds)
        fit = _train_folds(training, run, validation, track)
        save_fit(
            run, HEAD, _grid(options), fit, plan.tested_clips, plan.tested_labels, plan.split.folds
        )
        done[HEAD] = _summarise(plan, options, fit, validation)
        summarise()
        remove_parts(run, HEAD)
    if export and max_folds is None and not (run / MODEL).is_dir():
        epochs = int(done[HEAD].final["parameters"]["epoch"])
        say(f"final    all speakers, {epochs} epochs: the median of the folds")
        training.export(epochs, run / MODEL)
    remove_parts(run, "training")
    return run


class _Training:
    """What the trainings of all folds have in common."""

    def __init__(
        self,
        plan: Plan,
        sounds: Sounds,
        checkpoint: Checkpoint,
        options: TrainingOptions,
        folder: Path,
        device: str,
        say: Callable[[str], None],
    ) -> None:
        self.plan, self.sounds, self.checkpoint = plan, sounds, checkpoint
        self.options, self.folder, self.device, self.say = options, folder, device, say
        self.names = plan.problem.names
        self.targets = np.searchsorted(self.names, plan.problem.labels)

    def examples(self, rows: NDArray[np.intp]) -> Examples:
        """Return clips of the plan, by their positions in it."""
        return Examples(
            self.sounds, self.plan.target.rows[rows].tolist(), self.targets[rows].tolist()
        )

    def model(self) -> Any:
        """Return the encoder as it was, with a new head: the same for each fold."""
        return build_model(
            self.checkpoint,
            self.names,
            train_front_end=self.options.train_front_end,
            specaugment=self.options.specaugment,
            seed=self.options.seed,
        )

    def fold(self, fold: Fold, validation: NDArray[np.intp], number: int) -> FoldResult:
        """Train on a fold's speakers but those of validation, and test."""
        rows = np.setdiff1d(fold.train, validation)
        folder = self.folder / f"fold-{number:04d}"
        total = len(self.plan.split.folds)
        model = self.model()
        scores = train(
            model,
            self.examples(rows),
            self.examples(validation),
            self.options,
            folder,
            self.device,
            say=lambda text: self.say(f"fold     {fold.name}, {number} of {total}: {text}"),
        )
        logits = predict(model, self.examples(fold.test), self.options, self.device)
        # A label that no training clip has is not predicted: nothing is known of it.
        unknown = np.setdiff1d(np.arange(len(self.names)), self.targets[rows])
        logits[:, unknown] = -np.inf
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        predicted = np.array(self.names)[np.argmax(logits, axis=1)]
        shares[:, unknown] = np.nan
        inner = (*scores, *[math.nan] * (self.options.epochs - len(scores)))
        return FoldResult(inner, best_epoch(scores), 0, predicted, shares, converged=True)

    def export(self, epochs: int, to: Path) -> None:
        """Train on all clips, and save the model, whole or not at all."""
        model = self.model()
        train(
            model,
            self.examples(self.plan.problem.everybody().train),
            None,
            self.options,
            self.folder / "final",
            self.device,
            epochs=epochs,
        )
        unfinished = to.with_name(f"{to.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with quiet():
            save_model(model, self.checkpoint.front_end, unfinished)
        unfinished.rename(to)


def _open(
    found: Data,
    checkpoint: Checkpoint,
    options: TrainingOptions,
    skip_bad: bool,
    workers: int,
    track: Track[Any],
    say: Callable[[str], None],
) -> Sounds:
    front_end = checkpoint.front_end
    shortest = 0
    if options.specaugment and not checkpoint.is_whisper:  # no stretch is longer than its clip
        while front_end.frames(max(shortest, front_end.minimum_samples)) <= MASK_FRAMES:
            shortest += front_end.sampling_rate // 100
    sounds, bad = open_clips(
        found.clips, front_end, minimum_samples=shortest, workers=workers, track=track
    )
    if len(one_speaker_each(list(sounds.heard), bad)) < len(sounds.heard) or bad:
        good = one_speaker_each(list(sounds.heard), [])
        if not skip_bad or not good:
            raise BadClipsError(bad, f"{len(good)} can")
        for error in bad:
            say(f"skipped  {error}")
        places = [place for place, heard in enumerate(sounds.heard) if heard in good]
        held = {n: sounds.held[place] for n, place in enumerate(places) if place in sounds.held}
        sounds = Sounds(tuple(sounds.heard[place] for place in places), front_end, held)
    return sounds


def _key(checkpoint: Checkpoint, options: TrainingOptions, device: str) -> dict[str, Any]:
    """Return what the numbers depend on besides clips and options, as a cache tells it."""
    import torch

    config: Any = checkpoint.model.config
    is_cuda = device.startswith("cuda")
    return {
        "encoder": checkpoint.name,
        "revision": checkpoint.revision,
        "weights_sha256": checkpoint.weights_sha256,
        "config_sha256": checkpoint.config_sha256,
        "model_type": checkpoint.model_type,
        "layers": [LAYER],
        "width": int(config.hidden_size),
        "sampling_rate": checkpoint.front_end.sampling_rate,
        "normalise": checkpoint.front_end.normalise,
        "poolings": ["mean"],
        "channels": CHANNEL_POLICY,
        "resampler": RESAMPLER,
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if is_cuda else device,
    }


def _validation(plan: Plan, fold: Fold) -> NDArray[np.intp]:
    """Return the clips of a fifth of the training speakers, by which the epoch is chosen."""
    speakers = plan.problem.speakers[fold.train]
    if len(np.unique(speakers)) < 2:
        raise UserError(
            f"fold {fold.name}: one training speaker, {speakers[0]}; expected at least 2, one to "
            "choose the epoch by; take clips of more speakers, or another --split"
        )
    try:
        first = inner_folds(plan.problem.labels[fold.train], speakers)[0]
    except UserError:
        raise UserError(
            f"fold {fold.name}: its training speakers cannot be divided so that two labels are "
            "left to train on; expected labels from several speakers; take clips of more speakers"
        ) from None
    return fold.train[first.test]


def _check_probe(probe: RunResults, plan: Plan, max_folds: int | None) -> None:
    if max_folds is not None:
        raise UserError(
            f"--probe {probe.run}: with --max-folds other clips are tested; expected one of the "
            "two; leave one away"
        )
    columns = (probe.clips[name].tolist() for name in ("path", "speaker", "label"))
    theirs = set(zip(*columns, strict=True))
    table = plan.tested_clips
    ours = set(
        zip(
            table["path"].tolist(),
            table["speaker"].tolist(),
            plan.tested_labels.tolist(),
            strict=True,
        )
    )
    if theirs != ours:
        first = sorted(theirs ^ ours)[0]
        only = f"{probe.run}" if first in theirs else "this one"
        raise UserError(
            f"--probe {probe.run}: other clips or labels, such as {' '.join(first)} of {only} "
            "alone; expected a run of the same clips, speakers and labels; name another, or choose "
            "--data, --target, --map and --keep as it did"
        )


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


def _grid(options: TrainingOptions) -> dict[str, tuple[float, ...]]:
    return {"epoch": tuple(range(1, options.epochs + 1))}


def _train_folds(
    training: _Training,
    run: Path,
    validation: Mapping[str, NDArray[np.intp]],
    track: Track[Any],
) -> HeadFit:
    problem, epochs = training.plan.problem, training.options.epochs
    folds, names = problem.folds, problem.names
    there = read_parts(run, HEAD, [LAYER], folds, np.array(names), epochs)
    keep = part_writer(run, HEAD, [LAYER], [fold.name for fold in folds], names)
    results = dict(there)
    numbered = list(enumerate(folds, 1))
    for number, fold in track(numbered, "fine-tuning folds", len(folds)):
        if (LAYER, fold.name) not in results:
            result = training.fold(fold, validation[fold.name], number)
            keep(LAYER, fold.name, result)
            results[LAYER, fold.name] = result
        shutil.rmtree(training.folder / f"fold-{number:04d}", ignore_errors=True)
    predicted = np.empty_like(problem.labels)
    scores = np.full((len(problem.labels), len(names)), np.nan)
    for fold in folds:
        predicted[fold.test] = results[LAYER, fold.name].predicted
        scores[fold.test] = results[LAYER, fold.name].scores
    tested = Predictions(predicted[problem.tested], scores[problem.tested])
    choices = tuple(_choice(fold.name, results[LAYER, fold.name]) for fold in folds)
    median = statistics.median_low(int(choice.point["epoch"]) for choice in choices)
    final = Choice(ALL, LAYER, {"epoch": median}, math.nan)
    return HeadFit(tested, {LAYER: tested}, choices, final, results)


def _choice(fold: str, result: FoldResult) -> Choice:
    return Choice(fold, LAYER, {"epoch": result.chosen + 1}, result.inner[result.chosen])


def _summarise(
    plan: Plan,
    options: TrainingOptions,
    fit: HeadFit,
    validation: Mapping[str, NDArray[np.intp]],
) -> HeadSummary:
    def describe(choice: Choice) -> dict[str, Any]:
        return {
            "fold": choice.fold,
            "layer": choice.layer,
            "parameters": choice.point,
            "inner_score": json_value(choice.inner_score),
        }

    return HeadSummary(
        title="fine-tuned",
        scores_are="probabilities (softmax), not calibrated",
        grid=_grid(options),
        choices=[
            describe(choice)
            | {"validation": np.unique(plan.problem.speakers[validation[choice.fold]]).tolist()}
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
    plan: Plan,
    options: TrainingOptions,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
    done: Mapping[str, HeadSummary],
) -> RunSummary:
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
        inner="epoch chosen by the UAR of a fifth of the training speakers of each fold, on which "
        f"it was not trained, with early stopping after {options.patience} epochs without a better",
        warnings=plan.warnings,
        seed=plan.protocol.seed,
        layers=[LAYER],
        labels=plan.problem.names,
        speakers=np.unique(plan.tested_clips["speaker"]).tolist(),
        clips=len(plan.tested_labels),
        content=content,
        planned=[HEAD],
        heads=dict(done),
        provenance={
            **provenance,
            "cache": {
                "corpus": found.title, "licence": found.licence, "citation": found.citation,
            },
        },
    )  # fmt: skip


def probe_advice(run: Path) -> str:
    """Say how a fine-tuned run is compared with its frozen probe."""
    return (
        "note     what training gained shows only beside the frozen probe: serpipe extract and fit "
        f"with the same data, encoder, split and labels, then serpipe report {run} PROBE_RUN"
    )
