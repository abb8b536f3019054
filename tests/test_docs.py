"""The documentation agrees with the code: links, commands, options, dependencies and limits."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from serpipe.cli import app
from serpipe.features.audio import RATES

from .conftest import ROOT

DOCS = ROOT / "docs"
GENERATED = DOCS / "reference"
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
    ),
    *(page for page in sorted(DOCS.rglob("*.md")) if GENERATED not in page.parents),
]
#: Options that the pages name and that belong to other programs.
FOREIGN = {
    "--cpus", "--cpuset-cpus", "--gpus", "--memory", "--nthreads", "--resources", "--env",
    "--volume", "--exactness", "--device cuda",
}  # fmt: skip


def find_options(command: object) -> dict[tuple[str, ...], set[str]]:
    """Return the options of a command and of those below it, by their words after ``serpipe``."""
    parameters = getattr(command, "params", [])
    options: dict[tuple[str, ...], set[str]] = {
        (): {option for each in parameters for option in (*each.opts, *each.secondary_opts)}
    }
    for name, child in getattr(command, "commands", {}).items():
        options |= {(name, *words): below for words, below in find_options(child).items()}
    return options


OPTIONS = find_options(typer.main.get_command(app))
EVERY_OPTION = {"--help"}.union(*OPTIONS.values())


def command_lines(text: str) -> Iterator[str]:
    """Yield the calls of serpipe in code blocks and code spans, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    lines += [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    for line in lines:
        if call := re.search(r"(?:^|&& )(serpipe .*)$", line.strip()):
            yield call[1].partition(" #")[0].partition(" && ")[0]


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        if not path.startswith("https://") and "docs/reference" not in path:
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_and_options_of_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for line in command_lines(text):
        words = shlex.split(line)[1:]
        if not words:
            continue
        command = max(
            (each for each in OPTIONS if tuple(words[: len(each)]) == each), key=len, default=()
        )
        assert command or words[0].startswith(("-", "[")), line
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert given <= OPTIONS[command] | {"--help"}, line
    for option in re.findall(r"`(--[a-z][\w-]*)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        assert option in EVERY_OPTION | FOREIGN, option


def test_every_page_is_in_the_navigation() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/-]+)$", index, re.MULTILINE))
    pages = {
        page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES if DOCS in page.parents
    }
    assert pages - {"index"} <= listed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_and_python_names_of_the_pages_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"(?:`|python )((?:[a-z_]+/)+\w+\.py)\b", text):
        assert (ROOT / path).exists(), path
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("serpipe"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, name.name) for name in node.names), node.module


def test_the_architecture_is_one_screen_and_its_folders_and_modules_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 50
    paths = re.findall(r"`([\w/]+(?:\.py|/))`", text)
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), path


def test_every_dependency_has_a_reason() -> None:
    declared = re.findall(r'^    "([\w-]+)>=', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    text = (DOCS / "dependencies.md").read_text()
    assert len(declared) > 10
    for package in declared:
        assert f"| {package} |" in text, package


def test_every_dependency_is_pinned_in_the_constraints() -> None:
    declared = re.findall(r'"([\w-]+)>=', (ROOT / "pyproject.toml").read_text())
    pinned = (ROOT / "constraints.txt").read_text().lower().replace("_", "-")
    for package in declared:
        assert f"\n{package.lower().replace('_', '-')}==" in pinned, package


@pytest.mark.parametrize("page", ["use-your-own-clips.md", "repair-a-corpus.md"])
def test_the_sampling_rates_in_the_how_tos_are_those_of_the_code(page: str) -> None:
    lowest, highest = (rate // 1000 for rate in RATES)
    stated = re.findall(
        r"(\d+) to (\d+) kHz", (DOCS / "how-to" / page).read_text().replace("\n", " ")
    )
    assert stated == [(str(lowest), str(highest))]


def test_the_messages_that_the_repair_page_explains_are_those_of_the_code() -> None:
    page = (DOCS / "how-to" / "repair-a-corpus.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?`) \|", page, re.MULTILINE)
    messages = [each for cell in cells for each in re.findall(r"`([^`\d]+)`", cell)]
    assert len(messages) > 15
    texts = {
        node.value
        for folder in ("corpora", "features", "pipeline")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    for message in messages:
        for fragment in message.split("..."):
            assert any(fragment.strip() in text for text in texts), message
