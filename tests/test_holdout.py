"""One split by shares: speakers apart in all parts, one to choose by and another to test."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.fit import HeadFit, Problem, fit_head
from serpipe.pipeline.folds import Fold, Split, check_folds, make_split
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.holdout import part_sizes, read_shares
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.metrics import score
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.plan import make_plan
from serpipe.pipeline.search import search_fold

from .conftest import Command
from .messages import assert_names, assert_refused, raises_about
from .test_folds import table

GRID = {"max_iter": (1000.0,), "C": (0.001, 0.01, 0.1, 1.0)}


def parts(fold: Fold) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert fold.validation is not None
    return np.setdiff1d(fold.train, fold.validation), fold.validation, fold.test


def drawn(split: str, seed: int = 0, n_speakers: int = 24) -> tuple[list[str], ...]:
    """The speakers of the three parts; each clip is in just one of these."""
    clips = table(n_speakers)
    (fold,) = make_split(split, clips, clips["emotion"], seed).folds
    assert sorted(np.concatenate(parts(fold))) == list(range(len(clips["path"])))
    return tuple(sorted(set(clips["speaker"][rows])) for rows in parts(fold))


def test_every_speaker_is_in_one_part_and_parts_have_their_shares() -> None:
    for seed in range(5):
        speakers_of_parts = drawn("holdout:70/10/20", seed)
        assert [len(speakers) for speakers in speakers_of_parts] == [17, 2, 5]
        assert len(set().union(*speakers_of_parts)) == 24
    clips = table(24)
    split = make_split("holdout:70/10/20", clips, clips["emotion"], seed=3)
    assert split.title == "one split by speaker: 17 to train, 2 to choose, 5 to test, seed 3"
    assert not split.kind.shares_speakers
    assert part_sizes(3, (98, 1, 1)) == (1, 1, 1)  # no part is empty
    for n in range(3, 60):
        for shares in ((70, 10, 20), (98, 1, 1), (1, 98, 1), (34, 33, 33)):
            sizes = part_sizes(n, shares)
            assert sum(sizes) == n and min(sizes) >= 1
            far = (abs(size - n * share / 100) for size, share in zip(sizes, shares, strict=True))
            assert max(far) < 1 or 1 in sizes


def test_the_seed_draws_the_speakers_and_nothing_else_does() -> None:
    assert drawn("holdout:70/10/20") == drawn("holdout:70/10/20")
    assert len({tuple(drawn("holdout:70/10/20", seed)[2]) for seed in range(5)}) == 5
    clips = table(24)
    order = np.random.default_rng(0).permutation(len(clips["path"]))
    moved = {name: column[order] for name, column in clips.items()}
    (fold,) = make_split("holdout:70/10/20", moved, moved["emotion"]).folds
    assert sorted(set(moved["speaker"][fold.test])) == drawn("holdout:70/10/20")[2]


def test_random_shares_keep_recordings_together_and_labels_in_proportion() -> None:
    clips = table(6, 20)
    clips["sha256"][1::2] = clips["sha256"][::2]  # every recording twice
    labels = np.where(np.arange(360) % 20 < 2, "rare", clips["emotion"])
    split = make_split("random:70/10/20", clips, labels)
    assert split.kind.shares_speakers and "SHARES SPEAKERS" in split.title
    (fold,) = split.folds
    for rows, share in zip(parts(fold), (0.7, 0.1, 0.2), strict=True):
        for label in np.unique(labels):
            expected = share * (labels == label).sum()
            assert abs((labels[rows] == label).sum() - expected) <= 2  # of a recording twice
    sides = [set(clips["sha256"][rows]) for rows in parts(fold)]
    assert len(set().union(*sides)) == sum(map(len, sides)) == 180
    assert set(clips["speaker"][fold.train]) & set(clips["speaker"][fold.test])


def test_a_validation_speaker_who_is_trained_on_or_tested_is_refused() -> None:
    clips = table(6)
    labels, everyone = clips["emotion"], np.arange(72)
    test, rest = everyone[:12], everyone[12:]
    for validation in (everyone[12:30], everyone[6:24]):  # half of speaker 03; half of 01
        wrong = Split("holdout:70/10/20", "", (Fold("test", rest, test, validation),))
        with raises_about(UserError, "fold test", "speaker"):
            check_folds(wrong, clips, labels, tested=test)
    right = Split("holdout:70/10/20", "", (Fold("test", rest, test, everyone[12:24]),))
    check_folds(right, clips, labels, tested=test)


def two_layers() -> tuple[dict[str, np.ndarray], Problem]:
    """Two layers that tell the label of everybody, and a split of ten speakers."""
    clips = table(10)
    labels = clips["emotion"]
    draw = np.random.default_rng(0)
    means = 2 * draw.standard_normal((3, 6))[np.searchsorted(np.unique(labels), labels)]
    layers = {name: (means + draw.standard_normal(means.shape)).astype(np.float32) for name in "AB"}
    split = make_split("holdout:60/20/20", clips, labels)
    return layers, Problem(labels, clips["speaker"], split.folds)


def fit(layers: dict[str, np.ndarray], problem: Problem) -> HeadFit:
    candidates = [Candidate(name, (name,)) for name in layers]
    return fit_head(HEADS["lr"], GRID, candidates, lambda c: layers[c.name], problem)


@pytest.mark.parametrize("spoilt", ["A", "B"])
def test_the_validation_clips_alone_choose(spoilt: str) -> None:
    """A layer that is noise for two validation speakers is left, though it is best in the test."""
    layers, problem = two_layers()
    _, validation, test = parts(problem.folds[0])
    noise = np.random.default_rng(1).standard_normal((len(layers["A"]), 6))
    other = "B" if spoilt == "A" else "A"
    layers[spoilt][validation] = noise[validation]
    layers[other][test] = noise[test]
    fitted = fit(layers, problem)
    assert fitted.choices[0].layer == other
    assert (fitted.final.layer, fitted.final.params) == (other, fitted.choices[0].params)
    assert len(fitted.nested.predicted) == len(test)


def test_validation_clips_score_the_grid_and_are_then_trained_on() -> None:
    layers, problem = two_layers()
    head, X, labels, fold = HEADS["lr"], layers["A"], problem.labels, problem.folds[0]
    rest, validation, test = parts(fold)
    noise = 2 * np.random.default_rng(2).standard_normal(X.shape).astype(np.float32)
    X = X + noise  # so that scores differ

    def predictions(train: np.ndarray, tested: np.ndarray, c: float) -> np.ndarray:
        grid = {"max_iter": (1000.0,), "C": (c,)}
        plain = Fold("plain", train, tested)
        return search_fold(
            head, grid, X, labels, problem.speakers, plain, choose=False, seed=0
        ).predicted

    result = search_fold(head, GRID, X, labels, problem.speakers, fold, choose=True, seed=0)
    expected = [
        score(labels[validation], predictions(rest, validation, c)).uar
        if np.isfinite(inner)
        else inner
        for c, inner in zip(GRID["C"], result.inner, strict=True)
    ]
    assert len(set(expected)) > 1
    np.testing.assert_allclose(result.inner, expected)
    assert (result.predicted == predictions(fold.train, test, GRID["C"][result.chosen])).all()


@pytest.fixture
def cache(serpipe: Command, extracted_once: Path) -> Path:
    """Forty clips of five actors."""
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    (cache,) = Path("features/cache").glob("*.h5")
    return cache


def test_the_report_is_of_the_tested_clips_and_describes_the_choice(
    serpipe: Command, cache: Path
) -> None:
    command = (
        "fit",
        "--head",
        "lr",
        "--split",
        "holdout:50/25/25",
        "--layers",
        "1-2",
        "--grid",
        "C=0.1,1,10",
    )
    done = serpipe(*command)
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    assert "holdout50-25-25" in run.name and run.parent == Path("artifacts/runs")
    with (run / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    plan = make_plan(open_cache(cache), Protocol(split="holdout:50/25/25"))
    _, validation, test = parts(plan.split.folds[0])
    assert [row["path"] for row in rows] == plan.clips["path"][test].tolist()
    assert {row["fold"] for row in rows} == {"test"} and len(rows) == 8
    report = json.loads(serpipe("report", "--format", "json").out)
    assert_names(report["facts"]["corpus"], "RAVDESS speech", 8, 1)
    assert re.findall(r"\d+", report["facts"]["split"])[:3] == ["3", "1", "1"]  # speakers
    assert_names(report["facts"]["chosen"], len(validation), 1)
    codes = {check["code"] for check in report["checks"]}
    assert "SER004" in codes and "SER014" not in codes  # too few speakers, but no clip is missing
    # The head that is kept is the one that was tested, and the card says no more of it.
    head = json.loads((run / "run.json").read_text())["heads"]["lr"]
    assert {**head["final"], "fold": "test"} == head["choices"][0]
    card = (run / "bundles" / "lr" / "README.md").read_text()
    assert "This very head was tested" in card and "was fitted on all of them" not in card
    # The same command goes on with the same run, another seed makes another.
    assert serpipe(*command).out.strip() == str(run)
    assert serpipe(*command, "--seed", 1).out.strip() != str(run)


def test_random_shares_are_marked_as_inflated(serpipe: Command, cache: Path) -> None:
    done = serpipe(
        "fit",
        "--head",
        "lr",
        "--split",
        "random:50/20/30",
        "--layers",
        "2",
        "--keep",
        "happy,sad,calm",
    )
    assert done.code == 0, done.err
    assert "WARNING: INFLATED: random:50/20/30" in done.err
    report = json.loads(serpipe("report", "--format", "json").out)
    assert "SER001" in {check["code"] for check in report["checks"]}
    assert "random50-20-30" in done.out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("holdout",), "--split holdout:"),
        (("holdout:70/30",), "--split holdout:70/30"),
        (("holdout:70/10/21",), "--split holdout:70/10/21"),
        (("holdout:90/10/0",), "--split holdout:90/10/0"),
        (("random:80/-10/30",), "--split random:80/-10/30"),
        (("holdout:34/33/33", "--target", "sex"), "fold test"),
        (("holdout:70/10/20", "--train-on", "ravdess", "--test-on", "emodb"), "emodb"),
        (("random:98/1/1",), "fold test"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    serpipe: Command, cache: Path, arguments: tuple[Any, ...], named: str
) -> None:
    done = serpipe("fit", "--split", *arguments)
    assert_refused(done, named)


def test_splits_that_cannot_be_made_or_scored_are_refused(serpipe: Command, cache: Path) -> None:
    assert read_shares("holdout:70/10/20") == (70, 10, 20)
    two = table(2)
    with raises_about(UserError, "--split holdout:34/33/33", "2 speakers", 3):
        make_split("holdout:34/33/33", two, two["emotion"])
    # Four clips cannot be of eight labels.
    with raises_about(UserError, "--split random:80/10/10", "'angry'"):
        make_plan(open_cache(cache), Protocol(split="random:80/10/10"))
