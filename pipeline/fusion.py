"""Late fusion: a weighted sum of the log-probabilities of several heads and layers.

The weights of a fold are learnt from the scores that its training clips got in the inner folds,
from heads that were not fitted on their speakers. The test speakers have no part in them.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.utils.class_weight import compute_sample_weight

from .fit import Choice, HeadFit, Problem, collect_folds
from .folds import Fold
from .heads.fused import log_probabilities, weigh_members
from .heads.head import Head
from .measures import MEASURES
from .search import FoldResult

#: L2 penalty on the weights, so weak that it only divides a weight among members that are alike.
PENALTY = 0.01
#: Members with less than this share of all weight are dropped.
NEGLIGIBLE = 1e-3

#: A head, by name, on a layer.
Member = tuple[str, str]


def learn_weights(members: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Learn a weight from 0 upwards for each member, to predict held-out clips.

    Minimises the cross-entropy of the fused probabilities, in which every label counts alike. The
    problem is convex and has nothing to tune. The weights need not sum to 1: a smaller sum makes up
    for members that are too confident.

    Parameters
    ----------
    members : ndarray of float64, shape (n_members, n_clips, n_labels)
        Log-probabilities of clips that the members were not fitted on.
    codes : ndarray of int, shape (n_clips,)
        The label of each clip, as a column number.

    Returns
    -------
    ndarray of float64, shape (n_members,)

    References
    ----------
    Genest & Zidek (1986), *Combining probability distributions*, Statistical Science 1, on the
    logarithmic opinion pool; Breiman (1996), *Stacked regressions*, Machine Learning 24, on
    stacking with weights that are not negative.
    """
    clips = np.arange(len(codes))
    clip_weight = compute_sample_weight("balanced", codes) / len(codes)
    of_truth = members[:, clips, codes] @ clip_weight

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        log_p = log_softmax(np.tensordot(weights, members, axes=1), axis=1)
        expected = np.exp(log_p) * clip_weight[:, None]
        gradient = np.tensordot(members, expected, axes=2) - of_truth + PENALTY * weights
        value = -float(clip_weight @ log_p[clips, codes]) + PENALTY / 2 * float(weights @ weights)
        return value, gradient

    start = np.full(len(members), 1 / len(members))
    bounds = [(0, None)] * len(members)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    weights: NDArray[np.float64] = found.x
    weights[weights < NEGLIGIBLE * weights.sum()] = 0
    if not weights.any():  # nothing is known: an average with nearly uniform probabilities
        weights[:] = NEGLIGIBLE / len(weights)
    return weights


def fuse_heads(
    heads: Mapping[str, type[Head]], fits: Mapping[str, HeadFit], problem: Problem
) -> HeadFit:
    """Fuse all layers of all heads, with weights learnt inside each fold.

    Parameters
    ----------
    heads : mapping of str to subclass of Head
        By name.
    fits : mapping of str to HeadFit
        Their fits to the same candidates and folds, with inner scores of the clips.
    problem : Problem
        Labels and folds.

    Returns
    -------
    HeadFit
        With the layer held fixed, the heads are fused on that layer. The choices list the members
        with their weights; the layer of a choice is that of the largest weight.
    """
    layers = list(next(iter(fits.values())).layers)
    everything = [(head, layer) for layer in layers for head in fits]
    results, choices = {}, []
    nested: dict[str, FoldResult] = {}
    for fold in [*problem.folds, problem.everybody()]:
        for layer in layers:
            of_layer = [member for member in everything if member[1] == layer]
            results[layer, fold.name], _ = _fuse_fold(heads, fits, problem, fold, of_layer)
        result, weights = _fuse_fold(heads, fits, problem, fold, everything)
        nested[fold.name] = result
        by_layer = {
            layer: sum(weight for (_, of), weight in weights.items() if of == layer)
            for layer in layers
        }
        largest = max(layers, key=lambda layer: by_layer[layer])
        # The weights do not sum to 1: they calibrate the fusion as a temperature would.
        choices.append(
            Choice(fold.name, largest, {}, result.inner[0], members=weights, temperature=1.0)
        )
    return collect_folds(problem, layers, choices, results, nested)


def _fuse_fold(
    heads: Mapping[str, type[Head]],
    fits: Mapping[str, HeadFit],
    problem: Problem,
    fold: Fold,
    members: Sequence[Member],
) -> tuple[FoldResult, dict[Member, float]]:
    """Learn the weights of some members in a fold, and fuse their scores of its test clips."""
    results = [fits[head].results[layer, fold.name] for head, layer in members]
    names = np.array(problem.names)
    codes = np.searchsorted(names, problem.labels[fold.train])
    # Not: clips in no inner fold, and those of a label that only the speakers left out there have.
    tested = ~np.isnan(results[0].inner_scores[np.arange(len(codes)), codes])
    labels, codes = names[codes[tested]], codes[tested]
    inner = np.stack(
        [
            log_probabilities(heads[head], result.inner_scores[tested].astype(np.float64))
            for (head, _), result in zip(members, results, strict=True)
        ]
    )
    weights = learn_weights(inner, codes)
    outer = np.stack(
        [
            log_probabilities(heads[head], result.scores)
            for (head, _), result in zip(members, results, strict=True)
        ]
    )
    scores = weigh_members(outer, weights)
    chosen = names[weigh_members(inner, weights).argmax(axis=1)]
    fused = FoldResult(
        inner=(MEASURES["classification"].first_of(labels, chosen, problem.names),),
        chosen=0,
        inner_not_converged=0,
        predicted=names[scores.argmax(axis=1)],
        scores=scores,
        converged=all(result.converged for result in results),
    )
    shares = zip(members, weights.tolist(), strict=True)
    return fused, {member: weight for member, weight in shares if weight}
