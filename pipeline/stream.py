"""Embeddings that are too many for memory: when, which heads take them, and where they lie."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import MachineError, UserError, first_line
from ..features.cache import Cache
from ..files import create_file
from .blocks import Rows, blocks
from .heads import HEADS, Grid, Head
from .layers import Candidate
from .protocol import Plan, read_rows


def candidate_size(cache: Cache, plan: Plan) -> float:
    """Return how many GiB the embeddings of the largest candidate take, as float32."""
    layers = max(
        len(each.layers) if each.how in ("concat", "weighted") else 1 for each in plan.candidates
    )
    width = int(cache.key["width"]) * len(plan.pooling.split(",")) * layers
    return len(plan.target.rows) * width * 4 / 2**30


def stream_plan(
    plan: Plan,
    heads: Sequence[Head],
    grids: Mapping[str, Grid],
    size: float,
    limit: float,
    *,
    on_cluster: bool,
    default_heads: bool = False,
) -> tuple[Plan, tuple[Head, ...], dict[str, Grid]]:
    """Say how what is past the limit is fitted instead.

    Parameters
    ----------
    plan : Plan
        What is asked for.
    heads : sequence of Head
        The heads that are asked for.
    grids : mapping of str to Grid
        Their values to try.
    size, limit : float
        What the embeddings of a candidate take, and what they may, in GiB.
    on_cluster : bool
        Whether the workers of a cluster are to do it.
    default_heads : bool
        Whether nobody asked for these heads: those that cannot stream are left out then, if any
        can.

    Returns
    -------
    plan : Plan
        With the warning that says so.
    heads : tuple of Head
        Those that stand in where others need all embeddings in memory.
    grids : dict of str to Grid
        Of these; values that were given for a head hold for the one that takes its place.

    Raises
    ------
    UserError
        If a head, the cluster or what is done to the embeddings needs them all in memory.
    """
    taken = f"the embeddings of a layer take {size:.3g} GiB, more than --stream-past {limit:g}"
    fix = "fit without it, or raise the limit"
    if on_cluster:
        raise UserError(f"--cluster: {taken}; expected fewer, to be sent to workers; {fix}")
    if any(each.how == "weighted" for each in plan.candidates):
        raise UserError(
            f"--layers weighted: {taken}; expected all in memory to learn weights; {fix}"
        )
    if plan.protocol.normalise != "none":
        raise UserError(
            f"--normalise {plan.protocol.normalise}: {taken}; expected all clips of a speaker in "
            f"memory; {fix}"
        )
    said = [f"STREAMED: {taken}: heads read them a block at a time"]
    fitted: dict[str, Grid] = {}
    for head in heads:
        other = _that_streams(head)
        if not other and default_heads and any(map(_that_streams, heads)):
            said.append(f"{head.name} left out, as it needs all of them")
            continue
        if not other:
            of_task = [each for each in HEADS.built_in.values() if each.task == head.task]
            able = [each.name for each in of_task if _that_streams(each)]
            raise UserError(
                f"--head {head.name}: {taken}; expected a head that streams: {', '.join(able)}; "
                "name one of these, or raise the limit"
            )
        if other is not head:
            said.append(f"{other.name} in place of {head.name}")
        given = {
            name: values
            for name, values in grids[head.name].items()
            if name in other.grid and values != head.grid[name]
        }
        fitted[other.name] = {**fitted.get(other.name, other.grid), **given}
    chosen = tuple(HEADS[name] for name in HEADS if name in fitted)
    return replace(plan, warnings=(*plan.warnings, "; ".join(said))), chosen, fitted


def _that_streams(head: Head) -> Head | None:
    """Return a head, or the one that stands in for it; None if it needs all in memory."""
    if head.streams:
        return head
    able = (each for each in HEADS.built_in.values() if each.streams)
    return next((each for each in able if each.stands_in_for == head.name), None)


@contextmanager
def room(run: Path) -> Iterator[Path]:
    """Make a folder for embeddings inside a run's, on the same disk, and remove it in the end."""
    folder = run / "embeddings"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spill(cache: Cache, candidate: Candidate, plan: Plan, folder: Path) -> Rows:
    """Write the embeddings of a candidate into a file, a block at a time.

    It takes the place of the candidate before: the disk holds one at a time.

    Parameters
    ----------
    cache : Cache
        Where they are. Its checksums are not looked at, for which all rows would have to be read:
        ``serpipe cache verify`` does that.
    candidate : Candidate
        Layers, put together.
    plan : Plan
        Which clips and poolings.
    folder : Path
        Where to.

    Returns
    -------
    Rows
        All of the clips that are used.

    Raises
    ------
    UserError
        If a value is not a finite number.
    MachineError
        If the disk does not take it.
    """
    # Absolute: the processes that read it may have begun in another folder.
    path, rows, width = folder.resolve() / "rows.float32", plan.target.rows, 0
    try:
        with create_file(path) as file:
            for part in blocks(len(rows)):
                layers = [read_rows(cache, layer, plan, rows[part]) for layer in candidate.layers]
                joined = candidate.join(layers)
                width = joined.shape[1]
                joined.tofile(file)
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written ({first_line(error)}); expected room for the embeddings of "
            "a layer; make room, or name another disk with --out"
        ) from error
    return Rows(path, (len(rows), width), np.arange(len(rows)))
