"""The whole of a fit on a cache in which only the speaker tells the label."""

from pathlib import Path

import numpy as np
from serpipe.artifacts.run.record_fit import record_run
from serpipe.artifacts.run.results import at_edge, chosen, read_results
from serpipe.corpora import CLIP_COLUMNS
from serpipe.errors import UserError
from serpipe.features.cache import Cache, open_cache
from serpipe.features.cache_write import write_cache
from serpipe.pipeline.heads import find_heads, read_grids
from serpipe.pipeline.metrics import score
from serpipe.pipeline.options import Protocol

from .messages import raises_about

EMOTIONS = np.array(["angry", "happy", "sad"])


def cache(path: Path, n_speakers: int = 18, per_speaker: int = 12) -> Cache:
    """Speakers who differ, each with one label for all clips."""
    draw = np.random.default_rng(0)
    speaker = np.repeat(np.arange(n_speakers), per_speaker)
    X = (
        draw.standard_normal((len(speaker), 60))
        + 2 * draw.standard_normal((n_speakers, 60))[speaker]
    )
    names = np.array([f"{n:04d}" for n in range(len(speaker))])
    clips = {column: np.full(len(names), "") for column in CLIP_COLUMNS} | {
        "path": names, "name": names, "sha256": names,
        "speaker": np.array([f"{n:02d}" for n in speaker]),
        "corpus": np.full(len(names), "toy"),
        "emotion": EMOTIONS[np.random.default_rng(1).permutation(n_speakers) % 3][speaker],
        "seconds": np.ones(len(names)),
    }  # fmt: skip
    key = {"layers": ["0", "1"], "poolings": ["mean"], "width": 60, "dtype": "float32",
           "encoder": "toy", "revision": "toy", "precision": "float32",
           "device": "cpu"}  # fmt: skip
    rows = np.arange(len(names))
    write_cache(path, key, {}, clips, [(rows, lambda pooling, layer: X.astype(np.float32))])
    return open_cache(path)


def fitted_uar(opened: Cache, out: Path, split: str) -> float:
    heads = find_heads("lr")
    run = record_run(opened, heads, read_grids(heads, []), Protocol(split=split),
                     provenance={}, out=out)  # fmt: skip
    results = read_results(run)
    return float(score(results.clips["label"], results.predicted["lr"]["nested"]).uar)


def test_what_only_the_speaker_tells_scores_at_chance_unless_speakers_are_shared(
    tmp_path: Path,
) -> None:
    opened = cache(tmp_path / "c.h5")
    for split in ("loso", "kfold:6"):
        assert fitted_uar(opened, tmp_path / split.replace(":", ""), split) < 0.5
    assert fitted_uar(opened, tmp_path / "random", "random:4") > 0.9


def test_what_cannot_be_chosen_is_said_before_anything_is_fitted(tmp_path: Path) -> None:
    opened = cache(tmp_path / "c.h5", n_speakers=2)
    heads = find_heads("svm")
    with raises_about(UserError, "fold 00", "happy"):
        fitted_uar(opened, tmp_path / "run", "loso")
    opened = cache(tmp_path / "c.h5", n_speakers=3)
    with raises_about(UserError, "fold 00", "--layers 3", "--grid C=0.01"):
        fitted_uar(opened, tmp_path / "run", "loso")
    assert not (tmp_path / "run").exists()
    fixed = Protocol(layers="1")
    run = record_run(opened, heads, read_grids(heads, ["C=1"]), fixed, provenance={},
                     out=tmp_path / "run")  # fmt: skip
    assert (run / "bundles" / "svm" / "bundle.json").is_file()


def test_choices_and_edges_are_counted(tmp_path: Path) -> None:
    opened = cache(tmp_path / "c.h5", n_speakers=9)
    heads = find_heads("svm")
    run = record_run(
        opened, heads, read_grids(heads, ["C=1,10"]), provenance={}, out=tmp_path / "r"
    )
    head = read_results(run).summary.heads["svm"]
    counted = chosen(head)
    assert set(counted) == {"layer", "C"}
    assert sum(counted["layer"].values()) == sum(counted["C"].values()) == 9
    assert at_edge(head)["C"] == counted["C"]  # of two values both are edges
    assert head.fits["points"] == 2 * 2 * (9 + 1)
