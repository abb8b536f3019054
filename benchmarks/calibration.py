"""Calibration of the probabilities of each head, on speakers left out.

python benchmarks/calibration.py --cache features/cache/sample-whisper-tiny.en.h5

Leave one speaker out. Layer, hyper-parameters and temperature are chosen inside each fold, as
`serpipe fit` does. `fuse` fuses the heads of --fuse on all layers. ECE is the expected calibration
error over 15 equal bins (Guo et al. 2017, *On calibration of modern neural networks*), before and
after calibration; every label counts alike.
"""

import argparse
from pathlib import Path

import numpy as np
from serpipe.features.cache import open_cache
from serpipe.pipeline.calibration import apply_temperature, label_weights
from serpipe.pipeline.fit import HeadFit, Problem, fit_head
from serpipe.pipeline.folds import make_split
from serpipe.pipeline.fusion import fuse_heads
from serpipe.pipeline.heads import HEADS, find_heads
from serpipe.pipeline.layers import Candidate
from serpipe.pipeline.probability_scores import calibration_error, score_probabilities
from serpipe.provenance import cores


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--head", default="lr,svm,svm-linear,lgbm,sgd,lda")
    parser.add_argument("--fuse", default="lda,svm", help="members, among the heads")
    parser.add_argument("--split", default="loso")
    parser.add_argument("--jobs", type=int, default=cores())
    arguments = parser.parse_args()
    cache = open_cache(arguments.cache)
    labels = cache.clips["emotion"]
    split = make_split(arguments.split, cache.clips, labels)
    problem = Problem(labels, cache.clips["speaker"], split.folds)
    layers = {layer: cache.embeddings(layer, cache.poolings[0]) for layer in cache.layers}
    candidates = [Candidate(layer, (layer,)) for layer in layers]
    print(
        f"{'head':<12} {'ECE before':>11} {'after':>6} {'if exact':>9} {'log-loss before':>16} "
        f"{'after':>6} {'mean probability':>17} {'share right':>12}"
    )
    fits: dict[str, HeadFit] = {}
    for head in find_heads(arguments.head):
        fits[head.name] = fit_head(
            head, head.grid, candidates, lambda c: layers[c.name], problem,
            jobs=arguments.jobs, among_heads=True, keep_scores=True,
        )  # fmt: skip
        show(head.name, head.scores_are, fits[head.name], problem)
    members = {name: HEADS[name] for name in arguments.fuse.split(",") if name in fits}
    if members:
        fused = fuse_heads(members, {name: fits[name] for name in members}, problem)
        show("fuse", "probability", fused, problem)


def show(name: str, scores_are: str, fit: HeadFit, problem: Problem) -> None:
    """Print the row of a head."""
    names = np.array(problem.names)
    truth, predicted = (np.searchsorted(names, y) for y in (problem.labels, fit.nested.predicted))
    before = apply_temperature(fit.nested.scores, 1.0, scores_are)
    after = before.copy()
    for fold, choice in zip(problem.folds, fit.choices, strict=True):
        scores = fit.nested.scores[fold.test]
        after[fold.test] = apply_temperature(scores, choice.temperature, scores_are)
    clips, is_right = np.arange(len(truth)), predicted == truth
    confidence = before[clips, predicted]
    ece_before = calibration_error(confidence, is_right, label_weights(truth))
    scored, scored_before = (
        score_probabilities(each, predicted, truth, problem.speakers) for each in (after, before)
    )
    print(
        f"{name:<12} {ece_before:>11.3f} {scored.ece:>6.3f} {scored.ece_of_exact:>9.3f} "
        f"{scored_before.log_loss.value:>16.3f} {scored.log_loss.value:>6.3f} "
        f"{after[clips, predicted].mean():>17.3f} {is_right.mean():>12.3f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
