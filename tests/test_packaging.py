"""The wheel holds all that runs, with licences; what is installed works from anywhere."""

import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, run_python


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "__pycache__", "runs", "cache", "tests", "benchmarks"
    )
    shutil.copytree(ROOT, folder / "source", ignore=skip)
    built = run_python(
        "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", folder, folder / "source",
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_code_data_and_licences_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.startswith("serpipe/corpora/sample/Actor_") for name in names) == 192
    for needed in (
        "serpipe/cli.py",
        "serpipe/pipeline/heads/lr.py",
        "serpipe/artifacts/default_bundle/bundle.json",
        "serpipe/artifacts/default_bundle/head.skops",
        "serpipe/artifacts/default_bundle/README.md",
        "serpipe/py.typed",
        "serpipe/corpora/sample/LICENSE",
        "serpipe/serving/page/index.html",
        "serpipe/serving/page/app.js",
        "serpipe/features/builtin/whisper-tiny.en/LICENSE",
        "serpipe/features/builtin/whisper-tiny.en/model.safetensors",
    ):
        assert needed in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"serpipe"}
    code = {str(path.relative_to(ROOT)) for path in ROOT.glob("*.py")} | {
        str(path.relative_to(ROOT))
        for part in ("corpora", "features", "pipeline", "artifacts", "serving", "api", "commands")
        for path in (ROOT / part).rglob("*.py")
        if "runs" not in path.parts
    }
    assert {name.removeprefix("serpipe/") for name in names if name.endswith(".py")} == code


def test_what_the_wheel_installs_runs_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import serpipe, serpipe.corpora as corpora\n"
        f"assert serpipe.__file__.startswith({str(site)!r}), serpipe.__file__\n"
        "from serpipe.corpora.data import find_source\n"
        "data = find_source('sample')\n"
        "assert len(corpora.scan(data.folder, data.corpus).clips) == 192\n"
        "from serpipe.features.encoder import load_encoder\n"
        "print(load_encoder('whisper-tiny.en').identity.width)\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "384"


def test_the_installed_command_and_the_module_are_the_same(tmp_path: Path) -> None:
    command = run_python(Path(sys.executable).with_name("serpipe"), "--version", cwd=tmp_path)
    module = run_python("-m", "serpipe", "--version", cwd=tmp_path)
    assert command.stdout == module.stdout != ""
