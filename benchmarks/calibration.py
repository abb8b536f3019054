"""Expected calibration error of the probabilities of each head, on speakers left out.

python benchmarks/calibration.py --cache features/cache/sample-whisper-tiny.en.h5

Leave one speaker out. Layer and hyper-parameters are chosen inside each fold, as `serpipe fit`
does; the head is then fitted as a bundle is, calibration included, and gives probabilities for the
clips of the speaker left out. Clips are sorted into 15 equal bins by the probability of the
predicted label (Guo et al. 2017, *On calibration of modern neural networks*): the error is the mean
over clips of the distance between the mean probability of a bin and its share of right predictions.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from serpipe.features.cache import open_cache
from serpipe.pipeline.fit import Problem, fit_head
from serpipe.pipeline.folds import make_split
from serpipe.pipeline.heads import find_heads
from serpipe.pipeline.layers import Candidate
from serpipe.provenance import cores
from threadpoolctl import threadpool_limits

BINS = 15


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--head", default="lr,svm,svm-linear,lgbm,sgd")
    parser.add_argument("--jobs", type=int, default=cores())
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache)
    labels = cache.clips["emotion"]
    problem = Problem(labels, cache.clips["speaker"], make_split("loso", cache.clips, labels).folds)
    layers = {layer: cache.embeddings(layer, cache.poolings[0]) for layer in cache.layers}
    candidates = [Candidate(layer, (layer,)) for layer in layers]
    names = np.array(problem.names)
    print(f"{'head':<12} {'ECE':>6} {'by chance':>10} {'mean probability':>17} {'share right':>12}")
    for head in find_heads(arguments.head):
        fit = fit_head(
            head, head.grid, candidates, lambda c: layers[c.name], problem, jobs=arguments.jobs
        )
        confidence, right = np.empty(len(labels)), np.empty(len(labels), bool)
        for fold, choice in zip(problem.folds, fit.choices, strict=True):
            X = layers[choice.layer]
            with threadpool_limits(1):
                fitted = head(choice.params, problem.seed).fit(
                    X[fold.train], labels[fold.train], problem.speakers[fold.train]
                )
                predicted = fitted.predict(X[fold.test])
                probability = fitted.predict_proba(X[fold.test])
            place = np.searchsorted(names, predicted)
            confidence[fold.test] = probability[np.arange(len(place)), place]
            right[fold.test] = predicted == labels[fold.test]
        error = expected_calibration_error(confidence, right)
        print(
            f"{head.name:<12} {error:>6.3f} {error_by_chance(confidence):>10.3f} "
            f"{confidence.mean():>17.3f} {right.mean():>12.3f}",
            flush=True,
        )


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean over clips of |probability - share right| of their bin."""
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, confidence - right, BINS)  # times the number of clips in each
    return float(np.abs(gaps).sum() / len(confidence))


def error_by_chance(confidence: NDArray[np.float64], draws: int = 1000) -> float:
    """Return the mean error of as many clips whose probabilities are exactly right.

    It is above zero, as a bin has few clips: an error of this size shows no lack of calibration.
    """
    chance = np.random.default_rng(0)
    errors = [
        expected_calibration_error(confidence, chance.random(len(confidence)) < confidence)
        for _ in range(draws)
    ]
    return float(np.mean(errors))


if __name__ == "__main__":
    main()
