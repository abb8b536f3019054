"""Nested cross-validation of one head over candidate layers, on all cores."""

import contextlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import MachineError, UserError, first_line
from ..progress import Track, no_track
from .augmentation import count_copies, with_copies
from .blocks import FileMatrix, Matrix, take
from .folds import Fold, omit_from_tests
from .heads import HEADS, Grid, Head, Params, combinations
from .layers import Candidate, learn_weights, weigh
from .search import FoldResult, label_names, search_fold, weight_argument
from .target import stratify

if TYPE_CHECKING:
    from ..cluster import Cluster

#: The fold that trains on all clips and tests none, in which the final head is chosen. No other
#: fold can have this name.
ALL = ""
#: Results by layer and fold.
Results = Mapping[tuple[str, str], FoldResult]


@dataclass(frozen=True)
class Problem:
    """What is to be learnt, and how it is tested.

    Attributes
    ----------
    labels : ndarray of str or float64, shape (n_clips,)
        Labels or ratings of all clips.
    speakers : ndarray of str, shape (n_clips,)
        Speakers of all clips.
    folds : tuple of Fold
        Each clip is tested in exactly one, or only trained on.
    seed : int
        For heads that draw random numbers.
    groups : ndarray of str, shape (n_clips,), optional
        What inner folds keep together; single speakers by default.
    held_out : ndarray of int, shape (n_clips,), optional
        The part of a column that each clip belongs to, where folds hold out the column as well.
    recordings : ndarray of str, shape (n_clips,), optional
        The recording of each clip, equal for copies; by default no two clips are copies.
    weights : ndarray of float64, shape (n_clips,), optional
        Where heads are trained on the labels of several raters: the weight of each row. A clip then
        has a row for each label that it was given, of which the first is tested; the rows that are
        only trained on come after those of all clips. See
        :func:`~serpipe.pipeline.votes.train_on_votes`.
    once : ndarray of bool, shape (n_clips,), optional
        Which rows are the first of a clip, where there are weights.
    ties : ndarray of bool, shape (n_clips,), optional
        Clips that are predicted, but have no majority of raters to be tested against.
    """

    labels: NDArray[Any]
    speakers: NDArray[np.str_]
    folds: tuple[Fold, ...]
    seed: int = 0
    groups: NDArray[np.str_] | None = None
    held_out: NDArray[np.intp] | None = None
    recordings: NDArray[np.str_] | None = None
    weights: NDArray[np.float64] | None = None
    once: NDArray[np.bool_] | None = None
    ties: NDArray[np.bool_] | None = None

    @property
    def strata(self) -> NDArray[np.str_]:
        """What folds are stratified by: labels or fifths of the ratings, shape (n_clips,)."""
        return stratify(self.labels)

    @property
    def kept_together(self) -> NDArray[np.str_]:
        """What inner folds keep together: groups of speakers, or speakers, shape (n_clips,)."""
        return self.speakers if self.groups is None else self.groups

    @property
    def names(self) -> list[str]:
        """The distinct labels, sorted; empty for ratings."""
        return label_names(self.labels)

    @property
    def tested(self) -> NDArray[np.intp]:
        """Row numbers of the clips that are tested: all, unless some are only trained on."""
        rows = np.sort(np.concatenate([fold.test for fold in self.folds]))
        return rows if self.ties is None else rows[~self.ties[rows]]

    @property
    def folds_of_clips(self) -> tuple[Fold, ...]:
        """The folds with one row for each clip, for what is not trained with weights.

        Clips without a majority are not in their test.
        """
        folds = self.folds if self.ties is None else omit_from_tests(self.folds, self.ties)
        if self.once is None:
            return folds
        return tuple(replace(fold, train=fold.train[self.once[fold.train]]) for fold in folds)

    def everybody(self) -> Fold:
        """Return a fold that trains on all clips that any fold trains on, and tests none.

        If the split has a single fold with validation clips, this is that fold without its test
        clips: the head that is kept then has the parameters that were tested.
        """
        train = np.unique(np.concatenate([fold.train for fold in self.folds]))
        validation = self.folds[0].validation if len(self.folds) == 1 else None
        held_out = None if self.held_out is None else self.held_out[train]
        return Fold(ALL, train, np.arange(0), validation, held_out)


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions: each clip by a head that was not fitted on its fold.

    Attributes
    ----------
    predicted : ndarray of str or float64, shape (n_tested,)
        The predictions, in the order of the clips.
    scores : ndarray of float64, shape (n_tested, n_labels)
        A score per label; NaN for a label that no training clip has.
    """

    predicted: NDArray[Any]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """The layer and hyper-parameters chosen for a fold, from its training speakers alone.

    Attributes
    ----------
    fold : str
        The fold.
    layer : str
        Name of the candidate.
    params : mapping of str to float
        The hyper-parameters.
    inner_score : float
        First score (UAR, CCC) over the inner folds; NaN where there was nothing to choose.
    head : str
        The head, where it was chosen as well.
    members : mapping of (str, str) to float
        For a fusion: the weight of each head on each layer.
    temperature : float
        What calibrates the scores; NaN where they are not calibrated.
    """

    fold: str
    layer: str
    params: Params
    inner_score: float
    head: str = ""
    members: Mapping[tuple[str, str], float] = field(default_factory=dict)
    temperature: float = math.nan


@dataclass(frozen=True)
class HeadFit:
    """The results of nested cross-validation of one head.

    Attributes
    ----------
    nested : Predictions
        Layer and hyper-parameters chosen among the training speakers of each fold: the main result.
    layers : dict of str to Predictions
        Hyper-parameters chosen likewise, with the layer held fixed: descriptive.
    choices : tuple of Choice
        What was chosen in each fold.
    final : Choice
        What is chosen on all speakers together, for the head that is kept.
    results : mapping of (str, str) to FoldResult
        By layer and fold.
    ties : Predictions, optional
        As ``nested``, of the clips that are predicted and have no majority of raters.
    """

    nested: Predictions
    layers: dict[str, Predictions]
    choices: tuple[Choice, ...]
    final: Choice
    results: Results
    ties: Predictions | None = None


def fit_head(
    head: type[Head],
    grid: Grid,
    candidates: Sequence[Candidate],
    embeddings: Callable[[Candidate], Matrix],
    problem: Problem,
    *,
    earlier: Results | None = None,
    on_result: Callable[[str, str, FoldResult], None] | None = None,
    jobs: int = 1,
    one_layer_at_a_time: bool = False,
    among_heads: bool = False,
    keep_scores: bool = False,
    cluster: "Cluster | None" = None,
    track: Track[Any] = no_track,
) -> HeadFit:
    """Cross-validate a head, choosing its layer and hyper-parameters inside each fold.

    Parameters
    ----------
    head : subclass of Head
        What to fit.
    grid : mapping of str to tuple of float
        The values to try for its hyper-parameters.
    candidates : sequence of Candidate
        The layers to choose from.
    embeddings : callable
        From a candidate to its embeddings, as :meth:`Candidate.join` returns them, and those of
        copies after them, see :mod:`.augmentation`.
    problem : Problem
        Labels, speakers and folds.
    earlier : mapping of (str, str) to FoldResult, optional
        Results of a run that was stopped, by layer and fold: these are not computed again.
    on_result : callable, optional
        Called with layer, fold and each result as soon as it is computed.
    jobs : int
        Processes, each with one BLAS thread. The results do not depend on it.
    one_layer_at_a_time : bool
        Whether the embeddings of a candidate are requested only when the candidates before it are
        done, so that each may overwrite those of the one before.
    among_heads : bool
        Whether a choice among heads will follow: inner scores are then needed even where neither
        layer nor hyper-parameters are chosen.
    keep_scores : bool
        Whether the results hold the scores of the training clips by the inner folds.
    cluster : Cluster, optional
        Fit on its workers instead.
    track : callable
        Shows progress.

    Returns
    -------
    HeadFit
    """
    params = combinations(grid)
    choose = among_heads or len(params) * len(candidates) > 1
    results = dict(earlier or {})
    folds = [*problem.folds, problem.everybody()]
    missing = [
        (candidate, [fold for fold in folds if (candidate.name, fold.name) not in results])
        for candidate in candidates
    ]
    keys = [(candidate.name, fold.name) for candidate, todo in missing for fold in todo]

    def collect(computed: Iterable[tuple[tuple[str, str], FoldResult]]) -> None:
        title = f"{head.title}: fits, one per layer and fold"
        for (layer, fold), result in track(computed, title, len(keys)):
            results[layer, fold] = result
            if on_result:
                on_result(layer, fold, result)

    task = (
        head.name,
        grid,
        problem.labels,
        problem.kept_together,
        choose,
        problem.seed,
        keep_scores,
        problem.weights,
    )
    if cluster:
        with contextlib.closing(_on_workers(cluster, missing, embeddings, task)) as computed:
            collect(computed)
    else:

        def search(candidates: Iterable[tuple[Candidate, Sequence[Fold]]]) -> Iterable[FoldResult]:
            tasks = (
                delayed(_search)(fold, *task, X)
                for candidate, todo in candidates
                if todo
                for X in (embeddings(candidate),)
                for fold in todo
            )
            parallel = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
            return parallel(tasks)  # type: ignore[no-any-return]

        batches = [[each] for each in missing] if one_layer_at_a_time else [missing]
        with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
            in_order = (result for batch in batches for result in search(batch))
            collect(zip(keys, in_order, strict=True))
    layers = [candidate.name for candidate in candidates]
    choices = [_choose(layers, params, results, fold.name) for fold in folds]
    return collect_folds(problem, layers, choices, results)


def choose_head(
    fits: Mapping[str, HeadFit], grids: Mapping[str, Grid], problem: Problem
) -> HeadFit:
    """Choose the head as well: in each fold the one with the highest inner score.

    Parameters
    ----------
    fits : mapping of str to HeadFit
        Fits of several heads to the same candidates and folds, with inner scores; among equal
        scores, the first head is chosen.
    grids : mapping of str to Grid
        The values that were tried, by name of the head.
    problem : Problem
        Labels, speakers and folds.

    Returns
    -------
    HeadFit
        Its choices name the head. With the layer held fixed, the head is chosen by the inner scores
        of that layer.
    """
    params = {name: combinations(grids[name]) for name in fits}
    layers = list(next(iter(fits.values())).layers)
    results: dict[tuple[str, str], FoldResult] = {}
    choices = []
    for fold in [*problem.folds, problem.everybody()]:
        by_layer: list[Choice] = []
        for layer in layers:
            options = []
            for name, fit in fits.items():
                result = fit.results[layer, fold.name]
                score, chosen = result.inner[result.chosen], params[name][result.chosen]
                options.append(
                    Choice(
                        fold.name, layer, chosen, score, head=name, temperature=result.temperature
                    )
                )
            by_layer.append(max(options, key=_inner_score))
            results[layer, fold.name] = fits[by_layer[-1].head].results[layer, fold.name]
        choices.append(max(by_layer, key=_inner_score))
    return collect_folds(problem, layers, choices, results)


def _inner_score(choice: Choice) -> float:
    """Return what choices are compared by: an undefined score is the lowest."""
    return -np.inf if np.isnan(choice.inner_score) else choice.inner_score


def fit_final(
    head: type[Head], params: Params, X: Matrix, problem: Problem
) -> tuple[Head, tuple[float, ...]]:
    """Fit a head on all clips: to predict new ones, not to be scored on these.

    Parameters
    ----------
    head : subclass of Head
        What to fit.
    params : mapping of str to float
        Its hyper-parameters.
    X : ndarray of float32
        Embeddings as :meth:`Candidate.join` returns them, and those of copies after them, see
        :mod:`.augmentation`.
    problem : Problem
        Labels and seed.

    Returns
    -------
    fitted : Head
        Fitted on all clips.
    weights : tuple of float
        Layer weights, where they were learnt.
    """
    rows = training_rows(X, problem)
    clips = rows % len(problem.labels)
    labels, speakers = problem.labels[clips], problem.kept_together[clips]
    X = take(X, rows)
    weights = np.empty(0)
    weighted = weight_argument(problem.weights, clips)
    with threadpool_limits(1):  # the last digits depend on it
        if X.ndim == 3:
            weights = learn_weights(X, labels, weighted.get("weights"))
            X = weigh(X, weights)
        fitted = head(params, problem.seed).fit(X, labels, speakers, **weighted)
    return fitted, tuple(map(float, weights))


def training_rows(X: Matrix, problem: Problem) -> NDArray[np.intp]:
    """Return the row numbers of all training clips, followed by those of their copies.

    A row number modulo the number of clips is that of the clip itself.
    """
    n_clips = len(problem.labels)
    return with_copies(problem.everybody().train, n_clips, count_copies(X, problem.labels))


def _on_workers(
    cluster: "Cluster",
    missing: Sequence[tuple[Candidate, Sequence[Fold]]],
    embeddings: Callable[[Candidate], Matrix],
    task: tuple[Any, ...],
) -> Generator[tuple[tuple[str, str], FoldResult]]:
    """Search on the workers of a cluster, one layer after another.

    Each worker is sent a layer once, or reads it from a file that the workers share.
    """
    from ..cluster import Failed, run_all

    for candidate, folds in missing:
        if not folds:
            continue
        large = (*task, embeddings(candidate))
        for index, result in run_all(cluster, _search_there, folds, large=large):
            if isinstance(result, Failed):
                raise MachineError(
                    f"--cluster: layer {candidate.name}, fold {folds[index].name} failed too often "
                    f"({first_line(result.error)}); the results of the others are kept: "
                    "run the same command again"
                )
            yield (candidate.name, folds[index].name), result


def _search_there(fold: Fold, task: tuple[Any, ...]) -> FoldResult:
    *_, X = task
    if isinstance(X, FileMatrix) and not X.is_on_this_machine:
        from distributed import get_worker

        raise UserError(
            f"--cluster: worker {get_worker().address} does not find {X.path}, which holds the "
            "embeddings of a layer; name a folder with --out that all workers share under the same "
            "path, or raise --stream-past"
        )
    return _search(fold, *task)


def _search(
    fold: Fold,
    head_name: str,
    grid: Grid,
    labels: NDArray[Any],
    speakers: NDArray[np.str_],
    choose: bool,
    seed: int,
    keep_scores: bool,
    weights: NDArray[np.float64] | None,
    X: Matrix,
) -> FoldResult:
    # The head is named, not sent: a process may not be able to unpickle that of a plugin.
    with threadpool_limits(1):  # a worker of a cluster may have several
        return search_fold(
            HEADS[head_name], grid, X, labels, speakers, fold,
            choose=choose, seed=seed, keep_scores=keep_scores, weights=weights,
        )  # fmt: skip


def _choose(layers: Sequence[str], params: Sequence[Params], results: Results, fold: str) -> Choice:
    """Choose the layer and hyper-parameters with the highest inner score; the first of several."""
    best = [results[layer, fold].inner[results[layer, fold].chosen] for layer in layers]
    index = 0 if np.isnan(best).all() else int(np.nanargmax(best))
    result = results[layers[index], fold]
    return Choice(
        fold,
        layers[index],
        params[result.chosen],
        float(best[index]),
        temperature=result.temperature,
    )


def collect_folds(
    problem: Problem,
    layers: Sequence[str],
    choices: Sequence[Choice],
    results: Results,
    nested: Mapping[str, FoldResult] | None = None,
) -> HeadFit:
    """Collect the predictions of all folds.

    Parameters
    ----------
    problem : Problem
        Labels and folds.
    layers : sequence of str
        The candidates.
    choices : sequence of Choice
        One for each fold, and that of the final head.
    results : mapping of (str, str) to FoldResult
        By layer and fold.
    nested : mapping of str to FoldResult, optional
        The nested results by fold; by default those of the chosen layers.
    """

    def gather(of_fold: Callable[[str], FoldResult], rows: NDArray[Any]) -> Predictions:
        predicted = np.empty_like(problem.labels)
        scores = np.full((len(problem.labels), len(problem.names)), np.nan)
        for fold in problem.folds:
            result = of_fold(fold.name)
            predicted[fold.test], scores[fold.test] = result.predicted, result.scores
        return Predictions(predicted[rows], scores[rows])

    chosen = nested or {choice.fold: results[choice.layer, choice.fold] for choice in choices}
    tested = problem.tested
    ties = None
    if problem.ties is not None:
        ties = gather(lambda fold: chosen[fold], np.flatnonzero(problem.ties))
    return HeadFit(
        nested=gather(lambda fold: chosen[fold], tested),
        layers={
            layer: gather(lambda fold, layer=layer: results[layer, fold], tested)  # type: ignore[misc]
            for layer in layers
        },
        choices=tuple(choices[:-1]),
        final=choices[-1],
        results=results,
        ties=ties,
    )
