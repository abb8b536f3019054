"""How results are displayed in Python: as short tables and as data frames of pandas."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .errors import UserError

#: Maximum number of rows of a short table.
MOST_ROWS = 12


@dataclass(frozen=True)
class ShortTable:
    """A result as a short table: rows beyond :data:`MOST_ROWS` are only counted."""

    title: str  #: Shown above.
    header: Sequence[str]  #: Titles of the columns; the first column names the row.
    rows: Sequence[Sequence[str]]
    lines: Sequence[str] = ()  #: Shown below, such as warnings and the folder.

    def as_text(self) -> str:
        """Return it as aligned text: the first column to the left, the others to the right."""
        shown = [self.header, *self.rows[:MOST_ROWS]]
        widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
        lines = [self.title]
        for first, *others in shown:
            cells = [first.ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, *self._below])

    def as_html(self) -> str:
        """Return it as HTML, for a notebook."""
        return "\n".join(
            [
                html_line(self.title, bold=True),
                html_table(self.header, self.rows[:MOST_ROWS]),
                *map(html_line, self._below),
            ]
        )

    @property
    def _below(self) -> list[str]:
        omitted = len(self.rows) - MOST_ROWS
        return [*([f"... and {omitted} more"] if omitted > 0 else []), *self.lines]


class Displayed:
    """Base of results that Python and notebooks display as a short table.

    Dataclasses that inherit from it need ``repr=False``, or they get a ``__repr__`` of their own.
    """

    def short_table(self) -> ShortTable:
        """Return what is displayed."""
        raise NotImplementedError

    def __repr__(self) -> str:
        """Return the short table as text."""
        return self.short_table().as_text()

    def _repr_html_(self) -> str:
        """Return what a notebook displays."""
        return self.short_table().as_html()


def html_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: Collection[tuple[int, int]] = (),
) -> str:
    """Return a table as HTML without styles or scripts; all text is escaped.

    ``bold`` has the row and column of bold cells.
    """

    def cell(text: str, is_bold: bool) -> str:
        return f"<b>{escape(text)}</b>" if is_bold else escape(text)

    lines = ["<table>", "<thead><tr>", *(f"<th>{escape(text)}</th>" for text in header)]
    lines += ["</tr></thead>", "<tbody>"]
    for number, row in enumerate(rows):
        cells = (cell(text, (number, column) in bold) for column, text in enumerate(row))
        lines.append(f"<tr>{''.join(f'<td>{each}</td>' for each in cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def html_line(text: str, *, bold: bool = False) -> str:
    """Return a line of text as a paragraph of HTML, escaped."""
    return f"<p><b>{escape(text)}</b></p>" if bold else f"<p>{escape(text)}</p>"


def data_frame(records: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> Any:
    """Return records with the same keys, or columns of the same length, as a pandas.DataFrame.

    Raise UserError if pandas, which is no dependency of serpipe, is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise UserError(
            "to_pandas: pandas is not installed; install it with: pip install pandas"
        ) from None
    return pandas.DataFrame(records if isinstance(records, Mapping) else list(records))
