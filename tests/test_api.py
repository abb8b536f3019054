"""The functions of Python, and every example of the documentation that uses them."""

import inspect
import json
import re
import shutil
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import serpipe as package
import typer
from serpipe import cli
from serpipe.serving.options import Limits

from .conftest import ROOT, Command, call_in, copy_clips, made_once, run_python
from .messages import assert_names

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-steps.ipynb"
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
        call_in(folder, "fit", "--head", "lda,fuse", "--layers", "2-3")
        caches = folder / "features" / "cache"
        shutil.copy(
            caches / "ravdess-whisper-tiny.en.h5", caches / "sample-whisper-tiny.en.h5"
        )  # fewer clips than the sample: what the examples show does not depend on it

    return made_once(tmp_path_factory, "documented", make)


def test_the_examples_of_the_pages_run_as_they_stand(
    documented_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page by page; what follows the first page has its caches and runs."""
    work = tmp_path / "work"
    shutil.copytree(documented_once, work)
    monkeypatch.chdir(work)
    # Reports draw their figures but do not render them, as in run_main.
    monkeypatch.setattr("serpipe.artifacts.report.figures.as_bytes", lambda *_: b"blank")
    (run,) = Path("artifacts/runs").iterdir()
    for page in PAGES:
        text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert blocks, page
        code = "\n".join(blocks).replace("runs/RUN", f"runs/{run.name}")
        exec(compile(code, page, "exec"), {"__name__": page})


def test_the_notebook_runs_as_it_stands_on_fewer_clips(
    documented_once: Path, tmp_path: Path
) -> None:
    nbclient, nbformat, _ = (
        pytest.importorskip(name, reason=f"{name} is needed to run a notebook")
        for name in ("nbclient", "nbformat", "ipykernel")
    )
    work = tmp_path / "work"
    shutil.copytree(documented_once, work)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {cell.id: cell for cell in notebook.cells}
    fewer = cells["extract"].source.replace('data = "sample"', 'data = "ravdess"')
    assert fewer != cells["extract"].source
    cells["extract"].source = fewer
    client = nbclient.NotebookClient(
        notebook, resources={"metadata": {"path": work}}, startup_timeout=300
    )
    client.execute()
    for name in ("extract", "cache", "fit", "report", "predict"):
        shown = [output.data for output in cells[name].outputs if "data" in output]
        assert "<table>" in shown[-1]["text/html"], name
    assert any("image/png" in output.get("data", {}) for output in cells["layers"].outputs)
    assert cells["install"].outputs == []


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) > 5
    for cell in code:
        assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}


def test_the_functions_do_what_the_commands_do_and_record_the_call(
    few_clips: Path, small_encoder: Path, serpipe: Command, tmp_path: Path
) -> None:
    data = few_clips.relative_to(tmp_path)
    options = package.ExtractOptions(small_encoder, pooling="mean,std")
    extracted = package.extract(Path("..") / data, options)
    protocol = package.Protocol(split="kfold:3", merge={"calm": "neutral"})
    results = package.fit(extracted.cache, "lr", protocol, grid={"lr.C": [1, 0.1]})
    by_call = {path.name: path.read_bytes() for path in (results.run / "predictions").iterdir()}
    assert json.loads((results.run / "run.json").read_text())["provenance"]["command"] == (
        f"serpipe.fit(cache={str(extracted.cache.path)!r}, head='lr', "
        "protocol=serpipe.Protocol(merge={'calm': 'neutral'}, split='kfold:3'), "
        "grid={'lr.C': [1, 0.1]})"
    )
    shown = str(package.report(results, out="by-call"))

    again = serpipe(
        "extract", "--data", Path("..") / data, "--encoder", small_encoder, "--pool", "mean,std"
    )
    assert again.out.strip() == str(extracted.cache.path)
    assert_names(again.err, 0, 40)
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


#: Commands, the functions that they call, and options of the command line alone.
COMMANDS = {
    ("extract",): ("extract", {"format"}),
    ("fit",): ("fit", {"format", "cross_corpus", "repeats"}),
    ("finetune",): ("finetune", {"format"}),
    ("evaluate",): ("evaluate", {"format"}),
    ("predict",): ("predict", {"format", "out"}),
    ("report",): ("report", {"format"}),
    ("export",): ("export", {"format"}),
    ("push",): ("push", {"format"}),
    ("serve",): ("serve", set()),
    ("convert",): ("convert", {"format"}),
    ("cache", "info"): ("describe_cache", {"format"}),
    ("cache", "verify"): ("verify_cache", {"format"}),
    ("corpora", "list"): ("list_corpora", {"format"}),
    ("corpora", "info"): ("describe_corpora", {"format"}),
    ("corpora", "table"): ("write_clip_table", set()),
    ("corpora", "raters"): ("write_rater_table", set()),
    ("corpora", "download"): ("download_corpus", {"format"}),
    ("study", "init"): ("write_study", set()),
    ("study", "run"): ("study", {"format", "dry_run"}),
    ("study", "report"): ("report_study", {"format"}),
}
#: Options that have another name than the parameter.
RENAMED = {
    "merge": "--map", "pooling": "--pool", "compile_blocks": "--compile",
    "file_format": "--to-format", "export_final": "--export-final",
}  # fmt: skip
#: Parameters that the command line sets itself.
SET_BY_COMMANDS = {"provenance", "track", "say", "show", "names"}


def command_of(names: tuple[str, ...]) -> Any:
    """The command as Click parses it."""
    command: Any = typer.main.get_command(cli.app)
    for name in names:
        command = command.commands[name]
    return command


def test_every_command_is_compared_with_a_function() -> None:
    def names(command: Any, above: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        inside = getattr(command, "commands", None)
        if inside is None:
            return {above}
        return set().union(*(names(each, (*above, name)) for name, each in inside.items()))

    assert names(command_of(())) == set(COMMANDS)


def defaults_of(function: Any) -> dict[str, Any]:
    """Return the defaults of a function, and of the dataclasses of options that it takes."""
    parameters = inspect.signature(function).parameters
    defaults: dict[str, Any] = {}
    for name in parameters.keys() - SET_BY_COMMANDS:
        default = package.TrainingOptions() if name == "training" else parameters[name].default
        own = vars(default) if is_dataclass(default) else {name: default}
        limits = vars(Limits()) if isinstance(default, Limits) else {}  # those of the server
        defaults |= {name: each for name, each in own.items() if name not in limits}
    return defaults


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_a_command_and_its_function_have_the_same_options_and_defaults(
    names: tuple[str, ...],
) -> None:
    function, own = COMMANDS[names]
    options = {each.name: each for each in command_of(names).params}
    defaults = defaults_of(getattr(package, function))
    assert set(options) - own == set(defaults)
    for name, default in defaults.items():
        option = options[name]
        if default in ((), {}, "", None, inspect.Parameter.empty):
            assert option.default is None or option.required, name
        else:
            assert option.default == default, name
        if option.param_type_name == "option":
            assert option.opts == [RENAMED.get(name, f"--{name.replace('_', '-')}")]
        assert len(str(option.help)) > 10 and ":func:" not in str(option.help), name


def test_a_mistake_is_raised_before_torch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys, serpipe\n"
        "try:\n    serpipe.extract('nowhere')\n"
        "except serpipe.errors.UserError as error:\n    print(error)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nowhere: ")
