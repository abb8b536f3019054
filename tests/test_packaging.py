"""The distributions hold what they must, and what is installed works from anywhere."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from serpipe._version import __version__

from .conftest import ROOT, run_python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
#: What a build adds to a source distribution.
ADDED = re.compile(r"PKG-INFO|setup\.cfg|serpipe\.egg-info/.*")


def repository_files() -> list[str]:
    """All files of the repository, or of the source distribution in which the tests run."""
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        return [name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    kept = (path.as_posix() for path in files if not {"__pycache__", ".venv"} & {*path.parts})
    return [name for name in kept if not ADDED.fullmatch(name)]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp("sdist")
    for name in repository_files():
        target = folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    code = f"from setuptools.build_meta import build_sdist; build_sdist({str(folder)!r})"
    built = run_python("-c", code, cwd=folder / "source")
    assert built.returncode == 0, built.stderr
    with tarfile.open(folder / f"serpipe-{__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / f"serpipe-{__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel, built from the source distribution."""
    built = run_python(
        "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
        "--wheel-dir", sdist.parent, sdist,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    return sdist.parent / f"serpipe-{__version__}-py3-none-any.whl"


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    """The metadata that PyPI shows."""
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"serpipe-{__version__}.dist-info/METADATA"))


def test_the_source_distribution_holds_every_file_of_the_repository(sdist: Path) -> None:
    files = {path.relative_to(sdist).as_posix() for path in sdist.rglob("*") if path.is_file()}
    assert set(repository_files()) <= files
    assert all(ADDED.fullmatch(name) for name in files - set(repository_files()))


def test_every_link_of_the_readme_on_pypi_is_absolute(metadata: Message) -> None:
    text = str(metadata.get_payload(decode=True), "utf-8")  # type: ignore[arg-type]
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]+)\)", text)
    local = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert len(links) >= len(local) > 20
    assert all(target.startswith(("https://", "#")) for _, target in links)
    for path in local:
        assert any(target.split("/main/")[-1].partition("#")[0] == path for _, target in links)
    images = [target for mark, target in links if mark]
    assert images == [f"{PROJECT['urls']['Homepage']}/raw/main/docs/report.svg"]


def test_the_versions_of_serpipe_and_python_are_stated_once(metadata: Message) -> None:
    assert metadata["Version"] == __version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^version: (.*)$", citation) == [__version__]
    named = [
        name.rpartition(" ")[2]
        for name in metadata.get_all("Classifier", [])
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", name)
    ]
    assert metadata["Requires-Python"] == f">={named[0]}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"python(3\.\d+)", makefile)[: len(named)] == named[::-1]
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
    matrix = re.search(r"python: \[(.*)\]", workflow)
    assert matrix and re.findall(r"3\.\d+", matrix[1]) == named


def test_the_wheel_holds_code_data_and_licences_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert sum(name.startswith("serpipe/corpora/sample/Actor_") for name in names) == 192
    for needed in (
        "serpipe/cli.py",
        "serpipe/pipeline/heads/lr.py",
        "serpipe/artifacts/default_bundle/bundle.json",
        "serpipe/artifacts/default_bundle/head.skops",
        "serpipe/artifacts/default_bundle/README.md",
        "serpipe/artifacts/report/page.html",
        "serpipe/artifacts/report/card.md.jinja",
        "serpipe/py.typed",
        "serpipe/corpora/sample/LICENSE",
        "serpipe/serving/page/index.html",
        "serpipe/serving/page/app.js",
        "serpipe/features/builtin/whisper-tiny.en/LICENSE",
        "serpipe/features/builtin/whisper-tiny.en/model.safetensors",
    ):
        assert needed in names
    assert {name.split("/")[0] for name in names if "dist-info" not in name} == {"serpipe"}
    code = {path.name for path in ROOT.glob("*.py") if path.name != "setup.py"} | {
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
