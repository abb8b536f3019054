"""How enrolment scores: the first score against the number of enrolled clips, nested.

Of each test speaker some clips are drawn, whatever their labels, the head is adapted to them, and
the speaker's other clips are scored. Layer, amount of shrinkage and the number of clips from which
enrolment pays are chosen by the same game with the training speakers of the fold.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import UserError
from ..progress import Track, no_track
from .enrolment import ENROLLED_HEADS, SpeakerStatistics, fit_enrolled
from .fit import Choice, HeadFit, Problem
from .folds import Fold, selection_folds
from .heads import HEADS, Head, Params
from .layers import Candidate
from .measures import LABELS
from .target import stratify

if TYPE_CHECKING:
    from .protocol import Plan

#: Factors of the variance between speakers that are tried, see :meth:`SpeakerStatistics.shift`.
STRENGTHS = (1.0, 2.0, 4.0)
#: Draws of enrolled clips from each test speaker; from each label of a test speaker, for the case
#: in which all are of one; and from each training speaker, to choose.
DRAWS, LABEL_DRAWS, INNER_DRAWS = 20, 5, 2
#: Clips are drawn whatever their labels.
ANY_LABEL = ""
#: Clips that are predicted at a time.
_BATCH = 4096

_Counts = NDArray[np.int64]


@dataclass(frozen=True)
class EnrolmentChoice:
    """What was chosen for a fold, from its training speakers alone.

    Attributes
    ----------
    fold : str
        The fold; empty for the head that is kept.
    layer : str
        Name of the candidate.
    params : mapping of str to float
        The hyper-parameters.
    strength : float
        Factor of the variance between speakers.
    fewest : int
        The smallest of the numbers of clips from which on the training speakers gain by enrolment;
        0 if they do not gain. Below it the head without enrolment is used.
    """

    fold: str
    layer: str
    params: Params
    strength: float
    fewest: int

    def is_used(self, n_clips: int) -> bool:
        """Whether the head is adapted to so many enrolled clips."""
        return 0 < self.fewest <= n_clips


@dataclass(frozen=True)
class DrawCounts:
    """Confusion matrices of one speaker, summed over draws of the enrolled clips.

    Attributes
    ----------
    n_clips : int
        Number of enrolled clips.
    drawn_from : str
        The label of all enrolled clips; :data:`ANY_LABEL` if they were drawn whatever their labels.
    speaker : str
        The test speaker.
    enrolled, plain : ndarray of int64, shape (n_labels, n_labels)
        The speaker's other clips, with and without enrolment.
    """

    n_clips: int
    drawn_from: str
    speaker: str
    enrolled: _Counts
    plain: _Counts


@dataclass(frozen=True)
class EnrolmentFit:
    """The result of nested enrolment of one head.

    Attributes
    ----------
    numbers : tuple of int
        The numbers of enrolled clips that were tried, above 0.
    choices : tuple of EnrolmentChoice
        One for each fold.
    final : EnrolmentChoice
        What is chosen on all training speakers together, for the head that is kept.
    counts : tuple of DrawCounts
        By number of clips, label and speaker.
    """

    numbers: tuple[int, ...]
    choices: tuple[EnrolmentChoice, ...]
    final: EnrolmentChoice
    counts: tuple[DrawCounts, ...]


@dataclass(frozen=True)
class _Inner:
    """Counts of the inner folds: shape (n_strengths, n_numbers, ...) and (n_numbers, ...)."""

    enrolled: _Counts
    plain: _Counts


def check_enrolment(plan: "Plan", heads: Iterable[str]) -> None:
    """Refuse what enrolment cannot be measured for.

    Raise UserError if the target is a rating, no head of ``heads`` can be adapted, test speakers
    are in training or are normalised, layer weights are learnt, or every test speaker has too few
    clips.
    """
    option = f"--enrol {','.join(map(str, plan.protocol.enrol))}"
    if plan.task != "classification":
        raise UserError(f"{option}: is for labels, and {plan.target.column} is a number; omit it")
    if not set(heads) & set(ENROLLED_HEADS):
        raise UserError(
            f"{option}: no head is adapted to speakers among {', '.join(heads)}; add one with "
            f"--head {','.join(ENROLLED_HEADS)}"
        )
    if plan.split.kind.shares_speakers:
        raise UserError(
            f"{option}: the speakers of --split {plan.split.name} are no new ones, as they are in "
            "training; use --split loso or kfold:N"
        )
    if plan.protocol.hold_out:
        raise UserError(
            f"{option}: clips of a test speaker that could be enrolled have the held-out "
            f"{plan.protocol.hold_out}, too; omit --hold-out or --enrol"
        )
    if plan.protocol.normalise != "none":
        raise UserError(
            f"{option}: --normalise {plan.protocol.normalise} takes all clips of a speaker; "
            "omit one of the two"
        )
    if any(each.how == "weighted" for each in plan.candidates):
        raise UserError(
            f"{option}: does not go with --layers {plan.protocol.layers}; use single layers, mean "
            "or concat"
        )
    most = max(np.unique(plan.tested_clips["speaker"], return_counts=True)[1])
    fewest = min(number for number in plan.protocol.enrol if number)
    if most <= fewest:
        raise UserError(
            f"{option}: with {fewest} enrolled, none of the at most {most} clips of a speaker is "
            "left to be scored; give smaller numbers"
        )


def fit_enrolment(
    head: type[Head],
    fit: HeadFit,
    candidates: Sequence[Candidate],
    embeddings: Callable[[Candidate], NDArray[np.float32]],
    problem: Problem,
    numbers: Sequence[int],
    *,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> EnrolmentFit:
    """Measure what enrolment adds to a head.

    A head that has no hyper-parameters is fitted on all layers, to choose one for enrolment. For
    others, layer and hyper-parameters stay those that were chosen without enrolment.

    Parameters
    ----------
    head : subclass of Head
        What to fit.
    fit : HeadFit
        Its results without enrolment.
    candidates : sequence of Candidate
        The layers to choose from.
    embeddings : callable
        From a candidate to the embeddings of all clips, shape (n_clips, n_features).
    problem : Problem
        Labels, speakers and folds.
    numbers : sequence of int
        Numbers of enrolled clips.
    jobs : int
        Processes. The results do not depend on it.
    track : callable
        Shows progress.

    Returns
    -------
    EnrolmentFit
    """
    numbers = tuple(sorted({number for number in numbers if number > 0}))
    folds = [*problem.folds, problem.everybody()]
    plain_choices = dict(zip([each.name for each in folds], (*fit.choices, fit.final), strict=True))
    predicted = np.empty_like(problem.labels)
    predicted[problem.tested] = fit.nested.predicted

    def run(
        function: Callable[..., Any], title: str, keys: Sequence[tuple[Fold, Any, str]]
    ) -> dict[tuple[str, str], Any]:
        """Run tasks layer by layer; each key is a fold, an argument and the name of a layer."""
        tasks = (
            delayed(function)(fold, head.name, argument, problem, numbers, X)
            for candidate in candidates
            if any(layer == candidate.name for *_, layer in keys)
            for X in (embeddings(candidate),)
            for fold, argument, layer in keys
            if layer == candidate.name
        )
        names = [
            (each.name, fold.name)
            for each in candidates
            for fold, _, layer in keys
            if layer == each.name
        ]
        parallel = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
        with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
            results: Iterable[Any] = parallel(tasks)
            return dict(zip(names, track(results, title, len(names)), strict=True))

    inner: dict[tuple[str, str], _Inner] = run(
        _score_inside,
        f"{head.title}: enrolment on training speakers",
        [
            (fold, (plain_choices[fold.name], each.name), each.name)
            for fold in folds
            for each in candidates
            if not head.parameters or each.name == plain_choices[fold.name].layer
        ],
    )
    choices = [_choose(plain_choices[fold.name], inner, numbers) for fold in folds]
    outer: dict[tuple[str, str], list[DrawCounts]] = run(
        _score_outside,
        f"{head.title}: enrolment of test speakers",
        [
            (fold, (choice, predicted[fold.test]), choice.layer)
            for fold, choice in zip(problem.folds, choices[:-1], strict=True)
        ],
    )
    counts = list(itertools.chain(*outer.values()))
    counts += _without_enrolment(problem, predicted)
    order = {name: number for number, name in enumerate([ANY_LABEL, *problem.names])}
    counts.sort(key=lambda each: (each.n_clips, order[each.drawn_from], each.speaker))
    return EnrolmentFit(numbers, tuple(choices[:-1]), choices[-1], tuple(counts))


def _choose(
    plain: Choice, inner: Mapping[tuple[str, str], _Inner], numbers: Sequence[int]
) -> EnrolmentChoice:
    """Choose layer and strength by the mean score over all numbers of clips; the first of equals.

    Then find the number of clips from which on enrolment scores higher than the plain head.
    """
    best, best_score = (plain.layer, 0), -np.inf
    for (layer, fold), counts in inner.items():
        if fold != plain.fold:
            continue
        by_number = np.asarray(LABELS.first(counts.enrolled))
        for strength, scores in enumerate(by_number):
            measured = scores[~np.isnan(scores)]
            if len(measured) and measured.mean() > best_score:
                best, best_score = (layer, strength), float(measured.mean())
    layer, strength = best
    enrolled = np.asarray(LABELS.first(inner[layer, plain.fold].enrolled[strength]))
    without = np.asarray(LABELS.first(inner[plain.layer, plain.fold].plain))
    fewest = 0
    for number, gain in zip(reversed(numbers), reversed(enrolled - without), strict=True):
        if np.isnan(gain):  # no training speaker has so many clips
            continue
        if not gain > 0:
            break
        fewest = number
    return EnrolmentChoice(plain.fold, layer, plain.params, STRENGTHS[strength], fewest)


def _score_inside(
    fold: Fold,
    head_name: str,
    argument: tuple[Choice, str],
    problem: Problem,
    numbers: Sequence[int],
    X: NDArray[np.float32],
) -> _Inner:
    """Enrol the training speakers of a fold, each by a head fitted without their inner fold."""
    plain, layer = argument
    head, names = HEADS[head_name], np.array(problem.names)
    rows, n = fold.train, len(names)
    labels, speakers = problem.labels[rows], problem.speakers[rows]
    together = problem.kept_together[rows]
    enrolled = np.zeros((len(STRENGTHS), len(numbers), n, n), np.int64)
    without = np.zeros((len(numbers), n, n), np.int64)
    of_fold = np.asarray(X[rows])
    for part in selection_folds(fold, stratify(labels), together):
        train = part.train
        if not len(part.test):
            continue
        fitted, statistics = fit_enrolled(head, plain.params, X, problem, rows[train])
        predicted = None
        if layer == plain.layer:
            base = head(plain.params, problem.seed)
            base.fit(of_fold[train], labels[train], together[train])
            predicted = np.searchsorted(names, base.predict(of_fold[part.test]))
        for speaker in np.unique(speakers[part.test]).tolist():
            own = np.flatnonzero(speakers[part.test] == speaker)
            clips = part.test[own]
            codes = np.searchsorted(names, labels[clips])
            orders = _draws(problem, speaker, len(own), INNER_DRAWS)
            counted = _count(
                fitted, statistics, of_fold[clips], codes, names, numbers, STRENGTHS, orders
            )
            enrolled += counted
            if predicted is not None:
                without += _count_plain(predicted[own], codes, n, numbers, orders)
    return _Inner(enrolled, without)


def _score_outside(
    fold: Fold,
    head_name: str,
    argument: tuple[EnrolmentChoice, NDArray[np.str_]],
    problem: Problem,
    numbers: Sequence[int],
    X: NDArray[np.float32],
) -> list[DrawCounts]:
    """Enrol the test speakers of a fold: with clips of any label, and with clips of one."""
    choice, predicted = argument
    names = np.array(problem.names)
    fitted, statistics = fit_enrolled(HEADS[head_name], choice.params, X, problem, fold.train)
    plain_codes = np.searchsorted(names, predicted)
    speakers, counts = problem.speakers[fold.test], []
    for speaker in np.unique(speakers).tolist():
        own = np.flatnonzero(speakers == speaker)
        codes = np.searchsorted(names, problem.labels[fold.test][own])
        embeddings = np.asarray(X[fold.test[own]])
        draws = {ANY_LABEL: _draws(problem, speaker, len(own), DRAWS)}
        for code, name in enumerate(names.tolist()):
            clips = np.flatnonzero(codes == code)
            orders = _draws(problem, speaker, len(clips), LABEL_DRAWS, code)
            draws[name] = [clips[order] for order in orders]
        for drawn_from, orders in draws.items():
            fit_in = [number for number in numbers if number < len(orders[0])]
            if not fit_in:
                continue
            plain = _count_plain(plain_codes[own], codes, len(names), fit_in, orders)
            enrolled = _count(
                fitted, statistics, embeddings, codes, names, fit_in, [choice.strength], orders
            )[0]
            counts += [
                DrawCounts(number, drawn_from, speaker, a if choice.is_used(number) else b, b)
                for number, a, b in zip(fit_in, enrolled, plain, strict=True)
            ]
    return counts


def _without_enrolment(problem: Problem, predicted: NDArray[np.str_]) -> list[DrawCounts]:
    """Return the counts of all tested clips of each speaker, by the head without enrolment."""
    counts = []
    tested = problem.tested
    for speaker in np.unique(problem.speakers[tested]).tolist():
        rows = tested[problem.speakers[tested] == speaker]
        plain = LABELS.count(problem.labels[rows], predicted[rows], problem.names)
        counts.append(DrawCounts(0, ANY_LABEL, speaker, plain, plain))
    return counts


def _draws(
    problem: Problem, speaker: str, n_clips: int, n_draws: int, label: int | None = None
) -> list[NDArray[np.intp]]:
    """Return orders of the clips of a speaker, or of one label: the first are enrolled.

    They depend on the seed of the run, the speaker and the label, not on fold, layer or head, so
    that these are compared on the same draws.
    """
    number = int(np.searchsorted(np.unique(problem.speakers), speaker))
    entropy = (problem.seed, number, *(() if label is None else (label + 1,)))
    rng = np.random.default_rng(entropy)
    return [rng.permutation(n_clips) for _ in range(n_draws)]


def _count(
    fitted: Head,
    statistics: SpeakerStatistics,
    X: NDArray[np.float32],
    codes: NDArray[np.intp],
    names: NDArray[np.str_],
    numbers: Sequence[int],
    strengths: Sequence[float],
    orders: Sequence[NDArray[np.intp]],
) -> _Counts:
    """Return confusion matrices of a speaker's other clips, summed over draws.

    The shape is (n_strengths, n_numbers, n_labels, n_labels). A number of clips that leaves none to
    be scored adds nothing.
    """
    settings, shifts = [], []
    for index, enrolled, others in _divide(orders, numbers, len(X)):
        for row, strength in enumerate(strengths):
            settings.append((row, index, others))
            shifts.append(statistics.shift(X[enrolled], strength))
    counts = np.zeros((len(strengths), len(numbers), len(names), len(names)), np.int64)
    step = max(1, _BATCH // len(X))
    for start in range(0, len(shifts), step):
        batch = np.stack(shifts[start : start + step])
        shifted = (X[None] - batch[:, None]).reshape(-1, X.shape[1])
        predicted = np.searchsorted(names, fitted.predict(shifted)).reshape(len(batch), len(X))
        for (row, index, others), each in zip(settings[start:], predicted, strict=False):
            counts[row, index] += LABELS.count(codes[others], each[others], range(len(names)))
    return counts


def _count_plain(
    predicted: NDArray[np.intp],
    codes: NDArray[np.intp],
    n_labels: int,
    numbers: Sequence[int],
    orders: Sequence[NDArray[np.intp]],
) -> _Counts:
    """Do the same for predictions without enrolment, shape (n_numbers, n_labels, n_labels)."""
    counts = np.zeros((len(numbers), n_labels, n_labels), np.int64)
    for index, _, others in _divide(orders, numbers, len(codes)):
        counts[index] += LABELS.count(codes[others], predicted[others], range(n_labels))
    return counts


def _divide(
    orders: Sequence[NDArray[np.intp]], numbers: Sequence[int], n_clips: int
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.bool_]]]:
    """Yield, for each draw and number: its index, the enrolled clips, and whether each is scored.

    A number that leaves none of the clips that were drawn from is omitted.
    """
    for order in orders:
        for index, number in enumerate(numbers):
            if number < len(order):
                others = np.ones(n_clips, bool)
                others[order[:number]] = False
                yield index, order[:number], others
