"""Read CSV tables with any usual delimiter, encoding and decimal sign."""

import codecs
import csv
import io
import math
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, counted
from ..files import read_bytes

#: Wrong lines in one message.
SHOWN = 10
#: A table is read at once; this many bytes hold about ten million rows.
MAX_BYTES = 1 << 30
#: Largest number in a table.
LARGEST_NUMBER = 1e15
#: Limit on columns: each becomes a dataset of the cache.
MAX_COLUMNS = 1000
#: Delimiters and their names, in order of preference.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
#: Other names of columns that have no other meaning.
SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path"),
    "speaker": ("speaker_id",),
}
#: First line in which Excel states the delimiter.
_SEP_LINE = re.compile(r'"?sep=(.)"?[;,\t]*\r?\n', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")


@dataclass(frozen=True)
class Row:
    """A row of a table: the number of its line, for messages, and its cells by column."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class CsvTable:
    """The content of a table."""

    path: Path
    #: Names of the columns; known ones in lower case.
    columns: tuple[str, ...]
    #: At least one. Cells are stripped and, but for ``path``, in Unicode form NFC.
    rows: tuple[Row, ...]
    #: Of the cells.
    delimiter: str
    #: Peculiarities of the table, such as ``"semicolons"``.
    notes: tuple[str, ...] = ()
    #: The name, if it is not that of the file.
    given_name: str = ""

    @property
    def name(self) -> str:
        """The name of the table, for files and as that of its corpus."""
        return self.given_name or self.path.stem

    def cells(self, column: str) -> list[str]:
        """Return the cells of a column, in the order of the rows."""
        return [row.cells[column] for row in self.rows]

    def has_decimal_commas(self, column: str) -> bool:
        """Whether commas in a column are decimal signs.

        They are if commas do not separate cells and most filled cells are then numbers.
        """
        filled = [cell for cell in self.cells(column) if cell]
        if self.delimiter == "," or not any(map(_DECIMAL_COMMA.fullmatch, filled)):
            return False
        numbers = sum(read_number(cell, decimal_comma=True) is not None for cell in filled)
        return 2 * numbers > len(filled)

    def description(self, *, numbers: Collection[str] = (), more: Sequence[str] = ()) -> str:
        """Describe how the table was read, such as ``"clips.csv: semicolons, decimal commas"``.

        ``numbers`` are the columns that were read as numbers, and ``more`` further remarks. The
        text is empty for an ordinary table with commas in UTF-8.
        """
        commas = any(self.has_decimal_commas(column) for column in numbers)
        notes = [*self.notes, *(["decimal commas"] if commas else []), *more]
        return f"{self.path.name}: {', '.join(notes)}" if notes else ""


def nfc(text: str) -> str:
    """Return text in the Unicode form NFC, in which identical-looking texts are equal."""
    return unicodedata.normalize("NFC", text)


def read_table(path: Path, known: Sequence[str]) -> CsvTable:
    """Read a table with a header, a file of at most :data:`MAX_BYTES`.

    The encoding is that of the byte order mark; without one UTF-8, UTF-16 if there are zero bytes,
    or else cp1252 as a guess. The delimiter is that of a first line such as ``sep=;``, or else the
    one that gives a header with the most known columns.

    ``known`` are the columns with a meaning, in lower case. They are recognised in any case, and
    some by another name (:data:`SYNONYMS`). Raise UserError if the table cannot be read, or a line
    has more or fewer cells than the header.
    """
    text, encoding = _decode(path)
    stated = _SEP_LINE.match(text)
    first_line = 1 if stated else 0
    if stated:
        text = text[stated.end() :]
    delimiter = stated[1] if stated else _find_delimiter(path, text, known)
    try:
        table = [(first_line + line, cells) for line, cells in _records(text, delimiter)]
    except csv.Error as error:
        raise UserError(f"{path}: cannot be read ({error}); save it again as CSV") from None
    if len(table) < 2:
        raise UserError(
            f"{path}: {counted(len(table), 'line')}; expected a header line and at least one row"
        )
    for line, cells in table:
        if any("\0" in cell for cell in cells):
            raise UserError(f"{path}, line {line}: contains a NUL character; remove it")
    columns, renamed = name_columns(path, table[0][1], known)
    rows = []
    for line, cells in table[1:]:
        # Spreadsheets pad each row to the length of the longest.
        kept = cells if any(cells[len(columns) :]) else cells[: len(columns)]
        if len(kept) != len(columns):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells; expected {len(columns)} as in the "
                "header; correct it (quote cells that contain a delimiter)"
            )
        named = zip(columns, kept, strict=True)
        rows.append(
            Row(line, {name: cell if name == "path" else nfc(cell) for name, cell in named})
        )
    notes = [encoding] if encoding else []
    if delimiter != ",":
        notes.insert(0, DELIMITERS.get(delimiter, f"{delimiter!r} as delimiter"))
    return CsvTable(path, columns, tuple(rows), delimiter, (*notes, *renamed))


def _decode(path: Path) -> tuple[str, str]:
    """Return the text of a file, and the name of its encoding if it is not UTF-8."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check its name") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another file") from None
    if content.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: is a workbook or an archive; save the sheet as CSV UTF-8")
    encoding, note = _encoding(content)
    try:
        return content.decode(encoding), note
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not in UTF-8, UTF-16 or cp1252 ({error}); save it again in UTF-8"
        ) from None


def _encoding(content: bytes) -> tuple[str, str]:
    """Return the name of a codec, and a remark on it."""
    if content.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", ""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", "UTF-16"
    # In UTF-16, every second byte of Latin letters, digits and delimiters is zero.
    zeros = [content[start : 1 << 16 : 2].count(0) for start in (0, 1)]
    if max(zeros) > 0.2 * min(len(content), 1 << 16):
        return ("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"), "UTF-16"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252", "cp1252 (a guess: if letters are wrong, save the table in UTF-8)"
    return "utf-8", ""


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the stripped cells of each record that is not empty."""
    # Not universal newlines: newlines in quoted cells belong to the cells.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield reader.line_num, stripped


def _find_delimiter(path: Path, text: str, known: Sequence[str]) -> str:
    """Return the delimiter that gives the header most known columns, or else most columns."""
    preferred = sorted(DELIMITERS, key="\t".__ne__) if path.suffix == ".tsv" else DELIMITERS
    names = {*known, *(name for column in known for name in SYNONYMS.get(column, ()))}
    ranks = {}
    for delimiter in preferred:
        try:
            header = next(_records(text, delimiter), (0, []))[1]
        except csv.Error:  # quotes that this delimiter does not allow
            continue
        ranks[delimiter] = (sum(name.lower() in names for name in header), len(header))
    return max(ranks, key=ranks.__getitem__) if ranks else ","


def name_columns(
    path: Path, header: Sequence[str], known: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the columns of a table, and a remark on each renamed one.

    ``known`` is as for :func:`read_table`. Raise UserError if a name is missing or occurs twice.
    """
    names = [nfc(name) for name in header]
    while names and not names[-1]:  # a spreadsheet's empty columns at the right
        names.pop()
    if len(names) > MAX_COLUMNS:
        raise UserError(
            f"{path}: has {len(names)} columns; expected at most {MAX_COLUMNS}; remove those that "
            "do not describe the clips"
        )
    columns = [name.lower() if name.lower() in known else name for name in names]
    renamed = []
    for column, others in SYNONYMS.items():
        named = [index for index, name in enumerate(columns) if name.lower() in others]
        if column in known and column not in columns and len(named) == 1:
            renamed.append(f"{columns[named[0]]} as {column}")
            columns[named[0]] = column
    first: dict[str, str] = {}
    for name, written in zip(columns, names, strict=True):
        if name.lower() in first:
            other = first[name.lower()]
            raise UserError(
                f"{path}: column {written} occurs twice"
                + (f", once as {other}" if other != written else "")
                + "; case is ignored; rename or remove one"
            )
        first[name.lower()] = written
    if "" in columns:
        raise UserError(f"{path}: column {columns.index('') + 1} has no name; add one")
    return tuple(columns), renamed


def read_column(table: CsvTable, column: str, wrong: list[str]) -> list[float] | list[str]:
    """Read a column as numbers if most of its filled cells are, and as text if few are.

    An empty cell among numbers is NaN. ``wrong`` receives a message for each cell that is not a
    number among numbers, or one for a column of text in which at least a fifth of the cells are
    numbers.
    """
    path, cells = table.path, table.cells(column)
    numbers = read_numbers(table, column)
    filled = sum(cell != "" for cell in cells)
    read = sum(number is not None for number, cell in zip(numbers, cells, strict=True) if cell)
    if 5 * read < filled or not filled:
        return cells
    if 2 * read <= filled:
        words = next(row for row, number in zip(table.rows, numbers, strict=True) if number is None)
        wrong.append(
            f"{path}: column {column} holds {read} numbers and {filled - read} other values, such "
            f"as {words.cells[column]!r} in line {words.line}; write numbers only, or words only"
        )
        return cells
    kind = "numbers with decimal commas" if table.has_decimal_commas(column) else "numbers"
    for row, number in zip(table.rows, numbers, strict=True):
        if number is None:
            wrong.append(
                f"{path}, line {row.line}: {column} is {row.cells[column]!r}, but most cells are "
                f"{kind}; write a number or nothing"
            )
    return [math.nan if number is None else number for number in numbers]


def read_numbers(table: CsvTable, column: str) -> list[float | None]:
    """Return the numbers of a column: NaN for an empty cell, ``None`` for what is not a number.

    If commas are decimal signs, numbers have no point: ``1.234`` would be ambiguous.
    """
    commas = table.has_decimal_commas(column)
    return [read_number(cell, decimal_comma=commas) for cell in table.cells(column)]


def read_number(cell: str, *, decimal_comma: bool = False) -> float | None:
    """Return the number in a cell, NaN if it is empty, ``None`` if it is not a number.

    Numbers beyond :data:`LARGEST_NUMBER` are refused: their squares exceed single precision.
    """
    if not cell:
        return math.nan
    if decimal_comma:
        if "." in cell:
            return None
        cell = cell.replace(",", ".", 1)
    try:
        number = float(cell)
    except ValueError:
        return None
    # Python also reads 1_11 as a number; elsewhere it is a name.
    return number if abs(number) <= LARGEST_NUMBER and "_" not in cell else None


def refuse_lines(wrong: Sequence[str]) -> None:
    """Raise UserError with the messages on wrong lines, at most ten, if there are any."""
    if wrong:
        rest = [f"... and {len(wrong) - SHOWN} more lines"] if len(wrong) > SHOWN else []
        raise UserError("\n".join([*wrong[:SHOWN], *rest]))
