"""Score a trained classifier on a corpus, and record it as a run that reports read like any other.

Nothing is trained: every clip is tested, in one fold that trains on none.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora.data import Data
from ..errors import UserError, counted
from ..features.extract import clip_columns
from ..files import make_folder
from ..pipeline.contamination import contamination_mark
from ..pipeline.finetune.classifier import Classifier, run_classifier
from ..pipeline.finetune.data import Sounds, decode_all
from ..pipeline.finetune.kinds import checkpoint_identity
from ..pipeline.finetune.options import TrainingOptions
from ..pipeline.fit import Choice, HeadFit, Predictions
from ..pipeline.outputs import find_rating, label_shares, match_labels, rename_outputs
from ..pipeline.protocol import Plan, Protocol, plan_evaluation
from ..progress import Say, Track, no_track, say_nothing
from .latest import RUNS
from .record import heads_there
from .run import (
    SETTINGS_VERSION,
    HeadSummary,
    RunSummary,
    content_hash,
    rename_run,
    run_name,
    save_clips,
    save_predictions,
    save_search,
    tested_hashes,
    write_summary,
)

HEAD = "pretrained"
LAYER = "end to end"


@dataclass(frozen=True)
class _Meaning:
    """What the outputs of a model stand for on some clips.

    Attributes
    ----------
    places : ndarray of int, shape (n_outputs,)
        Of each output the place of its label, or -1; of ratings, 0 for the one that is taken.
    told : str
        Which outputs go by another name here, in words.
    warnings : tuple of str
        What must be said with every number.
    """

    places: NDArray[np.intp]
    told: str
    warnings: tuple[str, ...]


def record_evaluation(
    found: Data,
    classifier: Classifier,
    protocol: Protocol | None = None,
    *,
    model_map: Mapping[str, str] | None = None,
    batch_size: int = 8,
    precision: str = "float32",
    device: str = "cpu",
    provenance: Mapping[str, Any],
    out: Path | None = None,
    given_name: str = "",
    skip_bad: bool = False,
    workers: int = 1,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Path:
    """Score a classifier on clips, and save what it said of each.

    Parameters
    ----------
    found : Data
        The clips.
    classifier : Classifier
        From :func:`~serpipe.pipeline.finetune.classifier.load_classifier`.
    protocol : Protocol, optional
        Target and labels; nothing else of it is used.
    model_map : mapping of str to str, optional
        Label of the model to the name that it has here.
    batch_size : int
        Clips that are computed at once.
    precision : {"float32", "bf16", "fp16"}
        Of products.
    device : str
        In torch's words.
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
        If the options, the labels, the clips or ``out`` do not fit, or the model gives no numbers.
    MachineError
        If memory does not hold a batch.
    """
    options = TrainingOptions(batch_size=batch_size, precision=precision)
    options.check_inference(device)
    checkpoint, asked = classifier.checkpoint, protocol or Protocol()
    sounds = decode_all(
        found.clips,
        checkpoint.front_end,
        skip_bad=skip_bad,
        workers=workers,
        track=track,
        say=say,
    )
    table = dict(
        sorted(clip_columns(sounds.heard, checkpoint.training).items())
    )  # in the order of a cache
    plan = plan_evaluation(table, asked)
    meaning = _find_meaning(classifier, plan, model_map or {})
    plan = replace(plan, warnings=(*meaning.warnings, *_contaminated(classifier, plan, say)))
    key = _key(classifier, options, device)
    content = content_hash(key, {}, plan.clips)
    settings = {
        "format": SETTINGS_VERSION,
        "content": content,
        "batch_size": batch_size,
        "model_map": dict(model_map or {}),
        "protocol": asdict(plan.protocol),
    }
    where = f"{found.name}-{checkpoint.name.replace('/', '--')}.h5"
    name = run_name(Path(where), plan.split.name, [HEAD], settings)
    run = out or RUNS / name
    if HEAD in heads_there(run, name, provenance):
        rename_run(run, given_name)
        (run / "run.json").touch()  # the newest run is the one that was asked for last
        return run
    make_folder(run)
    used = plan.target.rows.tolist()
    held = {n: sounds.held[row] for n, row in enumerate(used) if row in sounds.held}
    tested = Sounds(tuple(sounds.heard[row] for row in used), sounds.front_end, held)
    say(f"scoring  {counted(len(used), 'clip')}")
    said = _read_scores(plan, meaning, run_classifier(classifier, tested, options, device))
    choice = Choice(plan.split.folds[0].name, LAYER, {}, math.nan)
    fit = HeadFit(said, {LAYER: said}, (choice,), choice, {})
    save_clips(run, plan.tested_clips, plan.tested_labels, plan.split.folds)
    save_predictions(run, HEAD, fit, plan.tested_clips, plan.tested_labels, plan.split.folds)
    save_search(run, HEAD, {}, fit)
    summary = _summary(name, content, found, plan, meaning, key, provenance)
    write_summary(run, replace(summary, given_name=given_name))
    return run


def _find_meaning(classifier: Classifier, plan: Plan, model_map: Mapping[str, str]) -> _Meaning:
    name = classifier.checkpoint.name
    kinds = {"single_label_classification": "classification", "regression": "regression"}
    trained_for = kinds.get(classifier.problem_type, classifier.problem_type) or plan.task
    if trained_for != plan.task:
        raise UserError(
            f"--target {plan.target.column}: {name} was trained for {trained_for}; expected a "
            f"model for {plan.task}; choose another --target or --model"
        )
    outputs = rename_outputs(classifier.outputs, model_map)
    if plan.task == "regression":
        place = find_rating(outputs, plan.target.column)
        places = np.where(np.arange(len(outputs)) == place, 0, -1)
        return _Meaning(places, f"output {classifier.outputs[place]}", ())
    labels = plan.problem.names
    places = match_labels(outputs, labels)
    changes = [
        f"{theirs} counted as {labels[place]}"
        for theirs, place in zip(classifier.outputs, places.tolist(), strict=True)
        if place >= 0 and theirs != labels[place]
    ]
    left = [outputs[n] for n in np.flatnonzero(places < 0)]
    warnings = []
    if left:
        warnings.append(
            f"RESTRICTED: the model also tells {', '.join(dict.fromkeys(left))}, which no clip "
            f"is: it could choose only among the {len(labels)} labels of the clips"
        )
    told = f"labels of the model: {', '.join(changes)}" if changes else ""
    return _Meaning(places, told, tuple(warnings))


def _contaminated(classifier: Classifier, plan: Plan, say: Say) -> list[str]:
    """Mark a model that was trained on what it is tested on; say so where nothing is known."""
    checkpoint = classifier.checkpoint
    if checkpoint.training is None:
        say(
            f"note     it is not known what {checkpoint.name} was trained on; if on these "
            "speakers, its scores say nothing about new ones"
        )
    mark = contamination_mark(checkpoint.name, plan.tested_clips)
    return [mark] if mark else []


def _read_scores(plan: Plan, meaning: _Meaning, logits: NDArray[np.float64]) -> Predictions:
    if plan.task == "regression":
        rating = logits[:, int(np.flatnonzero(meaning.places == 0)[0])]
        return Predictions(rating, np.empty((len(rating), 0)))
    names = plan.problem.names
    shares = label_shares(logits, meaning.places, len(names))
    return Predictions(np.array(names)[np.argmax(shares, axis=1)], shares)


def _key(classifier: Classifier, options: TrainingOptions, device: str) -> dict[str, Any]:
    """Return what the numbers depend on besides clips and options, as a cache tells it."""
    import torch

    is_cuda = device.startswith("cuda")
    return {
        **checkpoint_identity(classifier.checkpoint),
        "head": classifier.head,
        "outputs": list(classifier.outputs),
        "layers": [LAYER],
        "precision": options.precision,
        "device": torch.cuda.get_device_name(device) if is_cuda else device,
    }


def _summary(
    name: str,
    content: str,
    found: Data,
    plan: Plan,
    meaning: _Meaning,
    key: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> RunSummary:
    choice: dict[str, Any] = {
        "fold": plan.split.folds[0].name, "layer": LAYER, "parameters": {}, "inner_score": None,
    }  # fmt: skip
    is_labels = plan.task == "classification"
    head = HeadSummary(
        title="as it was trained before",
        scores_are="probabilities (softmax over all labels of the model, added up), not calibrated"
        if is_labels
        else "none: ratings",
        grid={},
        choices=[choice],
        final=choice,
        fits={"points": 0, "pruned": 0, "inner_not_converged": 0},
        not_converged={},
    )
    return RunSummary(
        name=name,
        corpus=found.title,
        encoder=key,
        pooling="mean",
        target=plan.target.column,
        changes=plan.target.changes,
        normalise="none",
        split=plan.split.name,
        split_title=plan.split.title,
        inner="; ".join(["nothing, the model is as it was", *filter(None, [meaning.told])]),
        warnings=plan.warnings,
        seed=plan.protocol.seed,
        layers=[LAYER],
        labels=plan.problem.names,
        speakers=np.unique(plan.tested_clips["speaker"]).tolist(),
        clips=len(plan.tested_labels),
        content=content,
        planned=[HEAD],
        heads={HEAD: head},
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
