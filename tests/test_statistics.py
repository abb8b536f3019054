"""Intervals and tests are by speaker, and agree with scipy."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from serpipe.pipeline.measures import RATINGS, sum_ratings
from serpipe.pipeline.metrics import confusion, recalls, scores_of
from serpipe.pipeline.permutation import chance_p, least_swap_p, swap_p
from serpipe.pipeline.statistics import (
    compare,
    count_by_group,
    holm,
    intervals,
    recall_intervals,
)
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score

LABELS = ["angry", "happy", "sad"]


def speakers(shares: list[float], clips: int = 30) -> np.ndarray:
    """Confusion matrices of speakers, of whom each has a given share of clips right."""
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
    predicted = np.where(draw.random(300) < 0.5, truth, draw.choice(LABELS, 300))
    counts = confusion(truth, predicted, LABELS)
    np.testing.assert_array_equal(counts, confusion_matrix(truth, predicted, labels=LABELS))
    scores = scores_of(counts)
    assert scores.uar == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert recalls(counts).mean() == pytest.approx(scores.uar)


def test_stacked_counts_are_scored_each_by_itself() -> None:
    counts = speakers([0.2, 0.5, 0.9])
    counts[1, 2] = 0  # without a sad clip the score is over the two other labels
    stacked = scores_of(counts)
    for number in range(3):
        alone = scores_of(counts[number])
        assert stacked.uar[number] == alone.uar
        assert stacked.macro_f1[number] == alone.macro_f1
    assert stacked.uar[1] == pytest.approx(0.5)


def test_groups_are_counted_apart_and_add_up() -> None:
    truth = np.array(["sad", "sad", "angry", "happy"])
    predicted = np.array(["sad", "angry", "angry", "sad"])
    counts = count_by_group(truth, predicted, np.array(["b", "a", "b", "a"]), LABELS)
    assert list(counts) == ["a", "b"]
    assert counts["a"].tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    together = np.sum(list(counts.values()), axis=0)
    np.testing.assert_array_equal(together, confusion(truth, predicted, LABELS))


def test_stacked_predictions_are_counted_each_by_itself() -> None:
    draw = np.random.default_rng(0)
    truth, predicted = draw.integers(0, 3, (4, 5, 20)), draw.integers(0, 3, 20)
    counts = confusion(truth, predicted, range(3))
    ratings = sum_ratings(truth, predicted)
    for index in np.ndindex(4, 5):
        np.testing.assert_array_equal(counts[index], confusion(truth[index], predicted, range(3)))
        np.testing.assert_allclose(ratings[index], sum_ratings(truth[index], predicted))


def simulated(
    rng: np.random.Generator, n: int, skill: tuple[float, float], uneven: float
) -> np.ndarray:
    """Confusion matrices of n speakers who differ in score and, if uneven, in number of clips."""
    clips = np.maximum(1, rng.lognormal(np.log(20), uneven, n).round().astype(int))
    right = rng.binomial(clips[:, None], rng.beta(*skill, (n, 1)), (n, 3))
    counts = np.zeros((n, 3, 3), int)
    for label in range(3):
        counts[:, label, label] = right[:, label]
        counts[:, label, (label + 1) % 3] = clips - right[:, label]
    return counts


@pytest.mark.parametrize("n", [5, 10, 24])
@pytest.mark.parametrize(
    ("skill", "uneven"), [((6, 4), 0.0), ((19, 1), 0.0), ((6, 4), 1.0)],
    ids=["usual", "almost-all-right", "uneven-clips"],
)  # fmt: skip
def test_an_interval_covers_the_score_of_other_speakers(
    n: int, skill: tuple[float, float], uneven: float
) -> None:
    rng = np.random.default_rng(2)
    truth = skill[0] / sum(skill)
    simulations = [intervals(simulated(rng, n, skill, uneven))["uar"] for _ in range(600)]
    shown = [each for each in simulations if not np.isnan(each.low)]
    assert len(shown) > 500
    assert np.mean([each.low <= truth <= each.high for each in shown]) > 0.92
    assert all(0 <= each.low < each.value < each.high <= 1 for each in shown)


@pytest.mark.parametrize(("n", "share"), [(24, 0.1), (10, 0.9)])
def test_the_interval_of_a_difference_covers_it_however_few_speakers_differ(
    n: int, share: float
) -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(400):
        first = simulated(rng, n, (6, 4), 0)
        second = first.copy()
        label = np.arange(3)
        worse = rng.binomial(first[:, label, label], 0.3) * (rng.random((n, 1)) < share)
        second[:, label, label] -= worse
        second[:, label, (label + 1) % 3] += worse
        (comparison,) = compare({"a": first, "b": second})
        if not np.isnan(comparison.difference.low):
            covered.append(comparison.difference.low <= 0.18 * share <= comparison.difference.high)
    assert len(covered) > 150
    assert np.mean(covered) > 0.94


def test_an_interval_over_independent_clips_would_cover_too_little() -> None:
    rng = np.random.default_rng(2)
    by_clips = 0
    for _ in range(100):
        counts = simulated(rng, 24, (6, 4), 0)
        error = 1.96 * np.sqrt(0.6 * 0.4 / counts.sum())
        by_clips += abs(intervals(counts)["uar"].value - 0.6) <= error
    assert by_clips < 70


def accuracies(counts: np.ndarray) -> np.ndarray:
    """The accuracy of each speaker."""
    return np.asarray(np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)))


def test_the_interval_of_a_difference_is_scipys_paired_t() -> None:
    """With equally many clips of each speaker the score is a mean over speakers."""
    draw = np.random.default_rng(1)
    a, b = (speakers(list(draw.uniform(0.3, 0.9, 12))) for _ in range(2))
    (comparison,) = compare({"a": a, "b": b})
    expected = scipy.stats.ttest_rel(accuracies(a), accuracies(b)).confidence_interval()
    assert comparison.difference.low == pytest.approx(expected.low)
    assert comparison.difference.high == pytest.approx(expected.high)


def test_an_interval_is_scipys_t_interval_on_the_logit_scale() -> None:
    counts = speakers(list(np.random.default_rng(1).uniform(0.3, 0.9, 12)))
    t = scipy.stats.ttest_1samp(accuracies(counts), 0).confidence_interval()
    for key in ("uar", "accuracy"):
        interval = intervals(counts)[key]
        ends = scipy.special.logit([interval.low, interval.value, interval.high])
        slope = 1 / (interval.value * (1 - interval.value))  # of the logit, at the score
        np.testing.assert_allclose(np.diff(ends) / slope, (t.high - t.low) / 2)


def test_the_interval_of_unequal_speakers_is_near_that_of_scipys_bootstrap() -> None:
    rng = np.random.default_rng(0)
    for skill, uneven in (((6, 4), 0.3), ((9, 2), 0.0), ((6, 4), 0.6)):
        counts = simulated(rng, 60, skill, uneven)

        def uar(rows: np.ndarray, counts: np.ndarray = counts) -> float:
            return float(scores_of(counts[rows.astype(int)].sum(axis=0)).uar)

        interval = intervals(counts)["uar"]
        boot = scipy.stats.bootstrap(
            (np.arange(60),), uar, n_resamples=1500, vectorized=False, rng=1, method="percentile"
        ).confidence_interval
        width = boot.high - boot.low
        assert interval.low == pytest.approx(boot.low, abs=0.15 * width)
        assert interval.high == pytest.approx(boot.high, abs=0.15 * width)


def only(counts: np.ndarray, label: int, holders: int) -> np.ndarray:
    """Remove a label from all but the first so many speakers."""
    counts = counts.copy()
    counts[holders:, label] = 0
    return counts


def test_a_label_of_few_speakers_gives_no_narrow_interval() -> None:
    counts = speakers(list(np.random.default_rng(1).uniform(0.3, 0.9, 24)))
    whole = intervals(counts)["uar"]
    for holders in (1, 2):
        interval = intervals(only(counts, 2, holders))
        assert np.isnan([interval["uar"].low, interval["macro_f1"].low]).all()
        assert interval["accuracy"].low < interval["accuracy"].value < interval["accuracy"].high
    three = intervals(only(counts, 2, 3))["uar"]
    assert three.high - three.low > 2 * (whole.high - whole.low)
    for holders, shown in ((4, False), (5, True)):
        recall = recall_intervals(only(counts, 2, holders))[2]
        assert recall.value == pytest.approx(recalls(only(counts, 2, holders).sum(axis=0))[2])
        assert np.isnan(recall.low) != shown


def test_the_recall_of_a_label_depends_only_on_the_speakers_who_have_it() -> None:
    counts = only(speakers(list(np.random.default_rng(1).uniform(0.3, 0.9, 24))), 2, 7)
    assert recall_intervals(counts)[2] == recall_intervals(counts[:7])[2]
    never = only(counts, 2, 0)
    assert np.isnan(recall_intervals(never)[2].value)
    assert intervals(never)["uar"].low < intervals(never)["uar"].high  # over the two others


def test_identical_speakers_give_no_interval_of_zero_width() -> None:
    for share in (0.9, 1.0, 0.0):
        interval = intervals(speakers([share] * 8))
        assert interval["uar"].value == pytest.approx(share)
        assert np.isnan([each.low for each in interval.values()]).all()
        assert np.isnan([each.low for each in recall_intervals(speakers([share] * 8))]).all()


def test_one_speaker_with_most_clips_gives_no_narrow_interval() -> None:
    counts = speakers([0.5, 0.6, 0.4, 0.7, 0.5, 0.6])
    assert not np.isnan(intervals(counts)["uar"].low)
    counts[0] *= 50
    assert np.isnan(intervals(counts)["uar"].low)


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
    """A steady gain of 10 points among speakers who differ by 60 is significant when paired."""
    shares = np.linspace(0.2, 0.8, 16)
    gains = 0.1 + 0.01 * np.resize([-1, 0, 1], 16)
    first, second = speakers(list(shares + gains), 100), speakers(list(shares), 100)
    (comparison,) = compare({"first": first, "second": second})
    assert comparison.difference.value == pytest.approx(0.1, abs=0.005)
    assert 0.09 < comparison.difference.low < comparison.difference.high < 0.11
    assert comparison.p < 2e-4
    assert intervals(first)["uar"].low < intervals(second)["uar"].high  # unpaired they overlap


def with_extra_errors(counts: np.ndarray, who: list[int]) -> np.ndarray:
    """Return counts in which some speakers have three more errors for a label."""
    counts = counts.copy()
    counts[who, 0, 0] -= 3
    counts[who, 0, 1] += 3
    return counts


def scipy_swap_p(a: np.ndarray, b: np.ndarray, n_resamples: float = np.inf) -> float:
    """The p of scipy's paired permutation test of whole speakers."""
    both = np.concatenate([a, b])

    def difference(rows: np.ndarray, others: np.ndarray, axis: int) -> np.ndarray:
        first, second = (
            scores_of(both[np.moveaxis(each, axis, -1)].sum(axis=-3)).uar for each in (rows, others)
        )
        return np.asarray(np.abs(first - second))

    tested = scipy.stats.permutation_test(
        (np.arange(len(a)), np.arange(len(a), 2 * len(a))), difference, n_resamples=n_resamples,
        permutation_type="samples", alternative="greater", vectorized=True, rng=3,
        batch=10_000,
    )  # fmt: skip
    return float(tested.pvalue)


def test_p_is_that_of_scipys_permutation_test() -> None:
    draw = np.random.default_rng(4)
    a, b = (speakers(list(draw.uniform(0.4, 0.9, 8))) for _ in range(2))
    b[5:] *= 2  # as many clips must be of each speaker in both
    a[5:] *= 2
    (comparison,) = compare({"a": a, "b": b})
    assert comparison.p == pytest.approx(scipy_swap_p(a, b))
    assert swap_p(b, a) == comparison.p


def test_speakers_whose_predictions_agree_do_not_count() -> None:
    same = speakers(list(np.random.default_rng(5).uniform(0.4, 0.9, 24)))
    for differing, p in ((1, 1), (4, 0.125), (6, 2 / 64), (10, 2 / 1024)):
        (comparison,) = compare({"a": same, "b": with_extra_errors(same, list(range(differing)))})
        assert comparison.p == p
        assert comparison.difference.value > 0
        # Where the test cannot resolve it, the interval does not, either.
        assert np.isnan(comparison.difference.low) or comparison.difference.low < 0 or differing > 5


def test_random_swaps_approach_all_swaps_of_scipy() -> None:
    a, b = (
        speakers([0.6] * 16),
        speakers(list(0.6 + np.repeat([-0.2, 0.1, -0.1, 0.2], [8, 4, 2, 2]))),
    )
    p, expected = swap_p(a, b), scipy_swap_p(a, b)
    assert 0.01 < expected < 0.5
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000))
    assert swap_p(a, b) == p != swap_p(a, b, seed=1)


def test_p_is_below_5_percent_in_5_of_100_comparisons_of_equals() -> None:
    rng = np.random.default_rng(7)
    p = [swap_p(simulated(rng, 8, (6, 4), 0), simulated(rng, 8, (6, 4), 0)) for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.08


def rated(difference: float, noise: float) -> dict[str, np.ndarray]:
    """Two sets of ratings of twelve speakers; each misses the level of one of them."""
    draw = np.random.default_rng(8)
    level = draw.normal(0, 3, (12, 1))
    truth = level + draw.normal(size=(12, 40))
    good = truth + draw.normal(0, noise, truth.shape)
    bad = truth + draw.normal(0, noise + difference, truth.shape)
    bad[0] += 30
    good[1] -= 29
    names = np.repeat([f"{n:02d}" for n in range(12)], 40)
    return {
        name: np.stack(
            list(count_by_group(truth.ravel(), predicted.ravel(), names, [], RATINGS).values())
        )
        for name, predicted in (("good", good), ("bad", bad))
    }


def test_the_test_of_ratings_is_of_the_difference_that_is_shown() -> None:
    """The CCC of most speakers is better in one; pooled, two speakers who are far off decide."""
    sums = rated(difference=0.5, noise=0.5)
    each = {name: RATINGS.first(of) for name, of in sums.items()}
    assert np.sum(each["good"][2:] > each["bad"][2:]) == 10  # by these alone p would be 0.002
    (comparison,) = compare(sums, RATINGS)
    assert comparison.difference.low < 0 < comparison.difference.high
    assert comparison.p > 0.3


def test_p_of_ratings_does_not_depend_on_rounding() -> None:
    sums = rated(difference=0.5, noise=0.5)
    (comparison,) = compare(sums, RATINGS)
    (other,) = compare({name: of * (1 + 1e-14) for name, of in sums.items()}, RATINGS)
    assert other.p == comparison.p
    (same,) = compare({"a": sums["good"], "b": sums["good"] * (1 + 1e-15)}, RATINGS)
    assert same.p == 1


def test_no_p_is_below_the_stated_minimum() -> None:
    for n in (5, 8, 15, 16, 24):
        counts = speakers(list(np.linspace(0.4, 0.8, n)))
        p = swap_p(counts, with_extra_errors(counts, list(range(n))))
        assert p == least_swap_p(n) if n <= 15 else least_swap_p(n) <= p < 1e-3


def clips_of(n: int, each: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Speakers and random labels of n times each clips, and the generator."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"{number:02d}" for number in range(n)], each)
    return names, rng.choice(LABELS, n * each), rng


def test_predictions_unrelated_to_the_truth_are_no_better_than_chance() -> None:
    p_values = []
    for seed in range(60):
        names, truth, rng = clips_of(6, 12, seed)
        p_values.append(chance_p(truth, rng.choice(LABELS, 72), names, LABELS))
    assert np.mean(np.array(p_values) <= 0.05) < 0.12
    assert 0.35 < np.mean(p_values) < 0.65
    names, truth, rng = clips_of(6, 12, 0)
    predicted = np.where(rng.random(72) < 0.5, truth, rng.choice(LABELS, 72))
    assert chance_p(truth, predicted, names, LABELS) < 0.001
    assert chance_p(truth, predicted, names, LABELS) == chance_p(truth, predicted, names, LABELS)


def test_p_against_chance_is_that_of_scipys_permutation_test() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1, 2])
    predicted = np.array([0, 0, 1, 1, 1, 2, 2])

    def uar(permuted: np.ndarray) -> float:
        return float(scores_of(confusion(permuted, predicted, range(3))).uar)

    expected = scipy.stats.permutation_test(
        (truth,), uar, permutation_type="pairings", alternative="greater", n_resamples=np.inf,
        vectorized=False,
    ).pvalue  # fmt: skip
    p = chance_p(truth.astype(str), predicted.astype(str), np.full(7, "a"), ["0", "1", "2"])
    assert 0.01 < expected < 0.5
    assert p == pytest.approx(expected, abs=4 * np.sqrt(expected / 4999))


def test_knowing_the_speaker_scores_at_chance() -> None:
    """Each speaker has mostly one label, which a head that recognises speakers always predicts."""
    names, truth, rng = clips_of(12, 20, 1)
    usual = np.repeat(rng.choice(LABELS, 12), 20)
    truth = np.where(rng.random(240) < 0.7, usual, truth)
    assert scores_of(confusion(truth, usual, LABELS)).uar > 0.6
    assert chance_p(truth, usual, names, LABELS) == 1


def test_speakers_of_one_label_each_exchange_it() -> None:
    """With three against three, one of twenty ways to assign it is as good as all right."""
    names, _, _ = clips_of(6, 10, 0)
    truth = np.repeat(["f", "m", "f", "m", "f", "m"], 10)
    p = chance_p(truth, truth, names, ["f", "m"])
    assert p == pytest.approx(1 / 20, abs=0.015)
    truth[0] = "m"  # one clip of one speaker does not make it a test within speakers
    assert chance_p(truth, truth, names, ["f", "m"]) < 0.1
    one = np.full(60, "f")
    assert np.isnan(chance_p(one, one, names, ["f", "m"]))
    pair = np.repeat(["f", "m"], 30)  # of two speakers
    assert chance_p(pair, pair, pair, ["f", "m"]) == pytest.approx(0.5, abs=0.05)


def test_ratings_are_tested_against_chance_too() -> None:
    names, _, rng = clips_of(8, 15, 2)
    truth = rng.normal(size=120) + np.repeat(rng.normal(0, 3, 8), 15)
    level = np.repeat([truth[names == name].mean() for name in np.unique(names)], 15)
    assert chance_p(truth, truth + rng.normal(size=120), names, [], RATINGS) < 0.001
    assert RATINGS.first_of(truth, level) > 0.8
    assert chance_p(truth, level, names, [], RATINGS) == 1
    assert np.isnan(chance_p(np.ones(120), truth, names, [], RATINGS))
    each_once = np.array([f"{n:03d}" for n in range(120)])  # one clip of each speaker
    assert chance_p(truth, level, each_once, [], RATINGS) < 0.001


@pytest.mark.parametrize("origin", [1e6, -1e9])
def test_scores_of_ratings_do_not_depend_on_the_origin_of_the_scale(origin: float) -> None:
    names, _, rng = clips_of(8, 15, 3)
    truth = rng.normal(size=120)
    predicted = 0.5 * truth + rng.normal(size=120)
    assert RATINGS.first_of(truth + origin, predicted + origin) == pytest.approx(
        RATINGS.first_of(truth, predicted), abs=1e-6
    )
    near, far = (
        np.stack(list(count_by_group(truth + to, predicted + to, names, [], RATINGS).values()))
        for to in (0.0, origin)
    )
    for key, expected in intervals(near, RATINGS).items():
        interval = intervals(far, RATINGS)[key]
        assert (interval.value, interval.low, interval.high) == pytest.approx(
            (expected.value, expected.low, expected.high), abs=1e-5
        )
    constant = np.full(120, truth.mean() + origin) + 1e-13 * rng.normal(size=120)
    scored = RATINGS.score(RATINGS.count(*RATINGS.centre(truth + origin, constant), []))
    assert scored["ccc"] == pytest.approx(0, abs=1e-6)
    assert np.isnan(scored["pearson"])


def test_equal_predictions_do_not_differ() -> None:
    same = speakers([0.2, 0.5, 0.9, 0.4, 0.6])
    (comparison,) = compare({"a": same, "b": same.copy()})
    assert (comparison.p, comparison.p_holm, comparison.difference.value) == (1, 1, 0)


def test_holms_correction_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03])), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm(np.array([0.5, 0.6])), [1, 1])
    p = np.array([0.02, 0.2, 0.001, 0.04])
    assert (holm(p) >= p).all()


def test_only_the_requested_pairs_are_corrected_for() -> None:
    draw = np.random.default_rng(3)
    each = {name: speakers(list(draw.uniform(0.4, 0.9, 10))) for name in "abc"}
    assert [(c.first, c.second) for c in compare(each)] == [("a", "b"), ("a", "c"), ("b", "c")]
    (one,) = compare(each, pairs=[("c", "a")])
    assert (one.first, one.second) == ("c", "a")
    assert one.p == one.p_holm
