"""Late fusion: a weighted sum of the log-probabilities of several heads and layers.

The weights of a fold are learnt from the scores that its training clips got in the inner folds,
from heads that were not fitted on their speakers. The test speakers have no part in them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from .calibration import label_weights
from .fit import Choice, HeadFit, Problem, collect_folds
from .folds import Fold
from .heads.fused import log_probabilities, weigh_members
from .heads.head import Head
from .measures import LABELS
from .search import FoldResult, score_inner

#: L2 penalty on the weights, so weak that it only divides a weight among members that are alike.
PENALTY = 0.01
#: Members with less than this share of all weight are dropped.
NEGLIGIBLE = 1e-3

#: A head, by name, on a layer.
Member = tuple[str, str]


def learn_weights(
    members: NDArray[np.float64],
    codes: NDArray[np.intp],
    row_weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
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
    row_weights : ndarray of float64, shape (n_clips,), optional
        As for :func:`~serpipe.pipeline.calibration.label_weights`.

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
    clip_weight = label_weights(codes, row_weights)
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
    members = [(head, layer) for layer in layers for head in fits]
    results, choices = {}, []
    nested: dict[str, FoldResult] = {}
    for fold in [*problem.folds, problem.everybody()]:
        scores = _MemberScores.of(heads, fits, problem, fold, members)
        for layer in layers:
            of_layer = [row for row, (_, own) in enumerate(members) if own == layer]
            results[layer, fold.name], _ = scores.fuse(of_layer)
        nested[fold.name], weights = scores.fuse(range(len(members)))
        by_layer = {
            layer: sum(weight for (_, own), weight in weights.items() if own == layer)
            for layer in layers
        }
        largest = max(layers, key=lambda layer: by_layer[layer])
        # The weights do not sum to 1: they calibrate the fusion as a temperature would.
        (inner_score,) = nested[fold.name].inner
        choices.append(
            Choice(fold.name, largest, {}, inner_score, members=weights, temperature=1.0)
        )
    return collect_folds(problem, layers, choices, results, nested)


@dataclass(frozen=True)
class _MemberScores:
    """Log-probabilities of members in a fold."""

    names: NDArray[np.str_]  #: All labels.
    members: Sequence[Member]
    results: Sequence[FoldResult]
    #: Of training clips, by heads that were not fitted on their speakers, shape (n_members,
    #: n_clips, n_labels), and the labels of these clips as column numbers.
    inner: NDArray[np.float64]
    codes: NDArray[np.intp]
    outer: NDArray[np.float64]  #: Of the test clips, shape (n_members, n_test, n_labels).
    weights: NDArray[np.float64] | None  #: Of the training clips, if they have any.

    @classmethod
    def of(
        cls,
        heads: Mapping[str, type[Head]],
        fits: Mapping[str, HeadFit],
        problem: Problem,
        fold: Fold,
        members: Sequence[Member],
    ) -> Self:
        """Read the scores of the members in a fold."""
        results = [fits[head].results[layer, fold.name] for head, layer in members]
        names = np.array(problem.names)
        codes = np.searchsorted(names, problem.labels[fold.train])
        # Not: clips in no inner fold, and those of a label that only the speakers left out there
        # have.
        tested = ~np.isnan(results[0].inner_scores[np.arange(len(codes)), codes])
        inner, outer = [], []
        for (head, _), result in zip(members, results, strict=True):
            of_training = result.inner_scores[tested].astype(np.float64)
            inner.append(log_probabilities(heads[head], of_training))
            outer.append(log_probabilities(heads[head], result.scores))
        row_weights = None if problem.weights is None else problem.weights[fold.train][tested]
        return cls(
            names, members, results, np.stack(inner), codes[tested], np.stack(outer), row_weights
        )

    def fuse(self, rows: Sequence[int]) -> tuple[FoldResult, dict[Member, float]]:
        """Learn the weights of some of the members, and fuse their scores of the test clips."""
        inner, labels = self.inner[rows], self.names[self.codes]
        weights = learn_weights(inner, self.codes, self.weights)
        scores = weigh_members(self.outer[rows], weights)
        chosen = self.names[weigh_members(inner, weights).argmax(axis=1)]
        fused = FoldResult(
            inner=(score_inner(LABELS, labels, chosen, self.names.tolist(), self.weights),),
            chosen=0,
            inner_not_converged=0,
            predicted=self.names[scores.argmax(axis=1)],
            scores=scores,
            converged=all(self.results[row].converged for row in rows),
        )
        by_row = zip(rows, weights.tolist(), strict=True)
        return fused, {self.members[row]: weight for row, weight in by_row if weight}
