"""Fit heads on a cache and record the run as it goes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..features.cache import Cache
from ..files import make_folder
from ..pipeline.fit import fit_layers
from ..pipeline.folds import leave_one_speaker_out
from ..pipeline.heads import Head, Parameters
from ..progress import Track, no_track
from .latest import RUNS
from .run import (
    HeadSummary,
    RunSummary,
    content_hash,
    read_summary,
    run_name,
    save_head,
    save_predictions,
    write_summary,
)

SPLIT = "loso"


def record_run(
    cache: Cache,
    heads: Sequence[Head],
    parameters: Mapping[str, Parameters],
    *,
    provenance: Mapping[str, Any],
    pooling: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    track: Track[Any] = no_track,
) -> Path:
    """Cross-validate heads on every layer, leaving one speaker out, and save all that comes of it.

    Each head is written when it is done, so that an error in the next one loses nothing.

    Parameters
    ----------
    cache : Cache
        The embeddings and the clip table.
    heads : sequence of Head
        What to fit.
    parameters : mapping of str to mapping of str to float
        Hyper-parameters by name of the head.
    provenance : mapping
        JSON values to store beside the results.
    pooling : str, optional
        Which of the cached poolings to use, joined by commas; all by default.
    out : Path, optional
        The run's folder; by default one named after the cache, the split and the heads.
    seed : int
        For heads that draw random numbers.
    jobs : int
        Processes. The results do not depend on it.
    track : callable
        Shows progress.

    Returns
    -------
    Path
        The run's folder.

    Raises
    ------
    UserError
        If the cache does not hold the pooling, two emotions and two speakers, or ``out`` holds
        something else.
    """
    clips, key = cache.clips, cache.key
    pooling = pooling or ",".join(cache.poolings)
    if not set(pooling.split(",")) <= set(cache.poolings):
        raise UserError(
            f"{cache.path}: holds {','.join(cache.poolings)} pooling; expected {pooling}; "
            "choose what it holds with --pool, or extract again"
        )
    labels = clips["emotion"]
    names = np.unique(labels).tolist()
    if len(names) < 2:
        raise UserError(
            f"{cache.path}: only {names[0]} clips; expected at least 2 emotions; extract more"
        )
    folds = leave_one_speaker_out(clips["speaker"], clips["sha256"], labels, clips["path"])
    content = content_hash(key, clips)
    name = run_name(cache.path, SPLIT, content, parameters, pooling, seed)
    run = out or RUNS / name
    done = _heads_there(run, name)
    make_folder(run)

    def summarise() -> None:
        summary = RunSummary(
            corpus=str(cache.provenance.get("corpus", "unknown corpus")),
            encoder=key,
            pooling=pooling,
            split=SPLIT,
            seed=seed,
            layers=cache.layers,
            labels=names,
            speakers=np.unique(clips["speaker"]).tolist(),
            clips=len(cache),
            content=content,
            name=name,
            planned=[head.name for head in heads],
            heads=done,
            provenance={**provenance, "cache": cache.provenance},
        )
        write_summary(run, summary)

    summarise()  # before the work, so that what is left of a stopped run says that it is not whole
    for head in heads:
        fits = []
        for fitted in fit_layers(
            head,
            parameters[head.name],
            lambda layer: _finite(cache, layer, pooling),
            cache.layers,
            labels,
            folds,
            seed=seed,
            jobs=jobs,
            track=track,
        ):
            save_head(run, head, fitted)
            fits.append(fitted)
        save_predictions(run, head, fits, clips, folds, names)
        done[head.name] = HeadSummary(
            title=head.title,
            parameters=parameters[head.name],
            scores_are=head.scores_are,
            not_converged={f.layer: f.not_converged for f in fits if f.not_converged},
        )
        summarise()
    return run


def _heads_there(run: Path, name: str) -> dict[str, HeadSummary]:
    """Return the heads that this very run has already; refuse a folder that holds anything else."""
    if not run.is_dir() or not any(run.iterdir()):
        return {}
    fix = "name another folder with --out, or remove it"
    if not (run / "run.json").is_file():
        raise UserError(f"{run}: holds other things; expected a new folder; {fix}")
    summary = read_summary(run)
    if summary.name != name:
        raise UserError(f"{run}: holds another run; expected a new folder; {fix}")
    return dict(summary.heads)


def _finite(cache: Cache, layer: str, pooling: str) -> NDArray[np.float32]:
    """Read a layer, and refuse values that no classifier can take."""
    X = cache.embeddings(layer, pooling)
    if not np.isfinite(X).all():
        raise UserError(
            f"{cache.path}: layer {layer} holds values that are not finite numbers; expected "
            "numbers; extract again with --overwrite, in float32"
        )
    return X
