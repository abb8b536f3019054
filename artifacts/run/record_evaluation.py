"""Score a trained classifier on a corpus, and record it as a run that reports read like any other.

Nothing is trained: every clip is tested, in one fold without training clips.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...corpora.data import Data
from ...errors import UserError, counted
from ...features.extract import clip_columns
from ...features.names import cache_name
from ...features.perturbation import Perturbation
from ...pipeline.contamination import contamination_mark
from ...pipeline.finetune import END_TO_END
from ...pipeline.finetune.classifier import Classifier, run_classifier
from ...pipeline.finetune.data import Sounds, decode_all
from ...pipeline.finetune.fold_training import end_to_end_key
from ...pipeline.finetune.kinds import checkpoint_identity
from ...pipeline.finetune.options import TrainingOptions
from ...pipeline.fit import Choice, HeadFit, Predictions
from ...pipeline.marks import Mark, MarkKind
from ...pipeline.options import TargetOptions
from ...pipeline.plan import Plan, plan_evaluation
from ...progress import Say, Track, no_track, say_nothing
from ..models.outputs import find_rating, label_probabilities, match_labels, rename_outputs
from .identity import SETTINGS_VERSION, content_hash, run_name
from .perturbed_file import read_perturbed, save_perturbed
from .recorder import data_provenance, describe_choice, end_to_end_fields, open_recorder
from .summary import HeadSummary, read_summary

HEAD = "pretrained"


@dataclass(frozen=True)
class _OutputLabels:
    """Which labels the outputs of a model stand for."""

    #: Shape (n_outputs,): the index of each output's label, or -1; for ratings, 0 for the output
    #: that is used.
    indices: NDArray[np.intp]
    #: Which outputs have other names here, in words; empty if none has.
    description: tuple[str, ...]
    marks: tuple[Mark, ...] = ()  #: Of the scores.


def record_evaluation(
    data: Data,
    classifier: Classifier,
    target: TargetOptions = TargetOptions(),
    *,
    model_map: Mapping[str, str] | None = None,
    batch_size: int = 8,
    precision: str = "float32",
    device: str = "cpu",
    provenance: Mapping[str, Any],
    out: Path | None = None,
    given_name: str = "",
    perturbations: Sequence[Perturbation] = (),
    skip_bad: bool = False,
    workers: int = 1,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Path:
    """Score a classifier on clips, and save its predictions.

    Parameters
    ----------
    data, classifier
        The clips; and a model from :func:`~serpipe.pipeline.finetune.classifier.load_classifier`.
    target : TargetOptions
        What is predicted.
    model_map : mapping of str to str, optional
        Label of the model to the label of the clips.
    batch_size, precision, device
        Clips per batch; ``"float32"``, ``"bf16"`` or ``"fp16"`` for matrix products; torch device.
    perturbations : sequence of Perturbation
        Also score the clips perturbed, each way; those that the run already has are not scored
        again.
    skip_bad, workers
        Whether to omit bad clips instead of stopping before the long work; number of decoding
        threads.
    provenance, out, given_name, track, say
        See :func:`~serpipe.artifacts.run.record_fit.record_run`.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    BadClipsError
        If clips cannot be used, unless ``skip_bad``.
    UserError
        If the options, the labels, the clips or ``out`` do not fit, or scores are not finite.
    MachineError
        If a batch does not fit in memory.
    """
    options = TrainingOptions(batch_size=batch_size, precision=precision)
    options.check_inference(device)
    checkpoint = classifier.checkpoint
    sounds = decode_all(
        data.clips, checkpoint.front_end, skip_bad=skip_bad, workers=workers, track=track, say=say
    )
    # Columns in the order of a cache.
    table = dict(sorted(clip_columns(sounds.clips, checkpoint.training).items()))
    plan = plan_evaluation(table, target)
    output_labels = _find_output_labels(classifier, plan, model_map or {})
    marks = (*output_labels.marks, *_contamination_marks(classifier, plan, say))
    plan = replace(plan, marks=marks)
    key = end_to_end_key(
        {
            **checkpoint_identity(checkpoint),
            "head": classifier.head,
            "outputs": list(classifier.outputs),
        },
        options.precision,
        device,
    )
    content = content_hash(key, {}, plan.clips)
    settings = {
        "format": SETTINGS_VERSION,
        "content": content,
        "batch_size": batch_size,
        "model_map": dict(model_map or {}),
        "protocol": plan.protocol.as_dict(),
    }
    source = Path(cache_name(data.name, checkpoint.name))
    recorder = open_recorder(
        plan,
        out,
        run_name(source, plan.split.name, [HEAD], settings),
        {**provenance, "cache": data_provenance(data)},
        encoder=key,
        inner="; ".join(["nothing, the model is as it was", *output_labels.description]),
        content=content,
        given_name=given_name,
        **end_to_end_fields(data, HEAD),
    )
    tested = sounds.take(plan.target.rows.tolist())

    def score(sounds: Sounds, what: str) -> Predictions:
        say(f"scoring  {counted(len(tested.clips), 'clip')}{what}")
        logits = run_classifier(classifier, sounds, options, device)
        return _read_logits(plan, output_labels, logits)

    if recorder.is_complete:
        recorder.reopen()
    else:
        predictions = score(tested, "")
        choice = Choice(plan.split.folds[0].name, END_TO_END, {}, math.nan)
        fit = HeadFit(predictions, {END_TO_END: predictions}, (choice,), choice, {})
        recorder.start()
        recorder.save_head(HEAD, _summarise(plan, choice), fit, {})
    run, clips = recorder.run, plan.tested_clips
    perturbed = read_perturbed(run, HEAD, read_summary(run), clips)
    for each in perturbations:
        if str(each) not in perturbed:
            predictions = score(tested.perturbed(each), f", perturbed: {each}")
            perturbed[str(each)] = predictions.predicted
            save_perturbed(run, HEAD, perturbed, clips)
    return run


def _find_output_labels(
    classifier: Classifier, plan: Plan, model_map: Mapping[str, str]
) -> _OutputLabels:
    name = classifier.checkpoint.name
    tasks = {"single_label_classification": "classification", "regression": "regression"}
    task = tasks.get(classifier.problem_type, classifier.problem_type) or plan.task
    if task != plan.task:
        raise UserError(
            f"--target {plan.target.column}: needs a model for {plan.task}, and {name} was trained "
            f"for {task}; choose another --target or --model"
        )
    outputs = rename_outputs(classifier.outputs, model_map)
    if plan.task == "regression":
        rating = find_rating(outputs, plan.target.column)
        indices = np.where(np.arange(len(outputs)) == rating, 0, -1)
        return _OutputLabels(indices, (f"output {classifier.outputs[rating]}",))
    labels = plan.problem.names
    indices = match_labels(outputs, labels)
    changes = [
        f"{output} counted as {labels[index]}"
        for output, index in zip(classifier.outputs, indices.tolist(), strict=True)
        if index >= 0 and output != labels[index]
    ]
    unused = [outputs[n] for n in np.flatnonzero(indices < 0)]
    restricted = Mark(
        MarkKind.RESTRICTED,
        f"the model also predicts {', '.join(dict.fromkeys(unused))}, which no clip has as its "
        f"label: it could choose only among the {len(labels)} labels of the clips",
    )
    description = (f"labels of the model: {', '.join(changes)}",) if changes else ()
    return _OutputLabels(indices, description, (restricted,) if unused else ())


def _contamination_marks(classifier: Classifier, plan: Plan, say: Say) -> list[Mark]:
    """Mark a model that was trained on the tested clips; say so where nothing is known."""
    checkpoint = classifier.checkpoint
    if checkpoint.training is None:
        say(
            f"note     it is not known what {checkpoint.name} was trained on; if on these "
            "speakers, its scores say nothing about new ones"
        )
    mark = contamination_mark(checkpoint.name, plan.tested_clips)
    return [mark] if mark else []


def _read_logits(
    plan: Plan, output_labels: _OutputLabels, logits: NDArray[np.float64]
) -> Predictions:
    if plan.task == "regression":
        rating = logits[:, int(np.flatnonzero(output_labels.indices == 0)[0])]
        return Predictions(rating, np.empty((len(rating), 0)))
    names = plan.problem.names
    probabilities = label_probabilities(logits, output_labels.indices, len(names))
    return Predictions(np.array(names)[np.argmax(probabilities, axis=1)], probabilities)


def _summarise(plan: Plan, choice: Choice) -> HeadSummary:
    return HeadSummary(
        title="as it was trained before",
        scores_are="probabilities (softmax over all labels of the model, added up), not calibrated"
        if plan.task == "classification"
        else "none: ratings",
        grid={},
        choices=[describe_choice(choice)],
        final=describe_choice(choice),
        fits={"points": 0, "pruned": 0, "inner_not_converged": 0},
        not_converged={},
    )
