"""Docstrings name the parameters that functions have, and those of the interface say everything."""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import serpipe
from serpipe import api

from .conftest import ROOT

#: Folders of the repository, which is the package, that are no part of the product.
NOT_PRODUCT = {"tests", "benchmarks", "docs", "build"}
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not (parts := path.relative_to(ROOT).parts)[0].startswith(".")
    and parts[0] not in NOT_PRODUCT
]
#: Summaries that state the result, so that a section would only repeat it.
RESULT_FIRST = ("Return ", "Yield ", "Whether ")
#: The functions that users call from Python.
PUBLIC = {name: getattr(serpipe, name) for name in serpipe.__all__}
OPTIONS: dict[str, Any] = {name: each for name, each in PUBLIC.items() if is_dataclass(each)}
INTERFACE = {
    **{name: each for name, each in PUBLIC.items() if name not in OPTIONS},
    **{
        name: function
        for name, function in inspect.getmembers(api, inspect.isfunction)
        if function.__module__.startswith(api.__name__) and not name.startswith("_")
    },
}


def sections(docstring: str) -> dict[str, str]:
    """Return the text of each section of a numpy docstring; that before the first under ""."""
    pieces = re.split(r"^(\w[\w ]*)\n-{3,}$", docstring, flags=re.MULTILINE)
    return {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}


def documented(docstring: str, section: str = "Parameters") -> list[str]:
    """Return the names in a section, in their order."""
    entries = re.findall(r"^(\S.*)$", sections(docstring).get(section, ""), re.MULTILINE)
    return [name.strip().lstrip("*") for each in entries for name in each.split(" :")[0].split(",")]


def public_functions(tree: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Yield the public functions of a module and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node


def parameters(function: ast.FunctionDef) -> set[str]:
    """Return the names of all parameters but ``self`` and ``cls``."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [each for each in (arguments.vararg, arguments.kwarg) if each]
    return {each.arg for each in named} - {"self", "cls"}


def needs_description(annotation: ast.expr | None) -> bool:
    """Whether a return type says too little: measures, containers and arrays, but not classes."""
    named = ast.unparse(annotation) if annotation else "None"
    return bool(re.search(r"\[|\b(float|complex|object|Any)\b", named))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sections_of_public_functions_agree_with_their_signatures(path: Path) -> None:
    for function in public_functions(ast.parse(path.read_text(encoding="utf-8"))):
        docstring = ast.get_docstring(function) or ""
        where = f"{function.name}, line {function.lineno}"
        if names := set(documented(docstring)):
            assert names == parameters(function), where
        present = sections(docstring)
        if "Parameters" in present and needs_description(function.returns):
            stated = present.keys() & {"Returns", "Yields"} or present[""].startswith(RESULT_FIRST)
            assert stated, where


@pytest.mark.parametrize("name", sorted(INTERFACE))
def test_the_interface_documents_parameters_results_and_errors(name: str) -> None:
    function = INTERFACE[name]
    docstring, signature = inspect.getdoc(function) or "", inspect.signature(function)
    assert set(documented(docstring)) == set(signature.parameters)
    assert sections(docstring).keys() >= {"Returns", "Raises"}


#: Set by the function that takes the options.
SET_ELSEWHERE = {("TrainingOptions", "seed"), ("ExtractOptions", "perturbation")}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_is_documented_where_it_is_declared(name: str) -> None:
    kind = OPTIONS[name]
    described = documented(inspect.getdoc(kind) or "", "Attributes")
    own = [each for each in inspect.get_annotations(kind) if (name, each) not in SET_ELSEWHERE]
    assert described == own
