"""Manifests with a row for each clip and rater, read as one row for each clip."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import counted
from .csv_table import CsvTable, Row, read_column, refuse_lines

#: The column that names who gave the labels and ratings of a row.
RATER = "rater"
#: Columns that describe the clip or its speaker, and that no rater judges.
_SAME_FOR_ALL_RATERS = ("speaker", "name", "sex", "language", "statement", "repetition")
#: The most raters that may give a clip the same label.
_MOST = 1_000_000


def merge_raters(table: CsvTable) -> CsvTable:
    """Return a table with one row for each clip, given one with rows for its raters.

    Columns that differ between the rows of a clip hold what raters said. For words, the cell of a
    clip holds how many raters gave each, see :func:`encode_counts`; for numbers, the mean. A table
    in which no clip occurs twice, or without a column ``rater``, is returned as it is.

    Raise UserError with the lines, at most ten, that lack a rater or repeat one for a clip.
    """
    if RATER not in table.columns:
        return table
    by_clip: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(table.rows):
        by_clip.setdefault((row.cells.get("corpus", ""), row.cells["path"]), []).append(number)
    if len(by_clip) == len(table.rows):
        return table
    wrong = _wrong_raters(table, list(by_clip.values()))
    merged = [dict(table.rows[rows[0]].cells) for rows in by_clip.values()]
    rated = [
        column
        for column in table.columns
        if column not in (RATER, "path", "corpus", *_SAME_FOR_ALL_RATERS)
        and any(len({table.rows[n].cells[column] for n in rows}) > 1 for rows in by_clip.values())
    ]
    for column in rated:
        values = read_column(table, column, wrong)
        comma = table.has_decimal_commas(column)
        for cells, rows in zip(merged, by_clip.values(), strict=True):
            cells[column] = _merge([values[n] for n in rows], comma=comma)
    refuse_lines(wrong)
    columns = tuple(column for column in table.columns if column != RATER)
    raters = {row.cells[RATER] for row in table.rows}
    return replace(
        table,
        columns=columns,
        rows=tuple(
            Row(table.rows[rows[0]].line, {column: cells[column] for column in columns})
            for cells, rows in zip(merged, by_clip.values(), strict=True)
        ),
        notes=(*table.notes, f"{', '.join(rated) or 'nothing'} by {counted(len(raters), 'rater')}"),
    )


def _wrong_raters(table: CsvTable, clips: Sequence[Sequence[int]]) -> list[str]:
    """Return a message for each line that lacks or repeats a rater, or contradicts another line."""
    wrong = []
    for rows in clips:
        first: dict[str, int] = {}
        start = table.rows[rows[0]]
        for row in (table.rows[n] for n in rows):
            where = f"{table.path}, line {row.line}"
            rater = row.cells[RATER]
            if not rater:
                wrong.append(f"{where}: rater is empty; fill it in")
            elif (earlier := first.setdefault(rater, row.line)) != row.line:
                wrong.append(
                    f"{where}: {row.cells['path']} is already in line {earlier} by {rater}; remove "
                    "one"
                )
            for column in _SAME_FOR_ALL_RATERS:
                value, expected = row.cells.get(column), start.cells.get(column)
                if value != expected:
                    wrong.append(
                        f"{where}: the {column} of {row.cells['path']} is {value}, but {expected} "
                        f"in line {start.line}; correct one"
                    )
    return wrong


def _merge(values: Sequence[str | float], *, comma: bool) -> str:
    """Return the cell for what the raters of a clip said; empty if they said nothing."""
    numbers = [each for each in values if isinstance(each, float) and not math.isnan(each)]
    if numbers:
        mean = repr(float(np.mean(numbers)))
        return mean.replace(".", ",") if comma else mean
    words = Counter(each for each in values if isinstance(each, str) and each)
    return encode_counts(words) if words else ""


def encode_counts(counts: Mapping[str, int]) -> str:
    """Return the text that stands for the labels of several raters in a table of clips."""
    return json.dumps(dict(sorted(counts.items())), ensure_ascii=False)


def holds_counts(texts: Iterable[str]) -> bool:
    """Return whether :func:`encode_counts` wrote any of the cells of a column."""
    return any(decode_counts(text) for text in texts)


def decode_counts(text: str) -> dict[str, int] | None:
    """Return how many raters gave each label; None if :func:`encode_counts` did not write it."""
    if not text.startswith('{"'):
        return None
    try:
        counts = json.loads(text)
    except (ValueError, RecursionError):
        return None
    numbers = counts.values() if isinstance(counts, dict) else [None]
    if not all(type(each) is int and 0 < each <= _MOST for each in numbers):
        return None
    return dict(counts)
