"""Command-line options made from the parameters of the API function that a command calls.

Name, default and help of an option are those of the parameter and of its entry in the docstring.
Only what a command line needs besides is declared here: how an option is spelt, what stands for its
value in the help, and which values it takes.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any

import typer

from .. import api, choices, plugins

#: Parameters of the API that are no options.
_NO_OPTIONS = ("provenance", "track", "say", "show", "names")
_KINDS = {each: each for each in (bool, int, float, int | None, float | None)}
_INHERITED = re.compile(r"As :func:`(\w+)` takes (?:it|them)\.")


@dataclass(frozen=True)
class Spelling:
    """How a parameter of the API is written on the command line.

    Attributes
    ----------
    metavar : str, optional
        What stands for the value in the help.
    flag : str, optional
        The option, if it is not the name of the parameter.
    values : sequence of str
        The only values that it takes, if any.
    repeated : bool
        Whether it can be given several times.
    limits : tuple of (float or None, float or None)
        Smallest and largest value.
    is_argument : bool
        Whether it is an argument rather than an option.
    """

    metavar: str | None = None
    flag: str | None = None
    values: Sequence[str] = ()
    repeated: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    is_argument: bool = False


_AT_LEAST_1 = (1, None)
#: By parameter, or by command and parameter where commands differ.
_SPELLINGS = {
    "accumulate": Spelling("N"),
    "allow_host": Spelling("NAME", repeated=True),
    "allow_origin": Spelling("ORIGIN", repeated=True),
    "audio": Spelling("DIR"),
    "augment": Spelling("speed,pitch,noise"),
    "batch_seconds": Spelling("S", limits=(0, None)),
    "batch_size": Spelling("N"),
    "cache": Spelling("FILE.h5", repeated=True),
    "channels": Spelling(values=choices.CHANNELS),
    "cluster": Spelling("local:N|tcp://HOST:PORT|jobqueue.yaml"),
    "compare_layers": Spelling("HEAD"),
    "compile_blocks": Spelling(flag="--compile"),
    "data": Spelling("DIR", repeated=True),
    "device": Spelling(values=choices.DEVICES),
    "devices": Spelling("auto|cpu|cuda|cuda:0,cuda:1|mps"),
    "dtype": Spelling(values=choices.DTYPES),
    "encoder": Spelling("ID_OR_DIR"),
    "epochs": Spelling("N"),
    "export_final": Spelling(flag="--export-final/--no-export"),
    "file": Spelling("FILE.h5", is_argument=True),
    "file_format": Spelling(flag="--to-format", values=choices.AUDIO_FORMATS),
    "folders": Spelling("DIR...", repeated=True, is_argument=True),
    "grid": Spelling("HEAD.NAME=VALUE,...", repeated=True),
    "group": Spelling("COLUMN"),
    "head": Spelling("NAME,..."),
    "head_learning_rate": Spelling("R"),
    "hold_out": Spelling("COLUMN"),
    "hop": Spelling("S"),
    "host": Spelling("ADDRESS"),
    "inputs": Spelling("FILE_OR_DIR...", repeated=True, is_argument=True),
    "jobs": Spelling("N", limits=_AT_LEAST_1),
    "keep": Spelling("LABEL,..."),
    "label_smoothing": Spelling("FRACTION"),
    "layer_decay": Spelling("D"),
    "layers": Spelling("LAYERS"),
    "learning_rate": Spelling("R"),
    "log": Spelling("FILE.jsonl"),
    "lora": Spelling("RANK"),
    "manifest": Spelling("CLIPS.csv"),
    "max_folds": Spelling("N"),
    "max_megabytes": Spelling("N", limits=(1, 1024)),
    "max_seconds": Spelling("S", limits=_AT_LEAST_1),
    "max_wait": Spelling("S", limits=(0.1, 3600)),
    "merge": Spelling("LABEL=LABEL", "--map", repeated=True),
    "mic": Spelling("S", limits=(0.1, 600)),
    "mixup": Spelling("A"),
    "model": Spelling("BUNDLE"),
    "model_map": Spelling("LABEL=LABEL", repeated=True),
    "name": Spelling("NAME"),
    "network": Spelling(values=choices.NETWORKS),
    "normalise": Spelling(values=choices.NORMALISATIONS),
    "opset": Spelling("N"),
    "out": Spelling("DIR"),
    "patience": Spelling("N"),
    "plot": Spelling("FILE.png"),
    "pooling": Spelling(flag="--pool", values=choices.POOLINGS),
    "port": Spelling("N", limits=(0, 65535)),
    "precision": Spelling(values=choices.TRAINING_PRECISIONS),
    "probe": Spelling("make|none|RUN"),
    "queue": Spelling("N", limits=_AT_LEAST_1),
    "rate": Spelling("HZ"),
    "ratings": Spelling("RATINGS.csv"),
    "revision": Spelling("COMMIT"),
    "runs": Spelling("[NAME=]RUN...", repeated=True, is_argument=True),
    "seed": Spelling("N", limits=(0, 2**31 - 1)),
    "shard_clips": Spelling("N", limits=_AT_LEAST_1),
    "similar_speakers": Spelling(values=choices.SIMILAR_SPEAKERS),
    "split": Spelling("NAME"),
    "stream_past": Spelling("GIB", limits=(0, None)),
    "target": Spelling("COLUMN"),
    "task": Spelling(values=choices.TASKS),
    "test_on": Spelling("CORPUS,..."),
    "timeout": Spelling("S", limits=(0.1, 3600)),
    "to": Spelling("DIR"),
    "token_file": Spelling("FILE"),
    "train_on": Spelling("CORPUS,..."),
    "trim": Spelling("DB", limits=_AT_LEAST_1),
    "warmup": Spelling("FRACTION"),
    "window": Spelling("S"),
    "work_megabytes": Spelling("N", limits=_AT_LEAST_1),
    "convert inputs": Spelling("IN...", repeated=True, is_argument=True),
    "download_corpus name": Spelling("NAME", is_argument=True),
    "evaluate model": Spelling("ID_OR_DIR"),
    "export model": Spelling("BUNDLE", is_argument=True),
    "export out": Spelling("FILE.onnx"),
    "export to": Spelling(values=choices.EXPORT_FORMATS),
    "extract out": Spelling("FILE.h5"),
    "extract precision": Spelling(values=choices.EXTRACTION_PRECISIONS),
    "finetune device": Spelling("auto|cpu|cuda|cuda:0,cuda:1"),
    "serve batch_size": Spelling("N", limits=_AT_LEAST_1),
    "serve max_seconds": Spelling("S", limits=(0.1, 600)),
    "write_clip_table out": Spelling("CLIPS.csv"),
}


def add_command(
    app: typer.Typer,
    body: Callable[..., None],
    function: Callable[..., Any],
    name: str | None = None,
    **settings: Any,
) -> None:
    """Register a command whose options are the parameters of an API function.

    Parameters
    ----------
    app : Typer
        Where to register it.
    body : callable
        The command. Its first parameter takes the options that the user gave, as keyword arguments
        of ``function``; its other parameters are further options, which Typer reads from their
        annotations.
    function : callable
        The function of the API.
    name : str, optional
        Name of the command, if it is not that of ``body``.
    **settings : object
        As :meth:`typer.Typer.command` takes them.
    """
    further = list(inspect.signature(body).parameters.values())[1:]
    shared = [
        _option(function, parameter)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in _NO_OPTIONS
    ]

    def run(**values: Any) -> None:
        own = {each.name: values.pop(each.name) for each in further}
        body({key: each for key, each in values.items() if each not in (None, [])}, **own)

    options = [each.replace(kind=each.KEYWORD_ONLY) for each in (*shared, *further)]
    run.__doc__ = body.__doc__
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    app.command(name or body.__name__, cls=_CommandWithPlugins, **settings)(run)


def _option(function: Callable[..., Any], parameter: inspect.Parameter) -> inspect.Parameter:
    """Return the parameter of a command, as Typer reads it, for a parameter of the API."""
    name = parameter.name
    spelling = _SPELLINGS.get(f"{function.__name__} {name}") or _SPELLINGS.get(name, Spelling())
    flag = _flag(name)
    kind: Any = _KINDS.get(parameter.annotation, str | None)
    settings: dict[str, Any] = {"help": _help(function, name)}
    if spelling.values:
        settings["metavar"] = "|".join(spelling.values)
        settings["parser"] = partial(_check_value, flag, spelling.values)
    elif spelling.metavar:
        settings["metavar"] = spelling.metavar
    settings["min"], settings["max"] = spelling.limits
    is_required = parameter.default is parameter.empty
    default = None if parameter.default in ((), "") or is_required else parameter.default
    if spelling.repeated:
        kind = list[str] | None
        settings["help"] += "" if spelling.is_argument else " Can be given several times."
    settings["show_default"] = default is not None and default is not False
    if is_required and parameter.kind is not parameter.VAR_POSITIONAL:
        default = parameter.empty
    declared = (
        typer.Argument(**settings) if spelling.is_argument else typer.Option(flag, **settings)
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def _check_value(flag: str, values: Sequence[str], value: str) -> str:
    return choices.check_choice(flag, value, values)


def _flag(name: str) -> str:
    return _SPELLINGS.get(name, Spelling()).flag or f"--{name.replace('_', '-')}"


def _help(function: Callable[..., Any], name: str) -> str:
    """Return the entry of a parameter in a docstring of the API, as the help of its option."""
    entry = descriptions(function.__doc__ or "")[name]
    if inherited := _INHERITED.fullmatch(entry):
        return _help(getattr(api, inherited[1]), name)
    parameters = inspect.signature(function).parameters
    return re.sub(
        r"``(.*?)``",
        lambda code: _flag(code[1]) if code[1] in parameters else f"`{code[1]}`",
        entry.replace(":func:", ""),
    )


@cache
def descriptions(docstring: str) -> dict[str, str]:
    """Return the entries of the section ``Parameters`` of a docstring, by parameter.

    Parameters
    ----------
    docstring : str
        In the style of numpy.

    Returns
    -------
    dict of str to str
        Without line breaks.
    """
    section = re.search(r"\nParameters\n-+\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(docstring), re.S)
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        names, _, text = entry.partition("\n")
        for name in names.partition(" : ")[0].split(","):
            entries[name.strip().lstrip("*")] = inspect.cleandoc(text).replace("\n", " ")
    return entries


class _CommandWithPlugins(typer.core.TyperCommand):
    """A command whose help also lists what other packages register, without importing them."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        groups = {"head": plugins.HEAD_GROUP, "data": plugins.CORPUS_GROUP}
        for option in self.params:
            names = plugins.registered_names(groups.get(str(option.name), ""))
            if names and isinstance(option, typer.core.TyperOption):
                option.help = f"{option.help} Of other packages: {', '.join(names)}."
        super().format_help(ctx, formatter)
