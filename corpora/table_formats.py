"""Tables of clips in other formats than CSV: Hugging Face datasets and audformat databases.

They are read into the rows of a manifest, so that everything else is as for a CSV table.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, counted, first_line
from ..files import write_bytes
from ..yaml_file import read_yaml
from .clip import CLIP_COLUMNS
from .csv_table import CsvTable, Row, name_columns, nfc

#: Prefix of the name of a dataset on the hub.
HUB = "hf:"
#: Where the audio of datasets that hold it is written, so that it is decoded like any other.
AUDIO = Path("features/audio")
_DATABASE = "db.yaml"
_FILES = ("dataset_info.json", "dataset_dict.json", _DATABASE)
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TABLE = re.compile(r"[\w-][\w.-]*")
_SCALARS = (str, int, float, bool)
#: The index of a table that pandas wrote.
_INDEX = "__index_level_"


def is_dataset(path: Path) -> bool:
    """Whether a path names a dataset or a database, on the hub or in a folder, and no CSV table."""
    return str(path).startswith(HUB) or any((path / name).is_file() for name in _FILES)


def read_dataset(path: Path) -> tuple[CsvTable, Path]:
    """Read the clips of a dataset or database.

    Parameters
    ----------
    path : Path
        A folder of ``Dataset.save_to_disk`` or of audformat, or ``hf:OWNER/NAME``, where
        ``@REVISION`` may follow. No code of a dataset is run.

    Returns
    -------
    table : CsvTable
        A row for each clip. Audio in the dataset is written below :data:`AUDIO`.
    root : Path
        The folder that paths are relative to.

    Raises
    ------
    UserError
        If the package for the format is not installed, or the dataset cannot be read.
    """
    if (path / _DATABASE).is_file():
        return _read_database(path), path
    package = _import("datasets", path)
    remedy = "save it again with save_to_disk()"
    try:
        if not str(path).startswith(HUB):
            read, root = package.load_from_disk(str(path)), path
            return _read_dataset(path, path.resolve().name, read, root)
        remedy = "check the name, the network and `hf auth login`"
        name, _, revision = str(path).removeprefix(HUB).partition("@")
        if not _HUB_NAME.fullmatch(name):
            raise ValueError("expected hf:OWNER/NAME")
        read = package.load_dataset(name, revision=revision or None)
        # Audio that the dataset only refers to is in the local cache.
        root = Path(package.config.HF_CACHE_HOME)
        return _read_dataset(
            path, re.sub(r"[^\w.-]+", "--", f"{name} {revision}".strip()), read, root
        )
    except (ValueError, LookupError, TypeError, OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: cannot be read as a dataset ({first_line(error)}); {remedy}"
        ) from error


def _import(package: str, source: object) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(
            f"{source}: {package} is not installed; install it with: pip install "
            f"'serpipe[{package}]'"
        ) from None


def _read_dataset(source: Path, name: str, read: Any, root: Path) -> tuple[CsvTable, Path]:
    """Return the rows of a dataset, or of all parts of a dict of datasets; write their audio.

    ``root`` is the folder of audio that the dataset does not hold.
    """
    package = _import("datasets", source)
    parts: Mapping[str, Any] = read if isinstance(read, dict) else {"": read}
    marks = "".join(f"{split}:{part._fingerprint} " for split, part in parts.items())
    written = AUDIO / f"{name}-{hashlib.sha256(marks.encode()).hexdigest()[:8]}"
    rows: list[dict[str, Any]] = []
    n_written, omitted = 0, dict[str, None]()
    for split, part in parts.items():
        features = part.features
        audio = _audio_column(source, features, package.Audio)
        kept = [
            column
            for column, feature in features.items()
            if isinstance(feature, package.Value | package.ClassLabel) and _INDEX not in column
        ]
        omitted |= dict.fromkeys(each for each in features if each not in (audio, *kept))
        undecoded = part.cast_column(audio, package.Audio(decode=False))
        for clip in undecoded.select_columns([audio, *kept]):
            values: dict[str, Any] = {"split": split} if split else {}
            for column in kept:
                values[column] = _label(features[column], clip[column])
            content = clip[audio].get("bytes")
            n_written += content is not None
            values["path"] = _audio_path(written, len(rows), clip[audio])
            rows.append(values)
    if n_written not in (0, len(rows)):
        raise UserError(
            f"{source}: holds the audio of {n_written} of {len(rows)} clips, and refers to that of "
            "the others; save it again with save_to_disk()"
        )
    table = _table(source, name, rows, ["dataset"], omitted)
    return table, written if n_written else root


def _label(feature: Any, value: Any) -> Any:
    """Return a value, a label by its name; Hugging Face writes None or -1 for an unknown one."""
    names = getattr(feature, "names", None)
    if names is None:
        return value
    return None if value is None or value < 0 else names[value]


def _audio_column(source: Path, features: Mapping[str, Any], kind: type[Any]) -> str:
    """Return the name of the only column of audio in a dataset."""
    columns = [name for name, each in features.items() if isinstance(each, kind)]
    if len(columns) != 1:
        raise UserError(
            f"{source}: has {counted(len(columns), 'audio column')}; cast one column with "
            "cast_column(NAME, datasets.Audio()), and remove others"
        )
    return columns[0]


def _audio_path(folder: Path, number: int, audio: Mapping[str, Any]) -> str:
    """Return the path of a clip; if the dataset holds its audio, write that into ``folder``."""
    content, path = audio.get("bytes"), str(audio.get("path") or "")
    if content is None:
        return path
    suffix = Path(path).suffix.lower()
    # The name is ours: that in the dataset may lead anywhere.
    name = f"{number:08d}{suffix if _SUFFIX.fullmatch(suffix) else '.wav'}"
    file = folder / name
    if not file.is_file() or file.read_bytes() != content:
        write_bytes(file, content)
    return name


def _read_database(folder: Path) -> CsvTable:
    """Return the rows of all tables of whole files in an audformat database, joined by file."""
    # audformat would run code that a header or a pickle may hold: they are refused before.
    header = read_yaml(folder / _DATABASE)
    for kind in ("tables", "misc_tables"):
        for name in header.get(kind) or {}:
            if not _TABLE.fullmatch(str(name)):
                raise UserError(f"{folder / _DATABASE}: the name of table {name!r:.40} is a path")
    pickles = sorted(folder.rglob("*.pkl"))
    if pickles:
        raise UserError(
            f"{pickles[0]}: is a pickle, which can run code when it is loaded; remove it, as the "
            "table is also in CSV or Parquet"
        )
    package = _import("audformat", folder)
    try:
        database = package.Database.load(str(folder))
        tables = {name: each for name, each in database.tables.items() if each.is_filewise}
        contents = {name: each.df.to_dict("index") for name, each in tables.items()}
    except (ValueError, LookupError, TypeError, OSError, RuntimeError) as error:
        raise UserError(
            f"{folder}: cannot be read by audformat ({first_line(error)}); save it again"
        ) from error
    clips: dict[str, dict[str, Any]] = {}
    for name, content in contents.items():
        for file, values in content.items():
            known = clips.setdefault(str(file), {"path": str(file)})
            for column, value in values.items():
                if _is_missing(value):
                    known.setdefault(column, None)
                elif known.get(column, value) in (None, value):
                    known[column] = value
                else:
                    raise UserError(
                        f"{folder}: {column} of {file} is {known[column]} in one table and {value} "
                        f"in {name}; remove one of the two"
                    )
    if not clips:
        raise UserError(f"{folder}: has no table of whole files; segments cannot be read")
    rows = list(clips.values())
    columns = dict.fromkeys(column for row in rows for column in row)
    wrong = dict.fromkeys(
        column for column in columns if not all(_is_scalar(row.get(column)) for row in rows)
    )
    version = folder.resolve().name
    name = str(header.get("name") or version)
    name = re.sub(r"[^\w.-]+", "-", name if version == name else f"{name}-{version}")
    return _table(folder, name, rows, ["audformat database"], wrong)


def _table(
    source: Path,
    name: str,
    rows: list[dict[str, Any]],
    notes: list[str],
    omitted: Mapping[str, object],
) -> CsvTable:
    """Return rows as a table without the columns that are omitted, which a note names."""
    names = dict.fromkeys(column for row in rows for column in row if column not in omitted)
    header = [re.sub(r"\W", "_", column) for column in names]
    columns, renamed = name_columns(source, header, CLIP_COLUMNS)
    without = [f"without {', '.join(omitted)}"] if omitted else []
    table = CsvTable(
        source,
        columns,
        tuple(
            Row(number, dict(zip(columns, _cells(row, names), strict=True)))
            for number, row in enumerate(rows, 1)
        ),
        "",
        (*notes, *renamed, *without),
        given_name=name,
    )
    for row in table.rows:
        if any("\0" in cell for cell in row.cells.values()):
            raise UserError(f"{source}, row {row.line}: contains a NUL character; remove it")
    return table


def _cells(row: Mapping[str, Any], names: Mapping[str, object]) -> Iterator[str]:
    for name in names:
        value: Any = row.get(name)
        if hasattr(value, "total_seconds"):
            value = value.total_seconds()
        text = "" if _is_missing(value) else str(value)
        yield text.strip() if name == "path" else nfc(text).strip()


def _is_missing(value: Any) -> bool:
    """Whether a value is None, NaN or NaT, which are not equal to themselves."""
    return value is None or bool(value != value)


def _is_scalar(value: Any) -> bool:
    return _is_missing(value) or isinstance(value, _SCALARS) or hasattr(value, "total_seconds")
