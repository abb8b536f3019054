"""Heads that are trained with weights, compared with other software and with plain formulas."""

from typing import Any

import numpy as np
import pytest
from serpipe.pipeline.calibration import balance, fit_temperature, label_weights
from serpipe.pipeline.folds import Fold
from serpipe.pipeline.fusion import learn_weights as learn_fusion
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.heads.lda_statistics import weighted_class_statistics
from serpipe.pipeline.layers import learn_weights
from serpipe.pipeline.metrics import weighted_uar
from serpipe.pipeline.search import search_fold
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import recall_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

PARAMS: dict[str, dict[str, float]] = {
    "lda": {},
    "lr": {"C": 0.1, "max_iter": 1000},
    "svm": {"C": 1.0},
    "svm-linear": {"C": 0.01},
    "lgbm": {name: values[0] for name, values in HEADS["lgbm"].grid.items()},
}


class Rows:
    """Clips of three labels, of which two thirds have a second row with another label."""

    def __init__(self, n_labels: int = 3) -> None:
        draw = np.random.default_rng(0)
        label = np.arange(120) % n_labels
        X = draw.standard_normal((120, 20)) + 1.5 * np.eye(20)[label]
        second = np.arange(120) % 3 > 0
        share = draw.choice([0.6, 0.75, 0.8], 120)
        names = np.array(["angry", "happy", "sad"])[:n_labels]
        self.X = np.concatenate([X, X[second]]).astype(np.float32)
        self.y = names[np.concatenate([label, (label[second] + 1) % n_labels])]
        self.weights = np.concatenate([np.where(second, share, 1.0), 1 - share[second]])
        people = np.arange(120) // 10
        self.speakers = np.concatenate([people, people[second]]).astype(str)


def fitted(name: str, rows: Rows, weights: Any) -> Any:
    head: Any = HEADS[name](PARAMS[name])
    return head.fit(rows.X, rows.y, rows.speakers, weights)


@pytest.mark.parametrize("n_labels", [2, 3])
@pytest.mark.parametrize("name", PARAMS)
def test_weights_are_the_sample_weights_of_scikit_learn_and_lightgbm(
    name: str, n_labels: int
) -> None:
    rows = Rows(n_labels)
    ours = fitted(name, rows, rows.weights).predict_proba(rows.X)
    balanced = balance(rows.y, rows.weights)
    standard = StandardScaler().fit(rows.X, sample_weight=rows.weights).transform(rows.X)
    params = PARAMS[name]
    if name == "lr":
        model = LogisticRegression(C=params["C"], tol=1e-8, max_iter=10000)
        theirs = model.fit(standard.astype(float), rows.y, balanced).predict_proba(standard)
    elif name == "lgbm":
        model = HEADS[name](params).estimator().set_params(class_weight=None)  # type: ignore[attr-defined]
        theirs = model.fit(rows.X, rows.y, balanced).predict_proba(rows.X)
    elif name == "lda":
        means, covariance = plain_statistics(rows)
        scores = rows.X @ np.linalg.solve(covariance, means.T)
        scores -= np.einsum("ij,ji->i", means, np.linalg.solve(covariance, means.T)) / 2
        theirs = np.exp(scores - scores.max(axis=1, keepdims=True))
        theirs /= theirs.sum(axis=1, keepdims=True)
    else:
        kernel = "rbf" if name == "svm" else "linear"
        machine = SVC(C=params["C"], kernel=kernel).fit(standard, rows.y, balanced)
        assert (fitted(name, rows, rows.weights).predict(rows.X) == machine.predict(standard)).all()
        scores = fitted(name, rows, rows.weights).decision_scores(rows.X)
        expected = machine.decision_function(standard)
        scores = scores[:, 1] if n_labels == 2 else scores
        np.testing.assert_allclose(scores, expected, atol=0.005)
        return
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def plain_statistics(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and Ledoit-Wolf covariances, one outer product at a time."""
    means, covariances = [], []
    for label in np.unique(rows.y):
        X, w = rows.X[rows.y == label].astype(float), rows.weights[rows.y == label]
        w = w / w.sum()
        mean = w @ X
        deviation = np.sqrt(w @ (X - mean) ** 2)
        Z = (X - mean) / deviation
        products = np.stack([np.outer(z, z) for z in Z])
        S = np.tensordot(w, products, axes=1)
        noise = sum(v**2 * (z @ z) ** 2 for v, z in zip(w, Z, strict=True)) - (w @ w) * np.sum(S**2)
        shrinkage = min(1.0, noise / np.sum((S - np.eye(len(S))) ** 2))
        S = (1 - shrinkage) * S + shrinkage * np.eye(len(S))
        means.append(mean)
        covariances.append(S * np.outer(deviation, deviation))
    return np.stack(means), np.mean(covariances, axis=0)


def test_the_covariance_of_weighted_clips_is_shrunk_by_their_effective_number() -> None:
    rows = Rows()
    codes = np.unique(rows.y, return_inverse=True)[1]
    means, covariance = weighted_class_statistics(rows.X, codes, rows.weights)
    expected_means, expected = plain_statistics(rows)
    np.testing.assert_allclose(means, expected_means)
    np.testing.assert_allclose(covariance, np.tril(expected), atol=1e-6)
    again = weighted_class_statistics(rows.X, codes, 7 * rows.weights)[1]
    np.testing.assert_allclose(again, covariance)


@pytest.mark.parametrize("name", PARAMS)
def test_weights_of_one_change_nothing(name: str) -> None:
    rows = Rows()
    once = fitted(name, rows, None).decision_scores(rows.X)
    weighted = fitted(name, rows, np.ones(len(rows.y))).decision_scores(rows.X)
    np.testing.assert_allclose(weighted, once, atol=1e-4)


@pytest.mark.parametrize("name", PARAMS)
def test_the_tested_head_and_the_kept_one_have_the_same_weights(name: str) -> None:
    rows, head = Rows(), HEADS[name]
    train, tested = np.arange(100, len(rows.y)), rows.X[:100]
    weights = {"weights": rows.weights[train]}
    given = rows.X[train], rows.y[train], rows.speakers[train]
    fit_path = head.path_fitter(*given, 0, **weights)
    result = next(fit_path(np.arange(len(train)), tested, [PARAMS[name]]))
    kept: Any = head(PARAMS[name])
    kept.fit(*given, **weights)
    np.testing.assert_allclose(result.scores, kept.decision_scores(tested), atol=0.002)
    part = np.arange(len(train))[::2]
    of_part = next(fit_path(part, tested, [PARAMS[name]])).scores
    apart = rows.X[train][part], rows.y[train][part], rows.speakers[train][part]
    alone: Any = head(PARAMS[name])
    alone.fit(*apart, weights=rows.weights[train][part])
    # The bins of trees are of all training clips, and inner fits of lr stop a little earlier.
    tolerance = 1.0 if name == "lgbm" else 0.01
    np.testing.assert_allclose(of_part, alone.decision_scores(tested), atol=tolerance)


def test_labels_are_balanced_by_their_weights() -> None:
    rows = Rows()
    weights = label_weights(rows.y, rows.weights)
    sums = [weights[rows.y == label].sum() for label in np.unique(rows.y)]
    np.testing.assert_allclose(sums, 1 / 3)
    of_label = rows.y == "sad"
    np.testing.assert_allclose(np.ptp(weights[of_label] / rows.weights[of_label]), 0, atol=1e-12)
    predicted = np.roll(rows.y, 1)
    assert weighted_uar(rows.y, predicted, rows.weights) == pytest.approx(
        recall_score(rows.y, predicted, average="macro", sample_weight=rows.weights)
    )


def test_a_weight_of_two_is_a_row_given_twice_where_something_is_learnt_from_scores() -> None:
    draw = np.random.default_rng(0)
    codes, logits = np.arange(60) % 3, draw.standard_normal((60, 3))
    logits[np.arange(60), codes] += 1
    twice = np.concatenate([np.arange(60), np.arange(20)])
    weights = np.where(np.arange(60) < 20, 2.0, 1.0)
    assert fit_temperature(logits, codes, "decision value", weights) == pytest.approx(
        fit_temperature(logits[twice], codes[twice], "decision value")
    )
    members = np.stack([logits, draw.standard_normal((60, 3))])
    np.testing.assert_allclose(
        learn_fusion(members, codes, weights), learn_fusion(members[:, twice], codes[twice])
    )
    X, labels = draw.standard_normal((2, 60, 5)).astype(np.float32), codes.astype(str)
    all_twice = learn_weights(np.tile(X, (1, 2, 1)), np.tile(labels, 2))
    np.testing.assert_allclose(learn_weights(X, labels, np.full(60, 2.0)), all_twice, rtol=1e-3)
    assert abs(learn_weights(X, labels, weights**4) - learn_weights(X, labels)).max() > 1e-3


def test_inner_scores_and_choices_follow_the_weights() -> None:
    """With hardly any weight on the second labels, the score is that of the first alone."""
    rows = Rows()
    fold = Fold("0", np.flatnonzero(rows.speakers != "0"), np.flatnonzero(rows.speakers == "0"))

    def inner(used: slice, fold: Fold, weights: Any) -> float:
        arguments: Any = (HEADS["lda"], {}, rows.X[used], rows.y[used], rows.speakers[used], fold)
        return search_fold(*arguments, choose=True, seed=0, weights=weights).inner[0]

    first = np.where(np.arange(len(rows.y)) < 120, 1.0, 1e-6)
    every, clips = slice(None), slice(120)
    alone = Fold("0", fold.train[fold.train < 120], fold.test[fold.test < 120])
    assert inner(every, fold, first) == pytest.approx(inner(clips, alone, None), abs=0.03)
    assert inner(every, fold, rows.weights) < inner(every, fold, first) - 0.05
