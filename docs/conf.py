"""The documentation site: these Markdown pages, and a reference read from the code.

``make site`` builds it. The reference is written into ``docs/reference/`` on every build: a page of
commands from the Typer app, and a page of docstrings for each top-level package.
"""

import importlib
import pkgutil
from collections import defaultdict
from pathlib import Path

import serpipe
import typer
from serpipe.cli import app
from typer.cli import get_docs_for_click

HERE = Path(__file__).parent
#: Parts of the repository, which is the package, that are no part of the Python interface.
NOT_DOCUMENTED = {"__main__", "benchmarks", "build", "cli", "commands", "docs", "setup", "tests"}

project = "serpipe"
version = release = serpipe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"serpipe {release}"

myst_heading_anchors = 3
# Options such as --split keep their hyphens, and single backticks in docstrings are code.
smartquotes = False
default_role = "code"

napoleon_google_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# The functions of a module are not repeated in the table of contents; computing it takes long.
toc_object_entries = False
autodoc_default_options = {"members": True, "ignore-module-all": True}
# Most functions state their types in annotations alone.
autodoc_typehints = "signature"
# The short names of types in docstrings may occur in several modules. Such a name gets no link.
suppress_warnings = ["ref.python"]


def commands_page() -> str:
    """Return the reference of the command line as Markdown."""
    command = typer.main.get_command(app)
    context = typer.Context(command)
    return get_docs_for_click(obj=command, ctx=context, name="serpipe", title="Commands")


def module_pages() -> dict[str, str]:
    """Return the reference of the modules: for each top-level package, a page as reStructuredText.

    Packages are walked, so that a module that moves needs no edit here. Modules beside the packages
    share the page ``serpipe``.
    """
    modules: dict[str, list[str]] = defaultdict(list)
    for top in pkgutil.iter_modules(serpipe.__path__, "serpipe."):
        if top.name.removeprefix("serpipe.") in NOT_DOCUMENTED:
            continue
        modules[top.name if top.ispkg else "serpipe"].append(top.name)
        if top.ispkg:
            path = importlib.import_module(top.name).__path__
            modules[top.name] += [each.name for each in pkgutil.walk_packages(path, f"{top.name}.")]
    return {
        page: "\n".join(
            [
                heading(page, "="),
                *(f"{heading(each, '-')}\n.. automodule:: {each}\n" for each in names),
            ]
        )
        for page, names in modules.items()
    }


def heading(text: str, underline: str) -> str:
    """Return a heading in reStructuredText."""
    return f"{text}\n{underline * len(text)}\n"


def write_reference(folder: Path) -> None:
    """Write all pages of the reference and remove those of modules that are gone."""
    folder.mkdir(exist_ok=True)
    pages = {"commands.md": commands_page()}
    pages |= {f"{name}.rst": text for name, text in module_pages().items()}
    for path in folder.iterdir():
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # else it is not rebuilt
            path.write_text(text, encoding="utf-8")


write_reference(HERE / "reference")
