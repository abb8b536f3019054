"""CSV tables as people have them: any usual delimiter, encoding and decimal sign."""

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

#: Wrong lines that are reported at once.
SHOWN = 10
#: A table is read whole; this many bytes hold some ten million rows.
MAX_BYTES = 1 << 30
#: Of a rating or another number in a table.
LARGEST_NUMBER = 1e15
#: Columns of a table: each becomes a dataset of the cache.
MAX_COLUMNS = 1000
#: Delimiters and their names, in the order in which they are preferred.
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
#: Other names of columns, which nobody uses for anything else.
SYNONYMS = {
    "path": ("file", "filename", "file_name", "filepath", "file_path"),
    "speaker": ("speaker_id",),
}
#: What Excel writes as the first line, and reads from there, so that a table opens anywhere.
_SEP_LINE = re.compile(r'"?sep=(.)"?[;,\t]*\r?\n', re.IGNORECASE)
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_EXPECTED = "expected a CSV table with a header line"


@dataclass(frozen=True)
class Row:
    """A line of a table: its number, for messages, and its cells by column."""

    line: int
    cells: Mapping[str, str]


@dataclass(frozen=True)
class CsvTable:
    """A table that was read.

    Attributes
    ----------
    path : Path
        The file.
    columns : tuple of str
        Names of the columns; known ones in lower case.
    rows : tuple of Row
        At least one. Cells are stripped and, but for ``path``, in Unicode form NFC.
    delimiter : str
        What separates cells.
    notes : tuple of str
        What is unusual about the table, such as ``"semicolons"``.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    delimiter: str
    notes: tuple[str, ...] = ()

    def cells(self, column: str) -> list[str]:
        """Return the cells of a column, from top to bottom."""
        return [row.cells[column] for row in self.rows]

    def has_decimal_commas(self, column: str) -> bool:
        """Whether commas in the cells of a column are decimal signs.

        They are where commas do not separate cells, and most filled cells are numbers then.
        """
        filled = [cell for cell in self.cells(column) if cell]
        if self.delimiter == "," or not any(map(_DECIMAL_COMMA.fullmatch, filled)):
            return False
        numbers = sum(read_number(cell, decimal_comma=True) is not None for cell in filled)
        return 2 * numbers > len(filled)

    def description(self, *, numbers: Collection[str] = (), more: Sequence[str] = ()) -> str:
        """Describe how the table was read, in one line.

        Parameters
        ----------
        numbers : collection of str
            Columns that were read as numbers.
        more : sequence of str
            Further remarks.

        Returns
        -------
        str
            Such as ``"clips.csv: semicolons, decimal commas"``; empty for a table of commas in
            UTF-8 of which there is nothing to say.
        """
        commas = any(self.has_decimal_commas(column) for column in numbers)
        notes = [*self.notes, *(["decimal commas"] if commas else []), *more]
        return f"{self.path.name}: {', '.join(notes)}" if notes else ""


def nfc(text: str) -> str:
    """Return text in Unicode form NFC, in which texts that look identical are equal."""
    return unicodedata.normalize("NFC", text)


def read_table(path: Path, known: Sequence[str]) -> CsvTable:
    """Read a table with a header.

    The encoding is that of the byte order mark; without one UTF-8, or UTF-16 by its zero bytes, or
    else cp1252, which is a guess. The delimiter is the one that gives a header with the most of the
    known columns, or a first line ``sep=;`` states it.

    Parameters
    ----------
    path : Path
        A file of at most :data:`MAX_BYTES`.
    known : sequence of str
        Columns that have a meaning, in lower case. They are recognised in any case, and some by
        another name (:data:`SYNONYMS`).

    Returns
    -------
    CsvTable

    Raises
    ------
    UserError
        If it cannot be read, or a line has more or fewer cells than the header.
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
        raise UserError(
            f"{path}: cannot be read ({error}); {_EXPECTED}; save it again as CSV"
        ) from None
    if len(table) < 2:
        raise UserError(
            f"{path}: {counted(len(table), 'line')}; {_EXPECTED} and at least one row; fill it"
        )
    for line, cells in table:
        if any("\0" in cell for cell in cells):
            raise UserError(
                f"{path}, line {line}: holds a NUL character, which no cache can store; remove it"
            )
    columns, renamed = _columns(path, table[0][1], known)
    rows = []
    for line, cells in table[1:]:
        # Spreadsheets fill each row up to the widest one.
        kept = cells if any(cells[len(columns) :]) else cells[: len(columns)]
        if len(kept) != len(columns):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells; expected {len(columns)} as in the "
                "header; correct it (quote a cell that holds a delimiter)"
            )
        named = zip(columns, kept, strict=True)
        rows.append(
            Row(line, {name: cell if name == "path" else nfc(cell) for name, cell in named})
        )
    notes = [
        *([] if delimiter == "," else [DELIMITERS.get(delimiter, f"{delimiter!r} as delimiter")])
    ]
    notes += [encoding] if encoding else []
    return CsvTable(path, columns, tuple(rows), delimiter, (*notes, *renamed))


def _decode(path: Path) -> tuple[str, str]:
    """Return the text of a file, and the name of its encoding unless that is UTF-8."""
    try:
        content = read_bytes(path, MAX_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_EXPECTED}; check its name") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); {_EXPECTED}; name another file"
        ) from None
    if content.startswith(b"PK\x03\x04"):
        raise UserError(
            f"{path}: is a workbook or an archive; {_EXPECTED}; save the sheet as CSV UTF-8"
        )
    encoding, note = _encoding(content)
    try:
        return content.decode(encoding), note
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); expected a CSV table in UTF-8, UTF-16 or cp1252; "
            "save it again in UTF-8"
        ) from None


def _encoding(content: bytes) -> tuple[str, str]:
    """Return the name of a codec, and what to say of it."""
    if content.startswith(codecs.BOM_UTF8):
        return "utf-8-sig", ""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", "UTF-16"
    # Every second byte of Latin letters, digits and delimiters is zero in UTF-16.
    zeros = [content[start : 1 << 16 : 2].count(0) for start in (0, 1)]
    if max(zeros) > 0.2 * min(len(content), 1 << 16):
        return ("utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"), "UTF-16"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252", "cp1252 (a guess: if letters are wrong, save the table in UTF-8)"
    return "utf-8", ""


def _records(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the stripped cells of each line that is not empty."""
    # Not universal newlines: those in quoted cells are part of the cells.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    for cells in reader:
        stripped = [cell.strip() for cell in cells]
        if any(stripped):
            yield reader.line_num, stripped


def _find_delimiter(path: Path, text: str, known: Sequence[str]) -> str:
    """Return the delimiter by which most known columns are in the header, then most columns."""
    preferred = sorted(DELIMITERS, key="\t".__ne__) if path.suffix == ".tsv" else DELIMITERS
    names = {*known, *(name for column in known for name in SYNONYMS.get(column, ()))}
    ranks = {}
    for delimiter in preferred:
        try:
            header = next(_records(text, delimiter), (0, []))[1]
        except csv.Error:  # quotes that mean nothing to this delimiter
            continue
        ranks[delimiter] = (sum(name.lower() in names for name in header), len(header))
    return max(ranks, key=ranks.__getitem__) if ranks else ","


def _columns(
    path: Path, header: Sequence[str], known: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the names of the columns, and which were renamed."""
    names = [nfc(name) for name in header]
    while names and not names[-1]:  # a spreadsheet's empty columns at the right
        names.pop()
    if len(names) > MAX_COLUMNS:
        raise UserError(
            f"{path}: has {len(names)} columns; expected at most {MAX_COLUMNS}; remove those that "
            "are not about the clips"
        )
    columns = [name.lower() if name.lower() in known else name for name in names]
    renamed = []
    for column, others in SYNONYMS.items():
        named = [place for place, name in enumerate(columns) if name.lower() in others]
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
                + "; expected each once, in whatever case; rename or remove one"
            )
        first[name.lower()] = written
    if "" in columns:
        raise UserError(
            f"{path}: column {columns.index('') + 1} has no name; expected a name for each; add it"
        )
    return tuple(columns), renamed


def read_column(table: CsvTable, column: str, wrong: list[str]) -> list[float] | list[str]:
    """Read a column as numbers if all its filled cells are, and as text if few of them are.

    Parameters
    ----------
    table : CsvTable
        The table.
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
                f"{path}, line {row.line}: {column} is {row.cells[column]!r}, where most are "
                f"{kind}; expected a number or nothing"
            )
    return [math.nan if number is None else number for number in numbers]


def read_numbers(table: CsvTable, column: str) -> list[float | None]:
    """Return the numbers of a column: NaN for an empty cell, ``None`` for what is not a number.

    Where commas are decimal signs, a point is none: ``1.234`` could be either.
    """
    commas = table.has_decimal_commas(column)
    return [read_number(cell, decimal_comma=commas) for cell in table.cells(column)]


def read_number(cell: str, *, decimal_comma: bool = False) -> float | None:
    """Return the number that a cell holds, NaN if it is empty, ``None`` if it is none.

    Numbers beyond :data:`LARGEST_NUMBER` are none: their squares do not fit single precision.
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
    # To Python 1_11 is a number, too: to others it is a name.
    return number if abs(number) <= LARGEST_NUMBER and "_" not in cell else None


def refuse_lines(wrong: Sequence[str]) -> None:
    """Raise what is wrong with the lines of a table, if anything is; at most ten at once."""
    if wrong:
        rest = [f"... and {len(wrong) - SHOWN} more lines"] if len(wrong) > SHOWN else []
        raise UserError("\n".join([*wrong[:SHOWN], *rest]))
