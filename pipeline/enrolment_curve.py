"""How enrolment scores: the first score against the number of enrolled clips, nested.

Some clips of each test speaker are drawn, whatever their labels, the head is adapted to them, and
the speaker's other clips are scored. Layer, amount of shrinkage and the number of clips from which
enrolment pays are chosen in the same way on the training speakers of the fold.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..errors import UserError
from ..progress import Track, no_track
from .calibration import fit_temperature
from .enrolment import HeadSpec, MemberSpec, SpeakerStatistics, fit_enrolled
from .fit import Choice, HeadFit, Problem
from .folds import Fold, selection_folds
from .heads import HEADS, Grid, Head, combinations
from .heads.fused import log_probabilities, weigh_members
from .heads.head import Params
from .layers import Candidate
from .measures import LABELS
from .target import stratify

if TYPE_CHECKING:
    from .plan import Plan

#: Factors of the variance between speakers that are tried, see :meth:`SpeakerStatistics.shift`.
STRENGTHS = (1.0, 2.0, 4.0)
#: Draws of enrolled clips from each test speaker; from each label of a test speaker, for the case
#: in which all are of one; and from each training speaker, to choose.
DRAWS, LABEL_DRAWS, INNER_DRAWS = 20, 5, 2
#: Clips are drawn whatever their labels.
ANY_LABEL = ""
#: Clips that are predicted at a time: larger kernels of an SVM take longer to allocate.
_BATCH = 1024

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
    temperatures : tuple of float
        For each of the numbers of clips, what calibrates the scores of the head that is adapted to
        so many; NaN where no training speaker has more clips.
    """

    fold: str
    layer: str
    params: Params
    strength: float
    fewest: int
    temperatures: tuple[float, ...]

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
    final_spec : HeadSpec
        The head that is kept.
    counts : tuple of DrawCounts
        By number of clips, label and speaker.
    """

    numbers: tuple[int, ...]
    choices: tuple[EnrolmentChoice, ...]
    final: EnrolmentChoice
    final_spec: HeadSpec
    counts: tuple[DrawCounts, ...]


@dataclass(frozen=True)
class AdaptableHeads:
    """What a fold chooses from.

    Attributes
    ----------
    plain : Choice
        The head without enrolment.
    specs : tuple of HeadSpec
        The heads that may be adapted.
    plain_codes : ndarray of int, shape (n_train,)
        Labels of the training clips, as column numbers, that the head without enrolment predicted
        in the inner folds; -1 for clips in no inner fold.
    """

    plain: Choice
    specs: tuple[HeadSpec, ...]
    plain_codes: NDArray[np.intp]


@dataclass(frozen=True)
class _InnerResult:
    """Results of the inner folds.

    Counts have the shape (n_strengths, n_numbers, n_labels, n_labels) with enrolment, and
    (n_numbers, n_labels, n_labels) without it. There is a temperature for each strength and number.
    """

    enrolled: _Counts
    plain: _Counts
    temperatures: tuple[tuple[float, ...], ...]


def check_enrolment(plan: "Plan") -> None:
    """Refuse what enrolment cannot be measured for.

    Raise UserError if the target is a rating, test speakers are in training or are normalised,
    layer weights are learnt, or every test speaker has too few clips.
    """
    option = f"--enrol {','.join(map(str, plan.protocol.enrol))}"
    if plan.task != "classification":
        raise UserError(f"{option}: is for labels, and {plan.target.column} is a number; omit it")
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
            f"{option}: cannot be combined with --layers {plan.protocol.layers}; use single "
            "layers, mean or concat"
        )
    most = max(np.unique(plan.tested_clips["speaker"], return_counts=True)[1])
    fewest = min(number for number in plan.protocol.enrol if number)
    if most <= fewest:
        raise UserError(
            f"{option}: with {fewest} enrolled, none of the at most {most} clips of a speaker is "
            "left to be scored; give smaller numbers"
        )


def head_options(head: type[Head], fit: HeadFit, problem: Problem) -> tuple[AdaptableHeads, ...]:
    """Return the options of a single head: one for each fold, and those for the head that is kept.

    A head that has no hyper-parameters can be adapted on any layer. For others, layer and
    hyper-parameters stay those that were chosen without enrolment.

    Parameters
    ----------
    head : subclass of Head
        The head.
    fit : HeadFit
        Its results without enrolment, with inner scores.
    problem : Problem
        Labels and folds.
    """
    options = []
    for fold, plain in zip(_folds(problem), (*fit.choices, fit.final), strict=True):
        layers = [plain.layer] if head.parameters else list(fit.layers)
        specs = [HeadSpec((MemberSpec(head.name, layer, plain.params),)) for layer in layers]
        scores = fit.results[plain.layer, fold.name].inner_scores
        options.append(AdaptableHeads(plain, tuple(specs), _highest(scores)))
    return tuple(options)


def fusion_options(
    grids: Mapping[str, Grid], fits: Mapping[str, HeadFit], fused: HeadFit, problem: Problem
) -> tuple[AdaptableHeads, ...]:
    """Return the options of a fusion: in each fold its members, with their weights.

    Parameters
    ----------
    grids : mapping of str to Grid
        The values that were tried, by name of the head.
    fits : mapping of str to HeadFit
        The results of the heads that are fused, with inner scores.
    fused : HeadFit
        The fusion without enrolment.
    problem : Problem
        Labels and folds.
    """
    options = []
    for fold, plain in zip(_folds(problem), (*fused.choices, fused.final), strict=True):
        members, scores = [], []
        for (name, layer), weight in plain.members.items():
            result = fits[name].results[layer, fold.name]
            params = combinations(grids[name])[result.chosen]
            members.append(MemberSpec(name, layer, params, weight))
            scores.append(result.inner_scores)
        logs = [
            log_probabilities(HEADS[each.head], of_member.astype(np.float64))
            for each, of_member in zip(members, scores, strict=True)
        ]
        codes = weigh_members(np.stack(logs), np.array([m.weight for m in members])).argmax(axis=1)
        codes[np.isnan(scores[0]).all(axis=1)] = -1
        spec = HeadSpec(tuple(members), is_fusion=True)
        options.append(AdaptableHeads(plain, (spec,), codes))
    return tuple(options)


def fit_enrolment(
    title: str,
    options: Sequence[AdaptableHeads],
    plain: NDArray[np.str_],
    candidates: Sequence[Candidate],
    embeddings: Callable[[Candidate], NDArray[np.float32]],
    problem: Problem,
    numbers: Sequence[int],
    *,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> EnrolmentFit:
    """Measure what enrolment adds to a head or a fusion.

    Parameters
    ----------
    title : str
        Its name, for the progress.
    options : sequence of AdaptableHeads
        What may be adapted, from :func:`head_options` or :func:`fusion_options`.
    plain : ndarray of str, shape (n_tested,)
        Nested predictions without enrolment.
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
    predicted = np.empty_like(problem.labels)
    predicted[problem.tested] = plain
    by_name = {candidate.name: candidate for candidate in candidates}
    order = list(by_name)

    def run(
        function: Callable[..., Any], what: str, tasks: Sequence[tuple[Fold, HeadSpec, Any]]
    ) -> list[Any]:
        """Run tasks ordered by layer; return their results in the order of the tasks."""
        by_layer = sorted(
            range(len(tasks)), key=lambda number: [*map(order.index, tasks[number][1].layers)]
        )
        ordered = [tasks[number] for number in by_layer]
        layers = [spec.layers for _, spec, _ in ordered]
        loaded = _load_layers(layers, lambda layer: embeddings(by_name[layer]))
        calls = (
            delayed(function)(*task, problem, numbers, X)
            for task, X in zip(ordered, loaded, strict=True)
        )
        parallel = Parallel(n_jobs=jobs, return_as="generator", pre_dispatch="2*n_jobs")
        with parallel_config(backend="loky", inner_max_num_threads=1), threadpool_limits(1):
            results: Iterable[Any] = parallel(calls)
            done = dict(zip(by_layer, track(results, what, len(tasks)), strict=True))
        return [done[number] for number in range(len(tasks))]

    folds = _folds(problem)
    inner: Iterator[_InnerResult] = iter(
        run(
            _score_inside,
            f"{title}: enrolment on training speakers",
            [
                (fold, spec, each.plain_codes)
                for fold, each in zip(folds, options, strict=True)
                for spec in each.specs
            ],
        )
    )
    chosen = [
        _choose(of_fold, [next(inner) for _ in of_fold.specs], numbers) for of_fold in options
    ]
    outer: list[list[DrawCounts]] = run(
        _score_outside,
        f"{title}: enrolment of test speakers",
        [
            (fold, spec, (choice, predicted[fold.test]))
            for fold, (spec, choice) in zip(problem.folds, chosen[:-1], strict=True)
        ],
    )
    counts = [each for of_fold in outer for each in of_fold]
    counts += _without_enrolment(problem, predicted)
    final_spec, final = chosen[-1]
    return EnrolmentFit(
        numbers,
        tuple(choice for _, choice in chosen[:-1]),
        final,
        final_spec,
        _in_order(counts, problem),
    )


def enrolment_of_best(
    fit: HeadFit, enrolments: Mapping[str, EnrolmentFit], problem: Problem
) -> EnrolmentFit:
    """Return the enrolment of the head that is chosen inside each fold: that of its choice.

    Parameters
    ----------
    fit : HeadFit
        Its choices name the head.
    enrolments : mapping of str to EnrolmentFit
        By name of the head.
    problem : Problem
        Speakers and folds.
    """
    choices: list[EnrolmentChoice] = []
    counts: list[DrawCounts] = []
    for number, (fold, choice) in enumerate(zip(problem.folds, fit.choices, strict=True)):
        of_head = enrolments[choice.head]
        choices.append(of_head.choices[number])
        speakers = set(problem.speakers[fold.test].tolist())
        counts += [each for each in of_head.counts if each.speaker in speakers]
    of_final = enrolments[fit.final.head]
    return EnrolmentFit(
        of_final.numbers,
        tuple(choices),
        of_final.final,
        of_final.final_spec,
        _in_order(counts, problem),
    )


def _folds(problem: Problem) -> list[Fold]:
    """Return the folds, and the one in which the head that is kept is chosen."""
    return [*problem.folds, problem.everybody()]


def _highest(scores: NDArray[np.floating]) -> NDArray[np.intp]:
    """Return the column of the highest score of each clip; -1 for a clip without scores."""
    missing = np.isnan(scores).all(axis=1)
    highest = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1)
    return np.where(missing, -1, highest)


def _in_order(counts: Sequence[DrawCounts], problem: Problem) -> tuple[DrawCounts, ...]:
    """Order counts by number of clips, label and speaker."""
    order = {name: number for number, name in enumerate([ANY_LABEL, *problem.names])}
    return tuple(sorted(counts, key=lambda e: (e.n_clips, order[e.drawn_from], e.speaker)))


def _load_layers(
    needed: Sequence[Sequence[str]], load: Callable[[str], NDArray[np.float32]]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield the embeddings that each task needs; a layer is kept from its first task to its last.

    Parameters
    ----------
    needed : sequence of sequence of str
        The layers of each task.
    load : callable
        Reads a layer.
    """
    last = {layer: number for number, layers in enumerate(needed) for layer in layers}
    loaded: dict[str, NDArray[np.float32]] = {}
    for number, layers in enumerate(needed):
        for layer in layers:
            if layer not in loaded:
                loaded[layer] = load(layer)
        yield {layer: loaded[layer] for layer in layers}
        loaded = {layer: X for layer, X in loaded.items() if last[layer] > number}


def _choose(
    options: AdaptableHeads, results: Sequence[_InnerResult], numbers: Sequence[int]
) -> tuple[HeadSpec, EnrolmentChoice]:
    """Choose head and strength by the mean score over all numbers of clips; the first of equals.

    Then choose the number of clips from which on enrolment scores higher than the plain head.
    """
    best, best_score = (0, 0), -np.inf
    for number, result in enumerate(results):
        for strength, scores in enumerate(np.asarray(LABELS.first(result.enrolled))):
            measured = scores[~np.isnan(scores)]
            if len(measured) and measured.mean() > best_score:
                best, best_score = (number, strength), float(measured.mean())
    number, strength = best
    spec, result = options.specs[number], results[number]
    gains = np.asarray(LABELS.first(result.enrolled[strength]) - LABELS.first(result.plain))
    fewest = 0
    for n_clips, gain in zip(reversed(numbers), reversed(gains), strict=True):
        if np.isnan(gain):  # no training speaker has so many clips
            continue
        if not gain > 0:
            break
        fewest = n_clips
    plain = options.plain
    return spec, EnrolmentChoice(
        plain.fold,
        plain.layer if spec.is_fusion else spec.layers[0],
        plain.params,
        STRENGTHS[strength],
        fewest,
        result.temperatures[strength],
    )


def _score_inside(
    fold: Fold,
    spec: HeadSpec,
    plain_codes: NDArray[np.intp],
    problem: Problem,
    numbers: Sequence[int],
    embeddings: Mapping[str, NDArray[np.float32]],
) -> _InnerResult:
    """Enrol the training speakers of a fold, each by a head fitted without their inner fold."""
    names, rows = np.array(problem.names), fold.train
    labels, speakers = problem.labels[rows], problem.speakers[rows]
    n_labels = len(names)
    enrolled = np.zeros((len(STRENGTHS), len(numbers), n_labels, n_labels), np.int64)
    plain = np.zeros((len(numbers), n_labels, n_labels), np.int64)
    scored: list[_Scored] = []
    X = spec.join(embeddings, rows)
    for part in selection_folds(fold, stratify(labels), problem.kept_together[rows]):
        if not len(part.test):
            continue
        fitted = _Fitted.to(X[part.train], spec, embeddings, problem, rows[part.train])
        for speaker in np.unique(speakers[part.test]).tolist():
            own = part.test[speakers[part.test] == speaker]
            clips = _SpeakerClips.of(problem, rows[own])
            orders = _draws(problem, speaker, len(own), INNER_DRAWS)
            counts, of_speaker = _adapt(fitted, X[own], clips, numbers, STRENGTHS, orders)
            enrolled += counts
            scored += of_speaker
            plain += _count_plain(plain_codes[own], clips, len(names), numbers, orders)
    temperatures = tuple(
        tuple(
            _fit_temperature(
                [each for each in scored if (each.strength, each.number) == (strength, number)],
                fitted.head.scores_are,
            )
            for number in range(len(numbers))
        )
        for strength in range(len(STRENGTHS))
    )
    return _InnerResult(enrolled, plain, temperatures)


def _fit_temperature(scored: Sequence["_Scored"], scores_are: str) -> float:
    """Calibrate adapted heads; return NaN if there are no scores."""
    if not scored:
        return math.nan
    scores = np.concatenate([each.scores for each in scored]).astype(np.float64)
    return fit_temperature(scores, np.concatenate([each.codes for each in scored]), scores_are)


def _score_outside(
    fold: Fold,
    spec: HeadSpec,
    argument: tuple[EnrolmentChoice, NDArray[np.str_]],
    problem: Problem,
    numbers: Sequence[int],
    embeddings: Mapping[str, NDArray[np.float32]],
) -> list[DrawCounts]:
    """Enrol the test speakers of a fold: with clips of any label, and with clips of one."""
    choice, predicted = argument
    names = np.array(problem.names)
    fitted = _Fitted.to(spec.join(embeddings, fold.train), spec, embeddings, problem, fold.train)
    plain_codes = np.searchsorted(names, predicted)
    speakers, counts = problem.speakers[fold.test], []
    for speaker in np.unique(speakers).tolist():
        own = np.flatnonzero(speakers == speaker)
        clips = _SpeakerClips.of(problem, fold.test[own])
        X = spec.join(embeddings, fold.test[own])
        draws = {ANY_LABEL: _draws(problem, speaker, len(own), DRAWS)}
        for code, name in enumerate(names.tolist()):
            of_label = np.flatnonzero(clips.codes == code)
            orders = _draws(problem, speaker, len(of_label), LABEL_DRAWS, code)
            draws[name] = [of_label[order] for order in orders]
        for drawn_from, orders in draws.items():
            fit_in = [number for number in numbers if number < len(orders[0])]
            if not fit_in:
                continue
            plain = _count_plain(plain_codes[own], clips, len(names), fit_in, orders)
            (enrolled,), _ = _adapt(fitted, X, clips, fit_in, [choice.strength], orders)
            counts += [
                DrawCounts(number, drawn_from, speaker, a if choice.is_used(number) else b, b)
                for number, a, b in zip(fit_in, enrolled, plain, strict=True)
                if b.any()  # not if all other clips are copies of enrolled ones
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


@dataclass(frozen=True)
class _SpeakerClips:
    """The clips of a speaker.

    Attributes
    ----------
    codes : ndarray of int, shape (n_clips,)
        Their labels, as column numbers.
    recordings : ndarray of int, shape (n_clips,)
        Numbers of their recordings, equal for copies.
    """

    codes: NDArray[np.intp]
    recordings: NDArray[np.intp]

    @classmethod
    def of(cls, problem: Problem, rows: NDArray[np.intp]) -> "_SpeakerClips":
        """Look up the clips with these row numbers."""
        codes = np.searchsorted(problem.names, problem.labels[rows])
        if problem.recordings is None:
            return cls(codes, np.arange(len(rows)))
        return cls(codes, np.unique(problem.recordings[rows], return_inverse=True)[1])


@dataclass(frozen=True)
class _Fitted:
    """A head fitted for enrolment.

    Attributes
    ----------
    head : Head
        Fitted on clips without the means of their speakers.
    statistics : SpeakerStatistics
        Of the training speakers.
    names : ndarray of str, shape (n_labels,)
        All labels.
    columns : ndarray of int
        Which of them the training clips have, in the order of the scores of the head.
    """

    head: Head
    statistics: SpeakerStatistics
    names: NDArray[np.str_]
    columns: NDArray[np.intp]

    @classmethod
    def to(
        cls,
        X: NDArray[np.float32],
        spec: HeadSpec,
        embeddings: Mapping[str, NDArray[np.float32]],
        problem: Problem,
        rows: NDArray[np.intp],
    ) -> "_Fitted":
        """Fit to training clips, of joined embeddings ``X`` and row numbers ``rows``."""
        widths = {layer: embeddings[layer].shape[1] for layer in spec.layers}
        head = spec.head(widths, problem.seed, for_many_clips=True)
        statistics = fit_enrolled(head, X, problem, rows)
        names = np.array(problem.names)
        columns = np.searchsorted(names, np.unique(problem.labels[rows]))
        return cls(head, statistics, names, columns)

    def predict(self, X: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Predict clips, as column numbers; and score all labels, NaN where one was not trained."""
        predicted, of_trained = self.head.predict_and_score(X)
        scores = np.full((len(X), len(self.names)), np.nan, np.float32)
        scores[:, self.columns] = of_trained
        return np.searchsorted(self.names, predicted), scores


@dataclass(frozen=True)
class _Scored:
    """Scores of the other clips of a speaker by an adapted head, to calibrate it."""

    strength: int  #: Index of the strength.
    number: int  #: Index of the number of enrolled clips.
    scores: NDArray[np.float32]  #: Shape (n_others, n_labels).
    codes: NDArray[np.intp]  #: Their labels, as column numbers.


def _adapt(
    fitted: _Fitted,
    X: NDArray[np.float32],
    clips: _SpeakerClips,
    numbers: Sequence[int],
    strengths: Sequence[float],
    orders: Sequence[NDArray[np.intp]],
) -> tuple[_Counts, list[_Scored]]:
    """Adapt a head to enrolled clips of a speaker, and score the speaker's other clips.

    Returns
    -------
    counts : ndarray of int64, shape (n_strengths, n_numbers, n_labels, n_labels)
        Confusion matrices of the other clips, summed over draws. A number of clips that leaves none
        to be scored adds nothing.
    scored : list of _Scored
        By setting.
    """
    settings, shifts = [], []
    for index, enrolled, others in _divide(orders, numbers, clips):
        for row, strength in enumerate(strengths):
            settings.append((row, index, others))
            shifts.append(fitted.statistics.shift(X[enrolled], strength))
    n_labels = len(fitted.names)
    counts = np.zeros((len(strengths), len(numbers), n_labels, n_labels), np.int64)
    scored: list[_Scored] = []
    step = max(1, _BATCH // len(X))
    for start in range(0, len(shifts), step):
        batch = np.stack(shifts[start : start + step])
        shifted = (X[None] - batch[:, None]).reshape(-1, X.shape[1])
        predicted, scores = fitted.predict(shifted)
        predicted = predicted.reshape(len(batch), len(X))
        scores = scores.reshape(len(batch), len(X), n_labels)
        for number, (row, index, others) in enumerate(settings[start : start + step]):
            codes = clips.codes[others]
            counts[row, index] += LABELS.count(codes, predicted[number, others], range(n_labels))
            scored.append(_Scored(row, index, scores[number, others], codes))
    return counts, scored


def _count_plain(
    predicted: NDArray[np.intp],
    clips: _SpeakerClips,
    n_labels: int,
    numbers: Sequence[int],
    orders: Sequence[NDArray[np.intp]],
) -> _Counts:
    """Do the same for predictions without enrolment, shape (n_numbers, n_labels, n_labels)."""
    counts = np.zeros((len(numbers), n_labels, n_labels), np.int64)
    for index, _, others in _divide(orders, numbers, clips):
        counts[index] += LABELS.count(clips.codes[others], predicted[others], range(n_labels))
    return counts


def _divide(
    orders: Sequence[NDArray[np.intp]], numbers: Sequence[int], clips: _SpeakerClips
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.bool_]]]:
    """Yield, for each draw and number: its index, the enrolled clips, and which are scored.

    Copies of enrolled clips are not scored. A number that leaves none of the clips that were drawn
    from is omitted.
    """
    for order in orders:
        for index, number in enumerate(numbers):
            if number < len(order):
                enrolled = order[:number]
                others = ~np.isin(clips.recordings, clips.recordings[enrolled])
                yield index, enrolled, others
