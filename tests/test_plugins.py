"""Packages installed beside serpipe register heads and corpora; the how-tos show whole ones."""

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky import get_reusable_executor
from serpipe.corpora import CORPORA
from serpipe.errors import UserError
from serpipe.pipeline.heads import HEADS, find_heads

from .conftest import ROOT, Command
from .messages import assert_names, assert_refused, names, raises_about

Install = Callable[..., Path]
CHEAP = ("--layers", "2", "--jobs", 1)


def block(page: str, language: str) -> str:
    """The first block of code in a language in a how-to."""
    text = (ROOT / "docs" / "how-to" / page).read_text()
    match = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert match, page
    return match[1]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package where Python finds it, as pip would: code and metadata."""
    site = tmp_path / "site"
    site.mkdir()
    # For processes of their own, too.
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)

    def write(project: str, modules: dict[str, str]) -> Path:
        about = tomllib.loads(project)["project"]
        info = site / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n"
        )
        lines = []
        for group, entries in about["entry-points"].items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        (info / "entry_points.txt").write_text("\n".join(lines))
        for name, code in modules.items():
            monkeypatch.delitem(sys.modules, name, raising=False)
            (site / f"{name}.py").write_text(code)
        # A path of its own for each state: what is installed is read once for each path.
        state = site.with_name(f"site-{len(list(site.parent.glob('site-*')))}")
        shutil.copytree(site, state)
        monkeypatch.syspath_prepend(str(state))
        return info

    return write


def project(name: str, group: str, **entries: str) -> str:
    lines = "\n".join(f'{key} = "{value}"' for key, value in entries.items())
    return f'[project]\nname = "{name}"\nversion = "1.0"\n[project.entry-points."{group}"]\n{lines}'


@pytest.fixture
def bayes(install: Install) -> Path:
    """The package of the how-to."""
    code = block("add-a-head.md", "python")
    return install(block("add-a-head.md", "toml"), {"my_heads": code})


def test_the_head_of_the_page_is_fitted_reported_and_predicts(
    serpipe: Command, bayes: Path, extracted_once: Path, sample: Path, small_encoder: Path
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    grid = ("--grid", "C=0.1", "--grid", "precision=10,0.6")
    get_reusable_executor().shutdown()  # new workers, too, must find the package
    done = serpipe("fit", "--head", "lr,bayes,best", *grid, "--layers", 2, "--jobs", 2)
    get_reusable_executor().shutdown()
    assert done.code == 0, done.err
    run = Path(done.out.strip())
    summary = json.loads((run / "run.json").read_text())
    assert set(summary["heads"]) == {"lr", "bayes", "best"}
    assert summary["provenance"]["versions"]["my-heads"] == "1.0"
    shown = serpipe("report")
    assert shown.code == 0 and names(shown.out, "Probabilities of bayes")
    clip = sample / "Actor_01" / "03-01-05-01-01-02-01.flac"
    predicted = serpipe(
        "predict", clip, "--model", run / "bundles" / "bayes", "--encoder", small_encoder,
        "--format", "json",
    )  # fmt: skip
    assert predicted.code == 0, predicted.err
    (prediction,) = json.loads(predicted.out)["predictions"]
    assert sum(prediction["scores"].values()) == pytest.approx(1, abs=1e-5)


def test_another_version_of_the_package_fits_again(
    serpipe: Command, install: Install, extracted_once: Path
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    about, code = block("add-a-head.md", "toml"), block("add-a-head.md", "python")
    first = install(about, {"my_heads": code})
    arguments = ("fit", "--head", "bayes", "--grid", "precision=10", *CHEAP)
    run = Path(serpipe(*arguments).out.strip())
    written = (run / "predictions" / "bayes.csv").stat().st_mtime_ns
    assert serpipe(*arguments).code == 0
    assert (run / "predictions" / "bayes.csv").stat().st_mtime_ns == written
    shutil.rmtree(first)
    install(about.replace("1.0", "1.1"), {"my_heads": code})
    assert Path(serpipe(*arguments).out.strip()) == run
    assert (run / "predictions" / "bayes.csv").stat().st_mtime_ns > written
    summary = json.loads((run / "run.json").read_text())
    assert summary["provenance"]["versions"]["my-heads"] == "1.1"


def test_a_bundle_of_a_head_that_is_not_installed_is_refused_and_the_run_is_reported(
    serpipe: Command,
    bayes: Path,
    extracted_once: Path,
    sample: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    run = Path(serpipe("fit", "--head", "bayes", "--grid", "precision=10", *CHEAP).out.strip())
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "site-" not in each])
    refused = serpipe("predict", sample / "Actor_01", "--model", run / "bundles" / "bayes")
    assert_refused(refused, run / "bundles" / "bayes" / "bundle.json", "'bayes'")
    shown = serpipe("report", run)
    assert shown.code == 0 and names(shown.out, "Probabilities of bayes")


def test_only_types_that_the_head_names_are_read_from_a_file(
    install: Install, tmp_path: Path
) -> None:
    from serpipe.pipeline.heads import sklearn_file

    install(
        project("own-types", "serpipe.heads", none="own_types:NONE"),
        {"own_types": "class Own:\n    value = 0\n"},
    )
    from own_types import Own  # type: ignore[import-not-found]

    saved = Own()
    saved.value = 3
    sklearn_file.save(saved, tmp_path / "own.skops")
    with raises_about(UserError, tmp_path / "own.skops", "own_types.Own"):
        sklearn_file.load(tmp_path / "own.skops")
    with pytest.raises(UserError):
        sklearn_file.load(tmp_path / "own.skops", trusted=["own_types.Other"])
    assert sklearn_file.load(tmp_path / "own.skops", trusted=["own_types.Own"]).value == 3


def test_the_corpus_of_the_page_is_listed_read_and_extracted(
    serpipe: Command, install: Install, sample: Path, small_encoder: Path
) -> None:
    install(block("add-a-corpus.md", "toml"), {"my_corpora": block("add-a-corpus.md", "python")})
    listed = json.loads(serpipe("corpora", "list", "--format", "json").out)
    assert "mine" in json.dumps(listed)
    clips = sorted((sample / "Actor_01").glob("*.flac"))
    Path("clips").mkdir()
    names = ("anna_happy_01", "anna_sad_01", "bert_happy_01", "bert_sad_01")
    for source, name in zip(clips, names, strict=False):
        shutil.copy(source, f"clips/{name}.flac")
    done = serpipe("extract", "--data", "mine=clips", "--encoder", small_encoder)
    assert done.code == 0, done.err
    assert_names(done.err, "My corpus", "4 clips")
    from serpipe.features.cache import open_cache

    columns = open_cache(Path(done.out.strip())).clips
    assert columns["speaker_id"].tolist() == ["mine:anna"] * 2 + ["mine:bert"] * 2
    assert columns["shared_emotion"].tolist() == ["happiness", "sadness"] * 2
    shutil.copy(clips[0], "clips/carl_happy_01.flac")
    refused = serpipe("extract", "--data", "mine=clips", "--encoder", small_encoder)
    assert_refused(refused, "carl_happy_01.flac")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("raise RuntimeError('no licence')", "broken:HEAD"),
        ("import not_there", "broken:HEAD"),
        ("HEAD = 3", "broken:HEAD"),
        ("", "broken:HEAD"),
        ("from serpipe.pipeline.heads.lr import LR as HEAD", "broken:HEAD"),  # another name
        ("from serpipe.pipeline.heads.lr import LR; HEAD = LR({})", "broken:HEAD"),  # no class
        (
            "from serpipe.pipeline.heads import Head\nclass HEAD(Head): name = 'mine'",  # no fit
            "broken:HEAD",
        ),
    ],
)
def test_a_package_that_cannot_be_loaded_is_named_in_one_line(
    serpipe: Command, install: Install, extracted_once: Path, code: str, value: str
) -> None:
    shutil.copytree(extracted_once, ".", dirs_exist_ok=True)
    install(project("broken-heads", "serpipe.heads", mine=value), {"broken": code})
    refused = serpipe("fit", "--head", "mine")
    assert_refused(refused, "broken-heads", "'mine'", value)
    assert [head.name for head in find_heads("svm,lr")] == ["lr", "svm"]  # does not need it
    assert {head.name for head in find_heads("all")} == {"lda", "lr", "svm", "svm-linear", "lgbm"}


@pytest.mark.parametrize("name", ["lr", "best", "all", "Upper", "../x"])
def test_a_head_with_a_name_that_is_taken_or_no_name_is_refused(
    install: Install, name: str
) -> None:
    lines = '[project]\nname = "rude"\nversion = "1.0"\n[project.entry-points."serpipe.heads"]\n'
    install(lines + f'"{name}" = "my_heads:NaiveBayes"', {})
    for requested in ("lr", "bayes", None):
        with raises_about(UserError, "rude", repr(name)):
            find_heads(requested)


def test_a_name_that_two_packages_register_is_refused(install: Install) -> None:
    install(project("one", "serpipe.corpora", mine="one:MINE"), {})
    assert "mine" in CORPORA
    install(project("two", "serpipe.corpora", mine="two:MINE"), {})
    with raises_about(UserError, "one", "two", "'mine'"):
        list(CORPORA)


def test_help_lists_what_is_registered_and_imports_none_of_it(
    serpipe: Command, install: Install
) -> None:
    code = "raise SystemExit('imported')"
    install(project("p", "serpipe.heads", bayes="p_module:NaiveBayes"), {"p_module": code})
    install(project("q", "serpipe.corpora", mine="p_module:MINE"), {})
    for command, name in (("fit", "bayes"), ("extract", "mine")):
        shown = serpipe(command, "--help")
        assert shown.code == 0 and re.search(rf"\b{name}\b", shown.out)
    assert {"bayes"} == set(HEADS) - set(HEADS.built_in)
    assert "bayes" in HEADS and "p_module" not in sys.modules


def test_a_plugged_in_head_learns_nothing_from_test_clips(bayes: Path) -> None:
    head = HEADS["bayes"]
    draw = np.random.default_rng(0)
    X = draw.normal(size=(60, 8)).astype(np.float32)
    labels = np.repeat(["a", "b", "c"], 20)
    train = np.arange(0, 60, 2)
    params = {"precision": 10.0}
    fit_path = head.path_fitter(X[train], labels[train], labels[train], 0)
    (tested,) = fit_path(np.arange(30), X, [params])
    kept = head(params).fit(X[train], labels[train], labels[train])
    assert tested.predicted.tolist() == kept.predict(X).tolist()
