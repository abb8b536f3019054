"""Record a run as it proceeds: common to fitting, fine-tuning and evaluation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...corpora.data import Data
from ...errors import UserError
from ...files import json_value, make_folder
from ...pipeline.enrolment_curve import EnrolmentFit
from ...pipeline.finetune import END_TO_END
from ...pipeline.fit import Choice, HeadFit
from ...pipeline.heads import Grid
from ...pipeline.nuisance import predict_from_nuisance
from ...pipeline.plan import Plan
from .csv_files import save_clips, save_nuisance, save_predictions, save_search
from .enrolment_file import describe_enrolment, save_enrolment
from .fold_results import remove_fold_results
from .identity import tested_hashes
from .latest import RUNS
from .perturbed_file import perturbed_name
from .summary import HeadSummary, RunSummary, check_run, read_summary, update_hashes, write_summary
from .ties_file import save_ties


@dataclass(frozen=True)
class Recorder:
    """A run that is being recorded."""

    run: Path
    plan: Plan  #: Clips, labels and folds.
    summary: RunSummary  #: The content of ``run.json``, but for the heads.
    heads: dict[str, HeadSummary]  #: The finished heads.

    @property
    def is_complete(self) -> bool:
        """Whether all planned heads are finished."""
        return set(self.heads) == set(self.summary.planned)

    def write(self) -> None:
        """Write ``run.json``."""
        write_summary(self.run, replace(self.summary, heads=self.heads))

    def start(self) -> None:
        """Record the plan before any work: a stopped run shows that it is incomplete."""
        self.write()
        plan = self.plan
        save_clips(self.run, plan.tested_clips, plan.tested_labels, plan.split.folds)

    def reopen(self) -> None:
        """Update the name of a complete run and make it the newest: it was requested last."""
        recorded = read_summary(self.run)
        names = {
            name: value
            for name in ("given_name", "probe")
            if (value := getattr(self.summary, name)) and value != getattr(recorded, name)
        }
        if names:
            write_summary(self.run, replace(recorded, **names))
        (self.run / "run.json").touch()

    def save_head(
        self,
        name: str,
        summary: HeadSummary,
        fit: HeadFit,
        grid: Grid | None = None,
        enrolment: EnrolmentFit | None = None,
    ) -> None:
        """Write predictions, search and enrolment of a head, and then list it in ``run.json``."""
        plan = self.plan
        # A run that other versions made may have left them; they are of other heads.
        (self.run / perturbed_name(name)).unlink(missing_ok=True)
        save_predictions(
            self.run, name, fit, plan.tested_clips, plan.tested_labels, plan.split.folds
        )
        if grid is not None:
            save_search(self.run, name, grid, fit)
        if fit.ties is not None:
            save_ties(self.run, name, plan.clips, plan.problem, fit.ties.scores)
        if enrolment is not None:
            save_enrolment(self.run, name, enrolment.counts, plan.problem.names)
            summary = replace(summary, enrolment=describe_enrolment(enrolment))
        self.heads[name] = summary
        self.write()

    def finish(self) -> Path:
        """Write the nuisance baselines and the final hashes, and return the run's folder."""
        plan = self.plan
        if not (self.run / "nuisance.csv").exists():
            problem = plan.problem
            predicted = predict_from_nuisance(
                plan.clips, problem.labels, problem.folds_of_clips, problem.seed
            )
            save_nuisance(self.run, predicted, plan.tested_clips)
        update_hashes(self.run)
        return self.run


def open_recorder(
    plan: Plan, out: Path | None, name: str, provenance: Mapping[str, Any], **fields: Any
) -> Recorder:
    """Open the folder of a run, new or to be resumed: ``out``, or ``artifacts/runs/NAME``.

    ``name`` is from :func:`~serpipe.artifacts.run.identity.run_name`; ``fields`` are those of
    :class:`RunSummary` that the plan does not determine. Raise UserError if the folder holds
    anything else, or a run whose files were changed.
    """
    run = out or RUNS / name
    heads = _finished_heads(run, name, provenance)
    given_name = fields.pop("given_name", "") or (read_summary(run).given_name if heads else "")
    make_folder(run)
    summary = RunSummary(
        name=name,
        target=plan.target.column,
        changes=plan.target.changes,
        split=plan.split.name,
        split_title=plan.split.title,
        warnings=plan.warnings,
        seed=plan.protocol.seed,
        labels=plan.problem.names,
        speakers=np.unique(plan.tested_clips["speaker"]).tolist(),
        clips=len(plan.tested_labels),
        heads=heads,
        provenance=provenance,
        task=plan.task,
        assumptions=plan.assumptions,
        findings=plan.findings,
        group=plan.group,
        hold_out=plan.protocol.hold_out or "",
        groups=plan.tested_groups,
        given_name=given_name,
        **tested_hashes(plan.tested_clips, plan.tested_labels, plan.split.folds),
        **fields,
    )
    return Recorder(run, plan, summary, heads)


def end_to_end_fields(data: Data, head: str) -> dict[str, Any]:
    """Return the fields that runs without cached embeddings have in common."""
    return {
        "corpus": data.title,
        "pooling": "mean",
        "normalise": "none",
        "layers": [END_TO_END],
        "planned": [head],
    }


def data_provenance(data: Data) -> dict[str, str]:
    """Return what the provenance of a cache would say of the clips."""
    return {"corpus": data.title, "licence": data.licence, "citation": data.citation}


def describe_choice(choice: Choice) -> dict[str, Any]:
    """Return the entry of a choice in ``run.json``."""
    return {
        "fold": choice.fold,
        "layer": choice.layer,
        "parameters": choice.params,
        "inner_score": json_value(choice.inner_score),
        **({"head": choice.head} if choice.head else {}),
        **({} if math.isnan(choice.temperature) else {"temperature": choice.temperature}),
        **({"members": _describe_members(choice)} if choice.members else {}),
    }


def _describe_members(choice: Choice) -> list[dict[str, Any]]:
    """Return the members of a fusion, the one with the largest weight first."""
    by_weight = sorted(choice.members.items(), key=lambda member: -member[1])
    return [{"head": head, "layer": layer, "weight": w} for (head, layer), w in by_weight]


def _finished_heads(run: Path, name: str, provenance: Mapping[str, Any]) -> dict[str, HeadSummary]:
    """Return the heads that this very run already has; refuse a folder that holds anything else."""
    left_by_a_kill = {"run.json.unfinished"}
    if not run.is_dir() or {path.name for path in run.iterdir()} <= left_by_a_kill:
        return {}
    remedy = "choose another folder with --out, or remove it"
    if not (run / "run.json").is_file():
        raise UserError(f"{run}: holds files that are not of a run; {remedy}")
    summary = read_summary(run)
    if summary.name != name:
        raise UserError(f"{run}: holds another run; {remedy}")
    if summary.provenance.get("versions") != provenance.get("versions"):
        remove_fold_results(run)  # other versions may give other numbers: nothing is mixed
        return {}
    check_run(run, summary)
    return dict(summary.heads)
