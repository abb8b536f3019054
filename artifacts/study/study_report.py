"""The report of a study: a table for each head, tests, costs, and what is missing."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import counted, listed
from ...pipeline.statistics import Interval
from ..report.checks import Check, grave, run_checks
from ..report.comparison import BEST_OF_RUNS
from ..report.report import Report, score_note
from ..report.result_tables import flat, identity, mark_names
from ..report.table import Table
from ..run.results import RunResults
from ..score_text import difference_text, interval_text, p_text, score_text
from .comparison import Compared, Group, StudyRun, group_runs
from .costs import MeasuredCost
from .study_file import Study

#: The summary names at most this many unresolved pairs one by one.
MOST_NAMED = 6
RANK_NOTE = (
    "Mean rank: over the corpora that are compared, 1 for the best. Nuisance: the best of the "
    "baselines that see the file format, duration and loudness of a clip, or its recording "
    "conditions, and no speech."
)
COST_NOTE = (
    "Seconds: to decode and embed an hour of audio on this machine, measured on a few clips of "
    "each corpus. Cache: of all layers and poolings that are stored."
)


@dataclass(frozen=True)
class MethodCost:
    """Cost and score of an encoder with a pooling; NaN where unknown."""

    method: str
    parameters: float
    seconds_per_hour: float  #: To embed an hour of audio.
    megabytes_per_hour: float  #: In the cache, of an hour of audio.
    score: float  #: Mean over the compared corpora.

    #: Titles of the costs, by field.
    TITLES = {  # noqa: RUF012  # a constant of the class, no field
        "parameters": "parameters",
        "seconds_per_hour": "seconds per hour of audio",
        "megabytes_per_hour": "cache, MB per hour of audio",
    }

    def cost(self, name: str) -> float:
        """Return one of the costs."""
        return float(getattr(self, name))


def known_costs(costs: Sequence[MethodCost], name: str) -> list[MethodCost]:
    """Return the methods that have both a cost of this name and a score."""
    return [each for each in costs if not math.isnan(each.cost(name) + each.score)]


def pareto_front(costs: Sequence[MethodCost], name: str) -> list[MethodCost]:
    """Return the methods for which no cheaper one scores as high, the cheapest first."""
    front: list[MethodCost] = []
    by_cost = sorted(known_costs(costs, name), key=lambda each: (each.cost(name), -each.score))
    for each in by_cost:
        if not front or each.score > front[-1].score:
            front.append(each)
    return front


def method_costs(
    study: Study, group: Group, costs: Sequence[MeasuredCost]
) -> tuple[MethodCost, ...]:
    """Return the cost of each method that has a score, from what was measured and from its runs."""
    compared = group.compared
    corpora = compared.corpora if compared else group.corpora
    encoder_of = {study.method(cell): cell.encoder for cell in study.cells}
    found = []
    for method in group.methods:
        shown = [group.results[method, c] for c in corpora if (method, c) in group.results]
        if len(shown) < len(corpora):
            continue
        of_encoder = [each.cost for each in costs if each.is_of(encoder_of[method])]
        seconds, audio = (
            sum(getattr(each, name) for each in of_encoder) for name in ("seconds", "audio_seconds")
        )
        scores = [group.first(method, corpus).value for corpus in corpora]
        found.append(
            MethodCost(
                method,
                float(of_encoder[0].parameters) if of_encoder else math.nan,
                3600 * seconds / audio if audio else math.nan,
                _megabytes_per_hour(shown),
                float(np.mean(scores)),
            )
        )
    return tuple(found)


def _megabytes_per_hour(runs: Sequence[RunResults]) -> float:
    """Return the size of the embeddings that runs were fitted on, relative to their audio."""
    size = hours = 0.0
    for results in runs:
        key, clips = results.summary.encoder, results.clips
        if "seconds" not in clips or not {"width", "layers", "poolings", "dtype"} <= key.keys():
            return math.nan
        numbers = key["width"] * len(key["layers"]) * len(key["poolings"])
        size += len(clips["seconds"]) * numbers * np.dtype(key["dtype"]).itemsize / 1e6
        hours += clips["seconds"].astype(np.float64).sum() / 3600
    return size / hours if hours else math.nan


def report_study(
    study: Study, runs: Sequence[StudyRun], costs: Sequence[MeasuredCost] = ()
) -> tuple[Report, tuple[Group, ...], tuple[MethodCost, ...]]:
    """Report a study from its runs.

    Parameters
    ----------
    study : Study
    runs : sequence of StudyRun
        One run for each cell.
    costs : sequence of MeasuredCost
        The measured costs of the encoders.

    Returns
    -------
    report : Report
        Its first fact is the summary in one sentence.
    groups : tuple of Group
        The results by head and split, for the figures; that of the summary is the first.
    costs : tuple of MethodCost
        The costs of the first group.
    """
    groups = group_runs(study, runs)
    missing = [each for each in runs if each.results is None]
    facts = [("summary", summary_sentence(groups[0]) if groups else "Nothing is fitted yet.")]
    facts += _facts(study, runs)
    tables: list[Table] = []
    of_methods = method_costs(study, groups[0], costs) if groups else ()
    for group in groups:
        suffix = _suffix(study, group)
        tables.append(_results_table(group, suffix))
        if group.compared:
            tables.append(_pairs_table(group, group.compared, suffix))
    if of_methods:
        tables.append(_cost_table(of_methods, groups[0]))
    if missing:
        tables.append(_missing_table(study, missing))
    if groups:
        tables.append(_layers_table(groups))
    return (
        Report(
            tuple(facts),
            (*_missing_warning(missing, runs), *_marks(study, runs), *_clip_warnings(groups)),
            tuple(tables),
            tuple(_notes(groups)),
            _checks(study, runs),
            _provenance(study, runs),
        ),
        groups,
        of_methods,
    )


def summary_sentence(group: Group) -> str:
    """Return in one sentence which differences between encoders are resolved, and which are not."""
    compared, setting = group.compared, f"With {group.head} and the split {group.split}"
    if compared is None:
        return f"{setting}, nothing is compared: no corpus has the results of two encoders."
    resolved = [pair for pair in compared.pairs if pair.is_resolved]
    others = [pair for pair in compared.pairs if not pair.is_resolved]
    total, number = counted(len(compared.pairs), "difference"), len(resolved)
    if len(compared.pairs) == 1:
        (pair,) = compared.pairs
        verb = "is better than" if resolved else "is not resolved from"
        return f"{setting}, {pair.better} {verb} {pair.worse} ({compared.test})."
    if not resolved:
        return f"{setting}, none of the {total} between encoders is resolved ({compared.test})."
    better: dict[str, list[str]] = {}
    for pair in resolved:
        better.setdefault(pair.better, []).append(pair.worse)
    shown = "; ".join(f"{name} over {listed(worse)}" for name, worse in better.items())
    open_pairs = ", ".join(f"{pair.better} and {pair.worse}" for pair in others)
    if len(others) > MOST_NAMED:
        open_pairs = f"the other {len(others)} (see the table of pairs)"
    return (
        f"{setting}, {f'{number} of' if others else 'all'} {total} between encoders "
        f"{'is' if number == 1 else 'are'} resolved ({compared.test}): {shown}"
        + (f"; not resolved: {open_pairs}." if others else ".")
    )


def _facts(study: Study, runs: Sequence[StudyRun]) -> list[tuple[str, str]]:
    described: dict[str, str] = {}
    for each in runs:
        if each.results:
            summary = each.results.summary
            described.setdefault(
                each.cell.corpus.name,
                f"{each.cell.corpus.name} ({summary.corpus}: {counted(summary.clips, 'clip')}, "
                f"{counted(len(summary.speakers), 'speaker')}, {summary.target})",
            )
    named = [described.get(each.name, each.name) for each in study.corpora]
    fitted = sum(each.results is not None for each in runs)
    return [
        ("corpora", "; ".join(named)),
        (
            "encoders",
            "; ".join(f"{each.name} ({each.options.encoder})" for each in study.encoders),
        ),
        ("pooling", "; ".join(study.poolings)),
        ("runs", f"{fitted} of {len(runs)} in artifacts/runs"),
    ]


def _suffix(study: Study, group: Group) -> str:
    """Return the end of the names of a group's files."""
    if len(study.splits) == 1:
        return group.head
    split = "".join(c if c.isalnum() or c in "-+" else "-" for c in group.split)
    return f"{group.head}-{split}"


def _results_table(group: Group, suffix: str) -> Table:
    measure, compared = group.measure, group.compared
    ranks = compared.ranks if compared else {}
    usable = group.usable
    best = {
        corpus: max(group.first(m, c).value for m, c in usable if c == corpus)
        for corpus in group.corpora
        if any(c == corpus for _, c in usable)
    }
    rows, bold = [], set()
    for number, method in enumerate(group.methods):
        cells = [method]
        for column, corpus in enumerate(group.corpora, 1):
            results = group.results.get((method, corpus))
            if results is None:
                cells.append("missing")
                continue
            score = group.first(method, corpus)
            mark = mark_names(results.summary)
            cells.append(interval_text(score, measure) + (f" ({mark})" if mark else ""))
            if (method, corpus) in usable and score.value == best[corpus] and len(usable) > 1:
                bold.add((number, column))
        rank = ranks.get(method, math.nan)
        if ranks and rank == min(ranks.values()):
            bold.add((number, len(cells)))
        rows.append((*cells, "" if math.isnan(rank) else f"{rank:.2f}"))
    any_method = {c: results for (_, c), results in group.results.items()}
    chance = [measure.chance(len(any_method[c].summary.labels)) for c in group.corpora]
    nuisance = [best_nuisance(any_method[c]) for c in group.corpora]
    for title, values in (("chance", chance), ("nuisance", nuisance)):
        rows.append((title, *(score_text(each, measure) for each in values), ""))
    return Table(
        f"results-{suffix}",
        f"{group.head}, {group.split}: {measure.title} of each encoder on each corpus [95 %]",
        ("encoder", *group.corpora, "mean rank"),
        tuple(rows),
        note=f"Bold: the highest {measure.title} of a corpus, and the best mean rank.",
        bold=frozenset(bold),
        records=tuple(
            {
                **identity(results.summary),
                "study_encoder": method,
                "study_corpus": corpus,
                "head": group.head,
                **flat(group.scores[method, corpus]),
                "chance": measure.chance(len(results.summary.labels)),
                "nuisance": best_nuisance(results),
                "mean_rank": ranks.get(method, math.nan),
                "run": results.run.name,
            }
            for (method, corpus), results in group.results.items()
        ),
    )


def best_nuisance(results: RunResults) -> float:
    """Return the first score of the best nuisance baseline; NaN if there is none."""
    return max((each.value for each in results.nuisance_scores().values()), default=math.nan)


def _pairs_table(group: Group, compared: Compared, suffix: str) -> Table:
    measure, by_ranks = group.measure, compared.rank_test is not None
    rows, records = [], []
    for pair, difference in zip(compared.pairs, compared.differences, strict=True):
        distance = compared.ranks[pair.worse] - compared.ranks[pair.better]
        rows.append((
            f"{pair.better} - {pair.worse}",
            difference_text(Interval(difference, math.nan, math.nan), measure),
            f"{distance:.2f}" if by_ranks else p_text(pair.p),
            p_text(pair.p_corrected),
        ))  # fmt: skip
        records.append({
            "head": group.head,
            "split": group.split,
            "better": pair.better,
            "worse": pair.worse,
            "mean_difference": difference,
            "rank_difference": distance,
            "test": "nemenyi" if by_ranks else "wilcoxon",
            "corpora": "; ".join(compared.corpora),
            "speakers": compared.n_speakers,
            "p": pair.p,
            "p_corrected": pair.p_corrected,
            "resolved": pair.is_resolved,
        })  # fmt: skip
    columns = ("difference of mean ranks", "p (Nemenyi)") if by_ranks else ("p", "p (Holm)")
    return Table(
        f"pairs-{suffix}",
        f"{group.head}, {group.split}: encoders compared",
        ("pair", f"mean difference in {measure.title}", *columns),
        tuple(rows),
        note=f"{compared.reason} Bold: resolved.",
        bold=frozenset(
            (row, column)
            for row, pair in enumerate(compared.pairs)
            for column in range(4)
            if pair.is_resolved
        ),
        records=tuple(records),
    )


def _cost_table(costs: Sequence[MethodCost], group: Group) -> Table:
    measure = group.measure
    fronts = {name: pareto_front(costs, name) for name in MethodCost.TITLES}
    short = {"parameters": "parameters", "seconds_per_hour": "time", "megabytes_per_hour": "size"}
    on_front = {
        each.method: [short[name] for name, front in fronts.items() if each in front]
        for each in costs
    }
    return Table(
        "cost",
        f"Cost against score ({group.head}, {group.split})",
        (
            "encoder", "parameters", "seconds per hour of audio", "cache, MB per hour of audio",
            f"mean {measure.title}", "on the Pareto front of",
        ),
        tuple(
            (
                each.method,
                _parameters_text(each.parameters),
                _number_text(each.seconds_per_hour),
                _number_text(each.megabytes_per_hour),
                score_text(each.score, measure),
                ", ".join(on_front[each.method]),
            )
            for each in costs
        ),
        note=COST_NOTE,
        records=tuple(
            {
                "encoder": each.method,
                **{name: each.cost(name) for name in MethodCost.TITLES},
                f"mean_{measure.key}": each.score,
                "on_front": ", ".join(on_front[each.method]),
            }
            for each in costs
        ),
    )  # fmt: skip


def _parameters_text(number: float) -> str:
    if math.isnan(number):
        return "unknown"
    return f"{number / 1e6:.1f} M" if number else "0"


def _number_text(number: float) -> str:
    if math.isnan(number):
        return "unknown"
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _missing_table(study: Study, missing: Sequence[StudyRun]) -> Table:
    return Table(
        "missing",
        "Runs that are missing",
        ("corpus", "encoder", "split", "heads", "reason"),
        tuple(
            (each.cell.corpus.name, study.method(each.cell), each.cell.split, each.cell.heads,
             each.error)
            for each in missing
        ),
        records=tuple(
            {
                "corpus": each.cell.corpus.name,
                "encoder": study.method(each.cell),
                "split": each.cell.split,
                "heads": each.cell.heads,
                "reason": each.error,
            }
            for each in missing
        ),
    )  # fmt: skip


def _layers_table(groups: Sequence[Group]) -> Table:
    """Return the first score of every layer held fixed, for the files alone."""
    records: list[dict[str, Any]] = []
    for group in groups:
        key = group.measure.key
        for (method, corpus), results in group.results.items():
            for layer in results.summary.layers:
                score = results.scores(group.head, layer)[key]
                records.append({
                    "encoder": method, "corpus": corpus, "head": group.head, "split": group.split,
                    "layer": layer, "score": key, "value": score.value, "low": score.low,
                    "high": score.high,
                })  # fmt: skip
    measures = {group.measure.key: group.measure for group in groups}
    return Table(
        "layer-scores",
        "Each layer held fixed (descriptive)",
        ("encoder, corpus, head, split", "layer", "score"),
        tuple(
            (
                ", ".join(str(each[name]) for name in ("encoder", "corpus", "head", "split")),
                str(each["layer"]),
                score_text(float(each["value"]), measures[str(each["score"])]),
            )
            for each in records
        ),
        note="To pick the best layer here is to choose on the test speakers: quote the nested "
        "result.",
        records=tuple(records),
    )


def _missing_warning(missing: Sequence[StudyRun], runs: Sequence[StudyRun]) -> list[str]:
    if not missing:
        return []
    return [f"{len(missing)} of {counted(len(runs), 'run')} are missing, see the table of them"]


def _marks(study: Study, runs: Sequence[StudyRun]) -> list[str]:
    """Return the marks of the runs, each once, with the runs that have it if not all have."""
    fitted = [each for each in runs if each.results]
    marked: dict[str, list[str]] = {}
    for each in fitted:
        assert each.results
        for warning in each.results.summary.warnings:
            name = f"{study.method(each.cell)} on {each.cell.corpus.name}"
            marked.setdefault(warning, []).append(name)
    return [
        warning if len(names) == len(fitted) else f"{', '.join(dict.fromkeys(names))}: {warning}"
        for warning, names in marked.items()
    ]


def _clip_warnings(groups: Sequence[Group]) -> list[str]:
    """Return a warning for each corpus on which encoders were tested on different clips.

    An encoder may refuse some, such as long ones, which ``--skip-bad`` then skips.
    """
    warnings: dict[str, None] = {}
    for group in groups:
        for corpus in group.corpora:
            summaries = {m: r.summary for (m, c), r in group.results.items() if c == corpus}
            if len({each.tested for each in summaries.values()}) > 1:
                clips = ", ".join(f"{m} on {each.clips}" for m, each in summaries.items())
                warnings[
                    f"DIFFERENT CLIPS: encoders were not tested on the same clips of {corpus} "
                    f"({clips}), which may explain a part of their differences; omit the clips "
                    "that an encoder refuses, or set max_seconds"
                ] = None
    return list(warnings)


def _checks(study: Study, runs: Sequence[StudyRun]) -> tuple[Check, ...]:
    """Return the checks of the runs that are more than notes: each code once, with a count."""
    first: dict[str, Check] = {}
    numbers: Counter[str] = Counter()
    for each in runs:
        if each.results is None:
            continue
        for check in run_checks(each.results, among_runs=False):
            if grave([check]):
                numbers[check.code] += 1
                named = f"{study.method(each.cell)}, {each.cell.corpus.name}: {check.finding}"
                first.setdefault(check.code, replace(check, finding=named))
    return tuple(
        replace(
            check,
            finding=check.finding
            + (f" (and {counted(numbers[code] - 1, 'other run')})" if numbers[code] > 1 else ""),
        )
        for code, check in sorted(first.items())
    )


def _provenance(study: Study, runs: Sequence[StudyRun]) -> tuple[Mapping[str, Any], ...]:
    """Return the command of the study with each set of versions that made its runs."""
    versions: list[Mapping[str, Any]] = []
    for each in runs:
        used = each.results.summary.provenance.get("versions", {}) if each.results else None
        if used is not None and used not in versions:
            versions.append(used)
    command = f"serpipe study run {study.path}"
    return tuple({"command": command, "versions": each} for each in versions)


def _notes(groups: Sequence[Group]) -> list[str]:
    if not groups:
        return []
    fewest = min(
        groups[0].results.values(), key=lambda results: len(results.summary.clusters)
    ).summary
    notes = [score_note(fewest, chance=False), RANK_NOTE]
    if len(groups) > 1:
        first = groups[0]
        notes.append(
            f"The summary and the figures are of {first.head} and {first.split}, which the study "
            "names first. Tests are corrected within a table, not for the number of tables."
        )
    marked = [key for group in groups for key in group.results if key not in group.usable]
    if marked:
        notes.append("Contaminated results are shown, and neither ranked nor tested.")
    return [*notes, BEST_OF_RUNS]
