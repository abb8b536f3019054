"""Command-line options made from the API function that a command calls.

They are the parameters of the function; of a parameter that takes a dataclass of options, such as
:class:`~serpipe.pipeline.options.Protocol`, its fields. Name, default and help are those of the
parameter or field and of its entry in the docstring. Only what a command line needs besides is
declared here: how an option is spelt, what stands for its value in the help, and which values it
takes.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, get_args

import typer

from .. import api, choices, plugins
from ..errors import UserError

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
    bare : str, optional
        The value of the option if it is given without one of its ``values``.
    """

    metavar: str | None = None
    flag: str | None = None
    values: Sequence[str] = ()
    repeated: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    is_argument: bool = False
    bare: str | None = None


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
    "engine": Spelling(values=choices.ENGINES),
    "enrol": Spelling("N,..."),
    "epochs": Spelling("N"),
    "export_final": Spelling(flag="--export-final/--no-export"),
    "file": Spelling("FILE.h5", is_argument=True),
    "file_format": Spelling(flag="--to-format", values=choices.AUDIO_FORMATS),
    "folder": Spelling("DIR", is_argument=True),
    "folders": Spelling("DIR...", repeated=True, is_argument=True),
    "grid": Spelling("HEAD.NAME=VALUE,...", repeated=True),
    "group": Spelling("COLUMN"),
    "groups": Spelling("COLUMN,..."),
    "head": Spelling("NAME,..."),
    "head_learning_rate": Spelling("R"),
    "hold_out": Spelling("COLUMN"),
    "hop": Spelling("S"),
    "host": Spelling("ADDRESS"),
    "inputs": Spelling("FILE_OR_DIR...", repeated=True, is_argument=True),
    "jobs": Spelling("N", limits=_AT_LEAST_1),
    "keep": Spelling("LABEL,..."),
    "label_smoothing": Spelling("FRACTION"),
    "labels": Spelling(values=choices.LABELS),
    "ties": Spelling(values=choices.TIES),
    "layer_decay": Spelling("D"),
    "layers": Spelling("LAYERS"),
    "learning_rate": Spelling("R"),
    "log": Spelling("FILE.jsonl"),
    "longest_segment": Spelling("S"),
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
    "pause": Spelling("S"),
    "perturb": Spelling("KIND[:VALUE,...]", repeated=True),
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
    "speakers": Spelling("FILE"),
    "split": Spelling("NAME"),
    "submit": Spelling("FILE.json"),
    "stream_past": Spelling("GIB", limits=(0, None)),
    "target": Spelling("COLUMN"),
    "task": Spelling(values=choices.TASKS),
    "test_on": Spelling("CORPUS,..."),
    "timeout": Spelling("S", limits=(0.1, 3600)),
    "to": Spelling("DIR"),
    "token_file": Spelling("FILE"),
    "train_on": Spelling("CORPUS,..."),
    "trim": Spelling("DB", limits=_AT_LEAST_1),
    "vad": Spelling(values=choices.DETECTORS, bare="auto"),
    "warmup": Spelling("FRACTION"),
    "window": Spelling("S"),
    "work_megabytes": Spelling("N", limits=_AT_LEAST_1),
    "convert inputs": Spelling("IN...", repeated=True, is_argument=True),
    "download_corpus name": Spelling("NAME", is_argument=True),
    "predict enrol": Spelling("DIR"),
    "evaluate model": Spelling("ID_OR_DIR"),
    "export model": Spelling("BUNDLE", is_argument=True),
    "export out": Spelling("FILE.onnx"),
    "export to": Spelling(values=choices.EXPORT_FORMATS),
    "extract out": Spelling("FILE.h5"),
    "extract augment": Spelling("KIND[:VALUE,...]", repeated=True),
    "Protocol augment": Spelling("KIND[:VALUE,...]", repeated=True),
    "study file": Spelling("STUDY.toml", is_argument=True),
    "report_study file": Spelling("STUDY.toml", is_argument=True),
    "write_study file": Spelling("FILE", is_argument=True),
    "ExtractOptions precision": Spelling(values=choices.EXTRACTION_PRECISIONS),
    "finetune device": Spelling("auto|cpu|cuda|cuda:0,cuda:1"),
    "ServeOptions batch_size": Spelling("N", limits=_AT_LEAST_1),
    "ServeOptions max_seconds": Spelling("S", limits=(0.1, 600)),
    "push model": Spelling("RUN|BUNDLE", is_argument=True),
    "push to": Spelling("USER/NAME"),
    "robustness cache": Spelling("FILE.h5"),
    "robustness run": Spelling("RUN", is_argument=True),
    "write_clip_table out": Spelling("CLIPS.csv"),
    "write_rater_table out": Spelling("RATERS.csv"),
}


@dataclass(frozen=True)
class _Option:
    """An option as the API declares it: a parameter of a function, or a field of a dataclass."""

    owner: Any  #: The function or class whose docstring describes it.
    name: str
    annotation: Any
    default: Any  #: ``inspect.Parameter.empty`` if a value is required.


def add_command(
    app: typer.Typer,
    body: Callable[..., None],
    function: Callable[..., Any],
    name: str | None = None,
    **settings: Any,
) -> None:
    """Register a command whose options are those of an API function.

    Parameters
    ----------
    app : Typer
        Where to register it.
    body : callable
        The command. Its first parameter takes what the user gave, as keyword arguments of
        ``function``: values, dataclasses of options with these values, and, if such a parameter is
        None by default, the values as a dict. Its other parameters are further options, which Typer
        reads from their annotations.
    function : callable
        The function of the API.
    name : str, optional
        Name of the command, if it is not that of ``body``.
    **settings : object
        As :meth:`typer.Typer.command` takes them.
    """
    further = list(inspect.signature(body).parameters.values())[1:]
    parameters = [
        each
        for each in inspect.signature(function).parameters.values()
        if each.name not in _NO_OPTIONS
    ]
    shared: dict[str, _Option] = {}
    for parameter in parameters:
        for each in _declared(function, parameter):
            shared.setdefault(each.name, each)  # several dataclasses may have an option: the seed

    def run(context: typer.Context, **values: Any) -> None:
        own = {each.name: values.pop(each.name) for each in further}
        given = {
            key: _read(shared[key], value)
            for key, value in values.items()
            if context.get_parameter_source(key).name != "DEFAULT"  # type: ignore[union-attr]
        }
        arguments: dict[str, Any] = {}
        for parameter in parameters:
            if kind := _options_class(parameter):
                names = given.keys() & {field.name for field in fields(kind)}
                chosen, default = {each: given[each] for each in names}, parameter.default
                arguments[parameter.name] = (
                    chosen if default is None else replace(default, **chosen)
                )
            elif parameter.name in given:
                arguments[parameter.name] = given[parameter.name]
        body(arguments, **own)

    options = [*map(_as_typer, shared.values()), *further]
    options = [each.replace(kind=each.KEYWORD_ONLY) for each in options]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__doc__ = body.__doc__
    run.__signature__ = inspect.Signature([context, *options])  # type: ignore[attr-defined]
    app.command(name or body.__name__, cls=_CommandWithPlugins, **settings)(run)


def _declared(function: Callable[..., Any], parameter: inspect.Parameter) -> Iterator[_Option]:
    """Yield the options that a parameter stands for."""
    kind = _options_class(parameter)
    if kind is None:
        default = () if parameter.kind is parameter.VAR_POSITIONAL else parameter.default
        yield _Option(function, parameter.name, parameter.annotation, default)
        return
    defaults = kind() if parameter.default is None else parameter.default
    for field in fields(kind):
        owner = next(each for each in kind.__mro__ if field.name in inspect.get_annotations(each))
        if field.name in descriptions(owner.__doc__ or ""):  # others are not set by users
            yield _Option(owner, field.name, field.type, getattr(defaults, field.name))


def _options_class(parameter: inspect.Parameter) -> type[Any] | None:
    """Return the dataclass of options that a parameter takes, if it takes one."""
    kinds = [each for each in _alternatives(parameter.annotation) if each is not NoneType]
    is_class = len(kinds) == 1 and isinstance(kinds[0], type) and is_dataclass(kinds[0])
    return kinds[0] if is_class else None


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    """Return the types of which a value may be."""
    return get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)


def _as_typer(option: _Option) -> inspect.Parameter:
    """Return an option as Typer reads it: a parameter of the command."""
    name, default = option.name, option.default
    own = f"{option.owner.__name__} {name}"
    spelling = _SPELLINGS.get(own) or _SPELLINGS.get(name, Spelling())
    flag = _flag(name)
    kind: Any = _KINDS.get(option.annotation, str | None)
    settings: dict[str, Any] = {"help": _help(option.owner, name)}
    if spelling.values:
        settings["metavar"] = "|".join(spelling.values)
        settings["parser"] = partial(_check_value, flag, spelling.values)
    elif spelling.metavar:
        settings["metavar"] = spelling.metavar
    settings["min"], settings["max"] = spelling.limits
    default = None if default in ((), {}, "") else default
    if spelling.repeated:
        kind = list[str] | None
        settings["help"] += "" if spelling.is_argument else " Can be given several times."
    settings["show_default"] = default not in (None, False, inspect.Parameter.empty)
    declared = (
        typer.Argument(**settings) if spelling.is_argument else typer.Option(flag, **settings)
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, declared]
    )


def _read(option: _Option, value: Any) -> Any:
    """Return what the user gave in the type that the API takes."""
    kinds = _alternatives(option.annotation)
    if Mapping[str, str] in kinds:
        return read_pairs(_flag(option.name), value)
    if isinstance(value, str) and Sequence[str] in kinds and str not in kinds:
        return split_names(value)
    if isinstance(value, str) and Sequence[int] in kinds:
        return _numbers(_flag(option.name), value)
    return value


def split_names(names: str) -> tuple[str, ...]:
    """Return names that are joined by commas; none for an empty text.

    Raises
    ------
    UserError
        If a name between commas is empty.
    """
    split = tuple(name.strip() for name in names.split(",")) if names else ()
    if not all(split):
        raise UserError(f"{names}: a name is empty; join names by single commas")
    return split


def read_pairs(flag: str, pairs: Sequence[str]) -> dict[str, str]:
    """Return a mapping of labels from texts such as ``"calm=neutral"``.

    Raises
    ------
    UserError
        If a text has another form, or a label is mapped to two others.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        old, equals, new = pair.partition("=")
        if not (old and equals and new):
            raise UserError(f"{flag} {pair}: expected LABEL=LABEL, such as calm=neutral")
        if mapping.setdefault(old, new) != new:
            raise UserError(f"{flag} {pair}: {old} is already mapped to {mapping[old]}")
    return mapping


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise UserError(
            f"{flag} {text}: give whole numbers joined by commas, such as 4,16"
        ) from None


def _check_value(flag: str, values: Sequence[str], value: str) -> str:
    return choices.check_choice(flag, value, values)


def _flag(name: str) -> str:
    return _SPELLINGS.get(name, Spelling()).flag or f"--{name.replace('_', '-')}"


def _help(owner: Any, name: str) -> str:
    """Return the entry of a parameter or field in the docstring of its owner, as help."""
    entry = descriptions(owner.__doc__ or "")[name]
    if inherited := _INHERITED.fullmatch(entry):
        return _help(getattr(api, inherited[1]), name)
    names = inspect.signature(owner).parameters
    return re.sub(
        r"``(.*?)``",
        lambda code: _flag(code[1]) if code[1] in names else f"`{code[1]}`",
        entry.replace(":func:", ""),
    )


@cache
def descriptions(docstring: str) -> dict[str, str]:
    """Return the entries of the section ``Parameters`` or ``Attributes`` of a docstring, by name.

    Parameters
    ----------
    docstring : str
        In the style of numpy.

    Returns
    -------
    dict of str to str
        Without line breaks.
    """
    section = re.search(
        r"\n(?:Parameters|Attributes)\n-+\n(.*?)(?:\n\n|\Z)", inspect.cleandoc(docstring), re.S
    )
    entries: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", section[1] if section else ""):
        names, _, text = entry.partition("\n")
        for name in names.partition(" : ")[0].split(","):
            entries[name.strip().lstrip("*")] = inspect.cleandoc(text).replace("\n", " ")
    return entries


class _CommandWithPlugins(typer.core.TyperCommand):
    """A command whose help also lists what other packages register, without importing them.

    Options with a bare value may be given without a value.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        bare = {_flag(name): each for name, each in _SPELLINGS.items() if each.bare}
        given: list[str] = []
        for word, following in pairwise([*args, ""]):
            spelling = bare.get(word)
            is_bare = spelling is not None and following not in spelling.values
            given.append(f"{word}={spelling.bare}" if spelling and is_bare else word)
        return super().parse_args(ctx, given)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        groups = {"head": plugins.HEAD_GROUP, "data": plugins.CORPUS_GROUP}
        for option in self.params:
            names = plugins.registered_names(groups.get(str(option.name), ""))
            if names and isinstance(option, typer.core.TyperOption):
                option.help = f"{option.help} Of other packages: {', '.join(names)}."
        super().format_help(ctx, formatter)
