"""How results are displayed in Python: as short text tables and as data frames of pandas."""

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UserError

#: Maximum number of rows of a table in a ``repr``.
MOST_ROWS = 12


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table as aligned text: the first column to the left, the others to the right.

    Rows beyond :data:`MOST_ROWS` are only counted.
    """
    shown = [header, *rows[:MOST_ROWS]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    lines = []
    for first, *others in shown:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    if len(rows) > MOST_ROWS:
        lines.append(f"... and {len(rows) - MOST_ROWS} more")
    return "\n".join(lines)


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
