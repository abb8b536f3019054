"""Calibration of heads that are adapted to enrolled clips, on speakers left out.

python benchmarks/enrolment_calibration.py --cache features/cache/sample-whisper-tiny.en.h5

Layer, hyper-parameters, strength and temperatures are chosen inside each fold, as `serpipe fit
--enrol` does. Each test speaker is enrolled with clips drawn at random, and the other clips are
scored. The probabilities of the adapted head are calibrated by the temperature of the head without
enrolment, and by the temperature that was fitted to adapted heads. ECE is the expected calibration
error over 15 equal bins; every label counts alike.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from serpipe.features.cache import open_cache
from serpipe.features.recordings import recordings
from serpipe.pipeline.calibration import apply_temperature, label_weights
from serpipe.pipeline.enrolment import fit_enrolled
from serpipe.pipeline.enrolment_curve import (
    AdaptableHeads,
    EnrolmentFit,
    fit_enrolment,
    fusion_options,
    head_options,
)
from serpipe.pipeline.fit import HeadFit, Problem, fit_head
from serpipe.pipeline.folds import make_split
from serpipe.pipeline.fusion import fuse_heads
from serpipe.pipeline.heads import find_heads
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.probability_scores import calibration_error
from serpipe.provenance import cores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--head", default="lda,svm")
    parser.add_argument("--layers", help="joined by commas; by default all")
    parser.add_argument("--split", default="loso")
    parser.add_argument("--enrol", default="1,2,4,8,16,32", help="numbers of clips")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=cores())
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache)
    labels = cache.clips["emotion"]
    numbers = [int(number) for number in arguments.enrol.split(",")]
    problem = Problem(
        labels,
        cache.clips["speaker"],
        make_split(arguments.split, cache.clips, labels).folds,
        recordings=recordings(cache.clips),
    )
    names = arguments.layers.split(",") if arguments.layers else cache.layers
    layers = {
        layer: np.concatenate([cache.embeddings(layer, each) for each in cache.poolings], axis=1)
        for layer in names
    }
    candidates = [Candidate(layer, (layer,)) for layer in layers]
    heads = {head.name: head for head in find_heads(arguments.head)}
    fits: dict[str, HeadFit] = {}
    for name, head in heads.items():
        fits[name] = fit_head(
            head, head.grid, candidates, lambda c: layers[c.name], problem,
            jobs=arguments.jobs, among_heads=True, keep_scores=True,
        )  # fmt: skip
    options = {name: head_options(heads[name], fit, problem) for name, fit in fits.items()}
    grids = {name: head.grid for name, head in heads.items()}
    fused = fuse_heads(heads, fits, problem)
    options["fuse"] = fusion_options(grids, fits, fused, problem)
    print(
        f"{'head':<5} {'clips':>5} {'UAR':>5} | {'ECE by plain temperature':>24} {'own':>6} | "
        f"{'log-loss by plain temperature':>29} {'own':>6}"
    )
    for name, fit in {**fits, "fuse": fused}.items():
        enrolled = fit_enrolment(
            name, options[name], fit.nested.predicted, candidates, lambda c: layers[c.name],
            problem, numbers, jobs=arguments.jobs,
        )  # fmt: skip
        for number in numbers:
            show(name, number, enrolled, options[name], layers, problem, arguments.draws)


def show(
    name: str,
    number: int,
    enrolled: EnrolmentFit,
    options: Sequence[AdaptableHeads],
    layers: dict[str, NDArray[np.float32]],
    problem: Problem,
    draws: int,
) -> None:
    """Print the row of a head and a number of clips."""
    assert problem.recordings is not None
    names, rng = np.array(problem.names), np.random.default_rng(number)
    probabilities: list[list[NDArray[np.float64]]] = [[], []]
    truths = []
    for fold, choice, option in zip(problem.folds, enrolled.choices, options, strict=False):
        (spec,) = (
            each for each in option.specs if each.is_fusion or each.layers == (choice.layer,)
        )
        head = spec.head(
            {layer: X.shape[1] for layer, X in layers.items()}, problem.seed, for_many_clips=True
        )
        own_temperature = choice.temperatures[enrolled.numbers.index(number)]
        statistics = fit_enrolled(head, spec.join(layers, fold.train), problem, fold.train)
        for speaker in np.unique(problem.speakers[fold.test]):
            own = fold.test[problem.speakers[fold.test] == speaker]
            X, of_clips = spec.join(layers, own), problem.recordings[own]
            for _ in range(draws):
                drawn = rng.permutation(len(own))[:number]
                others = ~np.isin(of_clips, of_clips[drawn])
                if not others.any():
                    continue
                shifted = X[others] - statistics.shift(X[drawn], choice.strength)
                scores = head.decision_scores(shifted)
                truths.append(np.searchsorted(names, problem.labels[own][others]))
                for each, temperature in zip(
                    probabilities, (option.plain.temperature, own_temperature), strict=True
                ):
                    each.append(apply_temperature(scores, temperature, head.scores_are))
    if not truths:
        return
    truth = np.concatenate(truths)
    weights, rows = label_weights(truth), np.arange(len(truth))
    eces, losses = [], []
    for parts in probabilities:
        p = np.concatenate(parts)
        predicted = p.argmax(axis=1)
        is_right = predicted == truth
        eces.append(calibration_error(p[rows, predicted], is_right, weights))
        losses.append(-float(weights @ np.log(np.maximum(p[rows, truth], 1e-12))))
    print(
        f"{name:<5} {number:>5} {100 * float(weights @ is_right):>5.1f} | {eces[0]:>24.3f} "
        f"{eces[1]:>6.3f} | {losses[0]:>29.3f} {losses[1]:>6.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
