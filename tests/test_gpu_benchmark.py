"""The benchmark of the GPU path runs to the end without a GPU, in stages that are not repeated."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, run_python

STAGES = "machine,decoding,memory"


def bench(script: str, *arguments: object) -> None:
    done = run_python(ROOT / "benchmarks" / script, *arguments)
    assert done.returncode == 0, done.stderr


def test_stages_run_on_a_cpu_once_and_fill_the_section(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One stage in a process of its own, as all are; the others in this one, which has torch."""
    out = tmp_path / "out"
    monkeypatch.setenv("SERPIPE_BENCH", str(tmp_path))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gpu = importlib.import_module("gpu")
    options = ["gpu.py", "--out", str(out), "--device", "cpu", "--quick", "--stages", STAGES]
    monkeypatch.setattr(sys, "argv", options)
    for folder in sorted(gpu.corpus_folder(quick=True).iterdir())[1:]:
        shutil.rmtree(folder)  # eight clips will do
    for stage in ("decoding", "memory"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", [*options, "--stage", stage])
            out.mkdir(exist_ok=True)
            gpu.main()
    before = {file: file.stat().st_mtime_ns for file in out.glob("*.json")}
    gpu.main()  # the stage that is missing
    results = {file.stem: file for file in out.glob("*.json")}
    assert sorted(results) == sorted(STAGES.split(","))
    assert {file: file.stat().st_mtime_ns for file in before} == before
    rates = json.loads(results["decoding"].read_text())
    assert all(rate > 0 for way in rates.values() for rate in way.values())
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- gpu: begin -->\nold\n<!-- gpu: end -->\nbelow\n")
    bench("gpu_table.py", out, "--into", page)
    section = page.read_text()
    assert section.startswith("above\n") and section.endswith("below\n")
    assert "old" not in section and "Stage `speed`: not measured." in section


def test_the_section_of_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    page = ROOT / "docs" / "benchmarks.md"
    copy = tmp_path / "benchmarks.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    bench("gpu_table.py", ROOT / "benchmarks" / "results" / "h100", "--into", copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
