"""What a study would compute, and what that costs: ``serpipe study run --dry-run``."""

import math
from collections.abc import Mapping, Sequence

from ...corpora import Clip
from ...errors import UserError, counted
from ...features.encoder_cost import EncoderCost
from ...pipeline.fit_cost import seconds_of_run, seconds_per_fit
from ...pipeline.heads import find_heads, read_grids
from ...pipeline.layers import choose_layers
from ...pipeline.split_kind import SplitKind
from ...progress import Say
from ..report.report import Report
from ..report.table import Table
from .caches import find_cache
from .costs import MeasuredCost
from .study_file import Cell, Study

#: Folds of a split that names no number of them, and parts of a column that is held out.
_USUAL_FOLDS = 5
ESTIMATE_NOTE = (
    "Extraction: from a few clips of the corpus through each encoder that is on this machine. "
    "Fitting: from a small fit of each head to random embeddings of the same width, in proportion "
    "to layers, folds and clips (kernel SVMs: to the square of the clips), on all cores. Expect "
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
        What was measured of the encoders.
    done : sequence of bool
        Of each cell of the study, whether its run exists.
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
    fits: dict[tuple[str, int, int], float] = {}
    records = []
    for corpus in study.corpora:
        for encoder in study.encoders:
            cost = known.get((encoder.name, corpus.name))
            own = clips[corpus.name]
            cells = [
                (cell, is_done)
                for cell, is_done in zip(study.cells, done, strict=True)
                if cell.corpus is corpus and cell.encoder is encoder
            ]
            todo = [cell for cell, is_done in cells if not is_done]
            to_extract = {
                part
                for pooling in encoder.poolings
                if not _is_extracted(study, encoder.name, corpus.name, pooling, len(own))
                for part in pooling.split(",")
            }
            hours = math.nan
            if cost:
                say(f"cost     {encoder.name} on {corpus.name}: small fits")
                hours = sum(_fit_seconds(study, cell, cost, own, fits) for cell in todo)
                hours /= 3600 * jobs
            records.append({
                "corpus": corpus.name,
                "encoder": encoder.name,
                "clips": len(own),
                "audio_hours": _audio_hours(cost, len(own)),
                "extraction_hours": _extraction_hours(cost, len(own)) if to_extract else 0.0,
                "runs": len(cells),
                "runs_to_fit": len(todo),
                "fit_hours": hours if todo else 0.0,
                "disk_megabytes": _megabytes(cost, len(own), len(to_extract)),
            })  # fmt: skip
    columns = ("extraction_hours", "fit_hours", "disk_megabytes")
    totals = {
        name: sum(each[name] for each in records if not math.isnan(float(each[name])))  # type: ignore[misc, arg-type]
        for name in columns
    }
    is_partial = any(math.isnan(float(each[name])) for each in records for name in columns)  # type: ignore[arg-type]
    at_least = "at least " if is_partial else ""
    todo_total = sum(int(each["runs_to_fit"]) for each in records)  # type: ignore[call-overload]
    table = Table(
        "plan",
        "What would be computed",
        ("encoder, corpus", "clips", "audio (h)", "extraction (h)", "runs to fit", "fitting (h)",
         "disk (MB)"),
        tuple(
            (
                f"{each['encoder']}, {each['corpus']}",
                str(each["clips"]),
                _text(each["audio_hours"]),
                _text(each["extraction_hours"]),
                f"{each['runs_to_fit']} of {each['runs']}",
                _text(each["fit_hours"]),
                _text(each["disk_megabytes"]),
            )
            for each in records
        ),
        records=tuple(records),
    )  # fmt: skip
    hours = totals["extraction_hours"] + totals["fit_hours"]
    return Report(
        (
            ("study", f"{study.title} ({study.path})"),
            ("runs", f"{todo_total} to fit, of {len(study.cells)}"),
            ("time", f"{at_least}{_text(hours)} h on {counted(jobs, 'core')} of this machine"),
            ("disk", f"{at_least}{_text(totals['disk_megabytes'])} MB for the caches"),
        ),
        (),
        (table,),
        (ESTIMATE_NOTE,),
    )


def _is_extracted(study: Study, encoder: str, corpus: str, pooling: str, n_clips: int) -> bool:
    for cell in study.cells:
        if (cell.encoder.name, cell.corpus.name, cell.pooling) == (encoder, corpus, pooling):
            cache = find_cache(cell.corpus, cell.encoder, pooling)
            return cache is not None and len(cache) >= n_clips
    return False


def _extraction_hours(cost: EncoderCost | None, n_clips: int) -> float:
    return cost.seconds / cost.clips * n_clips / 3600 if cost else math.nan


def _audio_hours(cost: EncoderCost | None, n_clips: int) -> float:
    return cost.audio_seconds / cost.clips * n_clips / 3600 if cost else math.nan


def _megabytes(cost: EncoderCost | None, n_clips: int, n_poolings: int) -> float:
    if not n_poolings:
        return 0.0
    return cost.layers * cost.width * n_poolings * n_clips * 4 / 1e6 if cost else math.nan


def _fit_seconds(
    study: Study,
    cell: Cell,
    cost: EncoderCost,
    clips: Sequence[Clip],
    fits: dict[tuple[str, int, int], float],
) -> float:
    """Return the seconds of a run on one core; ``fits`` keeps the times of small fits."""
    try:
        heads = find_heads(cell.heads)
    except UserError:
        heads = find_heads(cell.heads, "regression")
    grids = read_grids(heads, study.grid_of(cell))
    width = cost.width * len(cell.pooling.split(","))
    n_labels = len({clip.emotion for clip in clips}) or 2
    for head in heads:
        key = head.name, width, n_labels
        if key not in fits:
            fits[key] = seconds_per_fit(head, grids[head.name], width, n_labels)
    per_fit = [(head, fits[head.name, width, n_labels]) for head in heads]
    return seconds_of_run(per_fit, len(clips), _n_layers(cell, cost), _n_folds(cell, clips))


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


def _text(number: object) -> str:
    value = float(number)  # type: ignore[arg-type]
    if math.isnan(value):
        return "unknown"
    return "< 0.01" if 0 < value < 0.01 else f"{value:.3g}"
