"""Labels of several raters: majorities, training on all of them, agreement and scores."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.spatial.distance
from serpipe.artifacts.leaderboard import entry_of
from serpipe.artifacts.report.report import report_run
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.plan import Plan, cross_corpus_protocols, make_plan
from serpipe.pipeline.rater_scores import score_shares
from serpipe.pipeline.ratings import read_ratings_or_votes
from serpipe.pipeline.votes import SHARE, Votes, alpha_of, copies_of
from sklearn.metrics import f1_score

from .conftest import Command
from .messages import raises_about

FIT = ("fit", "--ratings", "votes.csv", "--layers", "1", "--split", "kfold:5")


def write_votes(rows: list[tuple[str, str, str]]) -> Path:
    with Path("votes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "rater", "perceived"])
        writer.writerows(rows)
    return Path("votes.csv")


@pytest.fixture
def cache(serpipe: Command, extracted_once: Path) -> Path:
    """A cache of forty clips, and votes: two raters hear anger or calm, a third something else."""
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    (path,) = Path("features/cache").glob("*.h5")
    clips = open_cache(path).clips
    rows = []
    for number, (name, emotion) in enumerate(zip(clips["name"], clips["emotion"], strict=True)):
        loud = "angry" if emotion in ("angry", "fearful", "happy", "surprised") else "calm"
        other = "calm" if loud == "angry" else "angry"
        rows += [(name, "A", loud), (name, "B", loud if number % 8 else other)]
        rows += [(name, "C", other)] if number % 3 == 1 and number % 8 else []
    write_votes(rows)
    return path


def plan_of(cache: Path, **options: object) -> tuple[Plan, Votes]:
    votes = read_ratings_or_votes(Path("votes.csv"), "")
    assert isinstance(votes, Votes)
    protocol = Protocol(split="kfold:5", **options)  # type: ignore[arg-type]
    return make_plan(open_cache(cache), protocol, votes), votes


def test_clips_without_a_majority_are_left_out_or_trained_on_and_never_lost(cache: Path) -> None:
    majority, votes = plan_of(cache)
    assert len(majority.problem.labels) == 35
    assert any("5 clips without a majority" in each for each in majority.target.changes)
    every, _ = plan_of(cache, labels="all")
    assert len(every.problem.labels) == sum(sum(each.values()) for each in votes.counts.values())
    assert any("5 clips without a majority" in each for each in every.target.changes)
    tested = every.problem.tested
    assert set(every.clips["name"].tolist()) == set(votes.counts)
    assert sorted(every.clips["name"][tested].tolist()) == sorted(majority.clips["name"].tolist())
    truth = dict(zip(majority.clips["name"], majority.problem.labels, strict=True))
    again = zip(every.clips["name"][tested], every.problem.labels[tested], strict=True)
    assert dict(again) == truth


@pytest.mark.parametrize("labels", ["soft", "all"])
def test_no_copy_of_a_tested_clip_or_speaker_is_trained_on(cache: Path, labels: str) -> None:
    plan, votes = plan_of(cache, labels=labels)
    for fold in plan.problem.folds:
        assert not set(plan.clips["speaker"][fold.train]) & set(plan.clips["speaker"][fold.test])
        names, counts = np.unique(plan.clips["name"][fold.train], return_counts=True)
        trained = {
            name: {
                str(label): int(number)
                for label, number in zip(
                    *np.unique(
                        plan.problem.labels[fold.train][plan.clips["name"][fold.train] == name],
                        return_counts=True,
                    ),
                    strict=True,
                )
            }
            for name in names.tolist()
        }
        if labels == "all":
            assert trained == {name: dict(votes.counts[name]) for name in trained}
        else:
            assert set(counts.tolist()) == {6}  # of two raters or three
            for name, copies in trained.items():
                total = sum(votes.counts[name].values())
                expected = {label: 6 * n // total for label, n in votes.counts[name].items()}
                assert copies == expected


def test_shares_that_no_number_of_copies_gives_are_rounded_and_sum_up() -> None:
    counts = np.array([[3, 2, 2], [1, 0, 4], [5, 6, 0], [0, 0, 0]])
    copies = copies_of(counts, "soft")
    assert copies.sum(axis=1).tolist() == [12, 12, 12, 0]
    shares = counts[:3] / counts[:3].sum(axis=1, keepdims=True)
    assert np.abs(copies[:3] / 12 - shares).max() < 1 / 12
    assert copies_of(counts, "all") is counts


def test_votes_are_merged_before_the_majority_is_taken(cache: Path) -> None:
    names = open_cache(cache).clips["name"].tolist()
    votes = []
    for number, name in enumerate(names):
        mixed = ["happy", "joyful", "sad", "sad", "joyful"]
        mixed = mixed if number % 2 else ["sad"] if number % 4 else ["joyful"]
        votes += [(name, f"r{k}", label) for k, label in enumerate(mixed)]
    write_votes(votes)
    apart, _ = plan_of(cache)
    assert (set(apart.problem.names), len(apart.problem.labels)) == ({"joyful", "sad"}, 20)
    merged, _ = plan_of(cache, merge={"joyful": "happy"})
    assert (set(merged.problem.names), len(merged.problem.labels)) == ({"happy", "sad"}, 40)
    kept, _ = plan_of(cache, keep=["sad", "joyful"], labels="all")
    assert set(kept.problem.names) == {"joyful", "sad"}
    with raises_about(UserError, "--map", "bored", "happy, joyful, sad"):
        plan_of(cache, merge={"bored": "sad"})


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_pairs_of_corpora_predict_the_majorities_that_both_have(cache: Path, labels: str) -> None:
    opened = open_cache(cache)
    corpus = np.where(np.arange(40) % 2 == 0, "one", "two")
    two = replace(opened, clips={**opened.clips, "corpus": corpus})
    given = {"one": ["angry", "calm"], "two": ["angry", "calm", "sad"]}
    rows = enumerate(zip(opened.clips["name"].tolist(), corpus.tolist(), strict=True))
    labelled = [(name, given[c][number // 2 % len(given[c])]) for number, (name, c) in rows]
    write_votes([(name, rater, label) for name, label in labelled for rater in "AB"])
    votes = read_ratings_or_votes(Path("votes.csv"), "")
    protocol = Protocol(split="kfold:2", labels=labels, speakers_per_corpus=True)
    protocols = cross_corpus_protocols(two, protocol, votes)
    plans = [make_plan(two, each, votes) for each in protocols]
    assert [plan.problem.names for plan in plans] == [["angry", "calm"]] * 4


def test_a_column_of_too_many_different_labels_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    write_votes([(f"clip{number}", "A", f"text {number}") for number in range(20)])
    monkeypatch.setattr("serpipe.pipeline.ratings.MAX_CELLS", 399)
    with raises_about(UserError, "votes.csv", "perceived", 20, 399):
        read_ratings_or_votes(Path("votes.csv"), "")


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    """Krippendorff (2011), *Computing Krippendorff's alpha-reliability*, section C: 0.743."""
    rated = "111 2232 3333 3333 2222 1234 4444 1121 2222 555 11 3"
    counts = [{label: unit.count(label) for label in set(unit)} for unit in rated.split()]
    agreement = alpha_of(counts)
    assert agreement
    assert agreement.alpha == pytest.approx(0.743, abs=0.001)
    assert agreement.clips == 11
    assert alpha_of([{"a": 1}, {"b": 1}]) is None


def test_scores_against_shares_are_those_of_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    p, shares = rng.dirichlet(np.ones(4), 50), rng.dirichlet(0.5 * np.ones(4), 50)
    speakers = np.repeat(np.arange(10), 5).astype(str)
    scores = score_shares(p, shares, speakers)
    js = scipy.spatial.distance.jensenshannon(p, shares, base=2, axis=1) ** 2
    assert scores.divergence.value == pytest.approx(js.mean())
    assert scores.divergence.low < js.mean() < scores.divergence.high
    assert scores.cross_entropy.value == pytest.approx(-(shares * np.log(p)).sum(axis=1).mean())
    assert scores.f1.value == pytest.approx(f1_score(shares > 0.25, p > 0.25, average="macro"))
    perfect = score_shares(shares, shares, speakers)
    assert perfect.divergence.value == pytest.approx(0)
    assert perfect.cross_entropy.value == pytest.approx(perfect.entropy)
    assert perfect.f1.value == 1


@pytest.mark.parametrize("labels", ["majority", "soft"])
def test_a_run_on_votes_is_reported_against_the_majority_and_the_raters(
    serpipe: Command, cache: Path, labels: str
) -> None:
    heads = "lr,lgbm"
    grid = ("--grid", "lr.C=0.01", "--grid", "n_estimators=10")
    done = serpipe(*FIT, "--head", heads, "--labels", labels, *grid)
    assert done.code == 0, done.err
    results = read_results(Path(done.out.strip()))
    assert len(results.truth) == 35
    shares = np.stack([results.clips[f"{SHARE}{n}"].astype(float) for n in range(2)], axis=1)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (np.array(results.summary.labels)[shares.argmax(axis=1)] == results.truth).all()
    (table,) = (each for each in report_run(results).tables if each.name == "raters")
    assert [each["head"] for each in table.records] == heads.split(",")
    assert all(0 <= each["jensen_shannon"] <= 1 for each in table.records)
    summary = json.loads((results.run / "run.json").read_text())
    assert summary["agreement"]["alpha"] < 1
    assert any(name == "raters" for name, _ in report_run(results).facts)
    assert bool(results.summary.trained_on) == (labels == "soft")
    with raises_about(UserError, results.run.name, "--ratings"):
        entry_of(results)


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (("--labels", "soft", "--enrol", "0,1"), ["--enrol", "soft"]),
        (("--labels", "all", "--permute-labels"), ["--permute-labels", "all"]),
        (("--labels", "all", "--stream-past", "0"), ["--labels all", "--stream-past"]),
        (("--labels", "most"), ["--labels most", "majority"]),
        (("--labels", "soft", "--head", "lda"), ["--head lda", "lr"]),
    ],
)  # fmt: skip
def test_what_labels_of_raters_do_not_go_with_is_refused_in_a_line(
    serpipe: Command, cache: Path, options: tuple[str, ...], values: list[str]
) -> None:
    done = serpipe(*FIT, "--head", "lgbm", *options)
    assert done.code == 2
    assert all(value in done.err.splitlines()[-1] for value in values)


def test_labels_of_raters_are_needed(serpipe: Command, cache: Path) -> None:
    done = serpipe("fit", "--head", "lda", "--layers", "1", "--labels", "soft")
    assert done.code == 2
    assert "--ratings" in done.err.splitlines()[-1]
