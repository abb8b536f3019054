"""Fit heads on a cache and record the run as it goes."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..corpora import CORPORA
from ..errors import UserError
from ..features.cache import Cache
from ..features.equal_rows import check_embeddings
from ..features.known_models import known_training
from ..features.recordings import RECORDING
from ..features.training_record import (
    COLUMN,
    TrainingRecord,
    original_speaker,
    record_clips,
    unite,
)
from ..files import json_value, make_folder
from ..pipeline.blocks import Matrix
from ..pipeline.fit import Choice, HeadFit, choose_head, fit_final, fit_head
from ..pipeline.folds import check_inner_folds
from ..pipeline.groups import KEPT_TOGETHER
from ..pipeline.heads import BEST, HEADS, Grid, Head, combinations
from ..pipeline.layers import Candidate
from ..pipeline.measures import MEASURES
from ..pipeline.nuisance import predict_from_nuisance
from ..pipeline.protocol import (
    Plan,
    Protocol,
    anything_to_choose,
    inner_title,
    make_plan,
    read_layer,
)
from ..pipeline.ratings import Ratings
from ..pipeline.statistics import count_by_group, intervals
from ..pipeline.stream import candidate_size, spill, spill_folder, stream_plan
from ..pipeline.target import EMOTION
from ..progress import Say, Track, no_track, say_nothing
from .bundle import save_bundle
from .latest import RUNS
from .parts import part_writer, read_parts, remove_parts
from .run import (
    SETTINGS_VERSION,
    HeadSummary,
    RunSummary,
    check_run,
    content_hash,
    read_summary,
    rename_run,
    run_name,
    save_clips,
    save_nuisance,
    save_predictions,
    save_search,
    tested_hashes,
    update_hashes,
    write_summary,
)

if TYPE_CHECKING:
    from ..cluster import Cluster


#: Raised when the same command gives other numbers: what an earlier version began is not resumed.
REVISION = 3


def record_run(
    cache: Cache,
    heads: Sequence[type[Head]],
    grids: Mapping[str, Grid],
    protocol: Protocol | None = None,
    *,
    choose_best: bool = False,
    default_heads: bool = False,
    ratings: Ratings | None = None,
    provenance: Mapping[str, Any],
    out: Path | None = None,
    given_name: str = "",
    jobs: int = 1,
    stream_past: float = math.inf,
    cluster: "Cluster | None" = None,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> Path:
    """Cross-validate heads, choosing layer and hyper-parameters inside, and save all of it.

    Each fold is kept when it is done, so that a run that was stopped goes on where it stopped, and
    each head is written when it is done, so that an error in the next one loses nothing.

    Parameters
    ----------
    cache : Cache
        The embeddings and the clip table.
    heads : sequence of Head
        What to fit.
    grids : mapping of str to Grid
        The values to try, by name of the head.
    protocol : Protocol, optional
        How; nested leave-one-speaker-out over all layers by default.
    choose_best : bool
        Whether the head, too, is chosen inside each fold, among ``heads``: recorded as one more
        head, ``best``.
    default_heads : bool
        Whether nobody asked for these heads: those that need more memory than there is are left
        out then, instead of refused.
    ratings : Ratings, optional
        Of the target, from a file of their own.
    provenance : mapping
        JSON values to store beside the results.
    out : Path, optional
        The run's folder; by default one named after the cache, the split and the heads.
    given_name : str
        What the user calls the run in tables and figures.
    jobs : int
        Processes. The results do not depend on it.
    stream_past : float
        GiB of the embeddings of one candidate, past which heads read them a block at a time, or
        give their place to one that does.
    cluster : Cluster, optional
        Whose workers search instead.
    track, say : callable
        Show progress, and take a line that tells of such a change.

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
    if packages:  # another version of theirs may give other numbers
        versions = {**provenance.get("versions", {}), **packages}
        provenance = {**provenance, "versions": versions}
    plan = plan_run(cache, heads, grids, protocol or Protocol(), ratings, choose_best=choose_best)
    size = candidate_size(cache, plan)
    streamed = size > stream_past
    if streamed:
        plan, heads, grids = stream_plan(
            plan,
            heads,
            grids,
            size,
            stream_past,
            on_cluster=cluster is not None,
            default_heads=default_heads,
        )
        say(f"note     {plan.warnings[-1]}")
        if choose_best and len(heads) < 2:
            raise UserError(
                f"--head best: of the heads named, {heads[0].name} alone can stream, and there is "
                "nothing to choose from; name several that can, or raise --stream-past"
            )
    content = content_hash(cache.key, cache.checksums(), plan.clips)
    settings = {
        "format": SETTINGS_VERSION,
        "revision": REVISION,
        "content": content,
        "grids": {head.name: grids[head.name] for head in heads},
        "protocol": {
            # What was not asked for is left out: new options do not give old runs new names.
            name: value
            for name, value in (asdict(plan.protocol) | {"pooling": plan.pooling}).items()
            if value != {"target": EMOTION}.get(name, getattr(Protocol, name, {}))
        },
        **({"streamed": True} if streamed else {}),  # of many clips, trees have other bins
        "folds": [
            [fold.name, fold.test.tolist()]
            + ([] if fold.validation is None else [fold.validation.tolist()])
            for fold in plan.split.folds
        ],
    }
    but_seed = {**asdict(replace(plan.protocol, seed=0)), "pooling": plan.pooling}
    asked_for = json.dumps({**settings, "protocol": but_seed, "folds": None}, sort_keys=True)
    planned = [head.name for head in heads] + ([BEST] if choose_best else [])
    name = run_name(cache.path, plan.split.name, planned, settings)
    run = out or RUNS / name
    done = heads_there(run, name, provenance)
    earlier_name = read_summary(run).given_name if done else ""
    make_folder(run)

    def summarise() -> None:
        write_summary(
            run,
            RunSummary(
                name=name,
                corpus=_corpus_title(cache, plan),
                encoder=cache.key,
                pooling=plan.pooling,
                target=plan.target.column,
                changes=plan.target.changes,
                normalise=plan.protocol.normalise,
                split=plan.split.name,
                split_title=plan.split.title,
                inner=inner_title(
                    plan, [grids[head.name] for head in heads], among_heads=choose_best
                ),
                warnings=plan.warnings,
                seed=plan.protocol.seed,
                layers=[candidate.name for candidate in plan.candidates],
                labels=plan.problem.names,
                speakers=np.unique(plan.tested_clips["speaker"]).tolist(),
                clips=len(plan.tested_labels),
                content=content,
                planned=planned,
                task=plan.task,
                agreement=_agreement(ratings),
                assumptions=plan.assumptions,
                findings=plan.findings,
                group=plan.group,
                groups=plan.tested_groups,
                **tested_hashes(plan.tested_clips, plan.tested_labels, plan.split.folds),
                settings=hashlib.sha256(asked_for.encode()).hexdigest(),
                given_name=given_name or earlier_name,
                heads=done,
                provenance={**provenance, "cache": cache.provenance},
            ),
        )

    if set(done) == set(planned):
        remove_parts(run)  # of a run that was killed between two of its last steps
        rename_run(run, given_name)
        (run / "run.json").touch()  # the newest run is the one that was asked for last
    else:
        summarise()  # before the work: what is left of a stopped run says that it is not whole
        save_clips(run, plan.tested_clips, plan.tested_labels, plan.split.folds)
    with spill_folder(run) if streamed else nullcontext() as folder:
        work = _RunContext(
            cache, plan, run, content, provenance, choose_best, jobs, folder, cluster, track
        )
        for head in heads:
            if head.name not in done:
                grid = grids[head.name]
                fit = work.fit(head, grid)
                n_points = len(combinations(grid))
                save_search(run, head.name, grid, fit)
                done[head.name] = work.record(head.name, head, fit, grid, n_points)
                summarise()
            if not choose_best:  # which needs what each fold of each head gave
                remove_parts(run, head.name)
        if choose_best and BEST not in done:
            fits = {head.name: work.fit(head, grids[head.name]) for head in heads}
            fit = choose_head(fits, grids, plan.problem)
            done[BEST] = work.record(BEST, HEADS[fit.final.head], fit, {}, 0)
            summarise()
        remove_parts(run)
    save_nuisance_once(run, plan)
    update_hashes(run)
    return run


def plan_run(
    cache: Cache,
    heads: Sequence[type[Head]],
    grids: Mapping[str, Grid],
    protocol: Protocol,
    ratings: Ratings | None = None,
    *,
    choose_best: bool = False,
) -> Plan:
    """Apply a protocol to a cache, and refuse what could only fail later.

    Parameters
    ----------
    cache, heads, grids, protocol, ratings, choose_best
        As :func:`record_run` takes them.

    Returns
    -------
    Plan

    Raises
    ------
    UserError
        If the cache does not hold what the protocol needs, a head is for another kind of target,
        there is nobody to choose by, or clips of two speakers have the same embedding.
    """
    plan = make_plan(cache, protocol, ratings)
    if RECORDING not in cache.clips:  # made before copies were looked for
        check_embeddings(cache, plan.clips, plan.target.rows)
    wrong = [head.name for head in heads if head.task != plan.task]
    if wrong:
        what = "labels" if plan.task == "classification" else "numbers"
        raise UserError(
            f"--head {wrong[0]}: {plan.target.column} is made of {what}; expected a head for "
            "these; name one that `serpipe fit --help` lists for them"
        )
    if anything_to_choose(plan, [grids[head.name] for head in heads], among_heads=choose_best):
        folds = (*plan.split.folds, plan.problem.everybody())
        check_inner_folds(folds, plan.problem.strata, plan.problem.kept_together)
    return plan


def save_nuisance_once(run: Path, plan: Plan) -> None:
    """Predict from properties of the recordings on the folds of a plan, unless that was done."""
    if not (run / "nuisance.csv").exists():
        problem = plan.problem
        predicted = predict_from_nuisance(plan.clips, problem.labels, problem.folds, problem.seed)
        save_nuisance(run, predicted, plan.tested_clips)


def _agreement(ratings: Ratings | None) -> dict[str, Any] | None:
    if not ratings or not ratings.agreement:
        return None
    return {name: json_value(value) for name, value in asdict(ratings.agreement).items()}


def _learnt_from(cache: Cache, plan: Plan) -> dict[str, str]:
    """Return title, licence and citation of the corpora that the saved head was fitted on."""
    rows = plan.problem.everybody().train
    learnt = sorted(set(plan.clips["corpus"][rows].tolist()))
    if set(learnt) < set(cache.clips["corpus"].tolist()) and set(learnt) <= set(CORPORA):
        each = [CORPORA[name] for name in learnt]
        return {
            "corpus": ", ".join(corpus.title for corpus in each),
            "licence": "; ".join(dict.fromkeys(corpus.licence for corpus in each)),
            "citation": "; ".join(corpus.citation for corpus in each),
        }
    told = ("corpus", "licence", "citation")
    return {name: str(cache.provenance.get(name, "")) for name in told}


def _corpus_title(cache: Cache, plan: Plan) -> str:
    """Name the corpora that are tested."""
    tested = sorted(set(plan.tested_clips["corpus"].tolist()))
    if set(tested) == set(cache.clips["corpus"].tolist()):
        return str(cache.provenance.get("corpus", "unknown corpus"))
    return ", ".join(CORPORA[name].title if name in CORPORA else name for name in tested)


@dataclass(frozen=True)
class _RunContext:
    """What the fits of all heads of a run have in common."""

    cache: Cache
    plan: Plan
    run: Path
    content: str
    provenance: Mapping[str, Any]
    choose_best: bool
    jobs: int
    folder: Path | None
    cluster: "Cluster | None"
    track: Track[Any]

    def embeddings(self, candidate: Candidate) -> Matrix:
        """Return the embeddings of a candidate; in a file, if there is a folder for them."""
        cache, plan = self.cache, self.plan
        if self.folder:
            return spill(cache, candidate, plan, self.folder)
        return candidate.join([read_layer(cache, layer, plan) for layer in candidate.layers])

    def fit(self, head: type[Head], grid: Grid) -> HeadFit:
        """Cross-validate one head, going on where a stopped run stopped."""
        plan, problem, run = self.plan, self.plan.problem, self.run
        folds = [*problem.folds, problem.everybody()]
        layers = [candidate.name for candidate in plan.candidates]
        n_points = len(combinations(grid))
        return fit_head(
            head,
            grid,
            plan.candidates,
            self.embeddings,
            problem,
            earlier=read_parts(run, head.name, layers, folds, np.array(problem.names), n_points),
            on_result=part_writer(
                run, head.name, layers, [fold.name for fold in folds], problem.names
            ),
            jobs=self.jobs,
            one_layer_at_a_time=self.folder is not None,
            among_heads=self.choose_best,
            cluster=self.cluster,
            track=self.track,
        )

    def record(
        self, name: str, head: type[Head], fit: HeadFit, grid: Grid, n_points: int
    ) -> HeadSummary:
        """Write the predictions and the bundle of a head under a name, and summarise it."""
        plan = self.plan
        save_predictions(
            self.run, name, fit, plan.tested_clips, plan.tested_labels, plan.split.folds
        )
        if not plan.protocol.permute_labels:
            _record_bundle(
                self.cache,
                plan,
                self.run / "bundles" / name,
                head,
                fit,
                self.content,
                self.provenance,
                self.embeddings,
            )
        summary = _summarise_head(head, grid, fit, n_points)
        if name == BEST:
            return replace(
                summary,
                title="best head",
                fits={"points": 0, "pruned": 0, "inner_not_converged": 0},
                scores_are="scores of the head chosen in each fold; not comparable across folds",
            )
        return summary


def _record_bundle(
    cache: Cache,
    plan: Plan,
    folder: Path,
    head: type[Head],
    fit: HeadFit,
    content: str,
    provenance: Mapping[str, Any],
    embeddings: Any,
) -> None:
    """Fit the head on all clips, and save it with all that predicting needs."""
    problem, final = plan.problem, fit.final
    (candidate,) = (each for each in plan.candidates if each.name == final.layer)
    fitted, weights = fit_final(head, final.params, embeddings(candidate), problem)
    measure = MEASURES[head.task]
    by_speaker = count_by_group(
        plan.tested_labels,
        fit.nested.predicted,
        plan.tested_clips.get(KEPT_TOGETHER, plan.tested_clips["speaker"]),
        problem.names,
        measure,
    )
    scores = intervals(np.stack(list(by_speaker.values())), measure)
    save_bundle(
        folder,
        fitted,
        training=_training_record(cache, plan),
        head=head.name,
        parameters=final.params,
        encoder=cache.key,
        pooling=plan.pooling,
        layer=asdict(candidate),
        layer_weights=weights,
        target=plan.target.column,
        changes=plan.target.changes,
        labels=problem.names,
        normalise=plan.protocol.normalise,
        converged=fitted.converged,
        result={
            "split": plan.split.title,
            "speakers": len(np.unique(plan.tested_clips["speaker"])),
            "clips": len(plan.tested_labels),
            **{
                name: {part: json_value(value) for part, value in asdict(interval).items()}
                for name, interval in scores.items()
            },
        },
        warnings=plan.warnings,
        **_learnt_from(cache, plan),
        content=content,
        provenance=provenance,
    )


def _training_record(cache: Cache, plan: Plan) -> TrainingRecord:
    """Record the clips that the saved head is fitted on, and the encoder's corpora.

    The clips that the encoder was trained on are in a record of its own.
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
    by_name = known_training([str(cache.key.get("encoder", ""))])
    return unite([fitted, of_encoder, by_name]) or fitted


def _summarise_head(head: type[Head], grid: Grid, fit: HeadFit, n_points: int) -> HeadSummary:
    layers, folds = list(fit.layers), [choice.fold for choice in fit.choices]
    searched = [result for result in fit.results.values() if not np.isnan(result.inner).all()]
    return HeadSummary(
        title=head.title,
        scores_are=head.scores_are,
        grid=grid,
        choices=[_describe_choice(choice) for choice in fit.choices],
        final=_describe_choice(fit.final),
        fits={
            "points": n_points * len(searched),
            "pruned": int(sum(np.isnan(result.inner).sum() for result in searched)),
            "inner_not_converged": sum(result.inner_not_converged for result in searched),
        },
        not_converged={
            layer: names
            for layer in layers
            if (names := [fold for fold in folds if not fit.results[layer, fold].converged])
        },
    )


def _describe_choice(choice: Choice) -> dict[str, Any]:
    return {
        "fold": choice.fold,
        "layer": choice.layer,
        "parameters": choice.params,
        "inner_score": json_value(choice.inner_score),
        **({"head": choice.head} if choice.head else {}),
    }


def heads_there(run: Path, name: str, provenance: Mapping[str, Any]) -> dict[str, HeadSummary]:
    """Return the heads that this very run has already; refuse a folder that holds anything else."""
    left_by_a_kill = {"run.json.unfinished"}
    if not run.is_dir() or {path.name for path in run.iterdir()} <= left_by_a_kill:
        return {}
    fix = "name another folder with --out, or remove it"
    if not (run / "run.json").is_file():
        raise UserError(f"{run}: holds other things; expected a new folder; {fix}")
    summary = read_summary(run)
    if summary.name != name:
        raise UserError(f"{run}: holds another run; expected a new folder; {fix}")
    if summary.provenance.get("versions") != provenance.get("versions"):
        remove_parts(run)  # other versions may give other numbers: nothing is mixed
        return {}
    check_run(run, summary)
    return dict(summary.heads)
