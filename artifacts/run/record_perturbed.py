"""Test the heads of a finished run on perturbed copies of its test clips, in the same folds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ...features.cache import Cache, check_table, open_cache
from ...features.perturbation import Perturbation, read_perturbations
from ...features.perturbed_cache import open_perturbed
from ...pipeline.heads import FUSE, combinations
from ...pipeline.layers import Candidate
from ...pipeline.marks import MarkKind
from ...pipeline.options import Protocol
from ...pipeline.perturbed import Member, predict_copies
from ...pipeline.plan import Plan, make_plan, read_candidate
from ...pipeline.ratings import Ratings
from ...pipeline.votes import Votes
from ...progress import Say, Track, no_track, say_nothing
from ...schema import from_json
from .csv_files import NESTED, read_table
from .identity import content_hash
from .latest import CACHES, by_age
from .perturbed_file import read_perturbed, save_perturbed
from .results import RunResults, read_results
from .summary import RunKind, RunSummary

#: Share of the recorded predictions that the heads, fitted again, must reproduce.
REPRODUCED = 0.99


def find_cache(
    run: Path, summary: RunSummary, given: Path | None, ratings: Ratings | Votes | None
) -> tuple[Cache, Plan]:
    """Return the cache that a run was fitted on, and its protocol applied to that cache.

    The cache is the given one, or one in the default folder. Raise UserError if it is not found, or
    if the run cannot be tested on perturbed clips.
    """
    if summary.kind is not RunKind.FITTED or summary.has_mark(MarkKind.STREAMED):
        raise UserError(
            f"{run}: holds no heads that can be fitted again; name a run of `serpipe fit` whose "
            "embeddings fit in memory, or test a trained model with `serpipe evaluate --perturb`"
        )
    if not summary.protocol:
        raise UserError(f"{run}: was made by an earlier version; run `serpipe fit` again")
    if "joined" in summary.encoder:
        raise UserError(f"{run}: was fitted on several caches; name a run that was fitted on one")
    for path in reversed(by_age(CACHES, "*.h5")) if given is None else [given]:
        try:
            cache = open_cache(path)
            check_table(cache)
            if cache.key == summary.encoder:
                return cache, _plan(run, summary, cache, ratings)
        except UserError:
            if given is not None:
                raise
    where = given or CACHES
    raise UserError(
        f"{where}: {run} was not fitted on {'it' if given else 'any cache there'}; name the cache "
        "with --cache and, if the labels were in a separate table, that table with --ratings"
    )


def record_perturbed(
    run: Path,
    cache: Cache,
    plan: Plan,
    perturbations: Sequence[Perturbation],
    *,
    jobs: int = 1,
    track: Track[Any] = no_track,
    say: Say = say_nothing,
) -> None:
    """Predict perturbed copies of the test clips of a run, and save the predictions in it.

    In each fold, the heads are fitted again to the same training clips, on the layer and with the
    hyper-parameters that were chosen there.

    Parameters
    ----------
    run : Path
        Folder of a run of ``serpipe fit``.
    cache : Cache
        That of the run; the caches of the perturbed clips are beside it.
    plan : Plan
        The protocol of the run, applied to the cache; both are from :func:`find_cache`.
    perturbations : sequence of Perturbation
        What to test. Those that the run already has are not computed again.
    jobs : int
        Number of processes.
    track, say : callable
        Show progress; print a line.

    Raises
    ------
    UserError
        If a perturbed copy is missing, or the heads do not reproduce the recorded predictions.
    """
    results = read_results(run)
    summary = results.summary
    known = {head: read_perturbed(run, head, summary, results.clips) for head in summary.heads}
    missing = [
        each
        for each in perturbations
        if not all(str(each) in of_head for of_head in known.values())
    ]
    if not missing:
        return
    tested = [open_perturbed(cache, each) for each in missing]
    trained = [
        open_perturbed(cache, each)
        for each in read_perturbations("--augment", plan.protocol.augment)
    ]

    def copies(candidate: Candidate) -> list[Any]:
        sources = [(cache, plan.target.rows)]
        sources += [(each.cache, each.rows[plan.target.rows]) for each in tested]
        return [read_candidate(candidate, plan, *source) for source in sources]

    predicted = predict_copies(
        {head: _members(results, head) for head in summary.heads},
        plan.candidates,
        lambda candidate: read_candidate(candidate, plan, cache, plan.target.rows, trained),
        copies,
        plan.problem,
        jobs=jobs,
        track=track,
    )
    for head, (unperturbed, *_) in predicted.items():
        same = float(np.mean(_nearly_equal(unperturbed, results.predicted[head][NESTED])))
        if same < REPRODUCED:
            raise UserError(
                f"{run}: {head} gives other predictions for {1 - same:.0%} of the clips when it is "
                "fitted again, perhaps with other versions of packages; run `serpipe fit` again"
            )
    for head, (_, *perturbed) in predicted.items():
        new = dict(zip(map(str, missing), perturbed, strict=True))
        save_perturbed(run, head, {**known[head], **new}, results.clips)
    say(f"tested   {', '.join(map(str, missing))}")


def _plan(run: Path, summary: RunSummary, cache: Cache, ratings: Ratings | Votes | None) -> Plan:
    """Apply the protocol of a run to its cache; raise UserError if it is another cache."""
    try:
        protocol = from_json(Protocol, summary.protocol)
    except ValueError as error:
        raise UserError(f"{run / 'run.json'}: {error}; run `serpipe fit` again") from None
    plan = make_plan(cache, protocol, ratings)
    if content_hash(cache.key, cache.checksums(), plan.clips) != summary.content:
        raise UserError(
            f"{cache.path}: is not what {run} was fitted on; name its cache with --cache"
        )
    return plan


def _nearly_equal(first: Any, second: Any) -> Any:
    return np.isclose(first, second) if first.dtype.kind == "f" else first == second


def _members(results: RunResults, head: str) -> dict[str, list[Member]]:
    """Return what a head consists of in each fold, as the run recorded it."""
    choices = results.summary.heads[head].choices
    if head != FUSE:
        return {
            str(each["fold"]): [
                Member(str(each.get("head", head)), str(each["layer"]), each["parameters"])
            ]
            for each in choices
        }
    names = {str(member["head"]) for each in choices for member in each["members"]}
    params = {name: _chosen_params(results, name) for name in names}
    return {
        str(each["fold"]): [
            Member(
                member["head"],
                member["layer"],
                params[member["head"]][member["layer"], str(each["fold"])],
                float(member["weight"]),
            )
            for member in each["members"]
        ]
        for each in choices
    }


def _chosen_params(results: RunResults, head: str) -> dict[tuple[str, str], Mapping[str, float]]:
    """Return the hyper-parameters that were chosen by layer and fold, from ``search/HEAD.csv``."""
    rows = read_table(results.run, f"search/{head}.csv", results.summary)
    points = combinations(
        {name: tuple(values) for name, values in results.summary.heads[head].grid.items()}
    )
    return {
        (row["layer"], row["fold"]): next(
            point
            for point in points
            if all(float(row[name]) == value for name, value in point.items())
        )
        for row in rows
        if row["note"] == "chosen"
    }
