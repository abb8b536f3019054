"""``run.json``: what a run was asked for, what it chose, and the hashes of its files.

=================================== ============================================================
``run.json``                        settings, choices, command and versions; the SHA-256 hashes of
                                    all files below but ``report/`` and ``parts/``, which are
                                    checked when the files are read
``clips.csv``                       the tested clips with their labels and folds
``nuisance.csv``                    out-of-fold predictions from sampling rate, channels, duration
                                    and loudness alone
``predictions/HEAD.csv``            out-of-fold predictions and scores: the nested ones, then a
                                    row per layer and clip
``enrolment/HEAD.csv``              confusion counts of each test speaker by number of enrolled
                                    clips, where enrolment was measured
``perturbed/HEAD.csv``              predictions for perturbed copies of the tested clips, where
                                    these were made
``search/HEAD.csv``                 inner score of every layer, fold and set of hyper-parameters
``bundles/HEAD/``                   the head fitted on all clips, with all that inference needs
``model/``                          the fine-tuned model
``report/``                         written by ``serpipe report``
``parts/``                          results of single folds, from which a stopped run resumes
=================================== ============================================================
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path, PureWindowsPath
from typing import Any

from ...errors import UserError
from ...integrity import MODEL_HASHES, check_files, hash_files, read_record_json, write_sealed_json
from ...pipeline.heads import BEST, FUSE
from ...pipeline.marks import Mark
from ...pipeline.options import trained_on
from ...pipeline.split_kind import SplitKind
from ...schema import from_json
from .encoder_key import read_encoder_key

FORMAT_VERSION = 3
#: The format before files were hashed: still read, without a check.
_UNHASHED_VERSION = 2
REMEDY = "restore the original file, or remove the run and make it again"
#: Longest name that a user may give to a run.
MAX_NAME_LENGTH = 40


class RunKind(StrEnum):
    """How the predictions of a run were made."""

    FITTED = "fitted"  # heads on frozen embeddings
    FINETUNED = "finetuned"  # a model trained end to end
    EVALUATED = "evaluated"  # a trained model as it was


@dataclass(frozen=True)
class HeadSummary:
    """The entry of a head in ``run.json``."""

    title: str  #: Name in tables.
    scores_are: str  #: Meaning of the scores in the CSV file.
    grid: Mapping[str, Sequence[int | float]]  #: The values tried for each hyper-parameter.
    #: ``fold``, ``layer``, ``parameters`` and ``inner_score``, chosen on the training speakers of
    #: each fold; and ``temperature``, which calibrates the scores, where they are calibrated.
    choices: Sequence[Mapping[str, Any]]
    #: The same for the bundle, chosen on all clips that any fold trains on.
    final: Mapping[str, Any]
    #: ``points``: hyper-parameter settings over all layers and folds; ``pruned``: those that the
    #: search skipped; ``inner_not_converged``: inner fits that did not reach their optimum.
    fits: Mapping[str, int]
    #: Layer to the folds whose tested head did not reach its optimum.
    not_converged: Mapping[str, Sequence[str]]
    #: Numbers of enrolled clips, draws, and what was chosen; None where enrolment was not measured.
    enrolment: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunSummary:
    """The content of ``run.json``."""

    #: From :func:`~serpipe.artifacts.run.identity.run_name`; unique to settings and data.
    name: str
    corpus: str  #: Title of the data.
    #: The key of the cache: the encoder and everything else that the embeddings depend on.
    encoder: Mapping[str, Any]
    pooling: str  #: Poolings that the heads use.
    target: str  #: The predicted column.
    changes: Sequence[str]  #: Labels that were merged or dropped.
    normalise: str  #: ``"none"`` or ``"speaker"``.
    split: str  #: As an option.
    split_title: str  #: In words.
    inner: str  #: How layer and hyper-parameters were chosen, in words.
    #: Shown wherever a score of this run appears; :attr:`marks` parses them.
    warnings: Sequence[str]
    seed: int  #: Of folds, heads and shuffles.
    layers: Sequence[str]
    labels: Sequence[str]
    speakers: Sequence[str]
    clips: int  #: Number of tested clips.
    content: str  #: Hash of the cache's key, the checksums of its embeddings, and the clips used.
    planned: Sequence[str]  #: The requested heads.
    heads: Mapping[str, HeadSummary]  #: The finished heads.
    provenance: Mapping[str, Any]  #: Command, versions, machine; and those of the cache.
    task: str = "classification"  #: Or ``"regression"``.
    #: Fields of :class:`~serpipe.pipeline.ratings.Agreement`, if there are several raters.
    agreement: Mapping[str, Any] | None = None
    #: Name of the folder, beside that of a fine-tuned run, that holds the run of its frozen probe.
    probe: str | None = None
    assumptions: Sequence[str] = ()  #: Defaults that were assumed, in words.
    findings: Sequence[Sequence[str]] = ()  #: Check code and text of what planning noticed.
    #: What folds keep together: ``"speaker"``, or a column that groups speakers.
    group: str = "speaker"
    #: The tested groups of speakers; empty if ``group`` is ``"speaker"``.
    groups: Sequence[str] = ()
    #: Hash of the tested clips and their labels; empty in runs of earlier versions.
    tested: str = ""
    folds: str = ""  #: Hash of the folds in which they are tested.
    #: Hash of the clips and all settings but the seed: runs that share it are repeats. Empty where
    #: another seed cannot repeat the run.
    settings: str = ""
    #: SHA-256 hashes of the run's files by path, filled in on writing. None in runs of earlier
    #: versions, whose files are not checked.
    files: Mapping[str, str] | None = None
    given_name: str = ""  #: The user's name for the run; empty if there is none.
    #: The column whose value in a test clip is not in training; empty if there is none, as in runs
    #: of earlier versions.
    hold_out: str = ""
    #: All options of :class:`~serpipe.pipeline.options.Protocol`; empty where nothing was fitted on
    #: cached embeddings, and in runs of earlier versions.
    protocol: Mapping[str, Any] = field(default_factory=dict)

    @property
    def clusters(self) -> Sequence[str]:
        """The units of intervals and tests: groups that folds keep together, or speakers."""
        return self.groups or self.speakers

    @property
    def marks(self) -> tuple[Mark, ...]:
        """The warnings, parsed."""
        return tuple(map(Mark.parse, self.warnings))

    def has_mark(self, name: str) -> bool:
        """Return whether the run bears a mark, such as ``MarkKind.TRIAL``."""
        return any(mark.name == name for mark in self.marks)

    @property
    def split_kind(self) -> SplitKind:
        """The kind of the split."""
        return SplitKind.of(self.split)

    @property
    def trained_on(self) -> str:
        """What heads were trained on, in words; empty if that is clips with one label each."""
        return trained_on(self.protocol)

    @property
    def finetuned_head(self) -> str | None:
        """The head that was trained end to end: the epoch is its only hyper-parameter."""
        return next(
            (name for name, head in self.heads.items() if set(head.grid) == {"epoch"}), None
        )

    @property
    def kind(self) -> RunKind:
        """How the predictions were made."""
        if not self.split_kind.trains:
            return RunKind.EVALUATED
        return RunKind.FINETUNED if self.finetuned_head else RunKind.FITTED


def write_summary(run: Path, summary: RunSummary) -> None:
    """Write ``run.json``, with the hashes of the files that the run has now."""
    summary = replace(summary, files=_hash_run(run, summary))
    content = {"serpipe_run": FORMAT_VERSION, **asdict(summary)}
    for head in content["heads"].values():
        if head["enrolment"] is None:  # as in runs of earlier versions
            del head["enrolment"]
    write_sealed_json(run / "run.json", content)


def read_summary(run: Path) -> RunSummary:
    """Read ``run.json``.

    Raise UserError if the folder is not a run, is of another format version, or ``run.json`` was
    changed.
    """
    path = run / "run.json"
    remedy = "name a folder that `serpipe fit` made, or fit again"
    try:
        content = read_record_json(path, "run", FORMAT_VERSION, _UNHASHED_VERSION, remedy)
        summary = from_json(RunSummary, content)
        _check_summary(summary)
        return summary
    except FileNotFoundError:
        raise UserError(f"{run}: not a run, it has no run.json; {remedy}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read as a run.json ({error}); {remedy}") from error


def update_hashes(run: Path) -> None:
    """Rewrite ``run.json`` if the files of the run differ from those that it lists."""
    summary = read_summary(run)
    if summary.files is not None and _hash_run(run, summary) != summary.files:
        write_summary(run, summary)


def check_run(run: Path, summary: RunSummary) -> None:
    """Check every file that ``run.json`` lists against its hash.

    A removed bundle or model is no damage: nothing else is read from it. Raise UserError if a file
    was damaged or changed, or another one is missing.
    """
    files = {
        name: digest
        for name, digest in (summary.files or {}).items()
        if not name.startswith(("bundles/", "model/")) or (run / name).exists()
    }
    check_files(run, files, REMEDY)


def _hash_run(run: Path, summary: RunSummary) -> dict[str, str]:
    """Hash the files of finished heads, and the files that heads share.

    Files of other heads may be about to be replaced, or not belong to the run.
    """
    if not summary.heads:
        return {}
    names = ["clips.csv", "nuisance.csv", f"model/{MODEL_HASHES}"]
    for head in summary.heads:
        names += [f"predictions/{head}.csv", f"search/{head}.csv", f"bundles/{head}/bundle.json"]
        names += [f"enrolment/{head}.csv", f"perturbed/{head}.csv", f"ties/{head}.csv"]
    return hash_files(run, names)


@dataclass(frozen=True)
class _Provenance:
    """The entries that are read from the provenance of a run or of its cache."""

    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    corpus: str = ""
    licence: str = ""
    citation: str = ""
    cache: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Agreement:
    """The agreement of several raters."""

    icc_1: int | float | None
    icc_k: int | float | None
    kind: str
    raters: int | float
    clips: int
    alpha: int | float | None = None  #: None in runs of earlier versions.


@dataclass(frozen=True)
class _Choice:
    """The entries that are read from a choice of layer and hyper-parameters."""

    fold: str
    layer: str
    parameters: Mapping[str, int | float]
    inner_score: int | float | None
    head: str = ""
    temperature: float | None = None
    members: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class _Member:
    """A member of a fusion."""

    head: str
    layer: str
    weight: int | float


@dataclass(frozen=True)
class _EnrolmentChoice:
    """The entries of a choice for enrolment."""

    fold: str
    layer: str
    params: Mapping[str, int | float]
    strength: int | float
    fewest: int
    temperatures: Sequence[int | float | None] = ()  #: Empty in runs of earlier versions.


@dataclass(frozen=True)
class _Enrolment:
    """The entries on enrolment of a head."""

    numbers: Sequence[int]
    draws: int
    label_draws: int
    choices: Sequence[_EnrolmentChoice]
    final: _EnrolmentChoice


def _check_summary(summary: RunSummary) -> None:
    """Raise an error that :func:`read_summary` catches if a report could not be made of this."""
    key = read_encoder_key(summary.encoder)
    if not key.encoder or not key.revision:
        raise ValueError("encoder has no name or revision")
    provenance = from_json(_Provenance, summary.provenance, ignore_unknown=True)
    from_json(_Provenance, provenance.cache, ignore_unknown=True)
    if summary.agreement is not None:
        from_json(_Agreement, summary.agreement)
    if summary.given_name:
        check_given_name(summary.given_name)
    if not summary.trained_on.isprintable():
        raise ValueError("protocol has characters that cannot be printed")
    if any(len(finding) != 2 for finding in summary.findings):
        raise ValueError("a finding is not a code and a text")
    if summary.probe is not None and not _is_plain_name(summary.probe):
        raise ValueError(f"probe {summary.probe!r} is not the name of a folder")
    for name, head in summary.heads.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):  # it becomes part of a path
            raise ValueError(f"{name!r} cannot be the name of a head")
        if head.enrolment is not None:
            from_json(_Enrolment, head.enrolment)
        sum(head.fits[each] for each in ("points", "pruned", "inner_not_converged"))
        for entry in (*head.choices, head.final):
            choice = from_json(_Choice, entry, ignore_unknown=True)
            if not head.grid.keys() <= choice.parameters.keys():
                raise ValueError(f"a choice of {name} lacks a parameter of the grid")
            if choice.temperature is not None and not 0 < choice.temperature < math.inf:
                raise ValueError(f"a temperature of {name} is not a positive number")
            if name == BEST and not choice.head:
                raise ValueError(f"a choice of {name} names no head")
            members = [from_json(_Member, member) for member in choice.members]
            if name == FUSE and not sum(member.weight for member in members) > 0:
                raise ValueError(f"a choice of {name} has no members")


def check_given_name(name: str) -> str:
    """Return a user's name for a run if tables and figures can show it.

    Raise UserError if it is empty or longer than 40 characters, begins or ends with a space, or
    contains an equals sign or a character that cannot be printed.
    """
    is_short = 0 < len(name) <= MAX_NAME_LENGTH
    if is_short and name.isprintable() and name == name.strip() and "=" not in name:
        return name
    raise UserError(
        f"name {name!r}: choose a name of 1 to {MAX_NAME_LENGTH} printable characters, without '=' "
        "and without spaces around it"
    )


def _is_plain_name(name: str) -> bool:
    """Return whether a name denotes a folder directly beside, on any operating system."""
    # Windows knows all separators, and drives besides.
    return name.isprintable() and name != ".." and PureWindowsPath(name).name == name != ""
