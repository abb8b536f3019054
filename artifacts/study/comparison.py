"""The results of a study, grouped by head and split, and the encoders compared over corpora."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...corpora import CORPORA
from ...errors import counted
from ...pipeline.marks import MarkKind
from ...pipeline.measures import Measure
from ...pipeline.rank_tests import (
    FEWEST_CORPORA,
    FEWEST_METHODS,
    LEVEL,
    Pair,
    RankTest,
    compare_ranks,
    compare_speakers,
    mean_ranks,
)
from ...pipeline.statistics import Interval
from ..run.results import RunResults
from .study_file import Cell, Study


@dataclass(frozen=True)
class StudyRun:
    """A cell of a study with its run, or with the reason why there is none."""

    cell: Cell
    results: RunResults | None
    error: str = ""


@dataclass(frozen=True)
class Compared:
    """The encoders that have results on the same corpora, compared."""

    methods: tuple[str, ...]
    corpora: tuple[str, ...]
    n_speakers: int  #: Of all these corpora.
    ranks: Mapping[str, float]  #: Mean rank of each method over the corpora, 1 for the best.
    rank_test: RankTest | None  #: None where the test is over speakers.
    pairs: tuple[Pair, ...]
    differences: tuple[float, ...]  #: Of each pair: the mean over corpora of the first score.

    @property
    def test(self) -> str:
        """The test in a few words."""
        if self.rank_test:
            corpora = _corpora(len(self.corpora))
            return f"Friedman and Nemenyi over {corpora}, p < {LEVEL}"
        return f"Wilcoxon over {counted(self.n_speakers, 'speaker')}, Holm, p < {LEVEL}"

    @property
    def reason(self) -> str:
        """What was tested, and why by this test."""
        shown = f"{_corpora(len(self.corpora))} and {counted(len(self.methods), 'encoder')}"
        if self.rank_test:
            return (
                f"Test: Friedman over the ranks of {shown} (F of Iman and Davenport "
                f"{self.rank_test.statistic:.2f}, p {self.rank_test.p:.2g}), then Nemenyi for each "
                "pair: differences of mean ranks beyond the critical difference of "
                f"{self.rank_test.critical_difference:.2f} are resolved, if Friedman's test "
                "rejects. Corpora are the unit: the result is about other corpora like these."
            )
        return (
            f"Test: Wilcoxon's signed-rank test of the scores of "
            f"{counted(self.n_speakers, 'speaker')} of {_corpora(len(self.corpora))}, corrected "
            f"for all pairs of {len(self.methods)} encoders (Holm). "
            f"Friedman's test over corpora needs at least {FEWEST_CORPORA} corpora and "
            f"{FEWEST_METHODS} encoders with results on all of them. Speakers are the unit: the "
            "result is about other speakers of these corpora, not about other corpora."
        )


@dataclass(frozen=True)
class Group:
    """The results of one head by one split: of each method (encoder and pooling) and corpus."""

    head: str
    split: str
    methods: tuple[str, ...]
    corpora: tuple[str, ...]
    results: Mapping[tuple[str, str], RunResults]  #: By method and corpus.

    @property
    def measure(self) -> Measure:
        """The measure of all results."""
        return next(iter(self.results.values())).measure

    @cached_property
    def scores(self) -> Mapping[tuple[str, str], Mapping[str, Interval]]:
        """The scores of each method and corpus, by name of the score."""
        return {key: results.scores(self.head) for key, results in self.results.items()}

    def first(self, method: str, corpus: str) -> Interval:
        """Return the first score of a method on a corpus."""
        return self.scores[method, corpus][self.measure.key]

    @cached_property
    def usable(self) -> frozenset[tuple[str, str]]:
        """Methods and corpora whose scores can be compared: not those of contaminated runs."""
        return frozenset(
            key
            for key, results in self.results.items()
            if not results.summary.has_mark(MarkKind.CONTAMINATED)
        )

    @cached_property
    def compared(self) -> Compared | None:
        """The comparison of the methods; None where fewer than two have results on one corpus."""
        methods, corpora = _largest_block(self.usable, self.methods, self.corpora)
        if len(methods) < 2 or not corpora:
            return None
        scores = {
            method: np.array([self.first(method, corpus).value for corpus in corpora])
            for method in methods
        }
        by_speaker = {method: self._by_speaker(method, corpora) for method in methods}
        # An encoder may refuse all clips of a speaker, such as very short ones.
        speakers = sorted(set.intersection(*(set(each) for each in by_speaker.values())))
        enough = len(corpora) >= FEWEST_CORPORA and len(methods) >= FEWEST_METHODS
        rank_test = compare_ranks(scores) if enough else None
        pairs = (
            rank_test.pairs
            if rank_test
            else compare_speakers(
                {m: np.array([by_speaker[m][each] for each in speakers]) for m in methods}
            )
        )
        return Compared(
            methods,
            corpora,
            len(speakers),
            mean_ranks(scores),
            rank_test,
            pairs,
            tuple(float(np.mean(scores[each.better] - scores[each.worse])) for each in pairs),
        )

    def _by_speaker(self, method: str, corpora: Sequence[str]) -> dict[str, float]:
        """Return the first score of each speaker, or group of speakers that folds keep together.

        A speaker of a known corpus who is in several corpora of the study, such as a part and the
        whole, is one unit of the test, with the mean of the scores. Ids of a manifest say nothing
        of those of another.
        """
        scores: dict[str, list[float]] = {}
        for corpus in corpora:
            results = self.results[method, corpus]
            clusters, clips = results.clusters, results.clips
            _, first = np.unique(clusters, return_index=True)
            names = [f"{corpus} {cluster}" for cluster in clusters[first].tolist()]
            if not results.summary.groups and {"corpus", "speaker_id"} <= clips.keys():
                columns = (clips[name][first].tolist() for name in ("corpus", "speaker_id"))
                names = [
                    id_ if id_.startswith(f"{of_clip}:") and of_clip in CORPORA else name
                    for name, of_clip, id_ in zip(names, *columns, strict=True)
                ]
            for name, counts in zip(names, results.by_speaker(self.head), strict=True):
                scores.setdefault(name, []).append(float(self.measure.first(counts)))
        return {name: float(np.mean(each)) for name, each in scores.items()}


def group_runs(study: Study, runs: Sequence[StudyRun]) -> tuple[Group, ...]:
    """Group the runs of a study by head and split; the group of the summary is the first.

    The first group is of the first split and the first head of the study, if they have results. A
    head that several runs of a cell have is taken from the first of them.
    """
    found: dict[tuple[str, str, str], dict[tuple[str, str], RunResults]] = {}
    for each in runs:
        if each.results is None:
            continue
        cell, task = each.cell, each.results.summary.task
        for head in each.results.heads:
            cells = found.setdefault((cell.split, task, head), {})
            cells.setdefault((study.method(cell), cell.corpus.name), each.results)
    first = study.heads[0].partition(",")[0].strip()
    order = sorted(
        found, key=lambda key: (study.splits.index(key[0]), key[2] != first)
    )  # otherwise in the order of the file
    methods = tuple(dict.fromkeys(study.method(cell) for cell in study.cells))
    corpora = tuple(each.name for each in study.corpora)
    return tuple(
        Group(
            head,
            split,
            methods,
            tuple(name for name in corpora if any(name == each for _, each in cells)),
            cells,
        )
        for split, task, head in order
        for cells in (found[split, task, head],)
    )


def _largest_block(
    usable: Collection[tuple[str, str]], methods: Sequence[str], corpora: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return methods and corpora that have all results, as many results as possible.

    Methods with few results are omitted, one after the other, where that keeps more corpora.
    """
    of_method = {m: [c for c in corpora if (m, c) in usable] for m in methods}
    kept = sorted((m for m in methods if of_method[m]), key=lambda m: -len(of_method[m]))
    best: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    for number in range(len(kept), 1, -1):
        chosen = tuple(m for m in methods if m in kept[:number])
        complete = tuple(c for c in corpora if all(c in of_method[m] for m in chosen))
        if len(chosen) * len(complete) > len(best[0]) * len(best[1]):
            best = chosen, complete
    return best


def _corpora(number: int) -> str:
    return f"{number} {'corpus' if number == 1 else 'corpora'}"
