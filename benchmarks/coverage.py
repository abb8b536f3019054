"""How often 95 % intervals hold the score of the population that speakers are drawn from.

    python benchmarks/coverage.py
    python benchmarks/coverage.py --repeat 4000 --seed 1

Simulates speakers and their predictions, and compares the percentile bootstrap over speakers with
the intervals of serpipe.pipeline.statistics: the share of simulations in which the interval holds
the true score, and in brackets the median width (UAR in points). Simulations in which a method
gives no interval are left out, and their share is printed.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from serpipe.pipeline.measures import LABELS, RATINGS, Measure, score_ratings
from serpipe.pipeline.statistics import Interval, compare, intervals

SPEAKERS = (5, 6, 8, 10, 15, 24, 50)
N_LABELS = 4
DRAWS = 1000
Sums = NDArray[Any]
Draw = Callable[[np.random.Generator, int], Sums]


def labelled(
    rng: np.random.Generator,
    n: int,
    *,
    skill: tuple[float, float] = (6, 4),
    uneven: float = 0,
    holders: int | None = None,
) -> Sums:
    """Draw counts of speakers, shape (n, labels, labels).

    Parameters
    ----------
    skill : (float, float)
        Of the beta distribution of the recall of a speaker; that of each label varies around it.
    uneven : float
        Standard deviation of the logarithm of the number of clips.
    holders : int, optional
        How many speakers have clips of the first label; all by default.
    """
    of_speaker = rng.beta(*skill, (n, 1))
    recall = rng.beta(40 * of_speaker, 40 * (1 - of_speaker) + 1e-9, (n, N_LABELS))
    clips = np.maximum(1, rng.lognormal(np.log(12), uneven, (n, 1)).round().astype(int))
    clips = np.repeat(clips, N_LABELS, axis=1)
    clips[holders or n :, 0] = 0
    right = rng.binomial(clips, recall)
    counts = np.zeros((n, N_LABELS, N_LABELS), int)
    label = np.arange(N_LABELS)
    counts[:, label, label] = right
    counts[:, label, (label + 1) % N_LABELS] = clips - right
    return counts


def rated(rng: np.random.Generator, n: int, *, noise: float = 1) -> Sums:
    """Draw sums of ratings of speakers, who differ in bias and noise, shape (n, 7)."""
    truth = rng.normal(0, 0.5, (n, 1)) + rng.normal(size=(n, 15))
    spread = noise * rng.lognormal(0, 0.4, (n, 1))
    predicted = 0.7 * truth + rng.normal(0, 0.4, (n, 1)) + spread * rng.normal(size=(n, 15))
    return RATINGS.count(truth, predicted, ())


def differing(rng: np.random.Generator, n: int, *, share: float) -> Sums:
    """Draw two sets of counts that differ for a share of the speakers, shape (2, n, 4, 4)."""
    first = labelled(rng, n)
    second = first.copy()
    label = np.arange(N_LABELS)
    moved = rng.binomial(first[:, label, label], 0.3) * (rng.random((n, 1)) < share)
    second[:, label, label] -= moved
    second[:, label, (label + 1) % N_LABELS] += moved
    return np.stack([first, second])


def resample(sums: Sums, rng: np.random.Generator) -> Sums:
    """Return the sums of speakers drawn with replacement."""
    n = len(sums)
    times = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS)
    return (times @ sums.reshape(n, -1)).reshape(DRAWS, *sums.shape[1:])


def bootstrap(sums: Sums, measure: Measure, rng: np.random.Generator) -> Interval:
    """Return the percentile interval of the first score."""
    drawn = measure.first(resample(sums, rng))
    return Interval(np.nan, *np.nanpercentile(drawn, [2.5, 97.5]).tolist())


def bootstrap_difference(sums: Sums, measure: Measure, rng: np.random.Generator) -> Interval:
    """Return the percentile interval of the difference of two first scores."""
    both = resample(np.moveaxis(sums, 0, 1), rng)
    drawn = measure.first(both[:, 0]) - measure.first(both[:, 1])
    return Interval(np.nan, *np.nanpercentile(drawn, [2.5, 97.5]).tolist())


def jackknife(sums: Sums, measure: Measure, _: np.random.Generator) -> Interval:
    """Return the interval of serpipe."""
    return intervals(sums, measure)[measure.key]


def jackknife_difference(sums: Sums, measure: Measure, _: np.random.Generator) -> Interval:
    """Return the interval of serpipe for a difference."""
    (found,) = compare({"a": sums[0], "b": sums[1]}, measure)
    return found.difference


def true_difference(share: float) -> float:
    """Return the difference of the UAR that :func:`differing` draws from."""
    return 0.3 * 0.6 * share


def true_ccc(noise: float) -> float:
    """Return the CCC that :func:`rated` draws from, over very many speakers."""
    return float(score_ratings(rated(np.random.default_rng(0), 100_000, noise=noise).sum(0))["ccc"])


def measured(found: list[Interval], truth: float, scale: int) -> str:
    """Return the coverage and the median width of some intervals."""
    ends = np.array([(each.low, each.high) for each in found])
    there = ~np.isnan(ends[:, 0])
    if not there.any():
        return "none"
    low, high = ends[there].T
    text = f"{100 * np.mean((low <= truth) & (truth <= high)):.1f}"
    width = scale * np.median(high - low)
    text += f" ({width:.1f})" if scale > 1 else f" ({width:.2f})"
    return text if there.all() else f"{text}, none in {100 * np.mean(~there):.1f} %"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=1000, help="simulations for each row")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    plain = (LABELS, bootstrap, jackknife)
    paired = (LABELS, bootstrap_difference, jackknife_difference)
    settings: list[tuple[str, tuple[int, ...], Draw, float, Any]] = [
        ("UAR 60", SPEAKERS, labelled, 0.6, plain),
        ("UAR 95", SPEAKERS, partial(labelled, skill=(19, 1)), 0.95, plain),
        ("UAR 60, uneven clips", SPEAKERS, partial(labelled, uneven=1), 0.6, plain),
        *(
            (f"UAR 60, a label held by {n}", (24,), partial(labelled, holders=n), 0.6, plain)
            for n in (2, 3, 4, 5)
        ),
        *(
            (f"CCC {true_ccc(noise):.2f}", SPEAKERS, partial(rated, noise=noise), true_ccc(noise),
             (RATINGS, bootstrap, jackknife))
            for noise in (1, 0.3)
        ),
        *(
            (f"UAR difference, {100 * share:.0f} % of speakers differ", (5, 10, 24, 50),
             partial(differing, share=share), true_difference(share), paired)
            for share in (0.2, 0.9)
        ),
    ]  # fmt: skip
    print("| score | speakers | percentile bootstrap | jackknife, Student's t |")
    print("|---|---:|---:|---:|")
    for name, sizes, draw, truth, (measure, *methods) in settings:
        for n in sizes:
            rng = np.random.default_rng([options.seed, n])
            samples = [draw(rng, n) for _ in range(options.repeat)]
            cells = [
                measured([method(sums, measure, rng) for sums in samples], truth, measure.scale)
                for method in methods
            ]
            print(f"| {name} | {n} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
