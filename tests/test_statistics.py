"""Intervals and tests are by speaker, and what the formulas say."""

import numpy as np
import pytest
from scipy.stats import wilcoxon
from serpipe.pipeline.metrics import confusion, recalls, scores_of
from serpipe.pipeline.statistics import compare, count_by_group, holm, intervals
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

LABELS = ["angry", "happy", "sad"]


def speakers(shares: list[float], clips: int = 30) -> np.ndarray:
    """Counts of speakers of whom each has a given share of clips recognised."""
    counts = np.zeros((len(shares), 3, 3), int)
    for number, share in enumerate(shares):
        for label in range(3):
            right = round(share * clips)
            counts[number, label, label] = right
            counts[number, label, (label + 1) % 3] = clips - right
    return counts


def test_scores_are_those_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    truth = draw.choice(LABELS, 300, p=[0.6, 0.3, 0.1])
    said = np.where(draw.random(300) < 0.5, truth, draw.choice(LABELS, 300))
    counts = confusion(truth, said, LABELS)
    np.testing.assert_array_equal(counts, confusion_matrix(truth, said, labels=LABELS))
    scores = scores_of(counts)
    assert scores.uar == pytest.approx(balanced_accuracy_score(truth, said))
    assert scores.accuracy == pytest.approx(accuracy_score(truth, said))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, said, average="macro"))
    assert recalls(counts).mean() == pytest.approx(scores.uar)


def test_stacked_counts_are_scored_each_by_itself() -> None:
    counts = speakers([0.2, 0.5, 0.9])
    counts[1, 2] = 0  # who says no sad clip is scored over the two others
    stacked = scores_of(counts)
    for number in range(3):
        alone = scores_of(counts[number])
        assert stacked.uar[number] == alone.uar
        assert stacked.macro_f1[number] == alone.macro_f1
    assert stacked.uar[1] == pytest.approx(0.5)


def test_groups_are_counted_apart_and_add_up() -> None:
    truth = np.array(["sad", "sad", "angry", "happy"])
    said = np.array(["sad", "angry", "angry", "sad"])
    found = count_by_group(truth, said, np.array(["b", "a", "b", "a"]), LABELS)
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    together = np.sum(list(found.values()), axis=0)
    np.testing.assert_array_equal(together, confusion(truth, said, LABELS))


def test_an_interval_is_that_of_drawing_speakers_one_by_one() -> None:
    """Against a plain loop of another generator: percentiles of 4000 draws, within their error."""
    draw = np.random.default_rng(1)
    counts = speakers(list(draw.uniform(0.3, 0.9, 12)))
    found = intervals(counts)["uar"]
    drawn = [scores_of(counts[draw.integers(0, 12, 12)].sum(axis=0)).uar for _ in range(4000)]
    assert found.value == pytest.approx(scores_of(counts.sum(axis=0)).uar)
    assert found.low == pytest.approx(np.percentile(drawn, 2.5), abs=0.01)
    assert found.high == pytest.approx(np.percentile(drawn, 97.5), abs=0.01)


def test_an_interval_covers_what_new_speakers_would_score() -> None:
    """Speakers drawn anew: about 95 of 100 intervals hold the truth; over clips far fewer would."""
    draw = np.random.default_rng(2)
    held = by_clips = 0
    for _ in range(100):
        shares = draw.beta(6, 4, 24)
        counts = speakers(list(shares), clips=20)
        found = intervals(counts)["uar"]
        held += found.low <= 0.6 <= found.high
        error = 1.96 * np.sqrt(0.6 * 0.4 / counts.sum())
        by_clips += abs(found.value - 0.6) <= error
    assert held > 87
    assert by_clips < 70


def test_fewer_than_five_speakers_have_no_interval_and_no_p() -> None:
    few = intervals(speakers([0.5, 0.6, 0.7, 0.8]))["uar"]
    assert np.isnan([few.low, few.high]).all()
    assert few.value == pytest.approx(0.65)
    five = intervals(speakers([0.5, 0.6, 0.7, 0.8, 0.9]))["uar"]
    assert five.low < five.value < five.high
    (none,) = compare({"a": speakers([0.5] * 4), "b": speakers([0.9] * 4)})
    assert np.isnan([none.p, none.p_holm, none.difference.low]).all()
    assert none.difference.value == pytest.approx(-0.4)


def test_a_comparison_pairs_speakers() -> None:
    """A steady gain of 3 points among speakers who differ by 60 is certain when they are paired."""
    shares = np.linspace(0.2, 0.8, 16)
    first, second = speakers(list(shares + 0.1), 100), speakers(list(shares), 100)
    (found,) = compare({"first": first, "second": second})
    assert found.difference.value == pytest.approx(0.1, abs=0.005)
    assert 0.09 < found.difference.low < found.difference.high < 0.11
    assert found.p < 1e-4
    assert intervals(first)["uar"].low < intervals(second)["uar"].high  # unpaired they overlap


def test_the_test_is_wilcoxons_over_speakers() -> None:
    draw = np.random.default_rng(4)
    a, b = (speakers(list(draw.uniform(0.4, 0.9, 12))) for _ in range(2))
    (found,) = compare({"a": a, "b": b})
    differences = np.round(scores_of(a).uar - scores_of(b).uar, 12)  # ties are ties
    assert found.p == pytest.approx(wilcoxon(differences).pvalue)


def test_equal_predictions_do_not_differ() -> None:
    same = speakers([0.2, 0.5, 0.9, 0.4, 0.6])
    (found,) = compare({"a": same, "b": same.copy()})
    assert (found.p, found.p_holm, found.difference.value) == (1, 1, 0)


def test_the_correction_of_holm() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, 0.6])), [1, 1])
    p = np.array([0.02, 0.2, 0.001, 0.04])
    assert (holm(p) >= p).all()


def test_only_the_pairs_that_are_asked_for_are_corrected_for() -> None:
    draw = np.random.default_rng(3)
    each = {name: speakers(list(draw.uniform(0.4, 0.9, 10))) for name in "abc"}
    assert [(c.first, c.second) for c in compare(each)] == [("a", "b"), ("a", "c"), ("b", "c")]
    (one,) = compare(each, pairs=[("c", "a")])
    assert (one.first, one.second) == ("c", "a")
    assert one.p == one.p_holm
