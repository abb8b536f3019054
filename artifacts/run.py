"""The folder of a run.

=================================== ============================================================
``run.json``                        what was asked for, what was chosen, command and versions; and
                                    the SHA-256 hashes of all files below but ``report/`` and
                                    ``parts/``, against which they are checked when they are read
``clips.csv``                       the clips that were tested, their labels and folds
``nuisance.csv``                    out-of-fold predictions from sampling rate, channels, duration
                                    and loudness alone
``predictions/HEAD.csv``            out-of-fold predictions and scores: the nested ones, then a
                                    row per layer and clip
``search/HEAD.csv``                 inner UAR of every layer, fold and point of the grid
``bundles/HEAD/``                   the head fitted on all clips, with all that predicting needs
``report/``                         what ``serpipe report`` writes
``parts/``                          what a stopped run has done so far
=================================== ============================================================
"""

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, counted
from ..files import write_text
from ..integrity import (
    MODEL_HASHES,
    check_files,
    hash_files,
    read_checked,
    read_record_json,
    write_sealed_json,
)
from ..pipeline.fit import HeadFit, Predictions
from ..pipeline.folds import Fold, SplitKind
from ..pipeline.heads import BEST, Grid, combinations
from ..pipeline.predict import score_columns
from ..pipeline.search import label_names
from ..schema import from_json
from .encoder_key import read_encoder_key

FORMAT_VERSION = 3
#: The format before files were hashed: still read, without a check.
_UNHASHED_VERSION = 2
#: Part of the settings that a run is named after: raised when they are written down differently.
SETTINGS_VERSION = 2
_REMEDY = "put back the file as it was, or remove the run and make it again"
#: What the nested predictions are called where layers are named.
NESTED = "nested"
#: Characters of a name that a user may give to a run.
LONGEST_NAME = 40


@dataclass(frozen=True)
class HeadSummary:
    """What ``run.json`` says of a head.

    Attributes
    ----------
    title : str
        Name in tables.
    scores_are : str
        What the scores in the CSV file are.
    grid : mapping of str to list of float
        The values that were tried.
    choices : list of mapping
        ``fold``, ``layer``, ``parameters`` and ``inner_score``: chosen by the training speakers of
        each fold.
    final : mapping
        The same for the bundle: chosen by all clips that any fold trains on.
    fits : mapping of str to int
        ``points``: of the grid, over all layers and folds; ``pruned``: of these, points that the
        search left out; ``inner_not_converged``: inner fits that did not reach their optimum.
    not_converged : mapping of str to list of str
        Layer to the folds whose tested head did not reach its optimum.
    """

    title: str
    scores_are: str
    grid: Mapping[str, Sequence[int | float]]
    choices: Sequence[Mapping[str, Any]]
    final: Mapping[str, Any]
    fits: Mapping[str, int]
    not_converged: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class RunSummary:
    """What ``run.json`` says.

    Attributes
    ----------
    name : str
        From :func:`run_name`: a run of anything else has another.
    corpus : str
        Title of the data.
    encoder : mapping
        The key of the cache: identity of the encoder and all else the embeddings depend on.
    pooling : str
        Which poolings the heads saw.
    target : str
        The column that is predicted.
    changes : sequence of str
        Labels that were merged or dropped.
    normalise : str
        ``"none"`` or ``"speaker"``.
    split, split_title : str
        How speakers were divided: the option, and in words.
    inner : str
        How layer and hyper-parameters were chosen, in words.
    warnings : sequence of str
        What must be said wherever a number of this run appears.
    seed : int
        Of folds, heads and shuffles.
    layers, labels, speakers : sequence of str
        Their names.
    clips : int
        Their number.
    content : str
        Hash over the cache's key, the checksums of its embeddings, and the clips that are used.
    planned : sequence of str
        The heads that were asked for.
    heads : mapping of str to HeadSummary
        The heads that are done.
    provenance : mapping
        Command, versions, machine; and those of the cache.
    task : str
        ``"classification"`` or ``"regression"``.
    agreement : mapping, optional
        Of several raters, as :class:`~serpipe.pipeline.ratings.Agreement` tells it.
    probe : str, optional
        Of a fine-tuned run: the folder beside its own that holds the run of its frozen probe.
    assumptions : sequence of str
        What was assumed where the user said nothing, in words.
    findings : sequence of (str, str)
        Code of a check and what was noticed when the run was planned.
    group : str
        What folds keep together: ``"speaker"``, or a column that groups speakers.
    groups : sequence of str
        The groups of speakers that are tested, where folds keep groups together; else none.
    tested : str
        Hash of the clips that are tested and of their labels; empty in runs of earlier versions.
    folds : str
        Hash of the folds in which they are tested.
    settings : str
        Hash of the clips and of all that was asked for but the seed: runs with the same one are
        repeats of each other. Empty where a run cannot be repeated with another seed.
    files : mapping of str to str, optional
        SHA-256 hashes of the run's files, by path in its folder; filled in when it is written. None
        in runs of earlier versions: their files are not checked.
    given_name : str
        What the user calls the run in tables and figures; empty if not named.
    """

    name: str
    corpus: str
    encoder: Mapping[str, Any]
    pooling: str
    target: str
    changes: Sequence[str]
    normalise: str
    split: str
    split_title: str
    inner: str
    warnings: Sequence[str]
    seed: int
    layers: Sequence[str]
    labels: Sequence[str]
    speakers: Sequence[str]
    clips: int
    content: str
    planned: Sequence[str]
    heads: Mapping[str, HeadSummary]
    provenance: Mapping[str, Any]
    task: str = "classification"
    agreement: Mapping[str, Any] | None = None
    probe: str | None = None
    assumptions: Sequence[str] = ()
    findings: Sequence[Sequence[str]] = ()
    group: str = "speaker"
    groups: Sequence[str] = ()
    tested: str = ""
    folds: str = ""
    settings: str = ""
    files: Mapping[str, str] | None = None
    given_name: str = ""

    @property
    def clusters(self) -> Sequence[str]:
        """What intervals and tests are over: the groups that folds keep together, or speakers."""
        return self.groups or self.speakers

    @property
    def trained(self) -> str | None:
        """The head that was trained end to end: epochs were chosen, not layers; None if none."""
        of = [name for name, head in self.heads.items() if set(head.grid) == {"epoch"}]
        return of[0] if of else None


def content_hash(
    key: Mapping[str, Any], checksums: Mapping[str, str], clips: Mapping[str, NDArray[Any]]
) -> str:
    """Hash what a run is fitted on.

    Parameters
    ----------
    key : mapping
        The cache's key.
    checksums : mapping of str to str
        Of its embeddings.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.

    Returns
    -------
    str
        SHA-256, hexadecimal.
    """
    table = {name: column.tolist() for name, column in clips.items()}
    text = json.dumps([key, checksums, table], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def column_hash(*columns: Sequence[Any]) -> str:
    """Hash columns of clips, in whatever order the clips are.

    Parameters
    ----------
    *columns : sequence
        Of each clip, such as its path and its label.

    Returns
    -------
    str
        SHA-256, hexadecimal.
    """
    rows = sorted(tuple(map(str, row)) for row in zip(*columns, strict=True))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def tested_hashes(
    clips: Mapping[str, NDArray[Any]], labels: NDArray[Any], folds: Sequence[Fold]
) -> dict[str, Any]:
    """Return the fields ``tested`` and ``folds`` of a :class:`RunSummary`.

    Parameters
    ----------
    clips : mapping of str to ndarray, shape (n_tested,)
        The clip table of the clips that are tested.
    labels : ndarray of str or float64, shape (n_tested,)
        What is predicted of them.
    folds : sequence of Fold
        Which clips are tested in which fold.
    """
    paths = clips["path"].tolist()
    return {
        "tested": column_hash(paths, labels.tolist()),
        "folds": column_hash(paths, folds_of_tested(folds)),
    }


def run_name(cache: Path, split: str, heads: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Name a run after what it is: the same command on the same data has the same name.

    Parameters
    ----------
    cache : Path
        The cache.
    split : str
        The split.
    heads : sequence of str
        Names of the heads.
    settings : mapping
        All else that the numbers depend on, as JSON values.

    Returns
    -------
    str
        Fit to be the name of a folder.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    kind, _, argument = split.partition(":")
    if (
        kind == SplitKind.CROSS_CORPUS
    ):  # names of corpora, which a manifest may give: no part of a path
        argument = "-" + re.sub(r"[^A-Za-z0-9]+", "-", argument)[:60]
    elif SplitKind.of(split).holds_out:
        argument = argument.replace("/", "-")  # whole numbers, or there would be no such split
    elif not argument.isdecimal():
        argument = ""
    short = kind + argument
    return f"{cache.stem}-{short}-{'+'.join(heads)}-{digest}"


def write_summary(run: Path, summary: RunSummary) -> None:
    """Write ``run.json``, with the hashes of the files that the run has now."""
    summary = replace(summary, files=_hash_run(run, summary))
    write_sealed_json(run / "run.json", {"serpipe_run": FORMAT_VERSION, **asdict(summary)})


def read_summary(run: Path) -> RunSummary:
    """Read ``run.json``.

    Raises
    ------
    UserError
        If the folder is not that of a run, is of another version's making, or ``run.json`` was
        changed.
    """
    path = run / "run.json"
    fix = "name a folder that `serpipe fit` made, or fit again"
    try:
        content = read_record_json(path, "run", FORMAT_VERSION, _UNHASHED_VERSION, fix)
        summary = from_json(RunSummary, content)
        _check_summary(summary)
        return summary
    except FileNotFoundError:
        raise UserError(f"{run}: no run.json there; expected the folder of a run; {fix}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a whole run.json ({error}); {fix}") from error


def update_hashes(run: Path) -> None:
    """Write ``run.json`` anew if the run has other files than it lists."""
    summary = read_summary(run)
    if summary.files is not None and _hash_run(run, summary) != summary.files:
        write_summary(run, summary)


def check_run(run: Path, summary: RunSummary) -> None:
    """Check every file of a run that ``run.json`` lists.

    A bundle or model that was removed is no damage: nothing else is read from it.

    Raises
    ------
    UserError
        If one was damaged or changed, or another is missing.
    """
    files = {
        name: digest
        for name, digest in (summary.files or {}).items()
        if not name.startswith(("bundles/", "model/")) or (run / name).exists()
    }
    check_files(run, files, _REMEDY)


def _hash_run(run: Path, summary: RunSummary) -> dict[str, str]:
    """Hash the files of the heads that are done, and what they share.

    Files of other heads may be about to be written anew, or be none of the run's.
    """
    if not summary.heads:
        return {}
    names = ["clips.csv", "nuisance.csv", f"model/{MODEL_HASHES}"]
    for head in summary.heads:
        names += [predictions_name(head), f"search/{head}.csv", f"bundles/{head}/bundle.json"]
    return hash_files(run, names)


@dataclass(frozen=True)
class _Provenance:
    """What is read of a run's provenance, or of that of its cache."""

    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    corpus: str = ""
    licence: str = ""
    citation: str = ""
    cache: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Agreement:
    """What is read of the agreement of several raters."""

    icc_1: int | float | None
    icc_k: int | float | None
    kind: str
    raters: int | float
    clips: int


@dataclass(frozen=True)
class _Choice:
    """What is read of a choice of layer and hyper-parameters."""

    fold: str
    layer: str
    parameters: Mapping[str, int | float]
    inner_score: int | float | None
    head: str = ""


def _check_summary(summary: RunSummary) -> None:
    """Raise one of the usual errors if a report could not be made of this."""
    key = read_encoder_key(summary.encoder)
    if not key.encoder or not key.revision:
        raise ValueError("encoder has no name or revision")
    about = from_json(_Provenance, summary.provenance, ignore_unknown=True)
    from_json(_Provenance, about.cache, ignore_unknown=True)
    if summary.agreement is not None:
        from_json(_Agreement, summary.agreement)
    if summary.given_name:
        check_given_name(summary.given_name)
    if any(len(finding) != 2 for finding in summary.findings):
        raise ValueError("a finding is not a code and a text")
    if summary.probe is not None and not _is_plain_name(summary.probe):
        raise ValueError(f"probe {summary.probe!r} is no plain name of a folder beside it")
    for name, head in summary.heads.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):  # it is part of a path
            raise ValueError(f"{name!r} is no name of a head")
        sum(head.fits[each] for each in ("points", "pruned", "inner_not_converged"))
        for told in (*head.choices, head.final):
            choice = from_json(_Choice, told, ignore_unknown=True)
            if not head.grid.keys() <= choice.parameters.keys():
                raise ValueError(f"a choice of {name} lacks a parameter of the grid")
            if name == BEST and not choice.head:
                raise ValueError(f"a choice of {name} names no head")


def check_given_name(name: str) -> str:
    """Return a name that a user gave to a run, if tables and figures can show it.

    Parameters
    ----------
    name : str
        What the user calls the run.

    Returns
    -------
    str
        The name.

    Raises
    ------
    UserError
        If it is empty or longer than 40 characters, begins or ends with a space, or holds an equals
        sign or what cannot be printed.
    """
    is_short = 0 < len(name) <= LONGEST_NAME
    if is_short and name.isprintable() and name == name.strip() and "=" not in name:
        return name
    raise UserError(
        f"name {name!r}: expected 1 to {LONGEST_NAME} printable characters without '=' and without "
        "spaces around them; choose another"
    )


def rename_run(run: Path, given_name: str) -> None:
    """Give a recorded run a name; an empty one leaves the name that it has."""
    summary = read_summary(run)
    if given_name and summary.given_name != given_name:
        write_summary(run, replace(summary, given_name=given_name))


def _is_plain_name(name: object) -> bool:
    """Say whether a name leads to a folder beside, and nowhere else, on any system."""
    # Windows knows all separators, and drives besides.
    return (
        isinstance(name, str)
        and name.isprintable()
        and name != ".."
        and PureWindowsPath(name).name == name != ""
    )


def save_clips(
    run: Path,
    clips: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    folds: Sequence[Fold],
) -> None:
    """Write ``clips.csv``: of each clip that is tested the label, the fold and its columns."""
    fold_of = folds_of_tested(folds)
    rows = zip(labels.tolist(), fold_of, *(clips[name].tolist() for name in clips), strict=True)
    _write_csv(run / "clips.csv", ["label", "fold", *clips], rows)


def save_nuisance(
    run: Path, predicted: Mapping[str, NDArray[Any]], clips: Mapping[str, NDArray[Any]]
) -> None:
    """Write ``nuisance.csv``: what each nuisance baseline predicts of each clip that is tested.

    Parameters
    ----------
    run : Path
        The run's folder.
    predicted : mapping of str to ndarray of str or float64, shape (n_tested,)
        From :func:`~serpipe.pipeline.nuisance.predict_from_nuisance`.
    clips : mapping of str to ndarray, shape (n_tested,)
        The clip table of these clips.
    """
    columns = [clips["path"].tolist(), *(each.tolist() for each in predicted.values())]
    _write_csv(run / "nuisance.csv", ["path", *predicted], zip(*columns, strict=True))


def read_nuisance(
    run: Path, summary: RunSummary, clips: Mapping[str, NDArray[np.str_]]
) -> dict[str, NDArray[Any]]:
    """Read ``nuisance.csv``.

    Parameters
    ----------
    run : Path
        The run's folder.
    summary : RunSummary
        What ``run.json`` says.
    clips : mapping of str to ndarray of str, shape (n_clips,)
        ``clips.csv`` by column.

    Returns
    -------
    dict of str to ndarray of str or float64, shape (n_clips,)
        By title of the baseline; empty for runs without the file, such as those of earlier
        versions and those in which nothing was trained.

    Raises
    ------
    UserError
        If the file was changed, or does not fit the clips and labels.
    """
    path, labels = run / "nuisance.csv", summary.labels
    if not path.exists() and path.name not in (summary.files or {}):
        return {}
    rows = read_table(run, path.name, summary)
    titles = [title for title in (rows[0] if rows else ()) if title and title != "path"]
    predicted = {title: [row.get(title) or "" for row in rows] for title in titles}
    known = all(
        set(values) <= set(labels) if labels else all(map(_is_number, values))
        for values in predicted.values()
    )
    if [row.get("path") for row in rows] != clips["path"].tolist() or not known:
        raise UserError(
            f"{path}: does not hold the clips of clips.csv in their order, or holds other labels; "
            "fit again"
        )
    kind = np.str_ if labels else np.float64
    return {title: np.array(values).astype(kind) for title, values in predicted.items()}


def save_predictions(
    run: Path,
    head: str,
    fit: HeadFit,
    clips: Mapping[str, NDArray[Any]],
    labels: NDArray[Any],
    folds: Sequence[Fold],
) -> None:
    """Write the out-of-fold predictions of a head.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : str
        Name of the head.
    fit : HeadFit
        What it gave.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    labels : ndarray of str or float64, shape (n_clips,)
        What was to be predicted.
    folds : sequence of Fold
        Which clips were tested in which fold.
    """
    told = (
        clips["path"].tolist(),
        clips["speaker"].tolist(),
        folds_of_tested(folds),
        labels.tolist(),
    )
    columns = ["layer", "path", "speaker", "fold", "truth", "predicted"]

    def rows() -> Iterable[Sequence[Any]]:
        each: dict[str, Predictions] = {NESTED: fit.nested, **fit.layers}
        for layer, found in each.items():
            values = zip(*told, found.predicted.tolist(), found.scores.tolist(), strict=True)
            for *first, scores in values:
                yield [layer, *first, *scores]

    scored = score_columns(label_names(labels))
    _write_csv(run / predictions_name(head), [*columns, *scored], rows())


def save_search(run: Path, head: str, grid: Grid, fit: HeadFit) -> None:
    """Write the inner score of every layer, fold and point of the grid of a head.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : str
        Name of the head.
    grid : mapping of str to tuple of float
        The values that were tried.
    fit : HeadFit
        What it gave.
    """
    points = combinations(grid)
    searched = (
        [
            layer,
            fold or "final head",
            *point.values(),
            "" if math.isnan(score) else score,
            "chosen" if number == result.chosen else "not fitted" if math.isnan(score) else "",
            " ".join(map(str, result.weights)) if number == result.chosen else "",
        ]
        for (layer, fold), result in sorted(fit.results.items())
        for number, (point, score) in enumerate(zip(points, result.inner, strict=True))
    )
    columns = ["layer", "fold", *grid, "inner_score", "note", "layer_weights"]
    _write_csv(run / "search" / f"{head}.csv", columns, searched)


def read_table(run: Path, name: str, summary: RunSummary) -> list[dict[str, str]]:
    """Read a CSV table of a run.

    Parameters
    ----------
    run : Path
        The run's folder.
    name : str
        The path of the table in it.
    summary : RunSummary
        What ``run.json`` says.

    Returns
    -------
    list of dict of str to str
        Each row by column.

    Raises
    ------
    UserError
        If it is not there, was damaged or changed.
    """
    content = read_checked(run, name, summary.files, _REMEDY)
    try:
        text = io.StringIO(content.decode("utf-8"), newline="")
        return list(csv.DictReader(text, strict=True))
    except (ValueError, csv.Error) as error:
        raise UserError(f"{run / name}: not a CSV table ({error}); {_REMEDY}") from error


def read_predictions(
    run: Path,
    head: str,
    summary: RunSummary,
    clips: Mapping[str, NDArray[np.str_]],
) -> dict[str, NDArray[Any]]:
    """Read the out-of-fold predictions of a head.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : str
        Name of the head.
    summary : RunSummary
        What ``run.json`` says.
    clips : mapping of str to ndarray of str, shape (n_clips,)
        ``clips.csv`` by column: each layer must have its clips, in its order.

    Returns
    -------
    dict of str to ndarray of str or float64, shape (n_clips,)
        By layer, ``"nested"`` first; in the order of ``clips.csv``.

    Raises
    ------
    UserError
        If the file is not there, was damaged or changed, or does not fit the clips and labels.
    """
    path, layers, labels = run / predictions_name(head), summary.layers, summary.labels
    expected = list(zip(clips["path"].tolist(), clips["label"].tolist(), strict=True))
    told: dict[str, list[tuple[str, str]]] = {}
    said: dict[str, list[str]] = {}
    for row in read_table(run, predictions_name(head), summary):
        layer = row.get("layer") or ""
        told.setdefault(layer, []).append((row.get("path") or "", row.get("truth") or ""))
        said.setdefault(layer, []).append(row.get("predicted") or "")
    found = sum(map(len, said.values()))
    if found != len(expected) * (len(layers) + 1) or list(said) != [NESTED, *layers]:
        raise UserError(
            f"{path}: holds {found} predictions; expected {len(expected)}, nested and for each of "
            f"{counted(len(layers), 'layer')}; fit again"
        )
    numbers = not labels and all(_is_number(each) for rows in said.values() for each in rows)
    for layer, rows in told.items():
        if rows != expected or not ((labels and set(said[layer]) <= set(labels)) or numbers):
            raise UserError(
                f"{path}, layer {layer}: not the clips and labels of clips.csv in its order; "
                "expected the file as `serpipe fit` wrote it; fit again"
            )
    kind = np.str_ if labels else np.float64
    return {layer: np.array(rows).astype(kind) for layer, rows in said.items()}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def predictions_name(head: str) -> str:
    """Return the path of the predictions of a head, in the folder of its run."""
    return f"predictions/{head}.csv"


def folds_of_tested(folds: Sequence[Fold]) -> list[str]:
    """Return the fold of each clip that is tested, in the order of the clips."""
    tested_in = {int(position): fold.name for fold in folds for position in fold.test}
    return [tested_in[position] for position in sorted(tested_in)]


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())
