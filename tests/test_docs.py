"""What the documentation says is so."""

import re
from pathlib import Path

import pytest
from serpipe.features.audio import RATES

from .conftest import ROOT, run_python

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_reference_is_what_the_code_says() -> None:
    made = run_python(ROOT / "docs" / "make_reference.py")
    assert made.returncode == 0, made.stderr
    stored = (ROOT / "docs" / "reference.md").read_text()
    assert made.stdout == stored, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_modules_named_in_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for path in re.findall(
        r"`((?:corpora|features|pipeline|artifacts|serving)/[\w/]*(?:\.py)?)`", text
    ):
        assert (ROOT / path).exists(), path


def test_every_dependency_has_a_reason() -> None:
    declared = re.findall(r'^    "([\w-]+)>=', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    text = (ROOT / "docs" / "dependencies.md").read_text()
    assert len(declared) > 10
    for package in declared:
        assert f"| {package} |" in text, package


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    declared = re.findall(r'"([\w-]+)>=', (ROOT / "pyproject.toml").read_text())
    pinned = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for package in declared:
        assert f"\n{package.lower().replace('_', '-')}==" in pinned, package


@pytest.mark.parametrize("page", ["use-your-own-clips.md", "mend-a-corpus.md"])
def test_the_sampling_rates_in_the_how_tos_are_those_of_the_code(page: str) -> None:
    lowest, highest = (rate // 1000 for rate in RATES)
    stated = re.findall(
        r"(\d+) to (\d+) kHz", (ROOT / "docs" / "how-to" / page).read_text().replace("\n", " ")
    )
    assert stated == [(str(lowest), str(highest))]
