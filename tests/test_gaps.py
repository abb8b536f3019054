"""Gaps between groups are over speakers and shared labels, and are not significant by chance."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.report.result_tables import gaps_table
from serpipe.artifacts.run.csv_files import NESTED
from serpipe.artifacts.run.results import RunResults, read_results
from serpipe.errors import UserError
from serpipe.pipeline.gaps import Gap, as_groups, largest_gap
from serpipe.pipeline.measures import RATINGS
from serpipe.pipeline.permutation import gap_p

from .conftest import Command
from .messages import raises_about

LABELS = ["angry", "happy", "sad"]


def simulated(
    n_speakers: int, loss: float, seed: int, *, within: bool = False, clips: int = 4
) -> tuple[np.ndarray, ...]:
    """Draw truth, predictions, groups and speakers; group b loses recall."""
    rng = np.random.default_rng(seed)
    speaker = np.repeat(np.arange(n_speakers), 3 * clips)
    truth = np.tile(np.repeat(np.arange(3), clips), n_speakers)
    in_b = rng.random(len(truth)) < 0.3 + 0.2 * truth if within else speaker % 2 == 1
    recall = rng.beta(6, 4, n_speakers)[speaker] - loss * in_b
    right = rng.random(len(truth)) < recall
    predicted = np.where(right, truth, (truth + 1) % 3)
    names = np.array(LABELS)
    return names[truth], names[predicted], np.where(in_b, "b", "a"), speaker.astype(str)


def gap_of(
    truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray, speakers: np.ndarray
) -> Gap | None:
    return largest_gap(truth, predicted, groups, speakers, speakers, LABELS)


@pytest.mark.parametrize("within", [False, True])
def test_p_is_below_5_percent_in_5_of_100_groups_without_a_gap(within: bool) -> None:
    draws, below = 300, 0
    for seed in range(draws):
        truth, predicted, groups, speakers = simulated(12, 0, seed, within=within)
        below += gap_p(truth, predicted, groups, speakers, LABELS, draws=99) < 0.05
    low, high = scipy.stats.binom.interval(0.999, draws, 0.04)  # p is a multiple of 0.01
    assert low <= below <= high


@pytest.mark.parametrize("within", [False, True])
def test_a_large_gap_is_found(within: bool) -> None:
    truth, predicted, groups, speakers = simulated(30, 0.4, 0, within=within, clips=6)
    gap = gap_of(truth, predicted, groups, speakers)
    assert gap
    assert (gap.highest, gap.lowest, gap.groups, gap.labels) == ("a", "b", 2, 3)
    assert gap.p < 0.01
    assert 0 < gap.difference.low < gap.difference.value < gap.difference.high


def test_many_clips_of_few_unlike_speakers_are_no_evidence() -> None:
    """A test over clips would call the difference of any two groups of speakers significant."""
    p = []
    for seed in range(20):
        truth, predicted, groups, speakers = simulated(10, 0, seed, clips=40)
        p.append(gap_p(truth, predicted, groups, speakers, LABELS, draws=199))
    assert np.mean(np.array(p) < 0.05) <= 0.2


def test_the_interval_of_groups_of_speakers_is_that_of_welchs_test() -> None:
    rng = np.random.default_rng(0)
    shares = [rng.integers(12, 20, 9) / 20, rng.integers(4, 16, 6) / 20]
    truth, predicted, groups, speakers = [], [], [], []
    for name, of_group in zip("ab", shares, strict=True):
        for number, share in enumerate(of_group):
            for label, other in (("angry", "sad"), ("sad", "angry")):
                right = round(20 * share)
                truth += [label] * 20
                predicted += [label] * right + [other] * (20 - right)
            groups += [name] * 40
            speakers += [f"{name}{number}"] * 40
    arrays = [np.array(each) for each in (truth, predicted, groups, speakers)]
    gap = gap_of(*arrays)
    welch = scipy.stats.ttest_ind(*shares, equal_var=False).confidence_interval()
    assert gap
    assert (gap.difference.low, gap.difference.high) == pytest.approx((welch.low, welch.high))


def test_the_gap_is_over_the_labels_that_all_groups_have() -> None:
    truth, predicted, groups, speakers = simulated(20, 0, 1)
    only_a = (groups == "b") & (truth == "sad")
    kept = ~only_a
    wrong = np.where(truth == "sad", "happy", predicted)  # group a has no sad clip right
    arrays = [each[kept] for each in (truth, wrong, groups, speakers)]
    both = [each[truth != "sad"] for each in (truth, wrong, groups, speakers)]
    gap, expected = (gap_of(*each) for each in (arrays, both))
    assert gap == expected
    assert gap and gap.labels == 2


def test_groups_of_few_speakers_and_clips_without_a_group_do_not_count() -> None:
    truth, predicted, groups, speakers = simulated(20, 0, 2)
    few = np.where(np.isin(speakers, ["0", "2"]), "c", groups)
    none = np.where(np.isin(speakers, ["1"]), "", few)
    gap = gap_of(truth, predicted, none, speakers)
    kept = np.isin(none, ["a", "b"])
    arrays = [each[kept] for each in (truth, predicted, none, speakers)]
    assert gap == gap_of(*arrays)
    assert gap and gap.groups == 2
    alone = np.where(groups == "b", "", "a")
    assert gap_of(truth, predicted, alone, speakers) is None


def test_a_group_that_nothing_distinguishes_from_the_label_is_not_tested() -> None:
    truth, predicted, _, speakers = simulated(8, 0, 3)
    assert np.isnan(gap_p(truth, predicted, truth, speakers, LABELS))
    assert gap_of(truth, predicted, truth, speakers) is None


def test_ratings_have_a_gap_too() -> None:
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(24), 20)
    in_b = speakers % 2 == 1
    truth = rng.normal(50, 1, len(speakers))
    predicted = truth + np.where(in_b, 3.0, 0.3) * rng.normal(size=len(speakers))
    groups, names = np.where(in_b, "b", "a"), speakers.astype(str)
    gap = largest_gap(truth, predicted, groups, names, names, (), RATINGS)
    assert gap
    assert (gap.highest, gap.labels) == ("a", 0)
    assert gap.p < 0.01
    assert gap.difference.low > 0


def test_numbers_become_quarters() -> None:
    numbers = np.array([*np.arange(100.0), np.nan])
    groups = as_groups(numbers)
    assert groups[-1] == ""
    assert sorted(np.unique(groups[:-1], return_counts=True)[1].tolist()) == [25, 25, 25, 25]
    assert as_groups(np.array([1.0, 2.5])).tolist() == ["1", "2.5"]
    assert set(as_groups(np.arange(1961.0, 2002)).tolist()) == {
        "1961 to 1971", "1971 to 1981", "1981 to 1991", "1991 to 2001"
    }  # fmt: skip
    assert len(np.unique(as_groups(1e6 + np.arange(100)))) == 4


@pytest.fixture
def results(serpipe: Command, fitted_once: Path) -> RunResults:
    shutil.copytree(fitted_once, ".", dirs_exist_ok=True)
    (run,) = Path("artifacts/runs").iterdir()
    return read_results(run)


def test_a_report_has_the_gaps_of_any_column(results: RunResults, serpipe: Command) -> None:
    done = serpipe("report", results.run, "--groups", "statement,seconds", "--format", "json")
    assert done.code == 0
    tables = json.loads(done.out)["tables"]
    gaps = {(each["column"], each["head"]): each for each in tables["gaps"]}
    assert {column for column, _ in gaps} == {"intensity", "statement"}  # of few speakers: no sex
    assert {each["column"] for each in tables["groups"]} >= {"sex", "statement", "seconds"}
    grouped = results.grouped_by(["statement"])
    gap = grouped.gaps("lr")["statement"]
    record = gaps["statement", "lr"]
    assert record["gap"] == gap.difference.value
    # A speaker has one clip of each emotion: nothing can be permuted.
    assert np.isnan(gap.p) and record["p"] is None
    rows = grouped.clips["statement"] == gap.highest
    measure = grouped.measure
    scores = [
        measure.first_of(grouped.truth[each], grouped.predicted["lr"][NESTED][each],
                         grouped.summary.labels)
        for each in (rows, ~rows)
    ]  # fmt: skip
    assert gap.difference.value == pytest.approx(scores[0] - scores[1])
    page = (results.run / "report" / "index.html").read_text(encoding="utf-8")
    assert gap.highest in page and (results.run / "report" / "gaps.csv").is_file()


@pytest.mark.parametrize("column", ["nothing", "path", "speaker", "label", "emotion"])
def test_a_column_that_makes_no_groups_is_refused(results: RunResults, column: str) -> None:
    with raises_about(UserError, "--groups", column, "statement"):
        results.grouped_by([column])


def test_groups_of_several_runs_are_refused(serpipe: Command, results: RunResults) -> None:
    done = serpipe("report", results.run, "--compare-layers", "lr", "--groups", "statement")
    assert (done.code, done.out) == (2, "")


def test_a_run_without_groups_has_no_table_of_gaps(results: RunResults) -> None:
    alike = {name: np.full(len(column), "x") if name in ("sex", "intensity") else column
             for name, column in results.clips.items()}  # fmt: skip
    without = dataclasses.replace(results, clips=alike)
    assert gaps_table(without) is None
    assert "gaps" not in {table.name for table in report_run(without).tables}
