"""Print the reference, read from the code: commands, then modules. ``make docs`` keeps it true."""

import importlib
import inspect
import os
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

os.environ["NO_COLOR"] = "1"
os.environ["TERMINAL_WIDTH"] = "96"

import serpipe
from typer.testing import CliRunner

PARTS = ("corpora", "features", "pipeline", "artifacts", "serving")


def commands() -> Iterator[str]:
    """Yield the help of every command."""
    from serpipe.cli import app

    found = [[command.callback.__name__] for command in app.registered_commands if command.callback]
    for group in app.registered_groups:
        inside = group.typer_instance.registered_commands if group.typer_instance else []
        found += [[str(group.name), str(command.name)] for command in inside]
    for arguments in ([], *found):
        shown = CliRunner().invoke(app, [*arguments, "--help"], prog_name="serpipe").output
        text = "\n".join(line.rstrip() for line in shown.strip("\n").splitlines())
        yield f"### `{' '.join(['serpipe', *arguments])}`\n\n```text\n{text}\n```\n"


def modules() -> Iterator[ModuleType]:
    """Yield the documented modules in the order in which data flows."""
    for part in PARTS:
        package = importlib.import_module(f"serpipe.{part}")
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)
    for name in ("api", "cluster", "errors", "progress", "provenance", "files", "plugins"):
        yield importlib.import_module(f"serpipe.{name}")


def entry(name: str, thing: Any, level: str) -> str:
    """Return signature and docstring of a class or function."""
    if inspect.isclass(thing):
        head = f"class {name}"
        if "__init__" in vars(thing) and not hasattr(thing, "__dataclass_fields__"):
            head += str(inspect.signature(thing))
    else:
        head = f"{name}{inspect.signature(thing)}"
    head = re.sub(r"<(?:object|function) [^>]*>", "...", head)
    doc = inspect.cleandoc(thing.__doc__ or "")
    return f"{level} `{name}`\n\n```text\n{head}\n\n{doc}\n```\n"


def main() -> None:
    """Print it all."""
    print("# Reference\n\nMade from the code by `make docs`; do not edit.\n")
    print(f"Version {serpipe.__version__}.\n\n## Commands\n")
    print("\n".join(commands()))
    print("## Modules\n")
    for module in modules():
        print(f"### `{module.__name__}`\n\n{inspect.cleandoc(module.__doc__ or '')}\n")
        for name, thing in vars(module).items():
            own = getattr(thing, "__module__", None) == module.__name__
            if name.startswith("_") or not own or not (inspect.isclass(thing) or callable(thing)):
                continue
            if thing.__doc__ and not isinstance(thing, type(list[int])):
                print(entry(name, thing, "####"))


if __name__ == "__main__":
    main()
