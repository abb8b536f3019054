"""Predict perturbed copies of the test clips of each fold, by the head that was fitted there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..progress import Track, no_track
from .fit import Problem
from .folds import Fold
from .heads import FUSE, HEADS, Params
from .heads.fused import log_probabilities, weigh_members
from .layers import Candidate, weigh
from .search import all_columns, prepare_fits


@dataclass(frozen=True)
class Member:
    """A head on a layer, with the hyper-parameters that were chosen for it in a fold.

    Attributes
    ----------
    head, layer : str
        Names of the head and of the candidate.
    params : mapping of str to float
        The hyper-parameters.
    weight : float
        Its weight in a fusion.
    """

    head: str
    layer: str
    params: Params
    weight: float = 1.0


#: The members of a head by fold: one, or those of a fusion.
Members = Mapping[str, Sequence[Member]]


@dataclass(frozen=True)
class _Result:
    """Predictions, shape (n_copies, n_test), and scores, shape (n_copies, n_test, n_labels)."""

    predicted: NDArray[Any]
    scores: NDArray[np.float64]


def predict_copies(
    heads: Mapping[str, Members],
    candidates: Sequence[Candidate],
    embeddings: Callable[[Candidate], NDArray[np.float32]],
    copies: Callable[[Candidate], Sequence[NDArray[np.float32]]],
    problem: Problem,
    *,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> dict[str, list[NDArray[Any]]]:
    """Fit the heads of each fold again, and predict copies of its test clips.

    Parameters
    ----------
    heads : mapping of str to mapping
        By name of the head, what it consists of in each fold.
    candidates : sequence of Candidate
        The layers of the run.
    embeddings : callable
        From a candidate to the embeddings that the run was fitted on, as
        :func:`~serpipe.pipeline.fit.fit_head` takes them.
    copies : callable
        From a candidate to the embeddings of each set of copies of all clips, in their order.
    problem : Problem
        Labels, speakers and folds.
    jobs : int
        Number of processes.
    track : callable
        Shows progress.

    Returns
    -------
    dict of str to list of ndarray of str or float64, shape (n_tested,)
        By head, the predictions for each set of copies, in the order of the tested clips.
    """
    fits = {
        (candidate.name, fold.name, member.head): (candidate, fold, member)
        for candidate in candidates
        for fold in problem.folds
        for members in heads.values()
        for member in members[fold.name]
        if member.layer == candidate.name
    }

    def tasks() -> Iterator[Any]:
        for candidate, of_layer in groupby(fits.values(), key=lambda fit: fit[0]):
            X, copied = embeddings(candidate), np.stack(copies(candidate))
            for _, fold, member in of_layer:
                tested = copied[..., fold.test, :]
                yield delayed(_fit_and_predict)(fold, member, problem, X, tested)

    parallel = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
    with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
        computed = track(parallel(tasks()), "fits, one per head, layer and fold", len(fits))
        results: dict[tuple[str, str, str], _Result] = dict(zip(fits, computed, strict=True))
    n_copies = len(next(iter(results.values())).predicted)
    predicted = {}
    for name, members in heads.items():
        all_clips = np.empty((n_copies, len(problem.labels)), problem.labels.dtype)
        for fold in problem.folds:
            of_fold = members[fold.name]
            of_members = [results[each.layer, fold.name, each.head] for each in of_fold]
            all_clips[:, fold.test] = _combine(problem, name, of_fold, of_members)
        predicted[name] = list(all_clips[:, problem.tested])
    return predicted


def _combine(
    problem: Problem, name: str, members: Sequence[Member], results: Sequence[_Result]
) -> NDArray[Any]:
    """Return the predictions of a head in a fold, shape (n_copies, n_test)."""
    if name != FUSE:
        (single,) = results
        return single.predicted
    weights = np.array([member.weight for member in members])
    log_p = np.stack(
        [
            log_probabilities(HEADS[member.head], result.scores.reshape(-1, len(problem.names)))
            for member, result in zip(members, results, strict=True)
        ]
    )
    chosen = weigh_members(log_p, weights).argmax(axis=1)
    predicted: NDArray[Any] = np.array(problem.names)[chosen]
    return predicted.reshape(results[0].predicted.shape)


def _fit_and_predict(
    fold: Fold,
    member: Member,
    problem: Problem,
    X: NDArray[np.float32],
    tested: NDArray[np.float32],
) -> _Result:
    """Fit a member to the training clips of a fold, as the run did, and predict copies.

    ``tested`` has the embeddings of the test clips, shape (n_copies, n_test, n_features), or
    (n_copies, n_layers, n_test, n_features) where the weights of layers are learnt.
    """
    with threadpool_limits(1):  # the last digits depend on it
        fit_path, y, _, weights = prepare_fits(
            HEADS[member.head],
            X,
            problem.labels,
            problem.kept_together,
            fold.train,
            problem.seed,
            problem.weights,
        )
        if weights:
            tested = np.stack([weigh(each, np.array(weights)) for each in tested])
        stacked = tested.reshape(-1, tested.shape[-1])
        result = next(fit_path(np.arange(len(y)), stacked, [member.params]))
    shape = tested.shape[:2]
    scores = all_columns(result.scores, y, problem.names)
    return _Result(result.predicted.reshape(shape), scores.reshape(*shape, len(problem.names)))
