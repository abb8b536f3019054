"""Ratings of clips by one or more raters: reading, averaging, and agreement of the raters."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..corpora.csv_table import CsvTable, Row, nfc, read_numbers, read_table, refuse_lines
from ..corpora.rater_rows import RATER
from ..errors import UserError, counted

if TYPE_CHECKING:
    from .votes import Votes

#: Columns that are not ratings. The first that occurs identifies the clip.
_CLIP_COLUMNS = ("path", "name")
#: Limit of clips times raters, which can be large even for a small file: half a GiB.
MAX_CELLS = 1 << 26


@dataclass(frozen=True)
class Agreement:
    """Agreement of raters: intraclass correlations of Shrout and Fleiss (1979)."""

    #: Reliability of the ratings of a single rater: 1 if all raters agree on each clip, about 0 if
    #: their ratings are unrelated to the clip; it may be negative.
    icc_1: float
    icc_k: float  #: Reliability of the mean over ``raters`` raters.
    #: ``"ICC(2)"``: two-way random effects, absolute agreement, where the same raters rated every
    #: clip. ``"ICC(1)"``: one-way random effects, where they did not.
    kind: str
    raters: float  #: Raters per clip; where clips differ, an effective number.
    clips: int  #: Number of clips with at least two ratings, which alone count.
    alpha: float = math.nan  #: Of labels: Krippendorff's alpha; the correlations are then NaN.


@dataclass(frozen=True)
class Ratings:
    """One column of ratings."""

    path: Path  #: The file, for messages.
    by: str  #: What identifies the clips: ``"name"`` or ``"path"``.
    column: str
    #: Name or path of each rated clip to the mean over its raters, in the order of the rows.
    mean: Mapping[str, float]
    agreement: Agreement | None  #: From :func:`agreement_of`.
    description: str = ""  #: How the file was read, in one line; empty if that is obvious.

    @property
    def clips(self) -> tuple[str, ...]:
        """Name or path of each rated clip."""
        return tuple(self.mean)


def read_ratings(path: Path, column: str) -> Ratings:
    """Read one column of ratings.

    Parameters
    ----------
    path : Path
        A table, as :func:`~serpipe.corpora.csv_table.read_table` reads it, with a row for each clip
        and rater. Its columns are ``path`` (in the corpus) or ``name`` (in the cache), of which
        ``path`` is used if both occur; one or more of numbers; and ``rater``, which may be missing
        if each clip has one row. Rows with the same rater are ratings of the same person.
    column : str
        The column of numbers; empty for the only one. Rows in which it is empty are ignored.

    Raises
    ------
    UserError
        Lists unusable lines, at most ten: without a number, clip or rater, or with a clip that the
        same rater rated before. Also if there is no such column, or it is empty.
    """
    return _read_numbers(path, *_open(path, column))


def read_ratings_or_votes(path: Path, column: str) -> "Ratings | Votes":
    """Read one column of ratings, or of labels if none of its cells is a number.

    The parameters and errors are those of :func:`read_ratings`.
    """
    content, by, column = _open(path, column)
    filled = [
        number
        for cell, number in zip(content.cells(column), read_numbers(content, column), strict=True)
        if cell
    ]
    if filled and all(number is None for number in filled):
        return _read_votes(path, content, by, column)
    return _read_numbers(path, content, by, column)


def _open(path: Path, column: str) -> tuple[CsvTable, str, str]:
    """Read a table; return it, the column that identifies clips, and the one that is rated."""
    content = read_table(path, (*_CLIP_COLUMNS, RATER, *([column] if column else [])))
    columns = content.columns
    by = next((key for key in _CLIP_COLUMNS if key in columns), None)
    if by is None:
        raise UserError(
            f"{path}: has the columns {', '.join(columns)}; add name or path, to identify the clips"
        )
    possible = [name for name in columns if name not in (*_CLIP_COLUMNS, RATER)]
    if not column and len(possible) == 1:
        (column,) = possible
    if column not in possible:
        if not column:
            raise UserError(
                f"{path}: has {len(possible)} columns of ratings"
                + (f"; choose --target from {', '.join(possible)}" if possible else "; add one")
            )
        raise UserError(
            f"{path}: has no column {column!r} of ratings, only {', '.join(possible) or 'others'}; "
            "check its name"
        )
    return content, by, column


def _read_numbers(path: Path, content: CsvTable, by: str, column: str) -> Ratings:
    """Average the ratings of each clip."""
    wrong: list[str] = []
    lines: dict[tuple[str, str], int] = {}
    clip_index: dict[str, int] = {}
    rater_index: dict[str, int] = {}
    values: list[float] = []
    places: list[tuple[int, int]] = []
    for row, number in zip(content.rows, read_numbers(content, column), strict=True):
        cell = row.cells[column]
        if cell and number is None:
            wrong.append(f"{path}, line {row.line}: {column} is {cell!r}, which is not a number")
        elif rated := _rated_by(row, path, by, column, content.columns, lines, wrong):
            assert number is not None
            values.append(number)
            clip, rater = rated
            row_index = clip_index.setdefault(clip, len(clip_index))
            places.append((row_index, rater_index.setdefault(rater, len(rater_index))))
    refuse_lines(wrong)
    if not values:
        raise UserError(f"{path}: {column} is empty in every row; fill it in")
    shape = (len(clip_index), len(rater_index))
    if math.prod(shape) > MAX_CELLS:
        raise UserError(
            f"{path}: {shape[0]} clips times {shape[1]} raters are more than {MAX_CELLS}; "
            "give one row for each clip, with the mean of its ratings and no rater"
        )
    clip_rows, rater_columns = np.array(places, dtype=np.intp).T
    table = np.full(shape, np.nan)
    table[clip_rows, rater_columns] = values
    means = np.bincount(clip_rows, weights=values) / np.bincount(clip_rows)
    return Ratings(
        path=path,
        by=by,
        column=column,
        mean=dict(zip(clip_index, means.tolist(), strict=True)),
        agreement=agreement_of(table),
        description=content.description(numbers=[column]),
    )


def _rated_by(
    row: Row,
    path: Path,
    by: str,
    column: str,
    columns: Sequence[str],
    lines: dict[tuple[str, str], int],
    wrong: list[str],
) -> tuple[str, str] | None:
    """Return the clip and the rater of a row; None if it has no rating, or cannot be used.

    ``lines`` receives the line of each clip and rater, ``wrong`` a message for an unusable line.
    """
    if not row.cells[column]:
        return None
    clip, rater = nfc(row.cells[by]), row.cells.get(RATER, "")
    where = f"{path}, line {row.line}"
    if not clip or (RATER in columns and not rater):
        wrong.append(f"{where}: {RATER if clip else by} is empty; fill it in")
        return None
    if (earlier := lines.setdefault((clip, rater), row.line)) != row.line:
        rest = f" by {rater}; remove one" if rater else "; add a column rater if they differ"
        wrong.append(f"{where}: {clip} is already rated in line {earlier}{rest}")
        return None
    return clip, rater


def _read_votes(path: Path, content: CsvTable, by: str, column: str) -> "Votes":
    """Count the labels of each clip."""
    from .votes import Votes, alpha_of

    wrong: list[str] = []
    lines: dict[tuple[str, str], int] = {}
    counts: dict[str, Counter[str]] = {}
    for row in content.rows:
        if rated := _rated_by(row, path, by, column, content.columns, lines, wrong):
            counts.setdefault(rated[0], Counter())[nfc(row.cells[column])] += 1
    refuse_lines(wrong)
    n_labels = len({label for of_clip in counts.values() for label in of_clip})
    if len(counts) * n_labels > MAX_CELLS:
        raise UserError(
            f"{path}: {len(counts)} clips times {n_labels} different values of {column} are more "
            f"than {MAX_CELLS}; name a column of labels with --target"
        )
    agreement = alpha_of(list(counts.values()))
    return Votes(path, by, column, counts, agreement, content.description())


def join_ratings(ratings: Ratings, clips: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the mean rating of every clip of a cache, shape (n_clips,); NaN without a rating.

    Of the clip table ``name`` or ``path`` is used, whichever identifies the clips of ``ratings``.
    Raise UserError if a rated clip is not in the cache, or occurs more than once.
    """
    joined = np.full(len(clips[ratings.by]), np.nan)
    for clip, row in rows_of(ratings, clips).items():
        joined[row] = ratings.mean[clip]
    return joined


def rows_of(ratings: "Ratings | Votes", clips: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Return the row in a clip table of each rated clip, as :func:`join_ratings` finds it."""
    if ratings.by == "row":
        return {clip: int(clip) for clip in ratings.clips}
    keys: list[str] = [nfc(key) for key in clips[ratings.by].tolist()]
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    # A table from Windows has backslashes in its paths.
    key_of = {clip: clip if clip in rows else clip.replace("\\", "/") for clip in ratings.clips}
    unknown = [clip for clip, key in key_of.items() if key not in rows]
    if unknown:
        others = f" (nor {counted(len(unknown) - 1, 'other')})" if unknown[1:] else ""
        raise UserError(
            f"{ratings.path}: {ratings.by} {unknown[0]!r} is not in the cache{others}, where they "
            f"are like {keys[0]!r}; rename or remove it"
        )
    row_of = {}
    for clip in ratings.clips:
        matches = rows[key_of[clip]]
        if len(matches) > 1:
            other = "path" if ratings.by == "name" else "name"
            corpora = sorted({str(clips["corpus"][row]) for row in matches})
            raise UserError(
                f"{ratings.path}: {len(matches)} clips of the cache have the {ratings.by} "
                f"{clip!r} (of {', '.join(corpora)}); identify clips by a column {other} "
                f"instead of {ratings.by}, or make a cache for each corpus"
            )
        row_of[clip] = matches[0]
    return row_of


def agreement_of(table: NDArray[np.float64]) -> Agreement | None:
    """Compute the agreement of raters from a table of shape (n_clips, n_raters), NaN for no rating.

    The formulas are those of Shrout and Fleiss (1979), "Intraclass correlations: uses in assessing
    rater reliability", Psychological Bulletin 86(2), 420-428. If the same raters rated every clip,
    they are ICC(2,1) and ICC(2,k). Otherwise they are ICC(1,1) and ICC(1,k), where k is the number
    of raters in a one-way analysis of variance with unequal groups (Donner, 1986, "A review of
    inference procedures for the intraclass correlation coefficient in the one-way random effects
    model", International Statistical Review 54(1), 67-82): for m clips with n_i ratings each, N in
    all, ``(N - sum(n_i ** 2) / N) / (m - 1)``.

    Return ``None`` with fewer than two clips of two ratings. A correlation is NaN where it is
    undefined: all ratings are the same, or clips differ by so much less than their ratings that its
    denominator is not positive.
    """
    rated = ~np.isnan(table)
    used = rated.sum(axis=1) >= 2
    if used.sum() < 2:
        return None
    raters = rated[used].any(axis=0)
    table = table[used][:, raters]
    complete = not np.isnan(table).any()
    k, icc_1, icc_k = _two_way(table) if complete else _one_way(table)
    if np.nanmin(table) == np.nanmax(table):  # the correlations would be rounding errors
        icc_1 = icc_k = math.nan
    return Agreement(icc_1, icc_k, "ICC(2)" if complete else "ICC(1)", k, len(table))


def _two_way(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the number of raters, ICC(2,1) and ICC(2,k) of a table without gaps."""
    n, k = table.shape
    mean = table.mean()
    clip_means = table.mean(axis=1, keepdims=True)
    rater_means = table.mean(axis=0, keepdims=True)
    between = k * np.sum((clip_means - mean) ** 2) / (n - 1)
    judges = n * np.sum((rater_means - mean) ** 2) / (k - 1)
    error = np.sum((table - clip_means - rater_means + mean) ** 2) / ((n - 1) * (k - 1))
    icc_1 = _ratio(between - error, between + (k - 1) * error + k * (judges - error) / n)
    icc_k = _ratio(between - error, between + (judges - error) / n)
    return float(k), icc_1, icc_k


def _one_way(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the number of raters for a clip, ICC(1,1) and ICC(1,k) of a table with gaps."""
    counts = (~np.isnan(table)).sum(axis=1)
    m, total = len(table), counts.sum()
    clip_means = np.nanmean(table, axis=1)
    mean = np.nansum(table) / total
    between = np.sum(counts * (clip_means - mean) ** 2) / (m - 1)
    within = np.nansum((table - clip_means[:, None]) ** 2) / (total - m)
    k = float((total - np.sum(counts**2) / total) / (m - 1))
    icc_1 = _ratio(between - within, between + (k - 1) * within)
    return k, icc_1, _ratio(between - within, between)


def _ratio(over: float, under: float) -> float:
    """Divide; return NaN if the denominator is negative or only rounding error."""
    return float(over / under) if under > 1e-9 * abs(over) else math.nan
