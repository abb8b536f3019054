"""A table: on a terminal, as Markdown, as LaTeX, as CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

from ...files import json_value


@dataclass(frozen=True)
class Table:
    """Rows of text to read, and the same as records in full precision."""

    name: str  #: Name of its files.
    title: str  #: Shown above.
    header: tuple[str, ...]  #: Titles of the columns; the first column names the row.
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  #: Shown below.
    bold: frozenset[tuple[int, int]] = frozenset()  #: Row and column of bold cells.
    records: tuple[dict[str, Any], ...] = ()  #: For CSV and JSON, all with the same keys.

    @property
    def json_records(self) -> tuple[dict[str, Any], ...]:
        """The records as JSON can hold them: NaN is ``None``."""
        return tuple(
            {name: json_value(value) for name, value in record.items()} for record in self.records
        )


def as_terminal(table: Table) -> "RichTable":
    """Return the table as something that rich prints."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(table.header[0])
    for title in table.header[1:]:
        grid.add_column(title, justify="right")
    for i, row in enumerate(table.rows):
        grid.add_row(
            *(
                Text(cell, style="bold" if (i, j) in table.bold else "")
                for j, cell in enumerate(row)
            )
        )
    return grid


def as_markdown(table: Table) -> str:
    """Return the table as Markdown."""
    lines = [
        _markdown_row(list(map(escape_markdown, table.header))),
        _markdown_row(["---", *["---:"] * (len(table.header) - 1)]),
    ]
    for i, row in enumerate(table.rows):
        cells = [
            f"**{cell}**" if (i, j) in table.bold else cell
            for j, cell in enumerate(map(escape_markdown, row))
        ]
        lines.append(_markdown_row(cells))
    return "\n".join(lines) + "\n"


def as_csv(table: Table) -> str:
    """Return the records as CSV, scores from 0 to 1 in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.records[0]), lineterminator="\n")
    writer.writeheader()
    for record in table.records:
        writer.writerow(
            {
                name: "" if isinstance(value, float) and math.isnan(value) else value
                for name, value in record.items()
            }
        )
    return text.getvalue()


def as_csv_file(table: Table) -> str:
    """Return the records as the content of a CSV file that spreadsheets open, too."""
    text = as_csv(table)
    return byte_order_mark(text) + text


def byte_order_mark(content: str) -> str:
    """Return the byte order mark that a CSV file for spreadsheets needs, if any.

    Without one, Excel assumes the encoding of the machine, and shows ``MÃ¼ller``. Simple readers
    take the mark for a part of the first column's name, so pure ASCII has none, and neither have
    files for programs alone.
    """
    return "" if content.isascii() else "\ufeff"


def as_latex(table: Table, warnings: Sequence[str] = (), comments: Sequence[str] = ()) -> str:
    """Return the table as LaTeX, for the package booktabs.

    Warnings are lines of the table, so that they are pasted with its numbers; ``comments``,
    material for a caption, are comments above it.
    """

    def across(text: str) -> str:
        return rf"\multicolumn{{{len(table.header)}}}{{p{{\linewidth}}}}{{{text}}} \\"

    lines = [
        *(f"% {' '.join(line.split())}" for line in (table.title, *comments)),
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        *(across(rf"\textbf{{{_latex(warning)}}}") for warning in warnings),
        " & ".join(map(_latex, table.header)) + r" \\",
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        cells = [_latex(row[0]), *map(_latex_number, row[1:])]
        cells = [
            rf"\textbf{{{cell}}}" if (i, j) in table.bold else cell for j, cell in enumerate(cells)
        ]
        lines.append(" & ".join(cells) + r" \\")
    note = [across(rf"\footnotesize {_latex(table.note)}")] if table.note else []
    return "\n".join([*lines, r"\bottomrule", *note, r"\end{tabular}", ""])


_LATEX = {character: "\\" + character for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": "$<$",
    ">": "$>$",
    "≈": r"$\approx$",
}


def _latex(text: str) -> str:
    plain = " ".join(text.split())
    return "".join(_LATEX.get(character, character) for character in plain).replace(" - ", " -- ")


def _latex_number(text: str) -> str:
    """Return a cell with minus signs and ranges as LaTeX sets them."""
    ranged = re.sub(r"(?<=\d)-(?=\d)", "--", _latex(text))
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", ranged)


#: What starts HTML, links, images and emphasis. Square brackets alone do not.
_MARKUP = re.compile(r"([\\*<]|(?<=\])[(\[]|(?<![^\W_])_|_(?![^\W_]))")


def escape_markdown(text: str) -> str:
    """Escape text for a line of Markdown, so that nothing in it becomes markup.

    Names of labels, speakers, corpora and encoders come from outside, and could otherwise put HTML,
    images and links into a report. Pairs of single backticks stay code.
    """
    plain = " ".join(text.split())
    parts = plain.split("`")
    if "``" in plain or len(parts) % 2 == 0:  # then backticks are not ours
        return _MARKUP.sub(r"\\\1", plain).replace("`", r"\`")
    return "`".join(
        part if number % 2 else _MARKUP.sub(r"\\\1", part) for number, part in enumerate(parts)
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
