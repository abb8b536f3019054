"""The folder of a run.

=================================== ============================================================
``run.json``                        what was fitted, on what, and by which command and versions
``predictions/HEAD.csv``            out-of-fold predictions and scores, a row per layer and clip
``heads/HEAD/layer-LAYER.*``        the head fitted on all clips
``report/``                         what ``serpipe report`` writes
=================================== ============================================================
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import write_text
from ..pipeline.fit import LayerFit
from ..pipeline.folds import Fold
from ..pipeline.heads import Head, Parameters

FORMAT_VERSION = 1


@dataclass(frozen=True)
class HeadSummary:
    """What ``run.json`` says of a head.

    Attributes
    ----------
    title : str
        Name in tables.
    parameters : mapping of str to float
        Hyper-parameters, fixed beforehand.
    scores_are : str
        What the scores in the CSV file are.
    not_converged : mapping of str to list of str
        Layer to the folds that did not reach the optimum.
    """

    title: str
    parameters: Mapping[str, float]
    scores_are: str
    not_converged: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class RunSummary:
    """What ``run.json`` says.

    Attributes
    ----------
    corpus : str
        Title of the data.
    encoder : mapping
        The key of the cache: identity of the encoder and all else the embeddings depend on.
    pooling : str
        Which poolings the heads saw.
    split : str
        How speakers were divided.
    seed : int
        For heads that draw random numbers.
    layers, labels, speakers : sequence of str
        Their names.
    clips : int
        Their number.
    content : str
        Hash over the cache's key and all clips' names, labels and content.
    name : str
        Hash of all that was asked for: another run has another.
    planned : sequence of str
        The heads that were asked for.
    heads : mapping of str to HeadSummary
        The heads that are done.
    provenance : mapping
        Command, versions, machine; and those of the cache.
    """

    corpus: str
    encoder: Mapping[str, Any]
    pooling: str
    split: str
    seed: int
    layers: Sequence[str]
    labels: Sequence[str]
    speakers: Sequence[str]
    clips: int
    content: str
    name: str
    planned: Sequence[str]
    heads: Mapping[str, HeadSummary]
    provenance: Mapping[str, Any]


def content_hash(key: Mapping[str, Any], clips: Mapping[str, NDArray[Any]]) -> str:
    """Hash what a run is fitted on.

    Parameters
    ----------
    key : mapping
        The cache's key.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.

    Returns
    -------
    str
        SHA-256, hexadecimal.
    """
    table = {name: clips[name].tolist() for name in ("name", "speaker", "emotion", "sha256")}
    return hashlib.sha256(json.dumps([key, table], sort_keys=True).encode()).hexdigest()


def write_summary(run: Path, summary: RunSummary) -> None:
    """Write ``run.json``."""
    content = {"serpipe_run": FORMAT_VERSION, **asdict(summary)}
    write_text(run / "run.json", json.dumps(content, indent=1) + "\n")


def read_summary(run: Path) -> RunSummary:
    """Read ``run.json``.

    Raises
    ------
    UserError
        If the folder is not that of a run, or is of another version's making.
    """
    path = run / "run.json"
    fix = "name a folder that `serpipe fit` made, or fit again"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("serpipe_run")
        if version != FORMAT_VERSION:
            raise UserError(f"{path}: run format {version}; expected {FORMAT_VERSION}; {fix}")
        heads = {name: HeadSummary(**head) for name, head in content.pop("heads").items()}
        return RunSummary(heads=heads, **content)
    except FileNotFoundError:
        raise UserError(f"{run}: no run.json there; expected the folder of a run; {fix}") from None
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a whole run.json ({error}); {fix}") from error


def save_head(run: Path, head: Head, fitted: LayerFit) -> None:
    """Write the head that was fitted on all clips of one layer."""
    path = head_path(run, head, fitted.layer)
    path.parent.mkdir(parents=True, exist_ok=True)
    head.save(fitted.classifier, path)


def head_path(run: Path, head: Head, layer: str) -> Path:
    """Return where the head of a layer is saved."""
    return run / "heads" / head.name / f"layer-{layer}{head.suffix}"


def save_predictions(
    run: Path,
    head: Head,
    fits: Iterable[LayerFit],
    clips: Mapping[str, NDArray[Any]],
    folds: Sequence[Fold],
    labels: Sequence[str],
) -> None:
    """Write the out-of-fold predictions of a head.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : Head
        Which head.
    fits : iterable of LayerFit
        One for each layer.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table.
    folds : sequence of Fold
        Which clips were tested in which fold.
    labels : sequence of str
        Names of the score columns.
    """
    tested_in = {int(position): fold.name for fold in folds for position in fold.test}
    fold_names = [tested_in[position] for position in range(len(clips["path"]))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            "layer",
            "path",
            "speaker",
            "fold",
            "emotion",
            "predicted",
            *(f"score {x}" for x in labels),
        ]
    )
    columns = (clips["path"], clips["speaker"], fold_names, clips["emotion"])
    for fit in fits:
        rows = zip(*columns, fit.predicted, fit.scores, strict=True)
        for *told, predicted, scores in rows:
            writer.writerow([fit.layer, *told, predicted, *map(float, scores)])
    write_text(_predictions_path(run, head.name), text.getvalue())


def read_predictions(
    run: Path, head: str, layers: Sequence[str], n_clips: int
) -> dict[str, tuple[NDArray[np.str_], NDArray[np.str_]]]:
    """Read truth and out-of-fold predictions of a head.

    Parameters
    ----------
    run : Path
        The run's folder.
    head : str
        Name of the head.
    layers : sequence of str
        The layers that must be there.
    n_clips : int
        The clips that each must have.

    Returns
    -------
    dict of str to (ndarray of str, ndarray of str), each of shape (n_clips,)
        By layer: the labels, and what was predicted.

    Raises
    ------
    UserError
        If the file is not there or not whole.
    """
    path = _predictions_path(run, head)
    pairs: dict[str, list[tuple[str, str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                pairs.setdefault(row["layer"], []).append((row["emotion"], row["predicted"]))
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected predictions of {head}; fit again"
        ) from error
    found = {layer: len(rows) for layer, rows in pairs.items()}
    if found != dict.fromkeys(layers, n_clips):
        raise UserError(
            f"{path}: holds {sum(found.values())} predictions; expected {n_clips} for each of "
            f"{len(layers)} layers; fit again"
        )
    return {
        layer: (np.array([truth for truth, _ in rows]), np.array([said for _, said in rows]))
        for layer, rows in pairs.items()
    }


def run_name(cache: Path, split: str, content: str, parameters: Mapping[str, Parameters],
             pooling: str, seed: int) -> str:  # fmt: skip
    """Name a run after what it is: the same command on the same data has the same name."""
    settings = json.dumps([content, split, parameters, pooling, seed], sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:8]
    return f"{cache.stem}-{split}-{'+'.join(parameters)}-{digest}"


def _predictions_path(run: Path, head: str) -> Path:
    return run / "predictions" / f"{head}.csv"
