"""The LDA head is scikit-learn's shrinkage LDA, however its sums over clips are shared."""

import numpy as np
import pytest
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.heads import lda_statistics as statistics
from serpipe.pipeline.heads.lda import LDA

SPEAKERS = np.repeat(np.arange(12), 16)
LABELS = np.tile(np.repeat(["angry", "calm", "happy", "sad"], 4), 12)


def embeddings(offset: float = 100.0) -> np.ndarray:
    """Correlated features far from zero, as hidden states of the first layers are."""
    draw = np.random.default_rng(0)
    X = draw.standard_normal((len(LABELS), 96)) + draw.standard_normal((12, 96))[SPEAKERS]
    X += 0.2 * draw.standard_normal((4, 96))[np.searchsorted(np.unique(LABELS), LABELS)]
    rotation = np.linalg.qr(draw.standard_normal((96, 96)))[0]
    return np.asarray((X * np.geomspace(1, 1e-2, 96)) @ rotation + offset, np.float32)


def probabilities_of_scikit_learn(
    X: np.ndarray, labels: np.ndarray, tested: np.ndarray
) -> np.ndarray:
    reference = LDA.estimator(len(np.unique(labels)))
    reference.fit(X.astype(np.float64), labels)
    return np.asarray(reference.predict_proba(tested.astype(np.float64)))


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("labels", [LABELS, LABELS[LABELS < "calm0"], np.repeat(LABELS, 20)])
def test_probabilities_are_those_of_scikit_learn(offset: float, labels: np.ndarray) -> None:
    """For several labels, for two, and for more clips of a label than features."""
    X = embeddings(offset)
    X = X[np.isin(LABELS, labels)]
    draw = np.random.default_rng(1)
    X = np.repeat(X, len(labels) // len(X), axis=0)
    X += (X.std(axis=0) * draw.standard_normal(X.shape)).astype(np.float32)
    train = np.arange(len(X)) < 0.75 * len(X)
    fitted = LDA({}).fit(X[train], labels[train], labels[train])
    expected = probabilities_of_scikit_learn(X[train], labels[train], X[~train])
    np.testing.assert_allclose(fitted.predict_proba(X[~train]), expected, atol=1e-4)


def varied(how: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of which the clips of the first speakers are special."""
    X, labels, first = embeddings(), LABELS.copy(), SPEAKERS < 3
    if how == "a label only of these speakers":
        labels[first & (labels == "sad")] = "surprised"
    elif how == "a feature that varies only here":
        X[~first, 5] = 7
    elif how == "a feature that varies far more here":
        X[first, 5] += 1e5 * (X[first, 5] - 100)
    elif how == "a constant feature":
        X[:, 5] = 7
    return X, labels


@pytest.mark.parametrize("limit", [statistics.MAX_SHARED_PRODUCTS, 0])
@pytest.mark.parametrize(
    "how",
    [
        "nothing special",
        "a label only of these speakers",
        "a feature that varies only here",
        "a feature that varies far more here",
        "a constant feature",
    ],
)
def test_inner_fits_are_the_fits_of_their_clips_alone(
    how: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not they share sums over all training clips of the fold."""
    monkeypatch.setattr(statistics, "MAX_SHARED_PRODUCTS", limit)
    X, labels = varied(how)
    fit_path = HEADS["lda"].path_fitter(X, labels, labels, 0)
    train, tested = np.flatnonzero((SPEAKERS >= 3) & (SPEAKERS != 8)), X[SPEAKERS == 8]
    (result,) = fit_path(train, tested, [{}])
    expected = probabilities_of_scikit_learn(X[train], labels[train], tested)
    np.testing.assert_allclose(result.scores, expected, atol=1e-4)
    classes = np.unique(labels[train])
    np.testing.assert_array_equal(result.predicted, classes[expected.argmax(axis=1)])
    if how == "nothing special":
        (result,) = fit_path(np.arange(len(X)), tested, [{}])
        kept = LDA({}).fit(X, labels, labels)
        np.testing.assert_array_equal(result.scores, kept.predict_proba(tested))


def test_sums_are_shared_unless_there_are_too_many_features_or_clips() -> None:
    codes = np.arange(60) % 2
    X = np.random.default_rng(0).standard_normal((60, 40)).astype(np.float32)
    assert statistics.SharedProducts.of(X, codes) is not None
    assert statistics.SharedProducts.of(X[:, :20], codes) is None  # 30 clips of 20 features
    wide = np.broadcast_to(np.float32(0), (60, 5000))
    assert statistics.SharedProducts.of(wide, codes) is None
