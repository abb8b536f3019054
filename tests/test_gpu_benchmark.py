"""The benchmark of the GPU path runs to the end without a GPU, in stages that are not repeated."""

import json
import os
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT

STAGES = "machine,decoding,memory"


def bench(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)],
        capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_stages_run_on_a_cpu_once_and_fill_the_section(tmp_path: Path) -> None:
    options = ("--out", tmp_path / "out", "--device", "cpu", "--quick", "--stages", STAGES)
    bench("gpu.py", *options)
    results = {file.stem: file for file in (tmp_path / "out").glob("*.json")}
    assert sorted(results) == sorted(STAGES.split(","))
    rates = json.loads(results["decoding"].read_text())
    assert all(rate > 0 for way in rates.values() for rate in way.values())
    before = {name: file.stat().st_mtime_ns for name, file in results.items()}
    bench("gpu.py", *options)
    assert {name: file.stat().st_mtime_ns for name, file in results.items()} == before
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- gpu: begin -->\nold\n<!-- gpu: end -->\nbelow\n")
    bench("gpu_table.py", tmp_path / "out", "--into", page)
    section = page.read_text()
    assert section.startswith("above\n") and section.endswith("below\n")
    assert "old" not in section and "Stage `speed`: not measured." in section


def test_the_section_of_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    page = ROOT / "docs" / "benchmarks.md"
    copy = tmp_path / "benchmarks.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    bench("gpu_table.py", ROOT / "benchmarks" / "results" / "h100", "--into", copy)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")
