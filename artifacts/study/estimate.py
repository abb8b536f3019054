"""Estimate the time and the disk space that a study needs: ``serpipe study run --dry-run``."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from ...corpora import Clip
from ...errors import UserError, counted
from ...features.encoder_cost import EncoderCost
from ...features.perturbation import read_perturbations
from ...pipeline.fit_cost import seconds_of_run, seconds_per_fit
from ...pipeline.heads import read_grids
from ...pipeline.layers import choose_layers
from ...pipeline.options import Protocol
from ...pipeline.split_kind import SplitKind
from ...progress import Say
from ..report.report import Report
from ..report.table import Table
from .caches import find_cache
from .costs import MeasuredCost
from .study_file import Cell, Study, StudyCorpus, StudyEncoder, heads_of

#: Number of folds of a split that does not state it, and of parts of a column that is held out.
_USUAL_FOLDS = 5
ESTIMATE_NOTE = (
    "Extraction: from a few clips of the corpus through each encoder that is on this machine. "
    "Fitting: from a small fit of each head to random embeddings of the same width, in proportion "
    "to layers, folds and clips (SVM: clips to the power of 1.5), on all cores. Expect "
    "half to twice the time. Unknown: the encoder is not on this machine, or cannot be loaded."
)


def report_estimate(
    study: Study,
    clips: Mapping[str, Sequence[Clip]],
    costs: Sequence[MeasuredCost],
    done: Sequence[bool],
    jobs: int,
    say: Say,
) -> Report:
    """Report what a study would compute.

    Parameters
    ----------
    study : Study
    clips : mapping of str to sequence of Clip
        The clips of each corpus.
    costs : sequence of MeasuredCost
        The measured costs of the encoders.
    done : sequence of bool
        Whether the run of each cell of the study exists.
    jobs : int
        Number of processes that would be used.
    say : callable
        Takes lines of text that report progress.

    Returns
    -------
    Report
        With the table ``plan``: a row for each encoder and corpus.
    """
    known = {(each.encoder, each.corpus): each.cost for each in costs}
    is_done = dict(zip(study.cells, done, strict=True))
    fits: dict[tuple[str, int, int], float] = {}
    rows = []
    for corpus in study.corpora:
        copies = _copies(corpus.protocol)
        for encoder in study.encoders:
            cost, own = known.get((encoder.name, corpus.name)), clips[corpus.name]
            cells = study.cells_of(corpus, encoder)
            todo = [cell for cell in cells if not is_done[cell]]
            lacking = {
                part
                for pooling in encoder.poolings
                if not _is_extracted(corpus, encoder, pooling, len(own))
                for part in pooling.split(",")
            }
            if cost and todo:
                say(f"cost     {encoder.name} on {corpus.name}: small fits")
            audio = extraction = fitting = disk = math.nan
            if cost:
                per_clip = 3600 * cost.clips
                audio = cost.audio_seconds * len(own) / per_clip
                extraction = copies * cost.seconds * len(own) / per_clip
                seconds = sum(_fit_seconds(study, cell, cost, own, fits) for cell in todo)
                fitting = seconds / (3600 * jobs)
                numbers = copies * cost.layers * cost.width * len(lacking) * len(own)
                disk = numbers * np.dtype(encoder.options.dtype).itemsize / 1e6
            rows.append(
                _Row(
                    corpus.name,
                    encoder.name,
                    len(own),
                    audio,
                    extraction if lacking else 0.0,
                    len(cells),
                    len(todo),
                    fitting if todo else 0.0,
                    disk if lacking else 0.0,
                )
            )
    hours = [value for row in rows for value in (row.extraction_hours, row.fit_hours)]
    return Report(
        (
            ("study", f"{study.title} ({study.path})"),
            ("runs", f"{sum(row.runs_to_fit for row in rows)} to fit, of {len(study.cells)}"),
            ("time", f"{_total(hours)} h on {counted(jobs, 'core')} of this machine"),
            ("disk", f"{_total([row.disk_megabytes for row in rows])} MB for the caches"),
        ),
        (),
        (_table(rows),),
        (ESTIMATE_NOTE,),
    )


@dataclass(frozen=True)
class _Row:
    """A row of the table: NaN is unknown."""

    corpus: str
    encoder: str
    clips: int
    audio_hours: float
    extraction_hours: float
    runs: int
    runs_to_fit: int
    fit_hours: float
    disk_megabytes: float


def _table(rows: Sequence[_Row]) -> Table:
    return Table(
        "plan",
        "What would be computed",
        ("encoder, corpus", "clips", "audio (h)", "extraction (h)", "runs to fit", "fitting (h)",
         "disk (MB)"),
        tuple(
            (
                f"{row.encoder}, {row.corpus}",
                str(row.clips),
                _text(row.audio_hours),
                _text(row.extraction_hours),
                f"{row.runs_to_fit} of {row.runs}",
                _text(row.fit_hours),
                _text(row.disk_megabytes),
            )
            for row in rows
        ),
        records=tuple(asdict(row) for row in rows),
    )  # fmt: skip


def _total(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return ("at least " if len(known) < len(values) else "") + _text(sum(known))


def _is_extracted(corpus: StudyCorpus, encoder: StudyEncoder, pooling: str, n_clips: int) -> bool:
    cache = find_cache(corpus, encoder, pooling)
    return cache is not None and len(cache) >= n_clips


def _fit_seconds(
    study: Study,
    cell: Cell,
    cost: EncoderCost,
    clips: Sequence[Clip],
    fits: dict[tuple[str, int, int], float],
) -> float:
    """Return the seconds of a run on one core; ``fits`` keeps the times of small fits."""
    heads = heads_of(cell.heads)
    grids = read_grids(heads, study.grid_of(cell))
    width = cost.width * len(cell.pooling.split(","))
    n_labels = len({clip.emotion for clip in clips}) or 2
    for head in heads:
        key = head.name, width, n_labels
        if key not in fits:
            fits[key] = seconds_per_fit(head, grids[head.name], width, n_labels)
    per_fit = [(head, fits[head.name, width, n_labels]) for head in heads]
    n_clips = _copies(cell.protocol) * len(clips)
    return seconds_of_run(per_fit, n_clips, _n_layers(cell, cost), _n_folds(cell, clips))


def _copies(protocol: Protocol) -> int:
    """Return how many times each clip is extracted and trained on, perturbed or not."""
    return 1 + len(read_perturbations("augment", protocol.augment))


def _n_layers(cell: Cell, cost: EncoderCost) -> int:
    try:
        names = [str(number) for number in range(cost.layers)]
        return len(choose_layers(cell.protocol.layers, names))
    except UserError:  # a layer with another name, such as final_norm
        return cost.layers


def _n_folds(cell: Cell, clips: Sequence[Clip]) -> int:
    kind, _, argument = cell.split.partition(":")
    if SplitKind.of(cell.split) is SplitKind.LOSO:
        folds = len({clip.speaker_id or clip.speaker for clip in clips})
    elif SplitKind.of(cell.split).holds_out:
        folds = 1
    else:
        folds = int(argument) if kind in ("kfold", "random") else _USUAL_FOLDS
    return folds * (_USUAL_FOLDS if cell.protocol.hold_out else 1)


def _text(value: float) -> str:
    if math.isnan(value):
        return "unknown"
    return "< 0.01" if 0 < value < 0.01 else f"{value:.3g}"
