"""Ratings are regressed like labels: held-out speakers, inner choices, scores by CCC."""

import csv
import json
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from scipy.stats import pearsonr
from scipy.stats import t as student
from serpipe.artifacts.models.bundle import load_bundle, save_bundle
from serpipe.artifacts.run.fold_results import fold_writer, read_fold_results
from serpipe.artifacts.run.results import read_results
from serpipe.errors import UserError
from serpipe.features.cache import open_cache
from serpipe.pipeline.fit import Problem, fit_final, fit_head
from serpipe.pipeline.folds import Fold, inner_folds
from serpipe.pipeline.heads import HEADS, Grid, combinations, find_heads
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.measures import RATINGS, score_ratings, sum_ratings
from serpipe.pipeline.search import search_fold
from serpipe.pipeline.statistics import compare, intervals
from serpipe.pipeline.target import stratify

from .conftest import Command
from .messages import assert_refused, names, raises_about
from .test_bundle import Evil, bundle_fields
from .test_fit import fit_reference, loso

REGRESSORS = [name for name, head in HEADS.items() if head.task == "regression"]
GRIDS: dict[str, Grid] = {
    "ridge": {"alpha": (1.0, 100.0)},
    "svr": HEADS["svr"].grid | {"C": (0.1, 10.0)},
    "lgbm-regressor": HEADS["lgbm"].grid
    | {"colsample_bytree": (0.5,), "n_estimators": (20.0, 60.0)},
}


def ccc(truth: np.ndarray, predicted: np.ndarray) -> float:
    """By the definition of Lin (1989)."""
    covariance = np.mean((truth - truth.mean()) * (predicted - predicted.mean()))
    return float(
        2 * covariance / (truth.var() + predicted.var() + (truth.mean() - predicted.mean()) ** 2)
    )


def clips(
    n_speakers: int = 6, each: int = 16, signal: float = 2.0, width: int = 12
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings that depend on a rating and on the speaker; ratings from 1 to 7; speakers."""
    draw = np.random.default_rng(0)
    ratings = draw.uniform(1, 7, n_speakers * each)
    speakers = np.repeat([f"{n:02d}" for n in range(n_speakers)], each)
    X = draw.standard_normal((len(ratings), width))
    X += signal * draw.standard_normal(width) * (ratings[:, None] - 4) / 2
    X += draw.standard_normal((n_speakers, width))[speakers.astype(int)]
    return X.astype(np.float32), ratings, speakers


def fit(name: str, X: np.ndarray, problem: Problem, **more: Any) -> Any:
    layer = Candidate("3", ("3",), "single")
    return fit_head(HEADS[name], GRIDS[name], [layer], lambda _: X, problem, **more)


def test_scores_follow_their_definitions() -> None:
    draw = np.random.default_rng(0)
    truth = draw.uniform(1, 5, 200)
    predicted = 0.5 * truth + 3 + draw.normal(size=200)
    parts = [slice(0, 50), slice(50, 90), slice(90, 200)]
    sums = np.stack([sum_ratings(truth[part], predicted[part]) for part in parts])
    scores = score_ratings(sums.sum(axis=0))
    assert scores["ccc"] == pytest.approx(ccc(truth, predicted))
    assert scores["pearson"] == pytest.approx(pearsonr(truth, predicted).statistic)
    assert scores["mae"] == pytest.approx(np.abs(truth - predicted).mean())
    assert score_ratings(sum_ratings(truth, truth))["ccc"] == pytest.approx(1)
    assert score_ratings(sum_ratings(truth, truth + 1))["ccc"] < 1 - 1e-3  # unlike Pearson's
    assert score_ratings(sum_ratings(truth, np.full(200, 3.3)))["ccc"] == pytest.approx(0, abs=1e-9)
    same = score_ratings(sum_ratings(np.full(9, 0.1), np.full(9, 0.1)))
    assert np.isnan(same["ccc"])
    assert same["mae"] == pytest.approx(0)
    assert np.isnan(score_ratings(np.zeros(7))["mae"])
    flat = score_ratings(sum_ratings(np.full(200, 3.3), predicted))
    assert np.isnan(flat["pearson"])
    assert flat["ccc"] == 0
    almost = predicted[:6].copy() * 0 + 3.3
    almost[0] += 1e-9
    assert abs(np.nan_to_num(score_ratings(sum_ratings(np.full(6, 3.3), almost))["ccc"])) <= 1


def test_ratings_that_are_mostly_the_lowest_are_balanced_too() -> None:
    assert stratify(np.array([0.0] * 9 + [1.0, 5.0])).tolist() == ["0"] * 9 + ["1", "1"]
    assert len(set(stratify(np.arange(50.0)))) == 5
    assert set(stratify(np.full(4, 2.0))) == {"0"}


def test_intervals_are_over_speakers_and_comparisons_paired() -> None:
    draw = np.random.default_rng(0)
    truth = draw.uniform(1, 5, (12, 30))
    good = truth + draw.normal(size=truth.shape)
    bad = truth + 2 * draw.normal(size=truth.shape)
    sums = {
        name: np.stack([sum_ratings(t, s) for t, s in zip(truth, predicted, strict=True)])
        for name, predicted in (("good", good), ("bad", bad))
    }
    interval = intervals(sums["good"], RATINGS)
    left_out = np.array(
        [ccc(np.delete(truth, n, 0).ravel(), np.delete(good, n, 0).ravel()) for n in range(12)]
    )
    value = ccc(truth.ravel(), good.ravel())
    error = np.sqrt(11 / 12 * np.sum((left_out - value) ** 2)) / (1 - value**2)  # of Fisher's z
    ends = np.tanh(np.arctanh(value) + np.array([-1, 1]) * student.ppf(0.975, 11) * error)
    assert interval["ccc"].value == pytest.approx(value)
    assert (interval["ccc"].low, interval["ccc"].high) == pytest.approx(tuple(ends))
    (pair,) = compare(sums, RATINGS)
    assert pair.difference.low > 0
    assert pair.p < 0.01


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_head_predicts_ratings_of_new_speakers(name: str) -> None:
    X, ratings, speakers = clips(n_speakers=8, each=24)
    fitted = fit(name, X, loso(ratings, speakers))
    assert ccc(ratings, fitted.nested.predicted) > 0.6
    assert fitted.nested.scores.shape == (len(X), 0)
    # In other units the ratings are predicted equally well.
    scaled = fit(name, X, loso(1000 * ratings + 5, speakers))
    np.testing.assert_allclose(
        (scaled.nested.predicted - 5) / 1000, fitted.nested.predicted, atol=0.2
    )


@pytest.mark.parametrize("name", REGRESSORS)
def test_ratings_that_depend_only_on_the_speaker_are_not_learnt(name: str) -> None:
    X, _, speakers = clips(n_speakers=30, signal=0, width=40)
    ratings = np.random.default_rng(3).uniform(1, 7, 30)[speakers.astype(int)]
    honest = fit(name, X, loso(ratings, speakers))
    assert ccc(ratings, honest.nested.predicted) < 0.2
    part = np.random.default_rng(0).permutation(len(ratings)) % 4
    shared = tuple(
        Fold(str(n), np.flatnonzero(part != n), np.flatnonzero(part == n)) for n in range(4)
    )
    inflated = fit(name, X, Problem(ratings, speakers, shared))
    assert ccc(ratings, inflated.nested.predicted) > 0.4


@pytest.mark.parametrize("name", REGRESSORS)
def test_nothing_is_learnt_or_chosen_from_the_test_clips(name: str) -> None:
    X, ratings, speakers = clips()
    fold = loso(ratings, speakers).folds[2]
    run = partial(search_fold, HEADS[name], GRIDS[name], choose=True, seed=0, fold=fold)
    before = run(X, labels=ratings, speakers=speakers)
    X, changed = X.copy(), ratings.copy()
    X[fold.test[0]] = 1e6
    changed[fold.test] = 1e6
    after = run(X, labels=changed, speakers=speakers)
    assert after.inner == before.inner
    np.testing.assert_array_equal(before.predicted[1:], after.predicted[1:])


@pytest.mark.parametrize("name", REGRESSORS)
def test_the_search_agrees_with_the_plain_loop(name: str) -> None:
    X, ratings, speakers = clips(n_speakers=7)
    if name == "lgbm-regressor":  # four values each: bins made from more clips are the same bins
        X = (X[:, :, None] > np.quantile(X, [0.25, 0.5, 0.75], axis=0).T).sum(axis=2)
        X = X.astype(np.float32)
    problem = loso(ratings, speakers)
    fitted = fit(name, X, problem)
    params = combinations(GRIDS[name])
    for fold in problem.folds[:3]:
        result = fitted.results["3", fold.name]
        part, truth = fold.train, ratings[fold.train]
        for number, each in enumerate(params):
            predicted = np.empty_like(truth)
            for inner in inner_folds(stratify(truth), speakers[part]):
                regressor = fit_reference(name, each, X[part][inner.train], truth[inner.train])
                predicted[inner.test] = regressor.predict(X[part][inner.test])
            assert result.inner[number] == pytest.approx(ccc(truth, predicted), abs=2e-3)
        regressor = fit_reference(name, params[result.chosen], X[part], truth)
        np.testing.assert_allclose(result.predicted, regressor.predict(X[fold.test]), atol=2e-2)


@pytest.mark.parametrize("name", ["ridge", "svr"])
def test_the_search_does_not_depend_on_the_origin_of_the_scale(name: str) -> None:
    X, ratings, speakers = clips(n_speakers=7)
    fold = loso(ratings, speakers).folds[0]
    near, far = (
        search_fold(
            HEADS[name], GRIDS[name], X, ratings + origin, speakers, fold, choose=True, seed=0
        )
        for origin in (0, 1e6)
    )
    assert far.chosen == near.chosen
    np.testing.assert_allclose(far.inner, near.inner, atol=5e-3)


@pytest.mark.parametrize("name", REGRESSORS)
def test_results_depend_on_neither_jobs_nor_resuming(name: str, tmp_path: Path) -> None:
    X, ratings, speakers = clips()
    problem = loso(ratings, speakers)
    folds = [*problem.folds, problem.everybody()]
    on_result = fold_writer(tmp_path, name, ["3"], [fold.name for fold in folds], [])
    first = fit(name, X, problem, on_result=on_result, jobs=2)
    n_points = len(combinations(GRIDS[name]))
    earlier = read_fold_results(tmp_path, name, ["3"], folds, np.array([], dtype=str), n_points)
    assert len(earlier) == len(folds)
    again = fit(name, X, problem, earlier=earlier)
    np.testing.assert_array_equal(first.nested.predicted, again.nested.predicted)
    assert repr(first.choices) == repr(again.choices)


@pytest.mark.parametrize("name", REGRESSORS)
def test_a_bundle_of_ratings_predicts_and_runs_no_code(name: str, tmp_path: Path) -> None:
    X, ratings, speakers = clips(width=20)
    params = combinations(GRIDS[name])[0]
    about = bundle_fields("lr") | {
        "head": name,
        "parameters": params,
        "labels": [],
        "target": "fatigue",
    }
    for number in range(2):
        regressor, _ = fit_final(HEADS[name], params, X, loso(ratings, speakers))
        save_bundle(tmp_path / str(number), regressor, **about)
    predicted, probabilities = load_bundle(tmp_path / "0").predict({"3": X})
    assert predicted.dtype == np.float64
    np.testing.assert_allclose(
        predicted.astype(np.float64), fit_reference(name, params, X, ratings).predict(X)
    )
    assert probabilities.shape == (len(X), 0)
    files = [sorted((tmp_path / str(number)).iterdir()) for number in range(2)]
    for one, other in zip(*files, strict=True):
        assert one.read_bytes() == other.read_bytes()
    trace = tmp_path / "trace"
    path = tmp_path / "0" / f"head{HEADS[name].suffix}"
    path.write_bytes(pickle.dumps(Evil(trace)))
    with raises_about(UserError, path):
        HEADS[name].load(path)
    assert not trace.exists()


@pytest.fixture
def rated(serpipe: Command, extracted_once: Path) -> Path:
    """Return ratings by three raters of forty clips, all but the last two."""
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    draw = np.random.default_rng(0)
    (cache,) = Path("features/cache").glob("*.h5")
    names = sorted(open_cache(cache).clips["name"].tolist())
    rows = [
        [name, rater, round(float(name[7] == "1") * 3 + draw.uniform(1, 3), 2)]
        for name in names[:-2]
        for rater in "ABC"
    ]
    path = Path("fatigue.csv").resolve()
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["name", "rater", "fatigue"], *rows])
    return path


def test_from_a_ratings_file_to_a_benchmark_table(serpipe: Command, rated: Path) -> None:
    arguments = ("--ratings", rated, "--target", "fatigue", "--layers", "1-2")
    done = serpipe("fit", *arguments, "--head", "ridge,svr", "--format", "json")
    assert done.code == 0, done.err
    content = json.loads(done.out)
    run = Path(content["run"])
    results = read_results(run)
    assert results.summary.clips == 38
    assert any(names(each, 2) and names(each, "fatigue") for each in results.summary.changes)
    assert results.summary.agreement
    assert 0 < results.summary.agreement["icc_1"] < results.summary.agreement["icc_k"] < 1
    with (run / "predictions" / "ridge.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["layer"] == "nested"]
    truth = np.array([float(row["truth"]) for row in rows])
    predicted = np.array([float(row["predicted"]) for row in rows])
    nested = content["nested"][0]
    assert nested["ccc"] == pytest.approx(ccc(truth, predicted))
    assert nested["mae"] == pytest.approx(np.abs(truth - predicted).mean())
    assert nested["ccc_low"] < nested["ccc"] < nested["ccc_high"]
    told_words = serpipe("report", render_figures=True).out
    for words in ("raters", "agreement ICC", "CCC", "Pearson", "MAE", "38 clips"):
        assert words in told_words
    assert "UAR" not in told_words
    assert {path.stem for path in (run / "report").glob("*.png")} >= {
        "layers", "speakers", "ratings-ridge", "ratings-svr"
    }  # fmt: skip
    page = (run / "report" / "index.html").read_text()
    assert "UAR" not in page
    card = ModelCard.load(run / "bundles" / "ridge" / "README.md")
    (first, *_) = card.data.eval_results
    assert (first.metric_type, first.metric_value) == ("ccc", round(nested["ccc"], 3))
    other = serpipe("fit", *arguments, "--head", "lgbm-regressor", "--grid", "n_estimators=20")
    both = serpipe("report", run, other.out.strip(), "--format", "json")
    assert len(json.loads(both.out)["tables"]["comparisons"]) == 3
    emotions = serpipe("fit", "--head", "lr", "--layers", "1", "--grid", "C=0.1").out.strip()
    refused = serpipe("report", run, emotions)
    assert_refused(refused, run)


def test_options_that_do_not_suit_ratings_are_refused(serpipe: Command, rated: Path) -> None:
    arguments = ("fit", "--ratings", rated, "--target", "fatigue")
    for *more, named in (
        ("--head", "lr", "'lr'"),
        ("--keep", "1,2", "--keep"),
        ("--layers", "weighted", "--layers weighted"),
        ("--target", "mood", "mood"),
    ):
        done = serpipe(*arguments, *more)
        assert done.out == ""
        assert_refused(done, named)
    assert_refused(serpipe("fit", "--head", "ridge"), "'ridge'")
    assert [head.name for head in find_heads("all", "regression")] == REGRESSORS


@pytest.mark.parametrize("width", [10, 400], ids=["more clips", "more features"])
def test_ridge_along_a_path_predicts_the_bits_of_the_plain_estimator(width: int) -> None:
    draw = np.random.default_rng(0)
    X = (draw.standard_normal((200, width)) + 1).astype(np.float32)
    y = X[:, 0] + draw.standard_normal(200) + 5
    train, tested, path = np.arange(0, 200, 2), X[1::2], combinations(HEADS["ridge"].grid)
    results = HEADS["ridge"].path_fitter(X, y, y.astype(str), 0)(train, tested, path)
    for params, result in zip(path, results, strict=True):
        plain = HEADS["ridge"](params).estimator().fit(X[train], y[train])  # type: ignore[attr-defined]
        assert np.array_equal(result.predicted, plain.predict(tested).astype(np.float64))
