"""Arguments are looked at first: what cannot be right is refused before torch is loaded."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import serpipe as package
from serpipe import choices
from serpipe.artifacts.models.saved_model import DEFAULT_BUNDLE
from serpipe.artifacts.onnx_export.heads import check_exportable
from serpipe.artifacts.run.record_probe import record_probe
from serpipe.corpora.data import gather
from serpipe.errors import UserError
from serpipe.features.devices import choose_precision
from serpipe.features.encoder import load_encoder
from serpipe.features.engine import cache_key
from serpipe.features.names import POOLINGS, looks_like_path
from serpipe.features.options import ExtractOptions
from serpipe.pipeline.heads import HEADS
from serpipe.pipeline.networks import NETWORKS
from serpipe.pipeline.normalise import NORMALISATIONS
from serpipe.pipeline.options import Protocol
from serpipe.pipeline.speakers import SIMILAR_SPEAKERS
from serpipe.pipeline.target import TASKS

from .conftest import Command, run_python, write_hashed
from .messages import assert_refused, names, raises_about


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("predict", "/nofile.wav"), "/nofile.wav"),
        (("predict", "clip.wav", "--model", "artifacts/nope"), "artifacts/nope"),
        (("predict", "clip.wav", "--encoder", "some/other/encoder"), "some/other/encoder"),
        (("predict", "clip.wav", "--out", "said.xlsx"), "said.xlsx"),
        (("predict", "clip.wav", "--plot", "said.png"), "said.png"),
        (("extract", "--encoder", "./nope"), "./nope"),
        (("extract", "--channels", "rihgt"), "rihgt"),
        (("export", "artifacts/runs/nope"), "artifacts/runs/nope"),
        (("serve", "--model", "artifacts/runs/nope"), "artifacts/runs/nope"),
        (("evaluate", "--model", "here/nope"), "here/nope"),
        (("finetune", "--encoder", "here/nope"), "here/nope"),
    ],
)
def test_a_mistake_is_one_line_before_torch_is_loaded(
    arguments: tuple[str, ...], named: str, tmp_path: Path, sample: Path
) -> None:
    shutil.copy(next(sample.rglob("*.flac")), tmp_path / "clip.wav")
    (tmp_path / "here").mkdir()
    code = (
        "import sys\n"
        "from serpipe.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n"
        "    assert 'torch' not in sys.modules\n"
        "    sys.exit(end.code)\n"
    )
    done = run_python("-c", code, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("serpipe: ") and named in line
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("facebook/wav2vec2-base", False),
        ("artifacts/nope", True),
        ("here/nope", True),  # of a folder that is there
        ("./nope", True),
        ("../nope", True),
        ("~/nope", True),
        ("/nope", True),
        ("a/b/c", True),
        ("nope", True),
        ("owner/", True),
    ],
)
def test_names_of_the_hub_and_paths_are_told_apart(
    name: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    assert looks_like_path(name) is expected


@pytest.mark.parametrize(
    "arguments",
    [
        ("extract", "--channels"), ("extract", "--pool"), ("extract", "--precision"),
        ("extract", "--dtype"), ("convert", "in", "--to", "out", "--channels"),
        ("convert", "in", "--to", "out", "--to-format"), ("fit", "--pool"), ("fit", "--task"),
        ("fit", "--normalise"), ("fit", "--similar-speakers"), ("finetune", "--network"),
        ("finetune", "--precision"), ("finetune", "--task"), ("finetune", "--similar-speakers"),
        ("evaluate", "--model", "m", "--precision"), ("evaluate", "--model", "m", "--device"),
        ("evaluate", "--model", "m", "--task"), ("predict", "clip.wav", "--device"),
        ("export", "--to"), ("serve", "--device"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_option_with_fixed_values_takes_no_other(
    arguments: tuple[str, ...], serpipe: Command
) -> None:
    done = serpipe(*arguments, "rihgt")
    assert_refused(done, f"{arguments[-1]} rihgt")
    assert len(done.err.splitlines()) == 1


def test_the_values_of_options_are_those_that_the_code_knows() -> None:
    assert set(choices.POOLINGS) == {*POOLINGS, ",".join(POOLINGS)}
    assert choices.TASKS == TASKS
    assert choices.SIMILAR_SPEAKERS == SIMILAR_SPEAKERS
    assert choices.NORMALISATIONS == NORMALISATIONS
    assert set(choices.NETWORKS) == set(NETWORKS)
    for precision in choices.EXTRACTION_PRECISIONS:
        assert choose_precision(precision, "cpu")


def test_the_functions_refuse_the_same_values(small_encoder: Path) -> None:
    for option in ("channels", "pooling", "precision", "dtype"):
        changes: dict[str, Any] = {option: "rihgt"}
        with raises_about(UserError, "rihgt"):
            package.extract(options=package.ExtractOptions(**changes))
    with raises_about(UserError, "channels", "rihgt"):  # or it would be in the key of a cache
        cache_key(load_encoder(str(small_encoder)), ExtractOptions(channels="rihgt"))


def test_only_a_cache_with_other_contents_makes_the_probe_extract_elsewhere(
    serpipe: Command, few_clips: Path, small_encoder: Path
) -> None:
    encoder = str(small_encoder)
    made = serpipe("extract", "--data", few_clips, "--encoder", encoder, "--pool", "mean,std")
    cache = Path(made.out.strip())
    gathered = gather([str(few_clips)], None)
    protocol = Protocol(split="kfold:2", layers="1")
    run = record_probe(gathered, encoder, None, protocol, provenance={"versions": {}})
    assert json.loads((run / "run.json").read_text())["planned"] == ["lr"]
    elsewhere = cache.parent / "probes" / cache.name
    assert elsewhere.is_file()
    elsewhere.unlink()
    cache.write_bytes(cache.read_bytes()[:-1000])
    with raises_about(UserError, cache):
        record_probe(gathered, encoder, None, protocol, provenance={"versions": {}})
    assert not elsewhere.exists()


def test_a_head_that_cannot_be_exported_is_refused_with_those_that_can() -> None:
    with raises_about(UserError, "knn", *HEADS):
        check_exportable("knn")
    for name in HEADS:
        check_exportable(name)


def test_export_of_such_a_head_says_so(serpipe: Command) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(DEFAULT_BUNDLE, "bundle")
    content = json.loads(Path("bundle/bundle.json").read_text())
    write_hashed(Path("bundle/bundle.json"), content | {"head": "knn"})
    done = serpipe("export", "bundle")
    assert_refused(done, "knn", "lda", "svm")


def test_one_of_something_is_singular(serpipe: Command, sample: Path, small_encoder: Path) -> None:
    clip = "03-01-05-01-01-02-01.flac"
    Path("one").mkdir()
    shutil.copy(sample / "Actor_01" / clip, "one")
    extracted = ("extract", "--encoder", small_encoder, "--out", "one.h5")
    first = serpipe(*extracted, "--data", "one")
    assert first.code == 0 and names(first.err, "1 clip")
    Path("one/notes.flac").touch()
    refused = serpipe(*extracted, "--data", "ravdess=one")
    assert_refused(refused, "1 clip", "--skip-bad")
    Path("one/notes.flac").unlink()
    Path("one.csv").write_text(f"path,speaker,mood\none/{clip},anna,sad\n")
    listed = serpipe(
        "extract", "--manifest", "one.csv", "--encoder", small_encoder, "--out", "2.h5"
    )
    assert listed.code == 0 and names(listed.err, "1 speaker")
    other = sample / "Actor_02"
    dropped = serpipe(*extracted, "--data", other, "--drop-removed")
    assert dropped.code == 0 and names(dropped.err, "1 clip")
    for done in (first, refused, listed, dropped):
        assert not re.search(r"\b1 (\w+ )?\w+s\b (?!x)|\(s\)", done.err), done.err


@pytest.mark.parametrize(
    ("value", "is_named"),
    [
        ("/data/c.h5", True), ("c.h5", True), ("--layers 7", True),
        ("--layer", False), (7, True), (1, True), (0, False), (10, False), (5, False),
        ("layers", True), ("ayers", False), ("final_norm", True), ("final", False),
    ],
)  # fmt: skip
def test_a_message_names_whole_values_only(value: object, is_named: bool) -> None:
    message = "/data/c.h5: --layers 7: no such layer; use 1, 10.5 or final_norm, layers-5"
    assert names(message, value) is is_named
