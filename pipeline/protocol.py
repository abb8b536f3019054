"""What is asked of a run, applied to a cache: which clips, labels, folds and layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..features.cache import Cache
from .fit import Problem
from .folds import INNER_FOLDS, Split, make_split
from .heads import Grid, paths
from .layers import Candidate, choose_layers
from .normalise import NORMALISATIONS, by_speaker
from .target import Target, choose_target, permute_within_speakers


@dataclass(frozen=True)
class Protocol:
    """What is asked of a run besides the heads; the options of ``serpipe fit``.

    Attributes
    ----------
    split : str
        As :func:`~serpipe.pipeline.folds.make_split` reads it.
    layers : str
        As :func:`~serpipe.pipeline.layers.choose_layers` reads it.
    target : str
        The column that is predicted.
    merge : mapping of str to str
        Labels that are counted as another.
    keep : sequence of str
        Labels that are kept; all if empty.
    normalise : str
        ``"none"`` or ``"speaker"``.
    permute_labels : bool
        Whether labels are shuffled within speakers, to see what chance gives.
    pooling : str, optional
        Which of the cached poolings to use, joined by commas; all by default.
    seed : int
        Of folds, heads and shuffles.
    """

    split: str = "loso"
    layers: str = "all"
    target: str = "emotion"
    merge: Mapping[str, str] = field(default_factory=dict)
    keep: Sequence[str] = ()
    normalise: str = "none"
    permute_labels: bool = False
    pooling: str | None = None
    seed: int = 0


@dataclass(frozen=True)
class Plan:
    """A protocol, applied to a cache.

    Attributes
    ----------
    protocol : Protocol
        What was asked for.
    pooling : str
        Which poolings the heads see.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table of the clips that are used.
    target : Target
        Which clips these are, and their labels.
    split : Split
        The folds.
    candidates : tuple of Candidate
        The layers to choose from.
    problem : Problem
        What the heads are fitted to.
    warnings : tuple of str
        What must be said with every number.
    """

    protocol: Protocol
    pooling: str
    clips: Mapping[str, NDArray[Any]]
    target: Target
    split: Split
    candidates: tuple[Candidate, ...]
    problem: Problem
    warnings: tuple[str, ...]


def make_plan(cache: Cache, protocol: Protocol) -> Plan:
    """Apply a protocol to a cache.

    Parameters
    ----------
    cache : Cache
        The embeddings and the clip table.
    protocol : Protocol
        What is asked for.

    Returns
    -------
    Plan

    Raises
    ------
    UserError
        If the cache does not hold what the protocol needs.
    """
    pooling = protocol.pooling or ",".join(cache.poolings)
    parts = pooling.split(",")
    if not set(parts) <= set(cache.poolings) or len(set(parts)) < len(parts):
        raise UserError(
            f"{cache.path}: holds {','.join(cache.poolings)} pooling; expected {pooling}; "
            "choose what it holds with --pool, or extract again"
        )
    if protocol.normalise not in NORMALISATIONS:
        raise UserError(f"--normalise {protocol.normalise}: expected {' or '.join(NORMALISATIONS)}")
    candidates = choose_layers(protocol.layers, cache.layers)
    target = choose_target(cache.clips, protocol.target, protocol.merge, protocol.keep)
    clips = {name: column[target.rows] for name, column in cache.clips.items()}
    split = make_split(protocol.split, clips, target.labels, protocol.seed)
    labels = target.labels
    warnings = []
    if split.shares_speakers:
        warnings.append(
            f"INFLATED: {split.name} puts clips of the same speaker on both sides; these scores "
            "say nothing about a new speaker"
        )
    if protocol.normalise == "speaker":
        warnings.append(
            "TRANSDUCTIVE: each speaker's clips were standardised by themselves, test speakers "
            "included; these scores hold only where a whole set of the new speaker's clips is there"
        )
    if protocol.permute_labels:
        labels = permute_within_speakers(labels, clips["speaker"], protocol.seed)
        if (labels == target.labels).all():
            raise UserError(
                f"--permute-labels: shuffling within speakers changes nothing, each has one "
                f"{target.column}; expected several; choose another --target"
            )
        warnings.append(
            "PERMUTED LABELS: labels were shuffled within speakers; these scores show what the "
            "protocol gives for nothing"
        )
    problem = Problem(labels, clips["speaker"], split.folds, protocol.seed)
    return Plan(protocol, pooling, clips, target, split, candidates, problem, tuple(warnings))


def anything_to_choose(plan: Plan, grids: Sequence[Grid]) -> bool:
    """Say whether a layer or a hyper-parameter is chosen inside the folds."""
    points = max(sum(map(len, paths(grid))) for grid in grids)
    return points * len(plan.candidates) > 1


def inner_title(plan: Plan, grids: Sequence[Grid]) -> str:
    """Say how layer and hyper-parameters were chosen."""
    chosen = []
    if len(plan.candidates) > 1:
        chosen.append("layer")
    if any(sum(map(len, paths(grid))) > 1 for grid in grids):
        chosen.append("hyper-parameters")
    if not chosen:
        return "layer and hyper-parameters fixed beforehand"
    return (
        f"{' and '.join(chosen)} chosen inside the training speakers of each fold, by the UAR over "
        f"up to {INNER_FOLDS} folds of them"
    )


def read_layer(cache: Cache, layer: str, plan: Plan) -> NDArray[np.float32]:
    """Read a layer of the clips that are used; refuse values that no classifier can take."""
    X = cache.embeddings(layer, plan.pooling)[plan.target.rows]
    if not np.isfinite(X).all():
        raise UserError(
            f"{cache.path}: layer {layer} holds values that are not finite numbers; expected "
            "numbers; extract again with --overwrite, in float32"
        )
    return by_speaker(X, plan.problem.speakers) if plan.protocol.normalise == "speaker" else X
