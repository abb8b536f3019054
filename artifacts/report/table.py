"""A table: on a terminal, as Markdown, as CSV."""

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table as RichTable

from ...files import json_value
from ...pipeline.measures import Measure
from ...pipeline.statistics import Interval


@dataclass(frozen=True)
class Table:
    """Rows of text to read, and the same as records in full precision.

    Attributes
    ----------
    name : str
        Name of its files.
    title : str
        What stands above.
    header : tuple of str
        Titles of the columns; the first column names the row.
    rows : tuple of tuple of str
        The cells.
    note : str
        What must stand below.
    marked : frozenset of (int, int)
        Rows and columns of cells to mark.
    records : tuple of dict
        For CSV, all with the same keys.
    """

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    marked: frozenset[tuple[int, int]] = frozenset()
    records: tuple[dict[str, Any], ...] = field(default=())

    @property
    def json_records(self) -> tuple[dict[str, Any], ...]:
        """The records as JSON can hold them: NaN is ``None``."""
        return tuple(
            {name: json_value(value) for name, value in record.items()} for record in self.records
        )


def as_terminal(table: Table) -> "RichTable":
    """Return the table as something that rich prints; marked cells are bold."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    grid.add_column(table.header[0])
    for title in table.header[1:]:
        grid.add_column(title, justify="right")
    for number, row in enumerate(table.rows):
        grid.add_row(
            *(
                Text(cell, style="bold" if (number, place) in table.marked else "")
                for place, cell in enumerate(row)
            )
        )
    return grid


def as_markdown(table: Table) -> str:
    """Return the table as Markdown; marked cells are bold."""
    lines = [
        _markdown_row(list(map(escape_markdown, table.header))),
        _markdown_row(["---", *["---:"] * (len(table.header) - 1)]),
    ]
    for number, row in enumerate(table.rows):
        lines.append(
            _markdown_row(
                [
                    f"**{cell}**" if (number, place) in table.marked else cell
                    for place, cell in enumerate(map(escape_markdown, row))
                ]
            )
        )
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
    """Return the records as the text of a CSV file that spreadsheets open, too."""
    text = as_csv(table)
    return byte_order_mark(text) + text


def byte_order_mark(content: str) -> str:
    """Return what a CSV file for spreadsheets begins with: a byte order mark, if it is needed.

    Without one, Excel takes a file for text in the encoding of the machine, and shows ``MÃ¼ller``.
    Simple readers take the mark for a part of the first column's name. So it is only there if the
    content is more than ASCII, and never in files that are for programs alone.
    """
    return "" if content.isascii() else "\ufeff"


def as_latex(table: Table, warnings: Sequence[str] = (), about: Sequence[str] = ()) -> str:
    """Return the table as LaTeX, for the package booktabs; marked cells are bold.

    Parameters
    ----------
    table : Table
        The table.
    warnings : sequence of str
        What must be said with its numbers: lines of the table, so that they are pasted with it.
    about : sequence of str
        What a caption will say: comments above the table.

    Returns
    -------
    str
    """

    def across(text: str) -> str:
        return rf"\multicolumn{{{len(table.header)}}}{{p{{\linewidth}}}}{{{text}}} \\"

    lines = [
        *(f"% {' '.join(line.split())}" for line in (table.title, *about)),
        rf"\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        *(across(rf"\textbf{{{_latex(warning)}}}") for warning in warnings),
        " & ".join(map(_latex, table.header)) + r" \\",
        r"\midrule",
    ]
    for number, row in enumerate(table.rows):
        cells = [
            _latex(cell) if place == 0 else _latex_number(cell) for place, cell in enumerate(row)
        ]
        lines.append(
            " & ".join(
                rf"\textbf{{{cell}}}" if (number, place) in table.marked else cell
                for place, cell in enumerate(cells)
            )
            + r" \\"
        )
    note = [across(rf"\footnotesize {_latex(table.note)}")] if table.note else []
    return "\n".join([*lines, r"\bottomrule", *note, r"\end{tabular}", ""])


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal."""
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def score_text(value: float, measure: Measure) -> str:
    """Return a score: in percent with one decimal, or as it is with three."""
    if measure.in_percent:
        return percent(value)
    return "" if math.isnan(value) else f"{value:.3f}"


def interval_text(found: Interval, measure: Measure) -> str:
    """Return a score and, where there is one, its interval."""
    if measure.in_percent:
        return percent_interval(found)
    if math.isnan(found.low):
        return score_text(found.value, measure)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def percent_interval(found: Interval) -> str:
    """Return a share and, where there is one, its interval, in percent."""
    if math.isnan(found.low):
        return percent(found.value)
    # No space in the brackets: where a line is too long, it breaks before them.
    return f"{percent(found.value)} [{percent(found.low)}-{percent(found.high)}]"


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
    """Return text for a line of Markdown in which nothing from a name becomes markup.

    Names of labels, speakers, corpora and encoders come from files of others: they could otherwise
    put HTML, images and links into a report. Pairs of single backticks stay code.

    Parameters
    ----------
    text : str
        Plain text, with commands between backticks.

    Returns
    -------
    str
        On one line.
    """
    plain = " ".join(text.split())
    parts = plain.split("`")
    if "``" in plain or len(parts) % 2 == 0:  # then it is not ours, and pairs are not plain to see
        return _MARKUP.sub(r"\\\1", plain).replace("`", r"\`")
    return "`".join(
        part if number % 2 else _MARKUP.sub(r"\\\1", part) for number, part in enumerate(parts)
    )


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
