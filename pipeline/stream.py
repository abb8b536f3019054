"""Embeddings that do not fit in memory: when, which heads take them, and where they are stored."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import MachineError, UserError, first_line
from ..features.cache import Cache
from ..files import create_file
from .blocks import FileMatrix, blocks
from .heads import HEADS, Grid, Head
from .layers import Candidate
from .marks import Mark, MarkKind
from .options import Protocol
from .plan import Plan, read_rows


def candidate_size(cache: Cache, plan: Plan) -> float:
    """Return how many GiB the embeddings of the largest candidate take, as float32."""
    sizes = []
    for each in plan.candidates:
        widths = [cache.n_features(layer, plan.pooling) for layer in each.layers]
        sizes.append(sum(widths) if each.how in ("concat", "weighted") else max(widths))
    return len(plan.target.rows) * max(sizes) * 4 / 2**30


def stream_plan(
    plan: Plan,
    heads: Sequence[type[Head]],
    grids: Mapping[str, Grid],
    size: float,
    limit: float,
    *,
    default_heads: bool = False,
) -> tuple[Plan, tuple[type[Head], ...], dict[str, Grid]]:
    """Replace heads that need all embeddings in memory by heads that stream.

    Parameters
    ----------
    plan : Plan
        The run as requested.
    heads : sequence of subclasses of Head
        The heads requested.
    grids : mapping of str to Grid
        Their values to try.
    size, limit : float
        The size of the embeddings of a candidate, and its limit, in GiB.
    default_heads : bool
        Whether the user named no heads: those that cannot stream are then omitted, if any can.

    Returns
    -------
    plan : Plan
        With a warning that states the changes.
    heads : tuple of subclasses of Head
        All of them stream.
    grids : dict of str to Grid
        Their values to try; values given for a head also hold for the one that replaces it.

    Raises
    ------
    UserError
        If a head or an option needs all embeddings in memory.
    """
    problem = f"the embeddings of a layer take {size:.3g} GiB, more than --stream-past {limit:g}"
    protocol, weighted = plan.protocol, any(each.how == "weighted" for each in plan.candidates)
    for option, is_given in (
        ("--layers weighted", weighted),
        (f"--normalise {protocol.normalise}", protocol.normalise != Protocol.normalise),
        (f"--augment {','.join(protocol.augment)}", protocol.augment),
        (f"--labels {protocol.labels}", protocol.labels != Protocol.labels),
        ("--enrol", protocol.enrol),
    ):
        if is_given:
            raise UserError(
                f"{option}: {problem}, and it needs all of them in memory; fit without it, or "
                "raise the limit"
            )
    changes = [f"{problem}: heads read them a block at a time"]
    streaming: dict[str, Grid] = {}
    for head in heads:
        substitute = _streaming_head(head)
        if not substitute and default_heads and any(map(_streaming_head, heads)):
            changes.append(f"{head.name} omitted, as it needs all of them in memory")
            continue
        if not substitute:
            of_task = [each for each in HEADS.built_in.values() if each.task == head.task]
            able = [each.name for each in of_task if _streaming_head(each)]
            raise UserError(
                f"--head {head.name}: {problem}; use a head that streams ({', '.join(able)}), "
                "or raise the limit"
            )
        if substitute is not head:
            changes.append(f"{substitute.name} in place of {head.name}")
        given = {
            name: values
            for name, values in grids[head.name].items()
            if name in substitute.grid and values != head.grid[name]
        }
        name = substitute.name
        streaming[name] = {**streaming.get(name, substitute.grid), **given}
    chosen = tuple(HEADS[name] for name in HEADS if name in streaming)
    mark = Mark(MarkKind.STREAMED, "; ".join(changes))
    return replace(plan, marks=(*plan.marks, mark)), chosen, streaming


def _streaming_head(head: type[Head]) -> type[Head] | None:
    """Return a head if it streams, or the one that stands in for it; None if there is neither."""
    if head.streams:
        return head
    able = (each for each in HEADS.built_in.values() if each.streams)
    return next((each for each in able if each.stands_in_for == head.name), None)


@contextmanager
def spill_folder(run: Path) -> Iterator[Path]:
    """Make a folder for embeddings inside that of a run, on the same disk; remove it at the end."""
    folder = run / "embeddings"
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def spill(cache: Cache, candidate: Candidate, plan: Plan, folder: Path) -> FileMatrix:
    """Write the embeddings of a candidate to a file, a block at a time.

    It replaces the file of the candidate before: the disk holds one at a time. Each candidate has
    its own file name, as a worker on another machine might take a new file for the one before it.

    Parameters
    ----------
    cache : Cache
        Where the embeddings are. Its checksums are not verified, which would read all rows;
        ``serpipe cache verify`` does that.
    candidate : Candidate
        The layers.
    plan : Plan
        Which clips and poolings.
    folder : Path
        Where to write the file.

    Returns
    -------
    FileMatrix
        All clips that are used.

    Raises
    ------
    UserError
        If a value is not a finite number.
    MachineError
        If the file cannot be written.
    """
    # Absolute: the processes that read it may have started in another folder.
    path = folder.resolve() / f"{plan.candidates.index(candidate)}.float32"
    rows, width = plan.target.rows, 0
    try:
        for earlier in path.parent.glob("*.float32"):
            earlier.unlink(missing_ok=True)
        with create_file(path) as file:
            for part in blocks(len(rows)):
                layers = [read_rows(cache, layer, plan, rows[part]) for layer in candidate.layers]
                joined = candidate.join(layers)
                width = joined.shape[1]
                joined.tofile(file)
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written ({first_line(error)}); make room for the embeddings of a "
            "layer, or name another disk with --out"
        ) from error
    return FileMatrix(path, (len(rows), width), np.arange(len(rows)))
