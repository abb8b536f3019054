"""Train end to end fold by fold, and record it as a run that reports read like any other."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...corpora.data import Data
from ...errors import UserError, counted
from ...features.cache import Cache
from ...features.extract import clip_columns
from ...pipeline.finetune import END_TO_END
from ...pipeline.finetune.augment import SPEED
from ...pipeline.finetune.data import decode_all
from ...pipeline.finetune.fold_training import (
    FoldTraining,
    end_to_end_key,
    limit_folds,
    train_folds,
    validation_clips,
)
from ...pipeline.finetune.kinds import EncoderWithHead, Kind
from ...pipeline.finetune.options import TrainingOptions
from ...pipeline.finetune.probe import LINEAR, ProbeChoice
from ...pipeline.fit import HeadFit
from ...pipeline.measures import MEASURES
from ...pipeline.options import Protocol
from ...pipeline.plan import Plan, make_plan
from ...pipeline.ratings import Ratings
from ...pipeline.split_kind import SplitKind
from ...pipeline.target import DEFAULT
from ...pipeline.votes import Votes
from ...progress import Say, Track, no_track, say_nothing
from .fold_results import FOLDER, fold_writer, read_fold_results, remove_fold_results
from .identity import SETTINGS_VERSION, content_hash, folds_of_tested, run_name
from .recorder import data_provenance, describe_choice, end_to_end_fields, open_recorder
from .results import RunResults
from .summary import HeadSummary

if TYPE_CHECKING:
    from ...cluster import Cluster

#: Below the run's folder: checkpoints of unfinished trainings; the final model; logs.
TRAINING, MODEL, LOGS = f"{FOLDER}/training", "model", "tensorboard"


def record_finetuning(
    data: Data,
    kind: Kind,
    options: TrainingOptions,
    protocol: Protocol | None = None,
    *,
    devices: Sequence[str] = ("cpu",),
    cluster: "Cluster | None" = None,
    max_folds: int | None = None,
    export: bool = True,
    ratings: Ratings | Votes | None = None,
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
    """Train a model on the training speakers of each fold, test it, and save all of it.

    Finished folds are kept; an unfinished one resumes from its last epoch.

    Parameters
    ----------
    data, kind, options
        The clips; the kind of model, an encoder with a head or a network; and how it is trained.
    protocol : Protocol, optional
        Target, labels, split and seed of the folds; its layers and embeddings are not used.
    devices : sequence of str
        Torch devices. On several, as many folds are trained at once; the numbers are the same.
    cluster : Cluster, optional
        Whose workers train the folds, each on a device of such a kind.
    max_folds : int, optional
        Train the first folds only: a trial, marked as such.
    export : bool
        Whether to finally train a model on all speakers, for the median number of epochs.
    probe, start
        The run of the frozen probe, on the same clips, labels and folds, and whether an encoder's
        head starts as the probe's solution.
    logs : bool
        Whether to write logs for TensorBoard.
    skip_bad, workers
        Whether to omit bad clips instead of stopping before the long work; number of decoding
        threads.
    ratings, provenance, out, given_name, track, say
        See :func:`~serpipe.artifacts.run.record_fit.record_run`. With several devices ``say`` must
        be picklable.

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
        If a batch does not fit in memory.
    """
    options.check(devices[0])
    minimum_samples = kind.minimum_samples
    if "speed" in options.augment:  # played faster, a clip must still be long enough
        minimum_samples = math.ceil(minimum_samples * (1 + SPEED)) + 1
    sounds = decode_all(
        data.clips, kind.front_end, minimum_samples=minimum_samples, skip_bad=skip_bad,
        workers=workers, track=track, say=say,
    )  # fmt: skip
    # Columns in the order of a cache.
    table = dict(sorted(clip_columns(sounds.clips, kind.training).items()))
    requested = protocol or Protocol()
    if requested.target not in (*table, DEFAULT) and not ratings:
        raise UserError(
            f"--target {requested.target}: the clips have no such column; choose one of "
            f"{', '.join(table)}"
        )
    key = end_to_end_key(kind.identity, options.precision, devices[0])
    source = Path(f"{data.name}-{kind.name.replace('/', '--')}")
    # A cache without embeddings, so that the plan is that of `serpipe fit`.
    plan = make_plan(Cache(source, key, {"corpus": data.title}, table, ()), requested, ratings)
    if plan.protocol.labels == "all":
        raise UserError(
            "--labels all: fine-tuning has one target for each clip; use --labels soft, the shares "
            "of its raters"
        )
    if plan.task == "regression" and options.label_smoothing:
        raise UserError(f"--label-smoothing: is for labels, and {plan.target.column} is a number")
    validation = {fold.name: validation_clips(plan, fold) for fold in plan.split.folds}
    n_folds = len(plan.split.folds)
    plan = limit_folds(plan, max_folds)
    is_trial = len(plan.split.folds) < n_folds
    choices: dict[str, ProbeChoice] = {}
    if probe:
        if is_trial:
            raise UserError(
                f"--probe {probe.run}: was tested on other clips than --max-folds {max_folds} "
                "leaves; omit one of the two"
            )
        _check_probe(probe, plan)
        if start and isinstance(kind, EncoderWithHead):
            choices = _probe_choices(probe, kind)
    content = content_hash(key, {}, plan.clips)
    settings = {
        "format": SETTINGS_VERSION,
        "content": content,
        "options": asdict(options),
        "protocol": plan.protocol.as_dict(),
        "folds": [[fold.name, fold.test.tolist()] for fold in plan.split.folds],
        "start": {fold: choice.identity for fold, choice in choices.items()},
    }
    name = run_name(source.with_name(source.name + ".h5"), plan.split.name, [kind.head], settings)
    recorder = open_recorder(
        plan,
        out,
        name,
        {**provenance, "cache": data_provenance(data)},
        encoder={**key, "training": asdict(options)},
        inner=_inner_title(plan, options, started=bool(choices)),
        content=content,
        probe=probe.run.resolve().name if probe else None,
        given_name=given_name,
        **end_to_end_fields(data, kind.head),
    )
    run = recorder.run
    if not recorder.is_complete:  # a model stands for the folds, and is trained after them
        shutil.rmtree(run / MODEL, ignore_errors=True)
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
    if recorder.is_complete:
        recorder.reopen()
    else:
        recorder.start()
        training = training.with_states(devices[0])
        fit = _train(training, run, devices, cluster, track)
        recorder.save_head(kind.head, _summarise(training, fit), fit, training.grid)
    remove_fold_results(run, kind.head)
    if export and not is_trial and not (run / MODEL).is_dir():
        epochs = int(recorder.heads[kind.head].final["parameters"]["epoch"])
        holds_out = SplitKind.of(plan.split.name).holds_out
        speakers = "all but the test speakers" if holds_out else "all speakers"
        say(f"final    {speakers}, {counted(epochs, 'epoch')}: the median of the folds")
        training.with_states(devices[0]).export(epochs, run / MODEL, name, devices[0])
    remove_fold_results(run, "training")
    return recorder.finish()


def _train(
    training: FoldTraining,
    run: Path,
    devices: Sequence[str],
    cluster: "Cluster | None",
    track: Track[Any],
) -> HeadFit:
    head, problem = training.kind.head, training.plan.problem
    n_epochs = len(training.grid["epoch"])
    stored = read_fold_results(
        run, head, [END_TO_END], problem.folds, np.array(problem.names), n_epochs
    )
    folds = [fold.name for fold in problem.folds]
    store = fold_writer(run, head, [END_TO_END], folds, problem.names)
    return train_folds(training, stored, store, devices, cluster, track)


def _check_probe(probe: RunResults, plan: Plan) -> None:
    clips = plan.tested_clips
    ours = set(
        zip(
            clips["path"].tolist(),
            clips["speaker"].tolist(),
            map(str, plan.tested_labels.tolist()),
            folds_of_tested(plan.split.folds),
            strict=True,
        )
    )
    columns = (probe.clips[name].tolist() for name in ("path", "speaker", "label", "fold"))
    theirs = set(zip(*columns, strict=True))
    if theirs != ours:
        first = sorted(theirs ^ ours)[0]
        side = "the probe" if first in theirs else "this run"
        raise UserError(
            f"--probe {probe.run}: has other clips, labels or folds, such as {' '.join(first)} of "
            f"{side} alone; name another run, or use its --data, --split, --target, --map and "
            "--keep"
        )


def _probe_choices(probe: RunResults, kind: EncoderWithHead) -> dict[str, ProbeChoice]:
    """Return what the probe chose for each fold and for all speakers, if a head can start so."""
    summary = probe.summary
    remedy = "name another run, or start with --random-head"
    if summary.encoder.get("weights_sha256") != kind.checkpoint.weights_sha256:
        raise UserError(
            f"--probe {probe.run}: its encoder {summary.encoder['encoder']} has other weights than "
            f"{kind.name}, which is to start with its solution; {remedy}"
        )
    linear = [head for head in LINEAR if head in summary.heads]
    if not linear or summary.normalise != "none" or summary.pooling != "mean":
        raise UserError(
            f"--probe {probe.run}: has {', '.join(summary.heads)} on {summary.pooling} pooling, "
            f"normalised by {summary.normalise}; a model can start with {' or '.join(LINEAR)} on "
            f"mean pooling, not normalised; {remedy}"
        )
    fitted = summary.heads[linear[0]]
    choices = (*fitted.choices, fitted.final)
    wrong = [str(each["layer"]) for each in choices if each["layer"] not in kind.layers]
    if wrong:
        raise UserError(
            f"--probe {probe.run}: chose {wrong[0]}; a model can start with one of the layers "
            f"{', '.join(kind.layers)}; {remedy}"
        )
    return {
        str(each["fold"]): ProbeChoice(linear[0], str(each["layer"]), dict(each["parameters"]))
        for each in choices
    }


def _summarise(training: FoldTraining, fit: HeadFit) -> HeadSummary:
    problem = training.plan.problem
    return HeadSummary(
        title="fine-tuned" if isinstance(training.kind, EncoderWithHead) else training.kind.name,
        scores_are="probabilities (softmax), not calibrated" if problem.names else "none",
        grid=training.grid,
        choices=[
            {
                **describe_choice(choice),
                "validation": np.unique(
                    problem.speakers[training.validation[choice.fold]]
                ).tolist(),
            }
            for choice in fit.choices
        ],
        final=describe_choice(fit.final),
        fits={
            "points": int(sum(np.isfinite(r.inner).sum() for r in fit.results.values())),
            "pruned": 0,
            "inner_not_converged": 0,
        },
        not_converged={},
    )


def _inner_title(plan: Plan, options: TrainingOptions, *, started: bool) -> str:
    start = "; begun with the frozen probe's head" if started else ""
    return (
        f"epoch chosen by the {MEASURES[plan.task].title} of speakers held out of the training "
        f"speakers of each fold, with early stopping after {counted(options.patience, 'epoch')} "
        f"without a better{start}"
    )


def probe_advice(run: Path) -> str:
    """Return advice on how to compare a fine-tuned run with its frozen probe."""
    return (
        "note     only a comparison with the frozen probe shows what training gained: serpipe "
        "extract and fit with the same data, encoder, split and labels, then serpipe report "
        f"{run} PROBE_RUN"
    )
