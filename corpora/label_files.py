"""Read the label files of a release, in a local folder or an object store."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence

from ..errors import UserError
from ..files import read_bytes
from ..remote import Location, Remote
from .csv_table import read_number
from .scan import audio_files

#: Limit of a label file, in bytes. That of all raters of MSP-Podcast has about 100 MiB.
MAX_BYTES = 1 << 28
#: A row of a label file: the file and line, for messages, and its cells by column.
LabelRow = tuple[str, Mapping[str, str]]


def find_label_file(folder: Location, *names: str) -> Location | None:
    """Return the file with one of some names that is nearest to a folder.

    Parameters
    ----------
    folder : Path or Remote
        The folder of the release. Further below there may be files of earlier releases.
    *names : str
        Possible names, preferred ones first; their case does not count.

    Returns
    -------
    Path, Remote or None
        None if there is no such file.
    """
    ranks = {name.lower(): rank for rank, name in enumerate(names)}
    suffixes = tuple({name[name.rindex(".") :] for name in ranks})
    files = [path for path in audio_files(folder, suffixes) if path.name.lower() in ranks]
    nearest = min(
        files, key=lambda path: (len(path.parts), ranks[path.name.lower()], path), default=None
    )
    return None if nearest is None else folder / nearest


def read_label_text(file: Location) -> str:
    """Read a label file in UTF-8, with or without a byte order mark.

    Raise UserError if it cannot be read, or has more than :data:`MAX_BYTES`.
    """
    try:
        if isinstance(file, Remote):
            content = file.read_bytes(MAX_BYTES)
        else:
            content = read_bytes(file, MAX_BYTES)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be read ({error.strerror}); get the label files again"
        ) from None
    return content.decode("utf-8-sig", errors="replace")


def read_label_lines(file: Location) -> Iterator[tuple[str, str]]:
    """Yield the lines of a label file, each after its file and number, for messages.

    Raise UserError as :func:`read_label_text` does.
    """
    for number, line in enumerate(read_label_text(file).splitlines(), 1):
        yield f"{file}, line {number}", line


def read_label_rows(file: Location, columns: Sequence[str]) -> Iterator[LabelRow]:
    """Read the rows of a label file that is a table with commas.

    Parameters
    ----------
    file : Path or Remote
        The table.
    columns : sequence of str
        Those that it must have.

    Yields
    ------
    str
        The file and the number of the line, for messages.
    mapping of str to str
        The cells by column, without spaces around them.

    Raises
    ------
    UserError
        If the file cannot be read, or a column or a cell is missing.
    """
    reader = csv.DictReader(io.StringIO(read_label_text(file), newline=""))
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        if missing := [column for column in columns if column not in header]:
            raise UserError(
                f"{file}: has no column {missing[0]}, only {', '.join(header) or 'an empty line'}; "
                "get the file of the release again"
            )
        reader.fieldnames = header
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where}: expected the {len(header)} cells of the header; get the file of the "
                    "release again"
                )
            yield where, {column: cell.strip() for column, cell in row.items()}
    except csv.Error as error:
        raise UserError(f"{file}: is not a CSV table ({error}); get the file again") from None


def number_of(row: LabelRow, column: str) -> float:
    """Return the number in a cell, NaN if there is none; raise UserError for anything else."""
    where, cells = row
    number = math.nan if cells[column].lower() == "nan" else read_number(cells[column])
    if number is None:
        raise UserError(
            f"{where}: {column} is {cells[column]!r}, which is not a number; get the file of the "
            "release again"
        )
    return number


def number_in(text: str) -> float:
    """Return the number in a text, NaN if it is not a number."""
    number = read_number(text)
    return math.nan if number is None else number


def label_of(row: LabelRow, column: str, words: Mapping[str, str]) -> str:
    """Return the word for the code in a cell; raise UserError if the code is not known."""
    where, cells = row
    return word_of(where, column, cells[column], words)


def word_of(where: str, name: str, code: str, words: Mapping[str, str]) -> str:
    """Return the word for a code; raise UserError with its place and name if it is not known."""
    if code not in words:
        raise UserError(
            f"{where}: {name} is {code!r}; expected one of {', '.join(words)}; get the file of the "
            "release again"
        )
    return words[code]
