"""Checks: what is wrong with a run or should be known of it, by the codes of docs/checks.md."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...corpora import CORPORA, Corpus
from ...errors import counted
from ...features.recordings import UNCONFIRMED, copies, recordings
from ...pipeline.marks import MarkKind
from ...pipeline.nuisance import ALL_OF_THEM, CONDITIONS, FORMAT
from ...pipeline.statistics import FEWEST_SPEAKERS
from ..run.results import RunResults, at_edge, chosen
from ..run.summary import RunKind, RunSummary
from ..score_text import interval_text, score_text
from .frozen_probe import against_probe, from_scratch, read_probe
from .new_texts import worth_of_new_texts
from .result_tables import RESOLVED
from .selection import ComparableResults, count_comparable

#: Number of results on the same clips from which their best one deserves a warning.
MANY_RESULTS = 10
#: Checks that repeat a mark, which every output shows as a warning of its own.
OF_MARKS = frozenset({"SER001", "SER002", "SER003", "SER007"})
#: Severity and advice of findings that were made when a run was planned.
_PLANNED: Mapping[str, tuple[str, str]] = {
    "SER019": (
        "warning",
        "if the ids name clips or sessions and not people, the same voices are on both sides of "
        "the folds: give each person one id in the column speaker",
    ),
    "SER020": ("warning", "keep them on one side with --group and the name of the column"),
    "SER023": (
        "note",
        "without the option each id is one person; with it the same voice may be on both sides",
    ),
    "SER026": ("warning", "unless they are different people: --similar-speakers merge"),
    "SER028": (
        "warning",
        "the same people may be on both sides under other ids: give each person an id, or omit "
        "these clips",
    ),
    "SER029": (
        "warning",
        "if the last part names a session and not a person, the same voices are on both sides of "
        "the folds: give each person one id",
    ),
    "SER027": ("note", "if they were recorded together, keep them on one side with --group"),
}
#: Number of recordings whose copies a check names.
NAMED = 3


@dataclass(frozen=True)
class Check:
    """One finding."""

    code: str  #: As in docs/checks.md.
    #: ``"invalid"``: the number does not mean what it seems to; ``"warning"``: it may mislead;
    #: ``"note"``: for information.
    severity: str
    finding: str
    advice: str  #: What to do about it.

    def as_dict(self) -> dict[str, str]:
        """Return it as ``results.json`` holds it."""
        return {
            "code": self.code, "severity": self.severity, "found": self.finding,
            "advice": self.advice,
        }  # fmt: skip


def run_checks(
    results: RunResults, probe: RunResults | None = None, *, among_runs: bool = True
) -> tuple[Check, ...]:
    """Return the findings about a run, the gravest first.

    ``probe`` is the frozen probe of a fine-tuned run, if it is not the one that the run names.
    ``among_runs`` is whether to count the runs beside it, which reads each of them.
    """
    order = {"invalid": 0, "warning": 1, "note": 2}
    checks = [
        *_protocol(results),
        *_planned(results),
        *_data(results),
        *_search(results),
        *_nuisance(results),
        *_selection(results, among_runs),
        *_probe(results, probe),
    ]
    return tuple(sorted(checks, key=lambda check: (order[check.severity], check.code)))


def grave(checks: Sequence[Check]) -> tuple[str, ...]:
    """Return the findings that are more than notes and that no mark repeats, with their codes.

    They are shown wherever numbers might be copied from.
    """
    return tuple(
        f"{check.code}: {check.finding}"
        for check in checks
        if check.severity != "note" and check.code not in OF_MARKS
    )


def _protocol(results: RunResults) -> Iterator[Check]:
    summary = results.summary
    for mark in summary.marks:
        if mark.name == MarkKind.INFLATED:
            yield Check(
                "SER001", "invalid", f"speakers on both sides of {summary.split}",
                "fit with --split loso or kfold:N, and report that",
            )  # fmt: skip
        elif mark.name == MarkKind.TRANSDUCTIVE:
            yield Check(
                "SER002", "invalid",
                "each speaker's clips were normalised by themselves, test speakers included",
                "say so with the number, or fit without --normalise",
            )  # fmt: skip
        elif mark.name == MarkKind.PERMUTED_LABELS:
            yield Check(
                "SER003", "invalid", "labels were shuffled", "expect chance, and nothing else"
            )
        elif mark.name == MarkKind.STREAMED:
            yield Check(
                "SER017", "note", mark.text, "with the memory for it, raise the limit and fit again"
            )
        elif mark.name == MarkKind.CONTAMINATED:
            yield Check(
                "SER007", "invalid", mark.text.partition(";")[0],
                "test on clips of speakers that it was not trained on, or take another model",
            )  # fmt: skip
    if len(summary.clusters) < FEWEST_SPEAKERS:
        yield Check(
            "SER004", "warning",
            f"{len(summary.clusters)} {summary.group}s: too few for an interval",
            "show each speaker; do not claim differences",
        )  # fmt: skip
    unfinished = [head for head in summary.planned if head not in summary.heads]
    if unfinished:
        yield Check(
            "SER005", "warning", f"NOT WHOLE: {', '.join(unfinished)} not fitted yet",
            "run the same command again",
        )  # fmt: skip
    cached, used = _layers(summary)
    if used < cached:
        yield Check(
            "SER006", "note",
            f"{len(used)} of the {len(cached)} layers of the cache were named with --layers",
            "valid if they were named before anybody saw the scores of the layers; else the test "
            "speakers chose them: use --layers all",
        )  # fmt: skip


def _layers(summary: RunSummary) -> tuple[set[str], set[str]]:
    """Return the layers of the cache, and those that heads use; none if none were chosen."""
    if summary.kind is not RunKind.FITTED:
        return set(), set()
    cached = {str(layer) for layer in summary.encoder.get("layers", ())}
    used: set[str] = set()
    for candidate in summary.layers:
        if candidate in ("mean", "weighted"):
            return cached, cached
        used.update(candidate.removeprefix("concat-").split("-"))
    return cached, used


def _planned(results: RunResults) -> Iterator[Check]:
    """Yield the findings in clips and folds that were made when the run was planned."""
    for code, finding in results.summary.findings:
        if code == "SER030":
            yield Check("SER030", "note", finding, worth_of_new_texts(results, finding))
        elif code in _PLANNED:
            severity, advice = _PLANNED[code]
            yield Check(code, severity, finding, advice)


def _data(results: RunResults) -> Iterator[Check]:
    summary = results.summary
    corpora = set(results.clips.get("corpus", ()))
    same = copies(results.clips)
    if same:
        named = "; ".join(" and ".join(paths) for paths in same[:NAMED])
        more = f"; {len(same) - NAMED} more recordings" if same[NAMED:] else ""
        if results.truth.dtype.kind == "U":
            labelled = set(zip(recordings(results.clips).tolist(), results.truth, strict=True))
            several = Counter(recording for recording, _ in labelled)
            differ = sum(number > 1 for number in several.values())
            more += f"; {counted(differ, 'recording')} with different labels" if differ else ""
        yield Check(
            "SER008", "note",
            f"{sum(map(len, same))} clips are copies of one another: {named}{more}",
            "each recording is on one side of every fold; clips.csv gives it for every clip",
        )  # fmt: skip
    possible = results.clips.get(UNCONFIRMED, np.array([], dtype=str))
    rows = np.flatnonzero(possible != "")
    if len(rows):
        path = results.clips["path"][rows[0]]
        yield Check(
            "SER022", "warning",
            f"{len(rows)} clips may be copies of others, which could not be read to compare them, "
            f"the first {path} of {possible[rows[0]]}",
            "run `serpipe extract` again where it can read the audio, then fit again",
        )  # fmt: skip
    few = {
        label: speakers
        for label, speakers in results.speakers_of_label.items()
        if speakers < FEWEST_SPEAKERS
    }
    if few and len(summary.clusters) >= FEWEST_SPEAKERS:  # else SER004 says it of all labels
        yield Check(
            "SER018", "warning",
            f"labels held by fewer than {FEWEST_SPEAKERS} speakers: "
            + ", ".join(f"{label} ({speakers})" for label, speakers in few.items()),
            "claim nothing about these labels; merge them (--map), omit them (--keep), or add "
            "speakers",
        )  # fmt: skip
    if not summary.changes and not summary.split_kind.holds_out:  # clips.csv has all clips
        for name in sorted(corpora & set(CORPORA)):
            rows = results.clips["corpus"] == name
            expected = sum(_part(name, results.clips, rows).expected.values())
            n = int(rows.sum())
            if n < expected:
                yield Check(
                    "SER014", "note", f"{name}: {n} of the {expected} clips of the release",
                    "say so with the number; `serpipe extract` lists missing and omitted clips",
                )  # fmt: skip
    cache_versions: Mapping[str, Any] = summary.provenance.get("cache", {}).get("versions", {})
    versions: Mapping[str, Any] = summary.provenance.get("versions", {})
    different = [
        f"{name} {cache_versions[name]}, here {versions[name]}"
        for name in ("serpipe", "torch", "transformers")
        if name in cache_versions and name in versions and cache_versions[name] != versions[name]
    ]
    if different:
        yield Check(
            "SER009", "note", f"the cache was made with {'; '.join(different)}",
            "compare only runs on caches of the same versions",
        )  # fmt: skip


def _part(name: str, clips: Mapping[str, NDArray[np.str_]], rows: NDArray[np.bool_]) -> Corpus:
    """Return the part of a corpus that some clips are of, such as RAVDESS song or English ESD."""
    channels = set(clips.get("vocal_channel", np.array([""] * len(rows)))[rows].tolist())
    if name == "ravdess" and "song" in channels:
        return CORPORA["ravdess-all" if "speech" in channels else "ravdess-song"]
    languages = set(clips.get("language", np.array([""] * len(rows)))[rows].tolist())
    if name == "esd" and len(languages) == 1:
        return CORPORA["esd-english" if "en" in languages else "esd-mandarin"]
    return CORPORA[name]


def _selection(results: RunResults, among_runs: bool) -> Iterator[Check]:
    """Yield how many comparable results there are, and whether the test speakers were drawn."""
    comparable = count_comparable(results) if among_runs else ComparableResults()
    summary = results.summary
    is_finetuned = summary.kind is RunKind.FINETUNED
    if comparable.total > 1:
        counts = [
            f"one of {comparable.results} results of {counted(comparable.runs, 'run')} on the same "
            "clips, folds and target",
            f"{comparable.other_folds} more in other folds" if comparable.other_folds else "",
            f"{comparable.other_seeds} more with other seeds" if comparable.other_seeds else "",
        ]
        yield Check(
            "SER024",
            "warning" if comparable.total >= MANY_RESULTS else "note",
            ", ".join(filter(None, counts)),
            "the best of several is too high by chance: quote the one that was planned, or confirm "
            "it on other speakers"
            + ("" if is_finetuned else "; --head best chooses inside the folds"),
        )
    if summary.split_kind.holds_out and summary.split_kind.draws_by_seed:
        yield Check(
            "SER025",
            "note",
            f"one draw of test speakers, seed {summary.seed}",
            "another --seed gives another score; the best of several seeds is no result"
            + ("" if is_finetuned else "; --repeats 10 shows the spread"),
        )


def _nuisance(results: RunResults) -> Iterator[Check]:
    """Yield the nuisance baselines whose score is above chance."""
    measure, scores = results.measure, results.nuisance_scores()
    chance = measure.chance(len(results.summary.labels))
    of_heads = [results.scores(head)[measure.key] for head in results.heads]
    reached = min(score.value if math.isnan(score.low) else score.low for score in of_heads)

    tested = (ALL_OF_THEM, FORMAT, CONDITIONS)  # the others are parts of the first

    def differs(title: str) -> bool:
        score = scores[title]
        if math.isnan(score.low):  # too few speakers, or all alike
            return score.value > chance and results.nuisance_p(title) < RESOLVED / len(tested)
        return score.low > chance or score.high < chance

    above = {title: scores[title] for title in scores if title in tested and differs(title)}
    if not above:
        return
    best = max(above, key=lambda title: above[title].value)
    shown = "; ".join(f"{title} {interval_text(above[title], measure)}" for title in above)
    is_close = above[best].value >= reached
    yield Check(
        "SER021",
        "warning" if is_close or {FORMAT, CONDITIONS} & set(above) else "note",
        f"{measure.title} from properties of the recordings alone, chance "
        f"{score_text(chance, measure)}: {shown}"
        + (", which reaches the interval of a head" if is_close else ""),
        "compare the heads with this, not with chance; if labels were recorded differently, the "
        "score says little about emotion",
    )


def _search(results: RunResults) -> Iterator[Check]:
    layers = list(results.summary.layers)
    is_finetuned = results.summary.kind is RunKind.FINETUNED
    for name, head in results.summary.heads.items():
        folds = len(head.choices)
        for parameter, folds_by_value in at_edge(head).items():
            times = ", ".join(f"{parameter}={value} in {n}" for value, n in folds_by_value.items())
            yield Check(
                "SER010", "note",
                f"{name}: chosen at the edge of its grid, {times} of {folds} folds",
                "train for other numbers of epochs, with --epochs and --patience"
                if is_finetuned
                else f"widen it with --grid {name}.{parameter}=...",
            )  # fmt: skip
        ends = {layer: chosen(head)["layer"][layer] for layer in (layers[0], layers[-1])}
        last = [layer for layer, n in ends.items() if 2 * n > folds]
        if last and len(layers) > 2:
            yield Check(
                "SER011", "note", f"{name}: layer {last[0]}, at the end, was chosen most",
                "look at the curve: a better layer may lie outside",
            )  # fmt: skip
        failed = sum(map(len, head.not_converged.values()))
        inner = head.fits["inner_not_converged"]
        if failed or inner:
            yield Check(
                "SER012", "warning",
                f"{name}: {failed} tested and {inner} inner fits did not converge",
                "raise max_iter, or omit the weakest penalties",
            )  # fmt: skip
        pruned, points = head.fits["pruned"], head.fits["points"]
        if pruned:
            yield Check(
                "SER013", "note", f"{name}: the search skipped {pruned} of {points} grid points",
                f"see search/{name}.csv",
            )  # fmt: skip


def _probe(results: RunResults, probe: RunResults | None) -> Iterator[Check]:
    summary, measure = results.summary, results.measure
    if summary.kind is not RunKind.FINETUNED:
        return
    probe = probe or read_probe(results)
    if probe:
        lost = [
            f"{score_text(-each.difference.value, measure)} to {each.second}"
            for each in against_probe(results, probe)
            if each.p_holm < RESOLVED and each.difference.value < 0
        ]
        if lost:
            training = "training from scratch" if from_scratch(summary) else "fine-tuning"
            points = "points of " if measure.in_percent else ""
            yield Check(
                "SER016", "warning",
                f"{training} lost to the frozen probe, in {points}{measure.title}: "
                f"{', '.join(lost)}",
                "use the probe, or another recipe",
            )  # fmt: skip
    elif not from_scratch(summary):
        missing = (
            f": {summary.probe} does not exist, or is of other clips, folds or weights"
            if summary.probe
            else ""
        )
        first = "train all folds, then " if summary.has_mark(MarkKind.TRIAL) else ""
        yield Check(
            "SER015", "warning", f"no frozen probe beside it{missing}",
            f"{first}make one: serpipe extract --encoder {summary.encoder['encoder']}, serpipe fit "
            f"--split {summary.split} with the same clips and labels, serpipe report RUN PROBE_RUN",
        )  # fmt: skip
