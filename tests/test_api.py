"""The functions of Python, and every example of the documentation that uses them."""

import inspect
import json
import re
import shutil
from pathlib import Path

import pytest

from .conftest import ROOT, Command, call_in, copy_clips, made_once, run_python

PAGES = ("use-from-python", "read-a-cache", "use-a-bundle", "predict", "use-your-own-clips")


@pytest.fixture(scope="session")
def documented_once(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A folder as the documentation takes it: clips, a cache, a run."""

    def make(folder: Path) -> None:
        for clip in copy_clips(sample, folder / "ravdess").rglob("*.flac"):
            if clip.name[6:8] not in ("01", "02", "05"):  # three emotions will do
                clip.unlink()
        shutil.copy(next((sample / "Actor_06").iterdir()), folder / "clip.wav")
        call_in(folder, "extract", "--data", "ravdess", "--encoder", "whisper-tiny.en")
        call_in(folder, "fit", "--head", "lr", "--layers", "3", "--grid", "C=1")
        caches = folder / "features" / "cache"
        shutil.copy(
            caches / "ravdess-whisper-tiny.en.h5", caches / "sample-whisper-tiny.en.h5"
        )  # fewer clips than the sample: what the examples show does not depend on it

    return made_once(tmp_path_factory, "documented", make)


def test_the_examples_of_the_pages_run_as_they_stand(documented_once: Path, tmp_path: Path) -> None:
    """Page by page in one process; what follows the first page has its caches and runs."""
    work = tmp_path / "work"
    shutil.copytree(documented_once, work)
    (run,) = (work / "artifacts" / "runs").iterdir()
    script = []
    for page in PAGES:
        text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert blocks, page
        code = "\n".join(blocks).replace("runs/RUN", f"runs/{run.name}")
        script.append(f"exec(compile({code!r}, {page!r}, 'exec'), {{}})")
    (tmp_path / "examples.py").write_text("\n".join(script))
    done = run_python(tmp_path / "examples.py", cwd=work)
    assert done.returncode == 0, done.stderr


def test_the_functions_do_what_the_commands_do_and_record_the_call(
    few_clips: Path, small_encoder: Path, serpipe: Command, tmp_path: Path
) -> None:
    import serpipe as package

    data = few_clips.relative_to(tmp_path)
    extracted = package.extract(Path("..") / data, encoder=small_encoder, pooling="mean,std")
    options = {"head": "lr", "split": "kfold:3", "merge": {"calm": "neutral"}}
    results = package.fit(extracted.cache, grid={"lr.C": [1, 0.1]}, **options)  # type: ignore[arg-type]
    by_call = {path.name: path.read_bytes() for path in (results.run / "predictions").iterdir()}
    assert json.loads((results.run / "run.json").read_text())["provenance"]["command"] == (
        f"serpipe.fit(cache={str(extracted.cache.path)!r}, head='lr', "
        "grid={'lr.C': [1, 0.1]}, split='kfold:3', merge={'calm': 'neutral'})"
    )
    shown = str(package.report(results, out="by-call"))

    again = serpipe(
        "extract", "--data", Path("..") / data, "--encoder", small_encoder, "--pool", "mean,std"
    )
    assert again.out.strip() == str(extracted.cache.path)
    assert "0 clips computed" in again.err
    fitted = serpipe(
        "fit", "--head", "lr", "--grid", "lr.C=0.1,1", "--split", "kfold:3", "--map",
        "calm=neutral", "--out", "by-command",
    )  # fmt: skip
    assert fitted.code == 0, fitted.err
    by_command = Path("by-command/predictions")
    assert by_call == {path.name: path.read_bytes() for path in by_command.iterdir()}
    printed = serpipe("report", "by-command", "--format", "markdown").out
    of_calls = re.compile(r"Made by `.*?`")
    assert of_calls.sub("", printed) == of_calls.sub("", shown)
    assert Path("by-call/index.html").is_file()


def test_what_the_commands_take_the_functions_take(serpipe: Command) -> None:
    import serpipe as package
    from serpipe import cli

    other = {"pool": "pooling", "map": "merge"}
    only_shown = {"format", "cross_corpus", "repeats"}  # several runs: functions of their own
    for name in ("extract", "fit", "report"):
        options = inspect.signature(getattr(cli, name)).parameters
        function = inspect.signature(getattr(package, name)).parameters
        assert {other.get(each, each) for each in options} - only_shown <= set(function), name
        for each, parameter in options.items():
            default = parameter.default
            if each in function and default is not None:
                assert function[each].default == default, (name, each)


def test_a_mistake_is_raised_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, serpipe\n"
        "try:\n    serpipe.extract('nowhere')\n"
        "except serpipe.errors.UserError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nowhere: nothing there; expected the folder of a corpus")
