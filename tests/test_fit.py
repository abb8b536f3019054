"""Nothing is chosen or learnt outside the fold, and nothing depends on chance."""

from collections.abc import Iterator
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pytest
from serpipe.errors import UserError
from serpipe.pipeline import search
from serpipe.pipeline.fit import ALL, HeadFit, Problem, fit_head
from serpipe.pipeline.folds import Fold, inner_folds
from serpipe.pipeline.heads import HEADS, Grid, Head, combinations, find_heads, paths, read_grids
from serpipe.pipeline.heads.head import Parameter, Params
from serpipe.pipeline.heads.lr_path import Basis, follow_path, probabilities
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.metrics import score
from serpipe.pipeline.search import search_fold
from serpipe.pipeline.target import permute_within_speakers
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from .messages import raises_about

CLASSIFIERS = [name for name, head in HEADS.items() if head.task == "classification"]
EMOTIONS = np.array(["angry", "happy", "sad"])
#: Small, so that tests are quick; the last hyper-parameter of each has a choice.
GRIDS: dict[str, Grid] = {
    "lda": {},
    "lr": HEADS["lr"].grid | {"C": (0.01, 1.0)},
    "svm": {"C": (1.0, 10.0)},
    "svm-linear": {"C": (0.01, 0.1)},
    "lgbm": HEADS["lgbm"].grid | {"colsample_bytree": (0.5,), "n_estimators": (10.0, 20.0)},
    "sgd": {"epochs": (4.0,), "C": (0.01, 1.0)},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the processes of a run; small products are slower on several."""
    with threadpool_limits(1):
        yield


def clips(
    n_speakers: int = 6, per_emotion: int = 4, signal: float = 1.5, width: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings that depend on emotions and on speakers; labels, speakers."""
    draw = np.random.default_rng(0)
    labels = np.tile(np.repeat(EMOTIONS, per_emotion), n_speakers)
    speakers = np.repeat([f"{n:02d}" for n in range(n_speakers)], len(EMOTIONS) * per_emotion)
    X = draw.standard_normal((len(labels), width)).astype(np.float32)
    X += signal * draw.standard_normal((3, width))[np.searchsorted(EMOTIONS, labels)]
    X += 2 * draw.standard_normal((n_speakers, width))[speakers.astype(int)]
    return X.astype(np.float32), labels, speakers


def loso(labels: np.ndarray, speakers: np.ndarray) -> Problem:
    everyone = np.arange(len(labels))
    folds = (
        Fold(str(s), everyone[speakers != s], everyone[speakers == s]) for s in np.unique(speakers)
    )
    return Problem(labels, speakers, tuple(folds))


def fit_reference(name: str, params: Params, X: np.ndarray, y: np.ndarray) -> Any:
    """Fit scikit-learn's or LightGBM's own estimator, with which a head should agree."""
    head: Any = HEADS[name](params)
    if name == "lda":
        return head.estimator(len(np.unique(y))).fit(X.astype(np.float64), y)
    return head.fit(X, y, y) if name == "sgd" else head.estimator().fit(X, y)


def fit(name: str, layers: dict[str, np.ndarray], problem: Problem, **more: Any) -> HeadFit:
    candidates = [
        Candidate(layer, (layer,), "weighted" if X.ndim == 3 else "single")
        for layer, X in layers.items()
    ]
    grid = more.pop("grid", GRIDS[name])
    return fit_head(HEADS[name], grid, candidates, lambda c: layers[c.name], problem, **more)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_head_predicts_emotions_of_new_speakers(name: str) -> None:
    X, labels, speakers = clips(n_speakers=8, per_emotion=8)
    fitted = fit(name, {"3": X}, loso(labels, speakers))
    assert score(labels, fitted.nested.predicted).uar > 0.6
    assert all(result.converged for result in fitted.results.values())


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_labels_that_depend_only_on_the_speaker_are_not_learnt(name: str) -> None:
    """Each speaker has one label: leaving speakers out is at chance, a random split far above."""
    X, _, speakers = clips(n_speakers=18, signal=0, width=60)
    labels = EMOTIONS[np.random.default_rng(1).permutation(18) % 3][speakers.astype(int)]
    problem = loso(labels, speakers)
    honest = fit(name, {"3": X}, problem)
    assert score(labels, honest.nested.predicted).uar < 0.5
    part = np.random.default_rng(0).permutation(len(labels)) % 4
    shared = tuple(
        Fold(str(n), np.flatnonzero(part != n), np.flatnonzero(part == n)) for n in range(4)
    )
    inflated = fit(name, {"3": X}, Problem(labels, speakers, shared))
    assert score(labels, inflated.nested.predicted).uar > 0.9


def test_permuted_labels_score_at_chance() -> None:
    X, labels, speakers = clips(n_speakers=16, per_emotion=8, signal=3)
    permuted = permute_within_speakers(labels, speakers, seed=0)
    fitted = fit("lr", {"3": X}, loso(permuted, speakers))
    assert abs(score(permuted, fitted.nested.predicted).uar - 1 / 3) < 0.08


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_units_of_the_features_do_not_matter(name: str) -> None:
    X, labels, speakers = clips()
    problem = loso(labels, speakers)
    scaled = X * np.float32(2) ** (np.arange(X.shape[1]) % 7)  # powers of two: nothing is rounded
    before, after = fit(name, {"3": X}, problem), fit(name, {"3": scaled}, problem)
    np.testing.assert_array_equal(before.nested.predicted, after.nested.predicted)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_dims", [2, 3])
def test_nothing_is_learnt_or_chosen_from_the_test_clips(name: str, n_dims: int) -> None:
    """Extreme changes of test clips and their labels change no choice and no other prediction."""
    X, labels, speakers = clips()
    if n_dims == 3:
        X = np.stack([X, X[:, ::-1] + 1, X**2])
    fold = loso(labels, speakers).folds[2]
    run = partial(search_fold, HEADS[name], GRIDS[name], choose=True, seed=0, fold=fold)
    before = run(X, labels=labels, speakers=speakers)
    X, changed = X.copy(), labels.copy()
    X[..., fold.test[0], :] = 1e6
    changed[fold.test] = np.roll(labels[fold.test], 5)
    after = run(X, labels=changed, speakers=speakers)
    assert after.inner == before.inner
    assert after.weights == before.weights
    np.testing.assert_array_equal(before.scores[1:], after.scores[1:])


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_dims", [2, 3])
def test_inner_scores_come_from_heads_not_trained_on_the_speaker(
    name: str, n_dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels that depend only on the speaker: the inner UAR, too, must be at chance."""
    X, _, speakers = clips(n_speakers=13, signal=0, width=60)
    labels = EMOTIONS[np.random.default_rng(1).permutation(13) % 3][speakers.astype(int)]
    if n_dims == 3:
        X = np.stack([X, X[:, ::-1] + 1, X**2])
    fold = loso(labels, speakers).folds[0]
    arguments = (HEADS[name], GRIDS[name], X, labels, speakers, fold)
    assert max(search_fold(*arguments, choose=True, seed=0).inner) < 0.5

    def share(fold: Fold, labels: np.ndarray, speakers: np.ndarray) -> tuple[Fold, ...]:
        return inner_folds(labels, np.arange(len(labels)).astype(str))  # so it would be seen

    monkeypatch.setattr(search, "selection_folds", share)
    assert max(search_fold(*arguments, choose=True, seed=0).inner) > 0.8


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_results_do_not_depend_on_jobs_or_run(name: str) -> None:
    X, labels, speakers = clips()
    layers = {"1": X, "w": np.stack([X, X**2])}
    problem = loso(labels, speakers)
    first = fit(name, layers, problem)
    for jobs in (1, 2):
        again = fit(name, layers, problem, jobs=jobs)
        assert again.choices == first.choices
        for layer in layers:
            np.testing.assert_array_equal(first.layers[layer].scores, again.layers[layer].scores)


def test_the_nested_result_is_that_of_the_layer_chosen_inside_each_fold() -> None:
    X, labels, speakers = clips(n_speakers=7)
    noise = np.random.default_rng(5).standard_normal(X.shape).astype(np.float32)
    layers = {"0": noise, "1": X, "2": X + noise}
    problem = loso(labels, speakers)
    fitted = fit("lr", layers, problem)
    assert [choice.fold for choice in fitted.choices] == sorted(set(speakers))
    for choice, fold in zip(fitted.choices, problem.folds, strict=True):
        inner = {layer: fitted.results[layer, choice.fold].inner for layer in layers}
        assert choice.inner_score == max(max(scores) for scores in inner.values())
        assert choice.inner_score == max(inner[choice.layer])
        index = inner[choice.layer].index(choice.inner_score)
        assert choice.params["C"] == GRIDS["lr"]["C"][index]
        np.testing.assert_array_equal(
            fitted.nested.scores[fold.test], fitted.layers[choice.layer].scores[fold.test]
        )
    assert {choice.layer for choice in fitted.choices} <= {"1", "2"}
    assert fitted.final.fold == ALL
    # Chosen by everybody: the same inner UAR as a fold that leaves nobody out.
    alone = search_fold(HEADS["lr"], GRIDS["lr"], layers[fitted.final.layer], labels, speakers,
                        problem.everybody(), choose=True, seed=0)  # fmt: skip
    assert max(alone.inner) == fitted.final.inner_score


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_search_agrees_with_the_plain_loop(name: str) -> None:
    """The same folds, grids and scores by scikit-learn's own classifiers, one at a time."""
    X, labels, speakers = clips(n_speakers=8, per_emotion=6, signal=0.7)
    if name == "lgbm":  # four values each: bins made from more clips are the same bins
        X = (X[:, :, None] > np.quantile(X, [0.25, 0.5, 0.75], axis=0).T).sum(axis=2)
        X = X.astype(np.float32)
    problem = loso(labels, speakers)
    fitted = fit(name, {"3": X}, problem, among_heads=True)
    params = combinations(GRIDS[name])
    agree = []
    for fold in problem.folds[:4]:
        result = fitted.results["3", fold.name]
        part, truth = fold.train, labels[fold.train]
        for number, each in enumerate(params):
            predicted = np.empty_like(truth)
            for inner in inner_folds(truth, speakers[part]):
                classifier = fit_reference(name, each, X[part][inner.train], truth[inner.train])
                predicted[inner.test] = classifier.predict(X[part][inner.test])
            assert result.inner[number] == pytest.approx(score(truth, predicted).uar, abs=0.021)
        classifier = fit_reference(name, params[result.chosen], X[part], truth)
        agree += (classifier.predict(X[fold.test]) == result.predicted).tolist()
    assert np.mean(agree) > 0.98


def test_a_path_is_abandoned_when_two_values_in_a_row_are_worse() -> None:
    share_right = dict(
        zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.9, 0.8, 0.9, 0.7, 0.8, 1.0], strict=True)
    )
    fitted: list[float] = []
    labels = np.tile(np.repeat(["a", "b"], 10), 4)
    speakers = np.repeat(["1", "2", "3", "4"], 20)

    class Counting(Head):
        """Predicts a share of the clips right that depends on its hyper-parameter."""

        name = title = "counting"
        parameters = MappingProxyType({"value": Parameter((1, 2, 3, 4, 5, 6), 0, 9)})

        def fit(self, X: np.ndarray, y: np.ndarray, speakers: np.ndarray) -> Self:
            fitted.append(self.params["value"])
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            right = np.arange(len(X)) % 10 < 10 * share_right[self.params["value"]]
            return np.where((X[:, 0] > 0) == right, "b", "a")

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return np.zeros((len(X), 2))

    X = np.where(labels == "b", 1, -1)[:, None].astype(np.float32)
    fold = Fold(ALL, np.arange(80), np.arange(0))
    result = search_fold(Counting, Counting.grid, X, labels, speakers, fold, choose=True, seed=0)
    np.testing.assert_allclose(result.inner, [0.9, 0.8, 0.9, 0.7, 0.8, np.nan])
    assert result.chosen == 0
    assert sorted(set(fitted)) == [1, 2, 3, 4, 5]


def test_earlier_results_are_not_computed_again() -> None:
    X, labels, speakers = clips()
    problem = loso(labels, speakers)
    whole = fit("svm", {"0": X, "1": X**2}, problem)
    half = dict(list(whole.results.items())[::2])
    kept: list[tuple[str, str]] = []
    again = fit("svm", {"0": X, "1": X**2}, problem, earlier=half,
                on_result=lambda layer, fold, result: kept.append((layer, fold)))  # fmt: skip
    assert set(kept) == set(whole.results) - set(half)
    np.testing.assert_array_equal(again.nested.scores, whole.nested.scores)


def test_with_nothing_to_choose_nothing_is_searched() -> None:
    X, labels, speakers = clips(n_speakers=2)
    problem = loso(labels, speakers)  # one training speaker: there are no inner folds
    fixed = fit("svm", {"0": X}, problem, grid={"C": (1.0,)})
    assert all(np.isnan(result.inner).all() for result in fixed.results.values())
    assert {choice.layer for choice in fixed.choices} == {"0"}
    with raises_about(UserError, "--layers", "--grid"):
        fit("svm", {"0": X}, problem)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_two_emotions_are_enough(name: str) -> None:
    X, labels, speakers = clips()
    two = labels != "sad"
    labels = labels[two]
    fitted = fit(name, {"3": X[two]}, loso(labels, speakers[two]))
    assert fitted.nested.scores.shape == (len(labels), 2)
    assert score(labels, fitted.nested.predicted).uar > 0.6


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_handful_of_clips_is_fitted_too(name: str) -> None:
    """Too few to split a leaf; LightGBM then stops by itself."""
    X, labels, speakers = clips(n_speakers=3, per_emotion=1)
    fitted = fit(name, {"3": X}, loso(labels, speakers))
    assert set(fitted.nested.predicted) <= set(EMOTIONS)


def test_a_label_without_training_clips_has_no_score() -> None:
    X, labels, speakers = clips()
    labels = np.where((speakers == "00") & (labels == "sad"), "calm", labels)
    fitted = fit("lr", {"3": X}, loso(labels, speakers))
    assert np.isnan(fitted.nested.scores[speakers == "00", 1]).all()  # calm: angry, calm, happy
    assert np.isfinite(fitted.nested.scores[speakers != "00"]).all()


def test_fits_that_do_not_converge_are_recorded() -> None:
    X, labels, speakers = clips()
    problem = loso(labels, speakers)
    for two in (False, True):
        use = labels != "sad" if two else labels != ""
        problem = loso(labels[use], speakers[use])
        hasty = {"max_iter": (1.0,), "C": (1.0, 10.0)}
        fitted = fit("lr", {"0": X[use]}, problem, grid=hasty)
        assert not any(fitted.results["0", fold.name].converged for fold in problem.folds)
        assert fitted.results["0", "01"].inner_not_converged == 2 * 5


@pytest.mark.parametrize("n_emotions", [2, 3])
def test_logistic_regression_ends_at_the_optimum(n_emotions: int) -> None:
    """Against Newton's method of scikit-learn at a tight tolerance; classes of unequal size."""
    X, labels, _ = clips(n_speakers=9, per_emotion=7, width=60, signal=0.3)
    labels = np.where(np.arange(len(labels)) % 11 == 0, "happy", labels)
    use = np.isin(labels, EMOTIONS[:n_emotions])
    Z, labels = StandardScaler().fit_transform(X[use]), labels[use]
    codes = np.searchsorted(EMOTIONS, labels)
    strengths = (1e-3, 3e-1, 1e2)
    for basis in (Basis.of(Z), Basis(np.eye(60, dtype=np.float32))):
        path = follow_path(Z, codes, strengths, basis, exact=True)
        for C, solution in zip(strengths, path, strict=True):
            exact = LogisticRegression(
                C=C, class_weight="balanced", solver="newton-cg", tol=1e-10, max_iter=10**4
            )
            exact.fit(Z.astype(np.float64), labels)
            np.testing.assert_allclose(
                probabilities(solution, Z), exact.predict_proba(Z.astype(np.float64)), atol=2e-4
            )
            assert solution.converged
            assert solution.intercepts.sum() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_emotions", [2, 3])
def test_the_head_that_is_kept_is_the_one_that_was_tested(name: str, n_emotions: int) -> None:
    """More features than clips: where solvers that stop early end far from each other."""
    X, labels, speakers = clips(n_speakers=5, width=150, signal=0.3)
    use = np.isin(labels, EMOTIONS[:n_emotions])
    X, labels, speakers = X[use], labels[use], speakers[use]
    head, fold = HEADS[name], loso(labels, speakers).folds[0]
    train, test = fold.train, fold.test
    grid = dict(GRIDS[name])
    if name == "lr":
        grid["C"] = (0.01, 1.0, 100.0)
    for params in combinations(grid):
        fixed = {key: (value,) for key, value in params.items()}
        tested = search_fold(head, fixed, X, labels, speakers, fold, choose=False, seed=3)
        kept = head(params, 3).fit(X[train], labels[train], speakers[train])
        np.testing.assert_array_equal(kept.predict(X[test]), tested.predicted)
        # libsvm, given a kernel or the clips, ends at slightly different decision values.
        tolerance = 1e-6 if head.scores_are == "probability" else 1e-3
        np.testing.assert_allclose(kept.decision_scores(X[test]), tested.scores, atol=tolerance)


@pytest.mark.parametrize("exact", [False, True])
def test_a_fit_does_not_depend_on_the_other_penalties(exact: bool) -> None:
    draw = np.random.default_rng(0)
    labels = draw.choice(EMOTIONS, 150)
    means = draw.standard_normal((3, 400))[np.searchsorted(EMOTIONS, labels)]
    X = (draw.standard_normal((150, 400)) + 0.1 * means).astype(np.float32)
    Z, codes = StandardScaler().fit_transform(X), np.searchsorted(EMOTIONS, labels)
    strengths = [1e-5, 1e-4, 1e-3, 2e-3, 3e-3, 1e-1, 1e0, 5e0, 7e0, 1e2]
    basis = Basis.of(Z)
    path = follow_path(Z, codes, strengths, basis, exact=exact)
    for C, along in zip(strengths, path, strict=True):
        (alone,) = follow_path(Z, codes, [C], basis, exact=exact)
        np.testing.assert_array_equal(along.coefficients, alone.coefficients)
        np.testing.assert_array_equal(along.intercepts, alone.intercepts)


def test_paths_cover_the_grid_upwards() -> None:
    grid = {"a": (2.0, 1.0), "b": (5.0,), "c": (30.0, 10.0, 20.0)}
    assert [[params["c"] for params in path] for path in paths(grid)] == [[10, 20, 30]] * 2
    assert {tuple(params.values()) for params in combinations(grid)} == set(product(*grid.values()))


def test_scores_by_hand() -> None:
    truth = np.array(["a"] * 6 + ["b"] * 2 + ["c"] * 2)
    predicted = np.array(["a"] * 6 + ["b", "a"] + ["a", "a"])
    scores = score(truth, predicted)
    assert scores.uar == pytest.approx((1 + 0.5 + 0) / 3)
    assert scores.accuracy == pytest.approx(0.7)
    assert scores.macro_f1 == pytest.approx((2 * (6 / 9) / (1 + 6 / 9) + 2 / 3 + 0) / 3)
    assert score(truth, predicted, ["a", "b", "c", "d"]) == scores  # d does not occur


def test_heads_and_grids_are_read() -> None:
    assert [head.name for head in find_heads("all")] == [
        "lda", "lr", "svm", "svm-linear", "lgbm",
    ]  # fmt: skip
    assert [head.name for head in find_heads("svm,lr")] == ["lr", "svm"]
    with raises_about(UserError, "--head lr,knn", "'knn'"):
        find_heads("lr,knn")
    heads = find_heads("lr,svm")
    assert read_grids(heads, ["lr.C=1,1e-3"])["lr"]["C"] == (0.001, 1)
    assert read_grids(find_heads("svm"), ["C=3"]) == {"svm": {"C": (3.0,)}}
    assert read_grids(heads, [])["svm"] == HEADS["svm"].grid
    of_every_head = read_grids(heads, ["C=3,1"])
    assert of_every_head["lr"]["C"] == of_every_head["svm"]["C"] == (1.0, 3.0)
    with raises_about(UserError, "--grid lr.C=1"):
        read_grids(heads, ["C=1", "lr.C=1"])
    assert [head.name for head in find_heads(None)] == ["lda", "svm"]
    for wrong in ("D=1", "lr.gamma=1", "lgbm.max_bin=3"):
        with raises_about(UserError, f"--grid {wrong}", "lr.max_iter", "lr.C", "svm.C"):
            read_grids(heads, [wrong])
    for wrong in ("lr.C=much", "lr.C", "lr.C=-1", "lr.C=nan", "lr.C=1,inf", "svm.C=0", "lr.C=1,"):
        with raises_about(UserError, f"--grid {wrong}", "1e-08", "1e+08"):
            read_grids(heads, [wrong])
    with raises_about(UserError, "--grid lr.max_iter=10.5", 1, "1e+06"):
        read_grids(heads, ["lr.max_iter=10.5"])
