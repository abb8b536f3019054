"""Tables of clips in other formats than CSV: datasets of Hugging Face, databases of audformat.

They are read into the rows of a manifest, so that everything else is as for a CSV table.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, counted, first_line
from ..files import write_bytes
from .clip import CLIP_COLUMNS
from .csv_table import CsvTable, Row, name_columns, nfc

#: Prefix of the name of a dataset on the hub.
HUB = "hf:"
#: Where the audio of datasets that hold it is written, so that it is decoded like any other.
AUDIO = Path("features/audio")
_FILES = ("dataset_info.json", "dataset_dict.json", "db.yaml")
_SUFFIX = re.compile(r"\.[a-z0-9]{1,5}")
_SCALARS = (str, int, float, bool)


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
    if (path / "db.yaml").is_file():
        return _read_database(path), path
    package = _import("datasets", path)
    source, _, revision = str(path).removeprefix(HUB).partition("@")
    try:
        if not str(path).startswith(HUB):
            return _read_dataset(path, package.load_from_disk(str(path)), path.name, path)
        read = package.load_dataset(source, revision=revision or None)
        # Audio that the dataset only refers to is in the local cache.
        cached = Path(package.config.HF_CACHE_HOME)
        return _read_dataset(path, read, source.replace("/", "--"), cached)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise UserError(
            f"{path}: cannot be read as a dataset ({first_line(error)}); check the name and the "
            "network, or save it again with save_to_disk()"
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


def _read_dataset(source: Path, read: Any, name: str, root: Path) -> tuple[CsvTable, Path]:
    """Return the rows of a dataset, or of all parts of a dict of datasets; write their audio.

    ``root`` is the folder of audio that the dataset does not hold.
    """
    parts: Mapping[str, Any] = read if isinstance(read, dict) else {"": read}
    marks = "".join(f"{split}:{part._fingerprint} " for split, part in parts.items())
    written = AUDIO / f"{name}-{hashlib.sha256(marks.encode()).hexdigest()[:8]}"
    rows: list[dict[str, Any]] = []
    for split, part in parts.items():
        audio = _audio_column(source, part)
        undecoded = part.cast_column(audio, _import("datasets", source).Audio(decode=False))
        labels = {
            column: feature.names
            for column, feature in part.features.items()
            if hasattr(feature, "names")
        }
        for clip in undecoded:
            values: dict[str, Any] = {"split": split} if split else {}
            for column, value in clip.items():
                is_label = column in labels and isinstance(value, int) and value >= 0
                values[column] = labels[column][value] if is_label else value
            values["path"] = _audio_path(written, len(rows), values.pop(audio))
            rows.append(values)
    return _table(source, rows, "dataset"), written if written.is_dir() else root


def _audio_column(source: Path, part: Any) -> str:
    """Return the name of the only column of audio in a dataset."""
    audio = _import("datasets", source).Audio
    columns = [str(name) for name, each in part.features.items() if isinstance(each, audio)]
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
    if not file.is_file() or file.stat().st_size != len(content):
        write_bytes(file, content)
    return name


def _read_database(folder: Path) -> CsvTable:
    """Return the rows of all tables of whole files in a database of audformat, joined by file."""
    pickles = sorted(folder.glob("*.pkl"))
    if pickles:
        raise UserError(
            f"{pickles[0]}: is a pickle, which can run code when it is loaded; remove it, as the "
            "table is also in CSV or Parquet"
        )
    package = _import("audformat", folder)
    try:
        database = package.Database.load(str(folder))
        tables = [each for each in database.tables.values() if each.is_filewise]
        clips: dict[str, dict[str, Any]] = {}
        for table in tables:
            for file, values in table.df.to_dict("index").items():
                known = clips.setdefault(str(file), {"path": str(file)})
                known |= {name: each for name, each in values.items() if name not in known}
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise UserError(
            f"{folder}: cannot be read by audformat ({error}); save it again"
        ) from error
    if not clips:
        raise UserError(f"{folder}: has no table of whole files; segments cannot be read")
    return _table(folder, list(clips.values()), "audformat database")


def _table(source: Path, rows: list[dict[str, Any]], kind: str) -> CsvTable:
    """Return rows as a table, in which only text, numbers and time spans are kept."""
    names = dict.fromkeys(name for row in rows for name in row)
    kept = [name for name in names if all(_is_scalar(row.get(name)) for row in rows)]
    columns, renamed = name_columns(source, [_column_name(each) for each in kept], CLIP_COLUMNS)
    notes = [kind, *renamed]
    if len(kept) < len(names):
        notes.append(f"without {', '.join(name for name in names if name not in kept)}")
    return CsvTable(
        source,
        columns,
        tuple(
            Row(number, dict(zip(columns, _cells(row, kept), strict=True)))
            for number, row in enumerate(rows, 1)
        ),
        "",
        tuple(notes),
    )


def _column_name(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _cells(row: Mapping[str, Any], names: list[str]) -> Iterator[str]:
    for name in names:
        value: Any = row.get(name)
        if hasattr(value, "total_seconds"):
            value = value.total_seconds()
        # NaN and NaT are not equal to themselves.
        text = "" if value is None or value != value else str(value)
        yield text.strip() if name == "path" else nfc(text).strip()


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, _SCALARS) or hasattr(value, "total_seconds")
