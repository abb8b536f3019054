"""The results of a run, computed from its saved out-of-fold predictions; nothing is refitted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...corpora import CLIP_COLUMNS
from ...display import Displayed, ShortTable, data_frame
from ...errors import UserError
from ...pipeline.contamination import contamination_mark
from ...pipeline.enrolment_curve import DrawCounts
from ...pipeline.gaps import Gap, as_groups, largest_gap
from ...pipeline.groups import KEPT_TOGETHER, OF_ONE_CLIP
from ...pipeline.heads import BEST, FUSE
from ...pipeline.marks import MarkKind
from ...pipeline.measures import MEASURES, Measure
from ...pipeline.permutation import chance_p
from ...pipeline.statistics import Interval, count_by_group, intervals
from ..score_text import interval_text
from .csv_files import NESTED, read_nuisance, read_predictions, read_table
from .enrolment_file import read_enrolment
from .perturbed_file import Perturbed, read_perturbed
from .summary import HeadSummary, RunSummary, check_given_name, read_summary

#: Columns of the clip table by which scores are broken down, where a corpus has them.
GROUPS = ("sex", "intensity", "corpus")
#: Groups of one column that a report shows at most.
MOST_GROUPS = 50
#: Columns whose values are no groups of clips.
_NOT_GROUPS = {*OF_ONE_CLIP, "label", "fold", "speaker"} - {"seconds", "loudness"}


@dataclass(frozen=True, repr=False)
class RunResults(Displayed):
    """The predictions of a run."""

    run: Path
    summary: RunSummary
    clips: Mapping[str, NDArray[np.str_]]  #: ``clips.csv`` by column, shape (n_clips,).
    #: By head and layer, ``"nested"`` first, shape (n_clips,).
    predicted: Mapping[str, Mapping[str, NDArray[Any]]]
    #: Predictions from properties of the recordings, by title of the baseline, shape (n_clips,).
    nuisance: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    #: Counts by number of enrolled clips, for the heads whose enrolment was measured.
    enrolment: Mapping[str, tuple[DrawCounts, ...]] = field(default_factory=dict)
    #: By head and perturbation, such as ``"noise:10"``: predictions for perturbed clips, shape
    #: (n_clips,); empty where none were made.
    perturbed: Mapping[str, Perturbed] = field(default_factory=dict)
    #: Columns by which scores are broken down besides :data:`GROUPS`.
    more_groups: tuple[str, ...] = ()

    def grouped_by(self, columns: Sequence[str]) -> "RunResults":
        """Return the same results, with scores broken down by further columns of ``clips``.

        Raise UserError if there is no such column, it identifies single clips or speakers, it has
        the same value for all clips, or it has more than 50 groups.
        """
        possible = [
            name
            for name in self.clips
            if name not in _NOT_GROUPS and name != self.summary.target
            and len(set(self.clips[name].tolist())) > 1
        ]  # fmt: skip
        for column in columns:
            if column not in possible:
                raise UserError(
                    f"--groups {column}: is not a column of {self.run / 'clips.csv'} by which "
                    f"clips can be grouped; choose from {', '.join(possible)}"
                )
            number = len(np.unique(self.group_of_clip(column)))
            if number > MOST_GROUPS:
                raise UserError(
                    f"--groups {column}: has {number} different values; name a column with at most "
                    f"{MOST_GROUPS}"
                )
        return replace(self, more_groups=tuple(columns))

    def called(self, name: str) -> "RunResults":
        """Return the same results under another name, for tables and figures.

        Raise UserError if tables and figures cannot show the name, see
        :func:`~serpipe.artifacts.run.summary.check_given_name`.
        """
        return replace(self, summary=replace(self.summary, given_name=check_given_name(name)))

    def short_table(self) -> ShortTable:
        """Return the scores of each head, with all warnings."""
        summary, measure = self.summary, self.measure
        name = f"{summary.given_name}: " if summary.given_name else ""
        title = f"{name}{summary.corpus}, {summary.encoder['encoder']}, {summary.split_title}"
        scores = {head: self.scores(head) for head in self.heads}
        rows = [
            (head, *(interval_text(of_head[key], measure) for key in measure.scores.values()))
            for head, of_head in scores.items()
        ]
        return ShortTable(
            f"{title} ({self.result_kind})",
            ("head", *measure.scores),
            rows,
            [*(f"WARNING: {warning}" for warning in summary.warnings), str(self.run)],
        )

    def to_pandas(self) -> Any:
        """Return the out-of-fold predictions as a pandas data frame.

        Its columns are those of :meth:`columns`, and for each head a column ``predicted HEAD`` with
        its nested predictions. Scores are in
        :meth:`serpipe.artifacts.report.report.Report.to_pandas`. Raise UserError if pandas is not
        installed.
        """
        predicted = {f"predicted {head}": layers[NESTED] for head, layers in self.predicted.items()}
        return data_frame({**self.columns(), **predicted})

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of ``clips.csv`` with the types that they had in the cache.

        They are int64 for ``sampling_rate`` and ``channels``; float64 for ``seconds``, ``loudness``
        and ratings; str for all others, so that the speaker ``01`` keeps its zero.
        """
        typed = {name: _typed(name, column) for name, column in self.clips.items()}
        return {**typed, "label": self.truth}

    @property
    def heads(self) -> tuple[str, ...]:
        """The finished heads."""
        return tuple(self.predicted)

    @property
    def measure(self) -> Measure:
        """The scores of its task."""
        return MEASURES[self.summary.task]

    @property
    def truth(self) -> NDArray[Any]:
        """The true labels, or ratings as float64, shape (n_clips,)."""
        labels = self.clips["label"]
        return labels if self.summary.task == "classification" else labels.astype(np.float64)

    def scores(self, head: str, layer: str = NESTED) -> dict[str, Interval]:
        """Return the scores of a head, by key, with their intervals over speakers."""
        return intervals(self.by_speaker(head, layer), self.measure)

    @property
    def clusters(self) -> NDArray[np.str_]:
        """The unit of intervals and tests that each clip belongs to, shape (n_clips,).

        The group where folds keep groups of speakers together, else the speaker.
        """
        return self.clips.get(KEPT_TOGETHER, self.clips["speaker"])

    def nuisance_scores(self) -> dict[str, Interval]:
        """Return the first score of each nuisance baseline, with its interval."""
        return {
            title: intervals(self.count_by_cluster(predicted), self.measure)[self.measure.key]
            for title, predicted in self.nuisance.items()
        }

    def nuisance_p(self, title: str) -> float:
        """Return p of the permutation test of a nuisance baseline against chance."""
        return self._p_against_chance(self.nuisance[title])

    def p_against_chance(self, head: str) -> float:
        """Return p of the permutation test of a head's nested predictions against chance."""
        return self._p_against_chance(self.predicted[head][NESTED])

    def _p_against_chance(self, predicted: NDArray[Any]) -> float:
        labels = self.summary.labels
        return chance_p(self.truth, predicted, self.clips["speaker"], labels, self.measure)

    def _counts(
        self,
        predicted: NDArray[Any],
        clusters: NDArray[np.str_],
        rows: NDArray[np.bool_] | slice = slice(None),
    ) -> dict[str, NDArray[Any]]:
        return count_by_group(
            self.truth[rows], predicted[rows], clusters[rows], self.summary.labels, self.measure
        )

    def count_by_cluster(
        self, predicted: NDArray[Any], rows: NDArray[np.bool_] | slice = slice(None)
    ) -> NDArray[Any]:
        """Return the sums of each speaker, or group of speakers, who has clips among some rows."""
        return np.stack(list(self._counts(predicted, self.clusters, rows).values()))

    @property
    def speakers_of_label(self) -> dict[str, int]:
        """How many speakers have clips of each label; empty for ratings."""
        label, speaker = self.clips["label"], self.clips["speaker"]
        return {each: len(np.unique(speaker[label == each])) for each in self.summary.labels}

    def counts(self, head: str, layer: str = NESTED) -> dict[str, NDArray[Any]]:
        """Return the sums over each speaker's clips that ``measure.count`` defines.

        For labels they are confusion matrices.
        """
        return self._counts(self.predicted[head][layer], self.clips["speaker"])

    def by_speaker(self, head: str, layer: str = NESTED) -> NDArray[Any]:
        """Return the sums of each speaker, or group of speakers, shape (n_speakers, ...)."""
        return self.count_by_cluster(self.predicted[head][layer])

    @property
    def chosen_inside(self) -> bool:
        """Whether a layer or a hyper-parameter was chosen inside the folds."""
        grids = [head.grid for head in self.summary.heads.values()]
        several = any(len(values) > 1 for grid in grids for values in grid.values())
        return (
            several
            or len(self.summary.layers) > 1
            or bool({BEST, FUSE} & set(self.summary.planned))
        )

    @property
    def result_kind(self) -> str:
        """How the headline predictions were chosen, in a word or two."""
        if not self.chosen_inside:
            return "nothing chosen"
        return "chosen by validation" if self.summary.split_kind.holds_out else "nested"

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of ``clips`` by which scores can be broken down."""
        return tuple(
            column
            for column in dict.fromkeys((*GROUPS, *self.more_groups))
            if column != self.summary.target and len(set(self.clips.get(column, ()))) > 1
        )

    def group_of_clip(self, column: str) -> NDArray[np.str_]:
        """Return the group of each clip by a column, shape (n_clips,), see :func:`as_groups`."""
        return as_groups(_typed(column, self.clips[column]))

    def groups(self, head: str) -> dict[tuple[str, str], NDArray[Any]]:
        """Sum up a head's nested predictions by group of clips and speaker.

        Return, by column and value such as ``("sex", "female")``, the sums of each speaker who has
        such clips, shape (n_speakers, ...).
        """
        sums = {}
        for column in self.group_columns:
            groups = self.group_of_clip(column)
            for group in np.unique(groups).tolist():
                predicted = self.predicted[head][NESTED]
                sums[column, group] = self.count_by_cluster(predicted, groups == group)
        return sums

    def gaps(self, head: str) -> dict[str, Gap]:
        """Return the largest gap between the groups of each column, where there are groups.

        The gaps are of a head's nested predictions.
        """
        gaps = {
            column: largest_gap(
                self.truth, self.predicted[head][NESTED], self.group_of_clip(column),
                self.clips["speaker"], self.clusters, self.summary.labels, self.measure,
            )
            for column in self.group_columns
        }  # fmt: skip
        return {column: gap for column, gap in gaps.items() if gap}


def read_results(run: Path) -> RunResults:
    """Read a run.

    Raise UserError if no head is finished, or a file is missing or damaged.
    """
    summary = read_summary(run)
    if not summary.heads:
        command = summary.provenance.get("command", "serpipe fit")
        raise UserError(f"{run}: no head is fitted yet; resume the run: {command}")
    rows = read_table(run, "clips.csv", summary)
    if len(rows) != summary.clips or not {"label", "speaker", "path"} <= set(rows[0]):
        raise UserError(
            f"{run / 'clips.csv'}: has {len(rows)} clips; expected {summary.clips} with label, "
            "speaker and path; fit again"
        )
    clips = {column: np.array([row[column] or "" for row in rows]) for column in rows[0]}
    if summary.task not in MEASURES:
        raise UserError(
            f"{run}: its task {summary.task!r} is not {' or '.join(MEASURES)}; fit again"
        )
    return RunResults(
        run,
        _marked(summary, clips),
        clips,
        {head: read_predictions(run, head, summary, clips) for head in summary.heads},
        read_nuisance(run, summary, clips),
        {
            head: read_enrolment(run, head, summary, clips)
            for head, of_head in summary.heads.items()
            if of_head.enrolment is not None
        },
        {
            head: predicted
            for head in summary.heads
            if (predicted := read_perturbed(run, head, summary, clips))
        },
    )


def _marked(summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]) -> RunSummary:
    """Mark a run as contaminated if its model is known to be trained on its clips.

    Runs made before there was such a mark, or before the model was known, lack it in ``run.json``.
    ``clips`` is ``clips.csv`` by column.
    """
    if summary.has_mark(MarkKind.CONTAMINATED) or "corpus" not in clips:
        return summary
    mark = contamination_mark(str(summary.encoder["encoder"]), clips)
    return replace(summary, warnings=[*summary.warnings, str(mark)]) if mark else summary


def chosen(head: HeadSummary) -> dict[str, Counter[str]]:
    """Count over the folds how often each layer and each value of a hyper-parameter was chosen.

    The keys are ``"layer"`` (``"head"`` too, where it was chosen) and names of hyper-parameters.
    Hyper-parameters of one value are omitted, but for the last one, which every result needs.
    """
    counters = {"layer": Counter(str(choice["layer"]) for choice in head.choices)}
    if head.choices and all("head" in choice for choice in head.choices):
        counters = {"head": Counter(str(choice["head"]) for choice in head.choices), **counters}
    for name, values in head.grid.items():
        if len(values) > 1 or name == list(head.grid)[-1]:
            counters[name] = Counter(f"{c['parameters'][name]:g}" for c in head.choices)
    return counters


def at_edge(head: HeadSummary) -> dict[str, Counter[str]]:
    """Count how often the smallest or largest value of a grid was chosen, by hyper-parameter."""
    edges = {}
    for name, counter in chosen(head).items():
        values: Sequence[float] = head.grid.get(name, ())
        ends = {f"{v:g}" for v in (values[0], values[-1])} if len(values) > 1 else set()
        if name == "epoch" and values and values[0] == 0:
            ends.discard("0")  # before any training: no grid goes lower
        at_ends = Counter({value: n for value, n in counter.items() if value in ends})
        if at_ends:
            edges[name] = at_ends
    return edges


def _typed(name: str, column: NDArray[np.str_]) -> NDArray[Any]:
    """Return a column of numbers as numbers; only a float is written as Python writes floats."""
    cells = column.tolist()
    if name in ("sampling_rate", "channels") and all(map(str.isdecimal, cells)):
        return column.astype(np.int64)
    if name not in CLIP_COLUMNS and all(map(_is_written_float, cells)):
        return column.astype(np.float64)
    return column


def _is_written_float(text: str) -> bool:
    try:
        return repr(float(text)) == text
    except ValueError:
        return False
