"""Nested cross-validation of one head over candidate layers, on all cores."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import MachineError, first_line
from ..progress import Track, no_track
from .blocks import Matrix, take
from .folds import Fold
from .heads import Classifier, Grid, Head, Point, paths
from .layers import Candidate, learn_weights, weigh
from .search import FoldResult, label_names, search_fold
from .target import stratify

if TYPE_CHECKING:
    from ..cluster import Cluster

#: The fold that trains on everybody and tests nobody: where the final head is chosen. No other fold
#: can have this name.
ALL = ""
#: Results by layer and fold.
Results = Mapping[tuple[str, str], FoldResult]


@dataclass(frozen=True)
class Problem:
    """What is to be learnt, and how it is tested.

    Attributes
    ----------
    labels : ndarray of str or float64, shape (n_clips,)
        What is predicted of all clips: labels or ratings.
    speakers : ndarray of str, shape (n_clips,)
        Of all clips.
    folds : tuple of Fold
        Each clip is tested in exactly one, or only trained on.
    seed : int
        For heads that draw random numbers.
    groups : ndarray of str, shape (n_clips,), optional
        What inner folds keep together; single speakers by default.
    """

    labels: NDArray[Any]
    speakers: NDArray[np.str_]
    folds: tuple[Fold, ...]
    seed: int = 0
    groups: NDArray[np.str_] | None = None

    @property
    def strata(self) -> NDArray[np.str_]:
        """By what folds are balanced: the labels, or fifths of the ratings, shape (n_clips,)."""
        return stratify(self.labels)

    @property
    def kept_together(self) -> NDArray[np.str_]:
        """What inner folds keep together: groups of speakers, or speakers, shape (n_clips,)."""
        return self.speakers if self.groups is None else self.groups

    @property
    def names(self) -> list[str]:
        """The labels that there are, sorted; none of ratings."""
        return label_names(self.labels)

    @property
    def tested(self) -> NDArray[np.intp]:
        """Positions of the clips that are tested: all, but where some are only trained on."""
        return np.sort(np.concatenate([fold.test for fold in self.folds]))

    def everybody(self) -> Fold:
        """Return the fold that trains on all clips that any fold trains on, and tests none.

        Of one fold that names validation clips it is the same but for the test: what is chosen for
        the head that is kept is then what was tested.
        """
        train = np.unique(np.concatenate([fold.train for fold in self.folds]))
        validation = self.folds[0].validation if len(self.folds) == 1 else None
        return Fold(ALL, train, np.arange(0), validation)


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions: each clip by a classifier that was not fitted on its fold.

    Attributes
    ----------
    predicted : ndarray of str or float64, shape (n_tested,)
        The predictions, in the order of the clips.
    scores : ndarray of float64, shape (n_tested, n_labels)
        A score per label; NaN for one that was not among the training clips.
    """

    predicted: NDArray[Any]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """Which layer and hyper-parameters were chosen for a fold, by its training speakers alone.

    Attributes
    ----------
    fold : str
        The fold.
    layer : str
        Name of the candidate.
    point : mapping of str to float
        The hyper-parameters.
    inner_score : float
        First score (UAR, CCC) over the inner folds; NaN where there was nothing to choose.
    head : str
        The head, where it was chosen as well.
    """

    fold: str
    layer: str
    point: Point
    inner_score: float
    head: str = ""


@dataclass(frozen=True)
class HeadFit:
    """Everything that nested cross-validation of one head gave.

    Attributes
    ----------
    nested : Predictions
        Layer and hyper-parameters chosen inside the training speakers of each fold: the result.
    layers : dict of str to Predictions
        Hyper-parameters chosen so, layer held fixed: descriptive.
    choices : tuple of Choice
        What was chosen, a fold at a time.
    final : Choice
        What is chosen by all speakers together, for the head that is kept.
    results : mapping of (str, str) to FoldResult
        By layer and fold.
    """

    nested: Predictions
    layers: dict[str, Predictions]
    choices: tuple[Choice, ...]
    final: Choice
    results: Results


def fit_head(
    head: Head,
    grid: Grid,
    candidates: Sequence[Candidate],
    embeddings: Callable[[Candidate], Matrix],
    problem: Problem,
    *,
    there: Results | None = None,
    keep: Callable[[str, str, FoldResult], None] | None = None,
    jobs: int = 1,
    in_turn: bool = False,
    among_heads: bool = False,
    cluster: "Cluster | None" = None,
    track: Track[Any] = no_track,
) -> HeadFit:
    """Cross-validate a head, choosing its layer and hyper-parameters inside each fold.

    Parameters
    ----------
    head : Head
        The kind of classifier.
    grid : mapping of str to tuple of float
        The values to try for its hyper-parameters.
    candidates : sequence of Candidate
        The layers to choose from.
    embeddings : callable
        From a candidate to its embeddings, as :meth:`Candidate.join` returns them.
    problem : Problem
        Labels, speakers and folds.
    there : mapping of (str, str) to FoldResult, optional
        Results of an earlier run, by layer and fold: these are not computed again.
    keep : callable, optional
        Called with layer, fold and result as soon as each is there.
    jobs : int
        Processes, each with one BLAS thread. The results do not depend on it.
    in_turn : bool
        Whether the embeddings of a candidate are asked for only when the candidates before it are
        done: each may then take the place of the one before.
    among_heads : bool
        Whether a choice among heads will follow: inner scores are then needed even where neither
        layer nor hyper-parameters are chosen.
    cluster : Cluster, optional
        Whose workers do it instead.
    track : callable
        Shows progress.

    Returns
    -------
    HeadFit
    """
    points = [point for path in paths(grid) for point in path]
    choose = among_heads or len(points) * len(candidates) > 1
    results = dict(there or {})
    folds = [*problem.folds, problem.everybody()]
    missing = [
        (candidate, [fold for fold in folds if (candidate.name, fold.name) not in results])
        for candidate in candidates
    ]
    names = [(candidate.name, fold.name) for candidate, left in missing for fold in left]

    def told(found: Iterable[tuple[tuple[str, str], FoldResult]]) -> None:
        for (layer, fold), result in track(
            found, f"{head.title}: fits, one per layer and fold", len(names)
        ):
            results[layer, fold] = result
            if keep:
                keep(layer, fold, result)

    given = (head.name, grid, problem.labels, problem.kept_together, choose, problem.seed)
    if cluster:
        with contextlib.closing(_on_workers(cluster, missing, embeddings, given)) as searched:
            told(searched)
    else:

        def search(candidates: Iterable[tuple[Candidate, Sequence[Fold]]]) -> Iterable[FoldResult]:
            tasks = (
                delayed(_search)(fold, *given, X)
                for candidate, left in candidates
                if left
                for X in (embeddings(candidate),)
                for fold in left
            )
            parallel = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
            return parallel(tasks)  # type: ignore[no-any-return]

        turns = [[each] for each in missing] if in_turn else [missing]
        with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
            found = (result for turn in turns for result in search(turn))
            told(zip(names, found, strict=True))
    layers = [candidate.name for candidate in candidates]
    choices = [_choose(layers, points, results, fold.name) for fold in folds]
    return HeadFit(
        nested=_gather(problem, {c.fold: results[c.layer, c.fold] for c in choices}),
        layers={
            layer: _gather(problem, {fold.name: results[layer, fold.name] for fold in folds})
            for layer in layers
        },
        choices=tuple(choices[:-1]),
        final=choices[-1],
        results=results,
    )


def choose_head(
    fits: Mapping[str, HeadFit], grids: Mapping[str, Grid], problem: Problem
) -> HeadFit:
    """Choose the head as well: of each fold the one with the highest inner score.

    Parameters
    ----------
    fits : mapping of str to HeadFit
        Fits of several heads to the same candidates and folds, with inner scores; of equal scores,
        those of the first head count.
    grids : mapping of str to Grid
        The values that were tried, by name of the head.
    problem : Problem
        Labels, speakers and folds.

    Returns
    -------
    HeadFit
        Its choices name the head. Of a layer held fixed, the head is chosen by the inner scores of
        that layer.
    """
    points = {name: [point for path in paths(grids[name]) for point in path] for name in fits}
    layers = list(next(iter(fits.values())).layers)
    results: dict[tuple[str, str], FoldResult] = {}
    choices = []
    for fold in [*problem.folds, problem.everybody()]:
        chosen: dict[str, Choice] = {}
        for layer in layers:
            options = []
            for name, fit in fits.items():
                result = fit.results[layer, fold.name]
                score = result.inner[result.chosen]
                options.append(
                    Choice(fold.name, layer, points[name][result.chosen], score, head=name)
                )
            chosen[layer] = max(options, key=_inner_score)
            results[layer, fold.name] = fits[chosen[layer].head].results[layer, fold.name]
        choices.append(max(chosen.values(), key=_inner_score))
    return HeadFit(
        nested=_gather(problem, {c.fold: results[c.layer, c.fold] for c in choices}),
        layers={
            layer: _gather(
                problem, {fold.name: results[layer, fold.name] for fold in problem.folds}
            )
            for layer in layers
        },
        choices=tuple(choices[:-1]),
        final=choices[-1],
        results=results,
    )


def _inner_score(choice: Choice) -> float:
    """Return what choices are compared by: a score that is not defined is the least."""
    return -np.inf if np.isnan(choice.inner_score) else choice.inner_score


def fit_final(
    head: Head, point: Point, X: Matrix, problem: Problem
) -> tuple[Classifier, tuple[float, ...]]:
    """Fit a head on all clips: to predict new ones, not to be scored on these.

    Parameters
    ----------
    head : Head
        The kind of classifier.
    point : mapping of str to float
        Its hyper-parameters.
    X : ndarray of float32
        Embeddings as :meth:`Candidate.join` returns them.
    problem : Problem
        Labels and seed.

    Returns
    -------
    classifier : object
        Fitted on all clips.
    weights : tuple of float
        Of the layers, where they were learnt.
    """
    rows = problem.everybody().train
    labels, speakers = problem.labels[rows], problem.kept_together[rows]
    X = take(X, rows)
    weights = np.empty(0)
    with threadpool_limits(1):  # the last digits depend on it
        if X.ndim == 3:
            weights = learn_weights(X, labels)
            X = weigh(X, weights)
        classifier = head.fit_final(X, labels, speakers, point, problem.seed)
    return classifier, tuple(map(float, weights))


def _on_workers(
    cluster: "Cluster",
    missing: Sequence[tuple[Candidate, Sequence[Fold]]],
    embeddings: Callable[[Candidate], Matrix],
    given: tuple[Any, ...],
) -> Generator[tuple[tuple[str, str], FoldResult]]:
    """Search on the workers of a cluster, one layer after another: each has it once."""
    from ..cluster import Failed, run_all

    for candidate, folds in missing:
        if not folds:
            continue
        large = (*given, embeddings(candidate))
        for place, result in run_all(cluster, _search_there, folds, large=large):
            if isinstance(result, Failed):
                raise MachineError(
                    f"--cluster: layer {candidate.name}, fold {folds[place].name} failed too often "
                    f"({first_line(result.error)}); expected it to be fitted; the others are kept: "
                    "run the same command again"
                )
            yield (candidate.name, folds[place].name), result


def _search_there(fold: Fold, given: tuple[Any, ...]) -> FoldResult:
    return _search(fold, *given)


def _search(
    fold: Fold,
    head_name: str,
    grid: Grid,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    choose: bool,
    seed: int,
    X: Matrix,
) -> FoldResult:
    from .heads import HEADS  # by name: what travels to a worker process must be picklable

    head = HEADS[head_name]
    with threadpool_limits(1):  # a worker of a cluster has as many as it likes
        return search_fold(head, grid, X, labels, speakers, fold, choose=choose, seed=seed)


def _choose(layers: Sequence[str], points: Sequence[Point], results: Results, fold: str) -> Choice:
    """Take the layer and point with the highest inner score; the first of several."""
    best = [results[layer, fold].inner[results[layer, fold].chosen] for layer in layers]
    place = 0 if np.isnan(best).all() else int(np.nanargmax(best))
    chosen = results[layers[place], fold].chosen
    return Choice(fold, layers[place], points[chosen], float(best[place]))


def _gather(problem: Problem, by_fold: Mapping[str, FoldResult]) -> Predictions:
    predicted = np.empty_like(problem.labels)
    scores = np.full((len(problem.labels), len(problem.names)), np.nan)
    for fold in problem.folds:
        predicted[fold.test] = by_fold[fold.name].predicted
        scores[fold.test] = by_fold[fold.name].scores
    return Predictions(predicted[problem.tested], scores[problem.tested])
