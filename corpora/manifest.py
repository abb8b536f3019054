"""Any labelled audio: a CSV table with a row for each clip."""

import csv
import io
import math
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import UserError
from ..files import read_text
from ..remote import Place, Remote
from .clip import CLIP_COLUMNS, FILLED_COLUMNS, Clip
from .emotions import SHARED_EMOTIONS, shared_word

#: Columns of a cache that only opening the audio can fill.
RESERVED = ("label", "fold", *FILLED_COLUMNS)
#: Of a table, in bytes: room for millions of clips.
MAX_BYTES = 1 << 29
#: Wrong lines that are told at once.
SHOWN = 10
_COLUMN = re.compile(r"[A-Za-z]\w*")


@dataclass(frozen=True)
class Row:
    """A line of a table: its number, for messages, and its cells by column."""

    line: int
    cells: Mapping[str, str]


def read_manifest(path: Path, root: Place | None = None) -> tuple[Clip, ...]:
    """Read the clips that a manifest lists.

    Parameters
    ----------
    path : Path
        A CSV file (tabs in a ``.tsv``) in UTF-8 with the columns ``path`` and ``speaker``, and one
        or more of what is to be predicted. A column of numbers is one of ratings; any other is one
        of labels. ``name``, ``corpus``, ``sex``, ``emotion``, ``language``, ``intensity``,
        ``statement`` and ``repetition`` mean what they mean in :class:`Clip`.
    root : Path or Remote, optional
        The folder that paths are relative to; that of the manifest by default. No path may lead
        out of it. On a web server, whether a clip is there is found when it is opened.

    Returns
    -------
    tuple of Clip

    Raises
    ------
    UserError
        Tells each line that cannot be used, at most ten.
    """
    rows = read_rows(path)
    columns = list(rows[0].cells)
    for needed in ("path", "speaker"):
        if needed not in columns:
            raise UserError(
                f"{path}: columns {', '.join(columns)}; expected path, speaker and what is to be "
                f"predicted; add {needed}"
            )
    more = [column for column in columns if column not in CLIP_COLUMNS]
    for column in columns:
        if column in RESERVED or not _COLUMN.fullmatch(column):
            raise UserError(
                f"{path}: column {column!r} cannot be used; expected a name of letters, digits and "
                f"_ that is none of {', '.join(RESERVED)}; rename it"
            )
    if not more and "emotion" not in columns:
        raise UserError(
            f"{path}: columns {', '.join(columns)}; expected something to predict besides; add a "
            "column such as emotion or fatigue"
        )
    wrong: list[str] = []
    values = {column: read_column(path, rows, column, wrong) for column in more}
    inside = (root or path.parent).resolve()
    there = set(inside.files()) if isinstance(inside, Remote) and not inside.is_web else None
    first: dict[tuple[str, str], int] = {}
    clips = []
    for number, row in enumerate(rows):
        cells = row.cells
        where = f"{path}, line {row.line}"
        file, relative = _below(inside, cells["path"])
        name = cells.get("name") or Path(relative).stem
        corpus = cells.get("corpus") or path.stem
        if not cells["path"] or not cells["speaker"]:
            wrong.append(f"{where}: path or speaker is empty; expected both")
        elif relative.startswith(("../", "/")) or relative == "..":
            wrong.append(
                f"{where}: {cells['path']} leads out of {inside}; expected a path inside it; give "
                "the folder above all clips with --data DIR"
            )
        elif not (relative in there if there is not None else _is_file(file)):
            wrong.append(f"{where}: {file}: no such file; expected a clip")
        elif (earlier := first.setdefault((corpus, name), row.line)) != row.line:
            wrong.append(
                f"{where}: clip {name} stands in line {earlier} already; expected each once; "
                "give them names in a column name"
            )
        else:
            known = {field: cells[field] for field in _FIELDS if cells.get(field)}
            emotion = shared_word(known.get("emotion", "").lower())
            clips.append(
                Clip(
                    file=file,
                    path=relative,
                    name=name,
                    corpus=corpus,
                    shared_emotion=emotion if emotion in SHARED_EMOTIONS else "",
                    speaker_id=cells["speaker"],
                    more={column: values[column][number] for column in more},
                    **known,
                )
            )
    refuse_lines(wrong)
    return tuple(clips)


_FIELDS = tuple(
    field.name
    for field in fields(Clip)
    if field.name not in ("file", "path", "name", "corpus", "shared_emotion", "speaker_id", "more")
)


def _below(folder: Place, path: str) -> tuple[Place, str]:
    """Return a file, and its path relative to the folder, which is checked by who asks."""
    if isinstance(folder, Remote):
        relative = posixpath.normpath(path)
        return folder / relative, relative
    # Not resolved: links that the owner of the folder made may lead anywhere.
    file = Path(os.path.normpath(folder / path))
    return file, Path(os.path.relpath(file, folder)).as_posix()


def _is_file(path: Place) -> bool:
    if isinstance(path, Remote):
        return True
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or one that no file can have
        return False


def read_rows(path: Path) -> list[Row]:
    """Read a CSV table with a header.

    Parameters
    ----------
    path : Path
        In UTF-8; separated by commas, or by tabs in a ``.tsv``.

    Returns
    -------
    list of Row
        At least one.

    Raises
    ------
    UserError
        If it cannot be read, or a line has more or fewer cells than the header.
    """
    expected = "expected a CSV table with a header line, in UTF-8"
    try:
        text = io.StringIO(read_text(path, MAX_BYTES).removeprefix("\ufeff"), newline="")
        reader = csv.reader(text, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True)
        table = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {expected}; check its name") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason}); {expected}; save it anew") from None
    table = [(line, cells) for line, cells in table if any(cells)]
    if len(table) < 2:
        raise UserError(f"{path}: {len(table)} line(s); {expected} and at least one row; fill it")
    header = table[0][1]
    if len(header) == 1 and ";" in header[0]:
        raise UserError(f"{path}: separated by semicolons; expected commas; save it anew")
    if len(set(header)) < len(header):
        raise UserError(f"{path}: a column stands twice in {', '.join(header)}; expected each once")
    for line, cells in table:
        if any("\0" in cell for cell in cells):
            raise UserError(
                f"{path}, line {line}: holds a NUL character, which no cache can store; remove it"
            )
    for line, cells in table[1:]:
        if len(cells) != len(header):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells; expected {len(header)} as in the "
                "header; mend it (quote a cell that holds a comma)"
            )
    return [Row(line, dict(zip(header, cells, strict=True))) for line, cells in table[1:]]


def read_column(
    path: Path, rows: Sequence[Row], column: str, wrong: list[str]
) -> list[float] | list[str]:
    """Read a column as numbers if all its filled cells are, and as text if few of them are.

    Parameters
    ----------
    path : Path
        The table, for messages.
    rows : sequence of Row
        Its lines.
    column : str
        The column.
    wrong : list of str
        Takes a message for each cell that is no number among numbers, or one for a column in
        which at least a fifth of the cells are numbers.

    Returns
    -------
    list of float or list of str
        NaN for an empty cell among numbers.
    """
    cells = [row.cells[column] for row in rows]
    numbers = [read_number(cell) for cell in cells]
    filled = sum(cell != "" for cell in cells)
    read = sum(number is not None for number, cell in zip(numbers, cells, strict=True) if cell)
    if 5 * read < filled or not filled:
        return cells
    if 2 * read <= filled:
        words = next(row for row, number in zip(rows, numbers, strict=True) if number is None)
        wrong.append(
            f"{path}: column {column} holds {read} numbers and {filled - read} other values, such "
            f"as {words.cells[column]!r} in line {words.line}; write numbers only, or words only"
        )
        return cells
    for row, number in zip(rows, numbers, strict=True):
        if number is None:
            wrong.append(
                f"{path}, line {row.line}: {column} is {row.cells[column]!r}, where most are "
                "numbers; expected a number or nothing"
            )
    return [math.nan if number is None else number for number in numbers]


def read_number(cell: str) -> float | None:
    """Return the finite number that a cell holds, NaN if it is empty, ``None`` if it is none."""
    if not cell:
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def refuse_lines(wrong: Sequence[str]) -> None:
    """Raise what is wrong with the lines of a table, if anything is; at most ten at once."""
    if wrong:
        rest = [f"... and {len(wrong) - SHOWN} more lines"] if len(wrong) > SHOWN else []
        raise UserError("\n".join([*wrong[:SHOWN], *rest]))
