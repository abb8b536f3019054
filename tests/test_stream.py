"""Embeddings that are too many for memory: the same head from a file, or a word that it is not."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from serpipe.artifacts.run.results import read_results
from serpipe.pipeline import blocks
from serpipe.pipeline.blocks import FileMatrix
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.search import search_fold

from .conftest import Command, run_python
from .messages import assert_refused, names
from .test_fit import clips, loso

TREES = {**HEADS["lgbm"].grid, "colsample_bytree": (0.5,), "n_estimators": (5.0, 10.0)}
STREAMING = {
    "lda": {},
    "sgd": {"epochs": (2.0,), "C": (0.01, 1.0)},
    "lgbm": TREES,
    "lgbm-regressor": TREES,
}


def in_file(X: np.ndarray, path: Path) -> FileMatrix:
    X.tofile(path)
    return FileMatrix(path, (X.shape[0], X.shape[1]), np.arange(len(X)))


def test_every_head_that_streams_is_tested_here() -> None:
    assert {name for name, head in HEADS.items() if head.streams} == set(STREAMING)


@pytest.mark.parametrize("name", STREAMING)
def test_a_head_from_a_file_is_the_head_from_an_array(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice, the scores and the head that is kept, bit for bit, over several blocks."""
    monkeypatch.setattr(blocks, "BLOCK", 10)
    X, labels, speakers = clips()
    head = HEADS[name]
    if head.task == "regression":
        labels = (X[:, 0] + X[:, 1] ** 2).astype(np.float64)
    fold = loso(labels, speakers).folds[0]
    file, params = in_file(X, tmp_path / "rows"), {k: v[-1] for k, v in STREAMING[name].items()}
    results = [
        search_fold(head, STREAMING[name], each, labels, speakers, fold, choose=True, seed=0)
        for each in (X, file)
    ]
    assert results[0].inner == results[1].inner
    np.testing.assert_array_equal(results[0].predicted, results[1].predicted)
    np.testing.assert_array_equal(results[0].scores, results[1].scores)
    from_array, from_file = (head(params).fit(each, labels, speakers) for each in (X, file))
    from_file.save(tmp_path / "head")
    for other in (from_file, head.load(tmp_path / "head")):
        np.testing.assert_array_equal(from_array.predict(X), other.predict(X))
        np.testing.assert_array_equal(from_array.predict_proba(X), other.predict_proba(X))


LIMITED = """
import resource, sys
import numpy as np
from pathlib import Path
from serpipe.pipeline.blocks import FileMatrix
from serpipe.pipeline.folds import Fold
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.search import search_fold

path, n, width, more = Path(sys.argv[1]), *map(int, sys.argv[2:])
everyone = np.arange(n)
labels, speakers = np.array(["a", "b"])[everyone % 2], np.array(["s", "t"])[everyone // 9 % 2]
fold = Fold("t", everyone[speakers == "s"], everyone[speakers == "t"])
X = FileMatrix(path, (n, width), everyone)
# Of what is now in use, no more than some blocks; what only maps a file does not count.
used = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + more, used + more))
for name, few in ("sgd", {"epochs": (1.0,)}), ("lgbm", {"n_estimators": (2.0,)}):
    grid = {key: values[:1] for key, values in HEADS[name].grid.items()} | few
    search_fold(HEADS[name], grid, X, labels, speakers, fold, choose=False, seed=0)
try:
    X.read()
except MemoryError:
    print("the array does not fit")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_heads_that_stream_never_have_all_clips_in_memory(tmp_path: Path) -> None:
    """120 MB of clips in 110 MB more than the process had before; an array does not fit."""
    n, width = 300_000, 100
    path = tmp_path / "rows"
    block = np.random.default_rng(0).standard_normal((1000, width), dtype=np.float32)
    with path.open("wb") as file:
        for _ in range(n // len(block)):
            block.tofile(file)
    done = run_python("-c", LIMITED, path, n, width, 105 * 2**20)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("the array does not fit\n")


def test_past_the_limit_the_run_warns_and_names_the_heads_fitted(
    serpipe: Command, extracted_once: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache,) = extracted_once.glob("features/cache/*.h5")
    options = ("--cache", cache, "--split", "kfold:2", "--layers", "1-2")
    grid = ("--grid", "lgbm.n_estimators=10")
    fitted = serpipe("fit", "--head", "lr,lgbm", "--stream-past", 0, "--out", "past", *options,
                     *grid, "--grid", "lr.C=0.01")  # fmt: skip
    assert fitted.code == 0, fitted.err
    notes = [line for line in fitted.err.splitlines() if line.startswith("note ")]
    assert any("STREAMED" in note and names(note, "sgd") and names(note, "lr") for note in notes)
    summary = json.loads(Path("past/run.json").read_text())
    assert list(summary["heads"]) == ["lgbm", "sgd"]
    assert summary["heads"]["sgd"]["grid"]["C"] == [0.01]
    assert sorted(path.name for path in Path("past/bundles").iterdir()) == ["lgbm", "sgd"]
    assert not Path("past/embeddings").exists()
    shown = serpipe("report", "past")
    assert "SER017" in shown.out + shown.err
    assert "STREAMED" in shown.out + shown.err
    # Below the limit there is no warning, and the same trees are grown from an array.
    below = serpipe("fit", "--head", "lgbm", "--out", "below", "--jobs", 1, *options, *grid)
    assert below.code == 0, below.err
    assert "STREAMED" not in below.err
    name = Path("predictions/lgbm.csv")
    assert (Path("past") / name).read_bytes() == (Path("below") / name).read_bytes()


def test_a_default_head_that_cannot_stream_is_omitted(
    serpipe: Command, extracted_once: Path
) -> None:
    (cache,) = extracted_once.glob("features/cache/*.h5")
    options = ("--layers", "1", "--grid", "C=0.1", "--split", "kfold:2", "--out", "run")
    done = serpipe("fit", "--cache", cache, "--stream-past", 0, *options)
    assert done.code == 0, done.err
    assert read_results(Path("run")).heads == ("lda",)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--head", "lr,svm"), "--head svm"),
        (("--head", "lr", "--layers", "weighted"), "--layers weighted"),
        (("--head", "lr", "--normalise", "speaker"), "--normalise speaker"),
    ],
)
def test_options_that_need_all_embeddings_in_memory_are_refused(
    serpipe: Command, extracted_once: Path, options: tuple[str, ...], named: str
) -> None:
    (cache,) = extracted_once.glob("features/cache/*.h5")
    done = serpipe("fit", "--cache", cache, "--stream-past", 0, *options)
    assert_refused(done, named, "--stream-past 0")
    assert not Path("artifacts").exists()
