"""How results show themselves in Python: as short tables of text, and as data frames of pandas."""

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import UserError

#: Rows of a table in a ``repr``; the rest is counted.
MOST_ROWS = 12


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned text: the first column to the left, the others to the right.

    Parameters
    ----------
    header : sequence of str
        Names of the columns.
    rows : sequence of sequence of str
        The cells; of more than :data:`MOST_ROWS` the first ones are shown.

    Returns
    -------
    str
        Without a newline at the end.
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
    """Return records, or columns, as a data frame.

    Parameters
    ----------
    records : sequence of mapping, or mapping of str to ndarray
        Rows with the same keys, or columns of the same length.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    UserError
        If pandas, which serpipe does not depend on, is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as error:
        if error.name != "pandas":
            raise
        raise UserError(
            "to_pandas: pandas is not installed; expected it; install it: pip install pandas"
        ) from None
    given = records if isinstance(records, Mapping) else list(records)
    return pandas.DataFrame(given)
