"""What a run gave, computed anew from its saved out-of-fold predictions; nothing is refitted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora import CLIP_COLUMNS
from ..display import data_frame, text_table
from ..errors import UserError
from ..pipeline.contamination import MARK, contamination_mark
from ..pipeline.folds import SplitKind
from ..pipeline.groups import KEPT_TOGETHER
from ..pipeline.heads import BEST
from ..pipeline.measures import MEASURES, Measure
from ..pipeline.permutation import chance_p
from ..pipeline.statistics import Interval, count_by_group, intervals
from .run import (
    NESTED,
    HeadSummary,
    RunSummary,
    check_given_name,
    read_nuisance,
    read_predictions,
    read_summary,
    read_table,
)
from .table import interval_text

#: Columns of the clip table by which scores are told apart, where a corpus has them.
GROUPS = ("sex", "intensity", "corpus")


@dataclass(frozen=True)
class RunResults:
    """A run's predictions.

    Attributes
    ----------
    run : Path
        The folder.
    summary : RunSummary
        What was asked for and chosen.
    clips : mapping of str to ndarray of str, shape (n_clips,)
        ``clips.csv`` by column.
    predicted : mapping of str to mapping of str to ndarray of str or float64, shape (n_clips,)
        By head and layer, ``"nested"`` first.
    nuisance : mapping of str to ndarray of str or float64, shape (n_clips,)
        Predictions from properties of the recordings, by title of the baseline.
    """

    run: Path
    summary: RunSummary
    clips: Mapping[str, NDArray[np.str_]]
    predicted: Mapping[str, Mapping[str, NDArray[Any]]]
    nuisance: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def called(self, name: str) -> "RunResults":
        """Return the same results under another name, by which tables and figures call them.

        Parameters
        ----------
        name : str
            As :func:`~serpipe.artifacts.run.check_given_name` allows it.

        Returns
        -------
        RunResults

        Raises
        ------
        UserError
            If tables and figures cannot show it.
        """
        return replace(self, summary=replace(self.summary, given_name=check_given_name(name)))

    def __repr__(self) -> str:
        """Return the scores of each head as a short table, with all warnings."""
        summary, measure = self.summary, self.measure
        name = f"{summary.given_name}: " if summary.given_name else ""
        about = f"{name}{summary.corpus}, {summary.encoder['encoder']}, {summary.split_title}"
        scores = {head: self.scores(head) for head in self.heads}
        rows = [
            (head, *(interval_text(found[key], measure) for key in measure.scores.values()))
            for head, found in scores.items()
        ]
        table = text_table(("head", *measure.scores), rows)
        warnings = [f"WARNING: {warning}" for warning in summary.warnings]
        return "\n".join([f"{about} ({self.kind})", table, *warnings, str(self.run)])

    def to_pandas(self) -> Any:
        """Return the out-of-fold predictions as a data frame of pandas.

        Returns
        -------
        pandas.DataFrame
            The columns of :meth:`columns`, and for each head the column ``predicted HEAD``: its
            nested predictions. For scores take
            :meth:`serpipe.artifacts.report.Report.to_pandas`.

        Raises
        ------
        UserError
            If pandas is not installed.
        """
        predicted = {f"predicted {head}": layers[NESTED] for head, layers in self.predicted.items()}
        return data_frame({**self.columns(), **predicted})

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns of ``clips.csv`` with the types that they had in the cache.

        Returns
        -------
        dict of str to ndarray, shape (n_clips,)
            int64 for ``sampling_rate`` and ``channels``; float64 for ``seconds``, ``loudness`` and
            ratings; str for all others, so that the speaker ``01`` keeps its zero.
        """
        typed = {name: _typed(name, column) for name, column in self.clips.items()}
        return {**typed, "label": self.truth}

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads that are done."""
        return tuple(self.predicted)

    @property
    def measure(self) -> Measure:
        """How its predictions are scored."""
        return MEASURES[self.summary.task]

    @property
    def truth(self) -> NDArray[Any]:
        """What was to be predicted: labels, or ratings as float64, shape (n_clips,)."""
        labels = self.clips["label"]
        return labels if self.summary.task == "classification" else labels.astype(np.float64)

    def scores(self, head: str, layer: str = NESTED) -> dict[str, Interval]:
        """Return the scores of a head, by key, with their intervals over speakers."""
        return intervals(self.by_speaker(head, layer), self.measure)

    @property
    def clusters(self) -> NDArray[np.str_]:
        """What intervals and tests are over, shape (n_clips,).

        The group of each clip where folds keep groups of speakers together, else its speaker.
        """
        return self.clips.get(KEPT_TOGETHER, self.clips["speaker"])

    def nuisance_scores(self) -> dict[str, Interval]:
        """Return the first score of each nuisance baseline, with its interval."""
        return {
            title: intervals(self._by_cluster(predicted), self.measure)[self.measure.key]
            for title, predicted in self.nuisance.items()
        }

    def nuisance_p(self, title: str) -> float:
        """Return p of the permutation test of a nuisance baseline against chance."""
        return self._p_against_chance(self.nuisance[title])

    def _by_cluster(self, predicted: NDArray[Any]) -> NDArray[Any]:
        counts = count_by_group(
            self.truth, predicted, self.clusters, self.summary.labels, self.measure
        )
        return np.stack(list(counts.values()))

    def p_against_chance(self, head: str) -> float:
        """Return p of the permutation test of the nested predictions of a head against chance."""
        return self._p_against_chance(self.predicted[head][NESTED])

    def _p_against_chance(self, predicted: NDArray[Any]) -> float:
        labels = self.summary.labels
        return chance_p(self.truth, predicted, self.clips["speaker"], labels, self.measure)

    @property
    def speakers_of_label(self) -> dict[str, int]:
        """How many speakers have clips of each label; empty for ratings."""
        label, speaker = self.clips["label"], self.clips["speaker"]
        return {each: len(np.unique(speaker[label == each])) for each in self.summary.labels}

    def counts(self, head: str, layer: str = NESTED) -> dict[str, NDArray[Any]]:
        """Sum up the predictions of each speaker's clips.

        Parameters
        ----------
        head, layer : str
            Whose predictions.

        Returns
        -------
        dict of str to ndarray
            What ``measure.count`` returns; of labels, who was taken for whom.
        """
        return count_by_group(
            self.truth,
            self.predicted[head][layer],
            self.clips["speaker"],
            self.summary.labels,
            self.measure,
        )

    def by_speaker(self, head: str, layer: str = NESTED) -> NDArray[Any]:
        """Return the sums of each speaker, or group of speakers, shape (n_speakers, ...)."""
        return self._by_cluster(self.predicted[head][layer])

    @property
    def chosen_inside(self) -> bool:
        """Whether a layer or a hyper-parameter was chosen inside the folds."""
        grids = [told.grid for told in self.summary.heads.values()]
        several = any(len(values) > 1 for grid in grids for values in grid.values())
        return several or len(self.summary.layers) > 1 or BEST in self.summary.planned

    @property
    def kind(self) -> str:
        """What the headline predictions are, in a word or two."""
        if not self.chosen_inside:
            return "nothing chosen"
        return "chosen by validation" if SplitKind.of(self.summary.split).holds_out else "nested"

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The columns of ``clips`` by which scores can be told apart."""
        return tuple(
            column
            for column in GROUPS
            if column != self.summary.target and len(set(self.clips.get(column, ()))) > 1
        )

    def groups(self, head: str) -> dict[tuple[str, str], NDArray[Any]]:
        """Sum up the nested predictions by group of clips and speaker.

        Parameters
        ----------
        head : str
            Whose predictions.

        Returns
        -------
        dict of (str, str) to ndarray, shape (n_speakers, ...)
            From column and value, such as ``("sex", "female")``, to the sums of each speaker who
            has such clips.
        """
        found = {}
        for column in self.group_columns:
            for group in np.unique(self.clips[column]).tolist():
                rows = self.clips[column] == group
                counts = count_by_group(
                    self.truth[rows],
                    self.predicted[head][NESTED][rows],
                    self.clusters[rows],
                    self.summary.labels,
                    self.measure,
                )
                found[column, group] = np.stack(list(counts.values()))
        return found


def read_results(run: Path) -> RunResults:
    """Read a run.

    Parameters
    ----------
    run : Path
        The folder of a run.

    Returns
    -------
    RunResults

    Raises
    ------
    UserError
        If no head is done, or a file is missing or damaged.
    """
    summary = read_summary(run)
    if not summary.heads:
        raise UserError(
            f"{run}: no head is fitted yet; expected at least one; run it again to go on: "
            f"{summary.provenance.get('command', 'serpipe fit')}"
        )
    rows = read_table(run, "clips.csv", summary)
    if len(rows) != summary.clips or not {"label", "speaker", "path"} <= set(rows[0]):
        raise UserError(
            f"{run / 'clips.csv'}: holds {len(rows)} clips; expected {summary.clips} with label, "
            "speaker and path; fit again"
        )
    clips = {column: np.array([row[column] or "" for row in rows]) for column in rows[0]}
    if summary.task not in MEASURES:
        raise UserError(
            f"{run}: task {summary.task!r}; expected {' or '.join(MEASURES)}; fit again"
        )
    return RunResults(
        run,
        marked(summary, clips),
        clips,
        {head: read_predictions(run, head, summary, clips) for head in summary.heads},
        read_nuisance(run, summary, clips),
    )


def marked(summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]) -> RunSummary:
    """Mark a run of a model that is known to be trained on its clips, if it is not marked yet.

    Runs of before the mark, or of before the model was known, have none in their ``run.json``.

    Parameters
    ----------
    summary : RunSummary
        What ``run.json`` says.
    clips : mapping of str to ndarray of str, shape (n_clips,)
        ``clips.csv`` by column.

    Returns
    -------
    RunSummary
    """
    has_mark = any(warning.startswith(f"{MARK}:") for warning in summary.warnings)
    if has_mark or "corpus" not in clips:
        return summary
    mark = contamination_mark(str(summary.encoder["encoder"]), clips)
    return replace(summary, warnings=[*summary.warnings, mark]) if mark else summary


def chosen(told: HeadSummary) -> dict[str, Counter[str]]:
    """Count what was chosen over the folds: the layer, and each hyper-parameter with a choice.

    The last hyper-parameter is counted, fixed or not: no result can do without it.

    Parameters
    ----------
    told : HeadSummary
        Of one head.

    Returns
    -------
    dict of str to Counter
        From ``"layer"`` or the hyper-parameter to how often each value was chosen.
    """
    counted = {"layer": Counter(str(choice["layer"]) for choice in told.choices)}
    if told.choices and all("head" in choice for choice in told.choices):
        counted = {"head": Counter(str(choice["head"]) for choice in told.choices), **counted}
    for name, values in told.grid.items():
        if len(values) > 1 or name == list(told.grid)[-1]:
            counted[name] = Counter(f"{c['parameters'][name]:g}" for c in told.choices)
    return counted


def at_edge(told: HeadSummary) -> dict[str, Counter[str]]:
    """Count how often the smallest or largest value of a grid was chosen.

    Parameters
    ----------
    told : HeadSummary
        Of one head.

    Returns
    -------
    dict of str to Counter
        From hyper-parameter to how often each edge was chosen; those that never were are left out.
    """
    edges = {}
    for name, counted in chosen(told).items():
        values: Sequence[float] = told.grid.get(name, ())
        ends = {f"{v:g}" for v in (values[0], values[-1])} if len(values) > 1 else set()
        if name == "epoch" and values and values[0] == 0:
            ends.discard("0")  # before any training: no grid goes lower
        found = Counter({value: n for value, n in counted.items() if value in ends})
        if found:
            edges[name] = found
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
