"""The file of a study: which corpora, encoders, poolings, heads and splits are combined."""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ... import choices
from ...choices import check_choice
from ...errors import UserError, first_line
from ...features.names import OPENSMILE, check_checkpoint_name
from ...features.options import ExtractOptions
from ...features.perturbation import read_perturbations
from ...files import read_text
from ...pipeline.options import Protocol
from ...remote import as_location
from ...schema import from_json

if TYPE_CHECKING:
    from ...pipeline.heads import Head

T = TypeVar("T")

#: Limits on an untrusted file: its size, the number of runs that it plans, and the length of a line
#: (the memory that a dotted key takes grows with the square of its length).
MAX_BYTES, MAX_CELLS, _MAX_LINE = 1 << 20, 10_000, 10_000
#: Names of corpora and encoders become parts of file names.
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,39}")
_SPLIT = re.compile(
    r"loso|standard|emobox|(kfold|random):\d{1,9}|(holdout|random):\d{1,9}(/\d{1,9}){2}"
    r"|(file|column|partition):.+"
)
_KEY_PART = r"""[\w-]+|"[^"]*"|'[^']*'"""
_DOTTED = rf"(?:{_KEY_PART})(?:\s*\.\s*(?:{_KEY_PART}))*"
_TABLE_LINE = re.compile(rf"\s*\[\s*({_DOTTED})\s*\]")
_KEY_LINE = re.compile(rf"\s*({_DOTTED})\s*=")
_SYNTAX_ERROR = re.compile(r"(.*) \(at line (\d+), column \d+\)")
#: Options that the lists of a study set for each run, and those of a single corpus or encoder.
_SET_BY_LISTS = ("split", "pooling")
_PROTOCOL = tuple(each.name for each in fields(Protocol) if each.name not in _SET_BY_LISTS)
_EXTRACT = tuple(
    each.name for each in fields(ExtractOptions) if each.name not in ("pooling", "perturbation")
)
_SOURCES = ("data", "manifest", "ratings", "heads")
_CHOICES: Mapping[str, Sequence[str]] = {
    "task": choices.TASKS,
    "similar_speakers": choices.SIMILAR_SPEAKERS,
    "normalise": choices.NORMALISATIONS,
    "labels": choices.LABELS,
    "channels": choices.CHANNELS,
    "dtype": choices.DTYPES,
    "precision": choices.EXTRACTION_PRECISIONS,
    "engine": choices.ENGINES,
}


@dataclass(frozen=True)
class StudyCorpus:
    """A corpus of a study."""

    name: str
    #: As :func:`serpipe.extract` and :func:`serpipe.fit` take them.
    data: tuple[str, ...] = ()
    manifest: str | None = None
    ratings: str | None = None
    heads: tuple[str, ...] = ()
    protocol: Protocol = Protocol()


@dataclass(frozen=True)
class StudyEncoder:
    """An encoder of a study; the pooling of its options is not used."""

    name: str
    options: ExtractOptions
    poolings: tuple[str, ...] = ("mean",)
    #: Whether another encoder of the study would have the same caches by its hub id or folder name:
    #: then its name in the study is a part of the names of its caches.
    is_ambiguous: bool = False


@dataclass(frozen=True, eq=False)  # its options hold a dict, which has no hash
class Cell:
    """One run of a study."""

    corpus: StudyCorpus
    encoder: StudyEncoder
    pooling: str
    split: str
    heads: str  #: As the option ``--head`` takes them.

    @property
    def protocol(self) -> Protocol:
        """The options of the run."""
        return replace(self.corpus.protocol, split=self.split, pooling=self.pooling)

    def __str__(self) -> str:
        return (
            f"{self.corpus.name}, {self.encoder.name}, {self.pooling} pooling, {self.split}, "
            f"{self.heads}"
        )


@dataclass(frozen=True)
class Study:
    """What the file of a study requests."""

    path: Path
    title: str
    corpora: tuple[StudyCorpus, ...]
    encoders: tuple[StudyEncoder, ...]
    poolings: tuple[str, ...]
    splits: tuple[str, ...]
    heads: tuple[str, ...]
    grid: tuple[str, ...]
    text: str = field(repr=False, default="")  #: Of the file, to find lines in.

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All runs; those on the same embeddings follow each other."""
        return tuple(
            Cell(corpus, encoder, pooling, split, heads)
            for corpus in self.corpora
            for encoder in self.encoders
            for pooling in encoder.poolings
            for split in self.splits
            for heads in corpus.heads
        )

    def cells_of(self, corpus: StudyCorpus, encoder: StudyEncoder) -> list[Cell]:
        """Return the runs of an encoder on a corpus."""
        return [cell for cell in self.cells if cell.corpus is corpus and cell.encoder is encoder]

    def method(self, cell: Cell) -> str:
        """Return the name of the embeddings of a cell in tables and figures."""
        several = len(self.poolings) > 1
        return f"{cell.encoder.name} ({cell.pooling})" if several else cell.encoder.name

    def grid_of(self, cell: Cell) -> tuple[str, ...]:
        """Return the entries of the grid that are for a head of a cell."""
        heads = heads_of(cell.heads)
        return tuple(each for each in self.grid if _is_for(each, heads))

    def check_paths(self) -> None:
        """Raise UserError, with its line, for a local file, folder or encoder that is missing.

        A report needs none of them; a run needs all.
        """
        file = _File(self.path, self.text)
        for corpus in self.corpora:
            named = {"data": corpus.data, "manifest": (corpus.manifest,)}
            named["ratings"] = (corpus.ratings,)
            for key, values in named.items():
                for value in filter(None, values):
                    file.check_exists(("corpora", corpus.name, key), value)
        for encoder in self.encoders:
            name = str(encoder.options.encoder)
            file.checked(("encoders", encoder.name), partial(check_checkpoint_name, name), name)


@dataclass(frozen=True)
class _File:
    """The text of a study, for errors that name a line."""

    path: Path
    text: str

    def error(self, keys: Sequence[str], problem: str, value: str | None = None) -> UserError:
        """Return the error for a value: in a list of several lines, for the line of the value."""
        line = _line_of(self.text, keys)
        if value is not None:
            following = self.text.splitlines()[line - 1 :]
            quoted = (f'"{value}"', f"'{value}'")
            line += next(
                (n for n, each in enumerate(following) if any(q in each for q in quoted)), 0
            )
        return UserError(f"{self.path}, line {line}: {'.'.join(keys)}: {problem}")

    def checked(self, keys: Sequence[str], check: Callable[[], T], value: str | None = None) -> T:
        """Return the result of a check; its error names the line."""
        try:
            return check()
        except UserError as error:
            raise self.error(keys, first_line(error), value) from None

    def check_keys(
        self, keys: Sequence[str], table: Mapping[str, Any], known: Iterable[str]
    ) -> None:
        """Refuse an unknown key, and name the one that it may be meant to be."""
        known = list(known)
        for key in table:
            if key not in known:
                similar = difflib.get_close_matches(key, known, 1)
                remedy = f"did you mean {similar[0]}?" if similar else f"use {', '.join(known)}"
                raise self.error((*keys, key), f"is not a key of a study; {remedy}")

    def table(self, content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
        """Return a table of the file, empty if it is missing."""
        table = content.get(keys[-1], {})
        if not isinstance(table, dict):
            raise self.error(keys, f"is {table!r}; make it a table: [{'.'.join(keys)}]")
        return table

    def texts(self, keys: Sequence[str], value: Any) -> tuple[str, ...]:
        """Return a text or a list of different texts as a tuple."""
        values = value if isinstance(value, list) else [value]
        for each in values:
            if not isinstance(each, str) or not each.strip():
                raise self.error(keys, f"{each!r} is not a name; write it in quotes")
            if values.count(each) > 1:
                raise self.error(keys, f"{each} is listed twice; name it once", each)
        if not values:
            raise self.error(keys, "is empty; name at least one")
        return tuple(values)

    def options(self, kind: type[T], tables: Mapping[tuple[str, ...], Mapping[str, Any]]) -> T:
        """Return a dataclass of options from tables, of which later ones take precedence."""
        merged: dict[str, Any] = {}
        for keys, table in tables.items():
            for name, value in table.items():
                try:
                    from_json(kind, {name: value})
                except (TypeError, ValueError) as error:  # TypeError: a date
                    problem = str(error).partition(": ")[2].lower() or "an option cannot be a date"
                    raise self.error((*keys, name), f"is {value!r}; {problem}") from None
                if name in _CHOICES:
                    self.checked((*keys, name), partial(check_choice, name, value, _CHOICES[name]))
            merged |= table
        return kind(**merged)

    def check_exists(self, keys: Sequence[str], value: str) -> None:
        """Refuse a local path that does not exist; remote ones are looked up when they are read."""
        if value == "sample" or value.startswith("hf:"):
            return
        plain = value.partition("=")[2] or value  # CORPUS=DIR
        where = self.checked(keys, partial(as_location, value))
        if isinstance(where, Path) and not where.exists() and not Path(plain).exists():
            location = as_location(plain)
            if isinstance(location, Path):
                raise self.error(keys, f"{plain}: no such file or folder; correct the path", value)


def read_study(path: Path) -> Study:
    """Read the file of a study and check it, as far as that is possible without its data.

    Parameters
    ----------
    path : Path
        A TOML file, as ``serpipe study init`` writes it.

    Returns
    -------
    Study

    Raises
    ------
    UserError
        If the file cannot be read, or something in it is wrong: with the line and the remedy.
    """
    try:
        text = read_text(path, MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); write one with: serpipe study init {path}"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save it as UTF-8") from None
    for number, row in enumerate(text.splitlines(), 1):
        if len(row) > _MAX_LINE:
            raise UserError(
                f"{path}, line {number}: has {len(row)} characters; expected at most {_MAX_LINE}; "
                "divide a long list into several lines"
            )
    try:
        content = tomllib.loads(text)
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply; a study needs tables and lists") from None
    except ValueError as error:  # a TOMLDecodeError, or an integer of thousands of digits
        found = _SYNTAX_ERROR.fullmatch(str(error))
        line = found[2] if found else len(text.splitlines())
        problem = (found[1] if found else str(error)).rstrip(".")
        raise UserError(
            f"{path}, line {line}: is not TOML: {problem}; put text in quotes, and lists in [ ]"
        ) from None
    return _study(_File(path, text), content)


def _study(file: _File, content: Mapping[str, Any]) -> Study:
    lists = {"heads": ["lda"], "poolings": ["mean"], "splits": ["loso"]}
    known = ("title", *lists, "grid", "corpora", "encoders", "protocol", "extract")
    file.check_keys((), content, known)
    heads, poolings, splits = (
        file.texts((key,), content.get(key, default)) for key, default in lists.items()
    )
    for each in poolings:
        file.checked(("poolings",), partial(check_choice, "pooling", each, choices.POOLINGS), each)
    for each in splits:
        if not _SPLIT.fullmatch(each):
            raise file.error(
                ("splits",), f"{each} is not a split; use loso, kfold:5, standard, ...", each
            )
    for each in heads:
        file.checked(("heads",), partial(heads_of, each), each)
    grid = file.texts(("grid",), content["grid"]) if "grid" in content else ()
    title = content.get("title", file.path.stem)
    if not isinstance(title, str):
        raise file.error(("title",), f"{title!r} is not text; write it in quotes")
    corpora = tuple(
        _corpus(file, content, name, entry, heads)
        for name, entry in file.table(content, "corpora").items()
    )
    encoders = tuple(
        _encoder(file, content, name, entry, poolings)
        for name, entry in file.table(content, "encoders").items()
    )
    for key, entries in (("corpora", corpora), ("encoders", encoders)):
        if not entries:
            raise file.error((key,), f"there are none; add a table [{key}] with a line for each")
        for entry in entries:
            if not _NAME.fullmatch(entry.name):
                raise file.error(
                    (key, entry.name),
                    "cannot be part of a file name; use up to 40 letters, digits and _ . + -",
                )
    every_head = {head for each in corpora for names in each.heads for head in heads_of(names)}
    for each in grid:
        used = [head for head in every_head if _is_for(each, [head])]
        if not used:
            raise file.error(("grid",), f"{each} is for no head of the study; correct it", each)
        file.checked(("grid",), partial(_read_grids, used, each), each)
    number = (
        len(splits)
        * sum(len(each.heads) for each in corpora)
        * sum(len(each.poolings) for each in encoders)
    )
    if number > MAX_CELLS:
        raise UserError(
            f"{file.path}: plans {number} runs; expected at most {MAX_CELLS}; make several studies"
        )
    encoders = _with_ambiguity(encoders)
    return Study(file.path, title, corpora, encoders, poolings, splits, heads, grid, file.text)


def _with_ambiguity(encoders: Sequence[StudyEncoder]) -> tuple[StudyEncoder, ...]:
    """Mark the encoders whose caches would have the same name but hold other embeddings.

    These are folders of one name, such as ``a/checkpoint`` and ``b/checkpoint``, revisions of one
    hub id, and the precision that ``auto`` stands for.
    """
    sources: dict[str, set[tuple[str, str | None, bool]]] = {}
    for each in encoders:
        options = each.options
        source = str(options.encoder), options.revision, options.precision == "auto"
        sources.setdefault(recorded_name(options), set()).add(source)
    return tuple(
        replace(each, is_ambiguous=len(sources[recorded_name(each.options)]) > 1)
        for each in encoders
    )


def recorded_name(options: ExtractOptions) -> str:
    """Return the name of an encoder as a cache records it: its hub id, or that of its folder."""
    name = str(options.encoder)
    return Path(name).resolve().name if Path(name).is_dir() else name


def _corpus(
    file: _File, content: Mapping[str, Any], name: str, entry: Any, heads: tuple[str, ...]
) -> StudyCorpus:
    keys = ("corpora", name)
    shared = file.table(content, "protocol")
    file.check_keys(("protocol",), shared, _PROTOCOL)
    table = entry if isinstance(entry, dict) else {"data": entry}
    file.check_keys(keys, table, (*_SOURCES, *_PROTOCOL))
    if not {"data", "manifest"} & table.keys():
        raise file.error(keys, "has no clips; add data or manifest")
    for key in ("manifest", "ratings"):
        if key in table and not isinstance(table[key], str):
            raise file.error((*keys, key), f"{table[key]!r} is not a path; write it in quotes")
    own = {key: value for key, value in table.items() if key in _PROTOCOL}
    own_heads = file.texts((*keys, "heads"), table["heads"]) if "heads" in table else heads
    for each in own_heads:
        file.checked((*keys, "heads"), partial(heads_of, each), each)
    protocol = file.options(Protocol, {("protocol",): shared, keys: own})
    of_augment = keys if "augment" in own else ("protocol",)
    file.checked((*of_augment, "augment"), partial(read_perturbations, "augment", protocol.augment))
    trained, tested = set(protocol.train_on), set(protocol.test_on)
    if trained and tested and trained != tested:  # tables of a study are titled with the split
        raise file.error(
            (*(keys if "test_on" in own else ("protocol",)), "test_on"),
            "is another corpus than train_on, which no split divides; use serpipe fit --train-on",
        )
    return StudyCorpus(
        name,
        file.texts((*keys, "data"), table["data"]) if "data" in table else (),
        table.get("manifest"),
        table.get("ratings"),
        own_heads,
        protocol,
    )


def _encoder(
    file: _File, content: Mapping[str, Any], name: str, entry: Any, poolings: tuple[str, ...]
) -> StudyEncoder:
    keys = ("encoders", name)
    shared = file.table(content, "extract")
    file.check_keys(
        ("extract",), shared, [each for each in _EXTRACT if each not in ("encoder", "revision")]
    )
    table = entry if isinstance(entry, dict) else {"encoder": entry}
    file.check_keys(keys, table, _EXTRACT)
    if "encoder" not in table:
        raise file.error(keys, 'names no encoder; add encoder = "ID_OR_DIR"')
    options = file.options(ExtractOptions, {("extract",): shared, keys: table})
    if str(options.encoder).startswith(OPENSMILE):  # statistics of whole clips: nothing is pooled
        poolings = ("mean",)
    return StudyEncoder(name, options, poolings)


def heads_of(names: str) -> "tuple[type[Head], ...]":
    """Return the heads of an entry of ``heads``, for labels or else for ratings.

    Raise UserError if they are neither.
    """
    from ...pipeline.heads import find_heads

    try:
        return find_heads(names)
    except UserError:
        with suppress(UserError):
            return find_heads(names, "regression")
        raise


def _read_grids(heads: "Sequence[type[Head]]", entry: str) -> None:
    """Raise UserError if an entry of the grid has values that its heads cannot take."""
    from ...pipeline.heads import read_grids

    read_grids(heads, [entry])


def _is_for(entry: str, heads: "Sequence[type[Head]]") -> bool:
    """Return whether an entry of the grid sets a hyper-parameter of one of some heads."""
    head_name, _, parameter = entry.partition("=")[0].rpartition(".")
    return any(parameter in each.grid and head_name in ("", each.name) for each in heads)


def _line_of(text: str, keys: Sequence[str]) -> int:
    """Return the line of a key in TOML, or else that of the innermost table that holds it.

    The file was parsed without an error, so that a simple scan by lines finds it.
    """
    table: list[str] = []
    best, line = 0, 1
    for number, content in enumerate(text.splitlines(), 1):
        if header := _TABLE_LINE.match(content):
            table = _parts(header[1])
            found = table
        elif key := _KEY_LINE.match(content):
            found = [*table, *_parts(key[1])]
        else:
            continue
        if len(found) > best and list(keys[: len(found)]) == found:
            best, line = len(found), number
    return line


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_KEY_PART, dotted)]
