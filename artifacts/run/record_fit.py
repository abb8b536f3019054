"""Fit heads on a cache and record the run as it proceeds."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...corpora import CORPORA
from ...errors import UserError
from ...features.cache import Cache
from ...features.equal_rows import check_embeddings
from ...features.joined_cache import SEPARATOR, takes_one_audio
from ...features.known_models import known_training
from ...features.perturbation import read_perturbations
from ...features.perturbed_cache import PerturbedCache, open_perturbed
from ...features.recordings import RECORDING
from ...features.training_record import (
    COLUMN,
    TrainingRecord,
    original_speaker,
    record_clips,
    unite,
)
from ...files import json_value
from ...pipeline.blocks import Matrix, take
from ...pipeline.enrolment import fit_enrolled
from ...pipeline.enrolment_curve import (
    AdaptableHeads,
    EnrolmentFit,
    check_enrolment,
    enrolment_of_best,
    fit_enrolment,
    fusion_options,
    head_options,
)
from ...pipeline.fit import ALL, HeadFit, choose_head, fit_final, fit_head, training_rows
from ...pipeline.folds import check_inner_folds
from ...pipeline.fusion import fuse_heads
from ...pipeline.groups import KEPT_TOGETHER
from ...pipeline.heads import BEST, FUSE, HEADS, FusedHead, Grid, Head, Params, combinations
from ...pipeline.heads.fused import FusedMember
from ...pipeline.layers import Candidate, weigh
from ...pipeline.measures import MEASURES
from ...pipeline.novelty import NoveltyDetector, fit_novelty_detector
from ...pipeline.options import Protocol, trained_on
from ...pipeline.plan import (
    Plan,
    anything_to_choose,
    inner_title,
    make_plan,
    read_candidate,
)
from ...pipeline.ratings import Agreement, Ratings
from ...pipeline.statistics import count_by_group, intervals
from ...pipeline.stream import candidate_size, spill, spill_folder, stream_plan
from ...pipeline.target import EMOTION
from ...pipeline.votes import Votes
from ...progress import Say, Track, no_track, say_nothing
from ..models.bundle import save_bundle
from ..models.enrolment import BundleEnrolment, EnrolmentSummary
from .fold_results import fold_writer, read_fold_results, remove_fold_results
from .identity import SETTINGS_VERSION, content_hash, run_name
from .recorder import describe_choice, open_recorder
from .summary import HeadSummary

if TYPE_CHECKING:
    from ...cluster import Cluster


#: Raised when the same command gives other numbers, so that runs of earlier versions do not resume.
REVISION = 5


def record_run(
    cache: Cache,
    heads: Sequence[type[Head]],
    grids: Mapping[str, Grid],
    protocol: Protocol | None = None,
    *,
    combined: Sequence[str] = (),
    default_heads: bool = False,
    ratings: Ratings | Votes | None = None,
    provenance: Mapping[str, Any],
    out: Path | None = None,
    given_name: str = "",
    jobs: int = 1,
    stream_past: float = math.inf,
    cluster: "Cluster | None" = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Path:
    """Cross-validate heads, with layer and hyper-parameters chosen inside each fold, and save all.

    Each fold is stored when it is done, so that a stopped run resumes there, and each head is
    recorded when it is done, so that an error in the next one loses nothing.

    Parameters
    ----------
    cache, heads, grids
        The embeddings, the heads to fit, and the values to try by name of the head.
    protocol : Protocol, optional
        By default nested leave-one-speaker-out over all layers.
    combined : sequence of str
        Which heads to make of ``heads``: ``best`` chooses among them inside each fold, ``fuse``
        fuses them on all layers.
    default_heads : bool
        Whether the heads are defaults: those that need too much memory are then omitted instead of
        refused.
    ratings : Ratings, optional
        Of the target, from a separate file.
    provenance : mapping
        JSON values to store with the results.
    out, given_name
        The run's folder, by default named after the cache, the split and the heads; the user's name
        for the run.
    jobs, cluster
        Number of processes, on which the results do not depend; or whose workers search instead.
    stream_past : float
        Size of one candidate's embeddings, in GiB, above which heads read them in blocks, or are
        replaced by one that does.
    track, say : callable
        Show progress; print a line.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    UserError
        If the cache does not hold what the protocol needs, or ``out`` holds something else or a
        run whose files were changed.
    """
    packages = HEADS.packages(head.name for head in heads)
    if packages:  # other versions of plugins may give other numbers
        versions = {**provenance.get("versions", {}), **packages}
        provenance = {**provenance, "versions": versions}
    planned = identify_run(
        cache,
        heads,
        grids,
        protocol or Protocol(),
        ratings,
        combined=combined,
        default_heads=default_heads,
        stream_past=stream_past,
        say=say,
    )
    plan, heads, grids, combined = planned.plan, planned.heads, planned.grids, planned.combined
    copies, content, streamed = planned.copies, planned.content, planned.streamed
    recorder = open_recorder(
        plan,
        out,
        planned.name,
        {**provenance, "cache": cache.provenance},
        corpus=_corpus_title(cache, plan),
        encoder=cache.key,
        pooling=plan.pooling,
        normalise=plan.protocol.normalise,
        inner=inner_title(plan, [grids[head.name] for head in heads], combined),
        layers=[candidate.name for candidate in plan.candidates],
        content=content,
        planned=planned.names,
        agreement=_agreement(plan.agreement),
        settings=_settings_without_seed(plan, planned.settings),
        given_name=given_name,
        protocol=plan.protocol.as_dict(),
    )
    run = recorder.run
    if recorder.is_complete:
        remove_fold_results(run)  # left by a kill between the last steps
        recorder.reopen()
    else:
        recorder.start()
    with spill_folder(run) if streamed else nullcontext() as folder:

        def embeddings(candidate: Candidate) -> Matrix:
            if folder:
                return spill(cache, candidate, plan, folder)
            return read_candidate(candidate, plan, cache, plan.target.rows, copies)

        fitting = _Fitting(plan, run, embeddings, streamed, combined, jobs, cluster, track)
        saving = _BundleSaving(cache, plan, run, embeddings, content, provenance)
        enrolments: dict[str, EnrolmentFit | None] = {}
        for head in heads:
            grid = grids[head.name]
            if head.name not in recorder.heads:
                fit = fitting.fit(head, grid)
                enrolment = enrolments[head.name] = fitting.enrol(head, fit)
                saving.save(head.name, head, fit, enrolment)
                summary = _summarise_head(head, grid, fit)
                recorder.save_head(head.name, summary, fit, grid, enrolment)
            if not combined:  # they need the results of each fold of each head
                remove_fold_results(run, head.name)
        if missing := [name for name in combined if name not in recorder.heads]:
            fits = {head.name: fitting.fit(head, grids[head.name]) for head in heads}
            if BEST in missing:
                fit = choose_head(fits, grids, plan.problem)
                enrolment = fitting.enrol_best(fit, fits, enrolments)
                head = HEADS[fit.final.head]
                saving.save(BEST, head, fit, enrolment)
                recorder.save_head(BEST, _summarise_best(head, fit), fit, enrolment=enrolment)
            if FUSE in missing:
                fit = fuse_heads({head.name: head for head in heads}, fits, plan.problem)
                enrolment = fitting.enrol_fusion(grids, fits, fit)
                saving.save_fusion(fits, grids, fit, enrolment)
                recorder.save_head(FUSE, _summarise_fusion(fit), fit, enrolment=enrolment)
        remove_fold_results(run)
    return recorder.finish()


@dataclass(frozen=True)
class PlannedRun:
    """What a run fits, and what identifies it."""

    plan: Plan
    heads: Sequence[type[Head]]
    grids: Mapping[str, Grid]
    combined: Sequence[str]
    copies: Sequence[PerturbedCache]  #: Perturbed copies, on which heads are trained as well.
    streamed: bool  #: Whether heads read the embeddings a block at a time.
    content: str  #: Hash of the cache and the clips used.
    settings: Mapping[str, Any]
    names: Sequence[str]  #: Of all heads, including those that combine others.
    name: str  #: Of the folder.


def identify_run(
    cache: Cache,
    heads: Sequence[type[Head]],
    grids: Mapping[str, Grid],
    protocol: Protocol,
    ratings: Ratings | Votes | None = None,
    *,
    combined: Sequence[str] = (),
    default_heads: bool = False,
    stream_past: float = math.inf,
    say: Say = say_nothing,
) -> PlannedRun:
    """Plan the run that :func:`record_run` makes with the same parameters; fit nothing.

    Raise UserError if the cache does not hold what the protocol needs.
    """
    plan, combined = plan_run(
        cache, heads, grids, protocol, ratings, combined=combined, default_heads=default_heads
    )
    copies = [
        open_perturbed(cache, each)
        for each in read_perturbations("--augment", plan.protocol.augment)
    ]
    size = candidate_size(cache, plan) * (1 + len(copies))
    streamed = size > stream_past
    if streamed:
        plan, heads, grids = stream_plan(
            plan, heads, grids, size, stream_past, default_heads=default_heads
        )
        say(f"note     {plan.marks[-1]}")
        if BEST in combined and len(heads) < 2:
            raise UserError(
                f"--head best: of the named heads only {heads[0].name} can stream, which leaves no "
                "choice; name several that can, or raise --stream-past"
            )
    content = content_hash(cache.key, cache.checksums(), plan.clips)
    settings = _settings(plan, {head.name: grids[head.name] for head in heads}, content, streamed)
    if copies:
        settings["copies"] = [
            content_hash(each.cache.key, each.cache.checksums(), {}) for each in copies
        ]
    names = [*(head.name for head in heads), *combined]
    name = run_name(cache.path, plan.split.name, names, settings)
    return PlannedRun(
        plan, heads, grids, combined, copies, streamed, content, settings, names, name
    )


def plan_run(
    cache: Cache,
    heads: Sequence[type[Head]],
    grids: Mapping[str, Grid],
    protocol: Protocol,
    ratings: Ratings | Votes | None = None,
    *,
    combined: Sequence[str] = (),
    default_heads: bool = False,
) -> tuple[Plan, tuple[str, ...]]:
    """Apply a protocol to a cache, and refuse what would fail later.

    The parameters are those of :func:`record_run`. Also return which heads to make of others: by
    default none if layer and hyper-parameters are fixed, which then needs no inner folds. Raise
    UserError if the cache does not hold what the protocol needs, a head is for another kind of
    target, there are no speakers to choose by, or clips of two speakers have the same embedding.
    """
    plan = make_plan(cache, protocol, ratings)
    if RECORDING not in cache.clips:  # made before copies were looked for
        check_embeddings(cache, plan.clips, plan.target.rows)
    wrong = [head.name for head in heads if head.task != plan.task]
    if wrong:
        kind = "labels" if plan.task == "classification" else "numbers"
        raise UserError(
            f"--head {wrong[0]}: is not a head for {kind}, of which {plan.target.column} consists; "
            "choose one that `serpipe fit --help` lists for them"
        )
    without_weights = [head.name for head in heads if not head.takes_weights]
    if plan.problem.weights is not None and without_weights:
        raise UserError(
            f"--head {without_weights[0]}: takes no weights, and cannot be trained on the labels "
            f"of several raters; name other heads, such as --head lr,lda,fuse, or omit --labels "
            f"{protocol.labels}"
        )
    if protocol.enrol:
        if protocol.augment:
            raise UserError("--enrol: is not measured with --augment; omit one of the two")
        check_enrolment(plan)
    of_heads = [grids[head.name] for head in heads]
    if default_heads and not anything_to_choose(plan, of_heads):
        combined = ()
    if protocol.enrol or anything_to_choose(plan, of_heads, combined):
        folds = (*plan.split.folds, plan.problem.everybody())
        check_inner_folds(folds, plan.problem.strata, plan.problem.kept_together)
    return plan, tuple(combined)


def _settings(
    plan: Plan, grids: Mapping[str, Grid], content: str, streamed: bool
) -> dict[str, Any]:
    """Return everything that the numbers depend on, as JSON values that name the run."""
    protocol = plan.protocol.as_dict() | {"pooling": plan.pooling}
    return {
        "format": SETTINGS_VERSION,
        "revision": REVISION,
        "content": content,
        "grids": grids,
        "protocol": {
            # Without defaults, so that new options do not give old runs new names.
            name: value
            for name, value in protocol.items()
            if value != {"target": EMOTION}.get(name, getattr(Protocol, name, {}))
        },
        **({"streamed": True} if streamed else {}),  # trees bin many clips differently
        # Earlier versions repeated rows instead.
        **({} if plan.problem.weights is None else {"weighted_labels": True}),
        "folds": [
            [fold.name, fold.test.tolist()]
            + ([] if fold.validation is None else [fold.validation.tolist()])
            for fold in plan.split.folds
        ],
    }


def _settings_without_seed(plan: Plan, settings: Mapping[str, Any]) -> str:
    """Return a hash that repeats of a run with other seeds share."""
    protocol = {**replace(plan.protocol, seed=0).as_dict(), "pooling": plan.pooling}
    text = json.dumps({**settings, "protocol": protocol, "folds": None}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _agreement(agreement: Agreement | None) -> dict[str, Any] | None:
    if not agreement:
        return None
    return {name: json_value(value) for name, value in asdict(agreement).items()}


def _corpus_title(cache: Cache, plan: Plan) -> str:
    """Return the names of the tested corpora."""
    tested = sorted(set(plan.tested_clips["corpus"].tolist()))
    if set(tested) == set(cache.clips["corpus"].tolist()):
        return str(cache.provenance.get("corpus", "unknown corpus"))
    return ", ".join(CORPORA[name].title if name in CORPORA else name for name in tested)


@dataclass(frozen=True)
class _Fitting:
    """What the cross-validations of all heads of a run have in common."""

    plan: Plan
    run: Path
    embeddings: Callable[[Candidate], Matrix]
    streamed: bool
    combined: Sequence[str]
    jobs: int
    cluster: "Cluster | None"
    track: Track[Any]

    def fit(self, head: type[Head], grid: Grid) -> HeadFit:
        """Cross-validate one head, resuming from stored folds."""
        plan, problem, run = self.plan, self.plan.problem, self.run
        folds = [*problem.folds, problem.everybody()]
        layers, names = [candidate.name for candidate in plan.candidates], problem.names
        keeps_scores = FUSE in self.combined or bool(self.plan.protocol.enrol)
        earlier = read_fold_results(
            run,
            head.name,
            layers,
            folds,
            np.array(names),
            len(combinations(grid)),
            with_inner_scores=keeps_scores,
        )
        return fit_head(
            head,
            grid,
            plan.candidates,
            self.embeddings,
            problem,
            earlier=earlier,
            on_result=fold_writer(run, head.name, layers, [fold.name for fold in folds], names),
            jobs=self.jobs,
            one_layer_at_a_time=self.streamed,
            among_heads=bool(self.combined),
            keep_scores=keeps_scores,
            cluster=self.cluster,
            track=self.track,
        )

    def enrol(self, head: type[Head], fit: HeadFit) -> EnrolmentFit | None:
        """Measure enrolment of a head, if it is requested."""
        if not self.plan.protocol.enrol:
            return None
        return self._enrol(head.title, fit, head_options(head, fit, self.plan.problem))

    def enrol_best(
        self,
        best: HeadFit,
        fits: Mapping[str, HeadFit],
        enrolments: Mapping[str, EnrolmentFit | None],
    ) -> EnrolmentFit | None:
        """Return the enrolment of the head that is chosen among others, if it is requested.

        That of a head which was finished before the run was resumed is measured again.
        """
        if not self.plan.protocol.enrol:
            return None
        used = {choice.head for choice in (*best.choices, best.final)}
        measured = {
            name: enrolments.get(name) or self.enrol(HEADS[name], fits[name]) for name in used
        }
        known = {name: each for name, each in measured.items() if each}
        return enrolment_of_best(best, known, self.plan.problem)

    def enrol_fusion(
        self, grids: Mapping[str, Grid], fits: Mapping[str, HeadFit], fused: HeadFit
    ) -> EnrolmentFit | None:
        """Measure enrolment of a fusion, if it is requested."""
        if not self.plan.protocol.enrol:
            return None
        options = fusion_options(grids, fits, fused, self.plan.problem)
        return self._enrol(FusedHead.title, fused, options)

    def _enrol(self, title: str, fit: HeadFit, options: Sequence[AdaptableHeads]) -> EnrolmentFit:
        return fit_enrolment(
            title,
            options,
            fit.nested.predicted,
            self.plan.candidates,
            self._in_memory,
            self.plan.problem,
            self.plan.protocol.enrol,
            jobs=self.jobs,
            track=self.track,
        )

    def _in_memory(self, candidate: Candidate) -> NDArray[np.float32]:
        X = self.embeddings(candidate)
        assert isinstance(X, np.ndarray)  # nothing is streamed
        return X


@dataclass(frozen=True)
class _BundleSaving:
    """What the bundles of all heads of a run have in common."""

    cache: Cache
    plan: Plan
    run: Path
    embeddings: Callable[[Candidate], Matrix]
    content: str
    provenance: Mapping[str, Any]

    @property
    def is_usable(self) -> bool:
        """Whether labels are as they were, and all encoders take the same audio."""
        return not self.plan.protocol.permute_labels and takes_one_audio(self.cache.key)

    def save(
        self, name: str, head: type[Head], fit: HeadFit, enrolment: EnrolmentFit | None = None
    ) -> None:
        """Fit a head on all clips and save its bundle, if it could be used."""
        if not self.is_usable:
            return
        candidate = self._candidate(fit.final.layer)
        X = self.embeddings(candidate)
        fitted, weights = fit_final(head, fit.final.params, X, self.plan.problem)
        adapted = self._fit_enrolled(enrolment)
        joined = weigh(X, np.array(weights)) if X.ndim == 3 else X
        novelty = self._novelty(joined)
        self._write(name, fitted, fit, fit.final.params, candidate, weights, novelty, adapted)

    def _fit_enrolled(self, enrolment: EnrolmentFit | None) -> BundleEnrolment | None:
        """Fit a head or a fusion on all clips for enrolment, if that pays."""
        if not enrolment or not enrolment.final.fewest:
            return None
        problem, spec, choice = self.plan.problem, enrolment.final_spec, enrolment.final
        used = [self._candidate(name) for name in spec.layers]
        embeddings = {}
        for candidate in used:
            X = self.embeddings(candidate)
            assert isinstance(X, np.ndarray)  # nothing is streamed
            embeddings[candidate.name] = X
        rows = problem.everybody().train
        head = spec.head({name: X.shape[1] for name, X in embeddings.items()}, problem.seed)
        statistics = fit_enrolled(head, spec.join(embeddings, rows), problem, rows)
        temperatures = {
            number: temperature
            for number, temperature in zip(enrolment.numbers, choice.temperatures, strict=True)
            if number >= choice.fewest and not math.isnan(temperature)
        }
        summary = EnrolmentSummary(
            choice.params,
            asdict(_joined(used)),
            choice.strength,
            choice.fewest,
            tuple(temperatures),
            tuple(temperatures.values()),
        )
        return BundleEnrolment(summary, head, statistics)

    def save_fusion(
        self,
        fits: Mapping[str, HeadFit],
        grids: Mapping[str, Grid],
        fused: HeadFit,
        enrolment: EnrolmentFit | None = None,
    ) -> None:
        """Fit the members of a fusion on all clips and save its bundle, as for :meth:`save`."""
        if not self.is_usable:
            return
        plan, members = self.plan, fused.final.members
        layers_used = {layer for _, layer in members}
        used = [each for each in plan.candidates if each.name in layers_used]
        fitted: list[FusedMember] = []
        weights: tuple[float, ...] = ()
        start, novelty = 0, None
        for candidate in used:
            X = self.embeddings(candidate)
            width = X.shape[-1]
            if candidate.name == fused.final.layer and X.ndim == 2:
                novelty = self._novelty(X, start)
            for name, fit in fits.items():
                if weight := members.get((name, candidate.name)):
                    params = combinations(grids[name])[fit.results[candidate.name, ALL].chosen]
                    member, weights = fit_final(HEADS[name], params, X, plan.problem)
                    fitted.append(FusedMember(member, start, start + width, weight))
            start += width
        head = FusedHead({}, plan.problem.seed, fitted)
        head.classes = np.unique(plan.problem.labels[plan.problem.everybody().train])
        adapted = self._fit_enrolled(enrolment)
        self._write(FUSE, head, fused, {}, _joined(used), weights, novelty, adapted)

    def _novelty(self, X: Matrix, start: int = 0) -> NoveltyDetector | None:
        problem = self.plan.problem
        rows = training_rows(X, problem)
        if problem.once is not None:
            rows = rows[problem.once[rows % len(problem.labels)]]
        speakers = problem.kept_together[rows % len(problem.labels)]
        return fit_novelty_detector(take(X, rows), speakers, start)

    def _candidate(self, name: str) -> Candidate:
        (candidate,) = (each for each in self.plan.candidates if each.name == name)
        return candidate

    def _write(
        self,
        name: str,
        fitted: Head,
        fit: HeadFit,
        params: Params,
        candidate: Candidate,
        weights: Sequence[float],
        novelty: NoveltyDetector | None,
        enrolment: BundleEnrolment | None = None,
    ) -> None:
        """Write the bundle of a head that was fitted on all clips."""
        plan, problem = self.plan, self.plan.problem
        measure = MEASURES[fitted.task]
        clusters = plan.tested_clips.get(KEPT_TOGETHER, plan.tested_clips["speaker"])
        counts = count_by_group(
            plan.tested_labels, fit.nested.predicted, clusters, problem.names, measure
        )
        scores = intervals(np.stack(list(counts.values())), measure)
        temperature = fit.final.temperature
        calibrates_itself = fitted.name == FUSE or math.isnan(temperature)
        save_bundle(
            self.run / "bundles" / name,
            fitted,
            training=_training_record(self.cache, plan),
            novelty=novelty,
            enrolment=enrolment,
            temperature=None if calibrates_itself else temperature,
            head=fitted.name,
            parameters=params,
            encoder=self.cache.key,
            pooling=plan.pooling,
            layer=asdict(candidate),
            layer_weights=weights,
            target=plan.target.column,
            changes=plan.target.changes,
            labels=problem.names,
            normalise=plan.protocol.normalise,
            trained_on=trained_on(plan.protocol.as_dict()),
            converged=fitted.converged,
            result={
                "split": plan.split.title,
                "speakers": len(np.unique(plan.tested_clips["speaker"])),
                "clips": len(plan.tested_labels),
                **{
                    key: {part: json_value(value) for part, value in asdict(interval).items()}
                    for key, interval in scores.items()
                },
            },
            warnings=plan.warnings,
            **_training_corpora(self.cache, plan),
            content=self.content,
            provenance=self.provenance,
        )


def _joined(candidates: Sequence[Candidate]) -> Candidate:
    """Return what the layers of a head are saved as: the only one, or several single layers."""
    if len(candidates) == 1:
        return candidates[0]
    layers = tuple(candidate.name for candidate in candidates)
    return Candidate("concat-" + "-".join(layers), layers, "concat")


def _training_corpora(cache: Cache, plan: Plan) -> dict[str, str]:
    """Return title, licence and citation of the corpora that the saved head was fitted on."""
    rows = plan.problem.everybody().train
    names = sorted(set(plan.clips["corpus"][rows].tolist()))
    if set(names) < set(cache.clips["corpus"].tolist()) and set(names) <= set(CORPORA):
        corpora = [CORPORA[name] for name in names]
        return {
            "corpus": ", ".join(corpus.title for corpus in corpora),
            "licence": "; ".join(dict.fromkeys(corpus.licence for corpus in corpora)),
            "citation": "; ".join(corpus.citation for corpus in corpora),
        }
    fields = ("corpus", "licence", "citation")
    return {name: str(cache.provenance.get(name, "")) for name in fields}


def _training_record(cache: Cache, plan: Plan) -> TrainingRecord:
    """Record the clips that the saved head is fitted on, and the corpora of the encoder.

    The clips of the encoder are in its own record.
    """
    rows = plan.target.rows[plan.problem.everybody().train]
    corpora = cache.clips["corpus"]
    audio = cache.clips.get("audio_sha256", np.full(len(corpora), ""))
    fitted = record_clips(
        corpora[rows].tolist(),
        cache.clips["speaker"][rows].tolist(),
        cache.clips["path"][rows].tolist(),
        audio[rows].tolist(),
    )
    known: list[str] = []
    if COLUMN in cache.clips:
        marked = cache.clips[COLUMN] == "corpus"
        columns = (cache.clips[name][marked].tolist() for name in ("corpus", "speaker", "path"))
        known = [original_speaker(*row)[0] for row in zip(*columns, strict=True)]
    of_encoder = TrainingRecord(corpora=frozenset(known), unlisted=frozenset(known))
    by_name = known_training(str(cache.key.get("encoder", "")).split(SEPARATOR))
    return unite([fitted, of_encoder, by_name]) or fitted


def _summarise_head(head: type[Head], grid: Grid, fit: HeadFit) -> HeadSummary:
    searched = [result for result in fit.results.values() if not np.isnan(result.inner).all()]
    return HeadSummary(
        title=head.title,
        scores_are=head.scores_are,
        grid=grid,
        choices=[describe_choice(choice) for choice in fit.choices],
        final=describe_choice(fit.final),
        fits={
            "points": len(combinations(grid)) * len(searched),
            "pruned": int(sum(np.isnan(result.inner).sum() for result in searched)),
            "inner_not_converged": sum(result.inner_not_converged for result in searched),
        },
        not_converged=_not_converged(fit),
    )


def _summarise_fusion(fit: HeadFit) -> HeadSummary:
    return replace(
        _summarise_head(FusedHead, {}, fit),
        fits={"points": 0, "pruned": 0, "inner_not_converged": 0},
    )


def _summarise_best(head: type[Head], fit: HeadFit) -> HeadSummary:
    return replace(
        _summarise_head(head, {}, fit),
        title="best head",
        fits={"points": 0, "pruned": 0, "inner_not_converged": 0},
        scores_are="scores of the head chosen in each fold; not comparable across folds",
    )


def _not_converged(fit: HeadFit) -> dict[str, list[str]]:
    """Return, by layer, the folds whose tested head did not converge."""
    folds = {
        layer: [c.fold for c in fit.choices if not fit.results[layer, c.fold].converged]
        for layer in fit.layers
    }
    return {layer: names for layer, names in folds.items() if names}
