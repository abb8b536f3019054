"""Ratings of clips by one or more raters: read from a table, averaged, and how far raters agree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..corpora.csv_table import nfc, read_numbers, read_table, refuse_lines
from ..errors import UserError, counted

#: Columns of the table that are none of ratings. The first that is there tells the clip.
_CLIP_COLUMNS = ("path", "name")
_RATER = "rater"
#: Clips times raters, of which a small file can name many: half a GiB of numbers.
MAX_CELLS = 1 << 26


@dataclass(frozen=True)
class Agreement:
    """How far raters agree: intraclass correlations of Shrout and Fleiss (1979).

    Attributes
    ----------
    icc_1 : float
        Reliability of the ratings of a single rater: 1 if all raters say the same of each clip,
        about 0 if what they say has nothing to do with the clip; it may be negative.
    icc_k : float
        Reliability of the mean over ``raters`` raters.
    kind : str
        ``"ICC(2)"``: two-way random effects, absolute agreement, where the same raters rated every
        clip. ``"ICC(1)"``: one-way random effects, where they did not.
    raters : float
        How many there are for each clip; where clips differ, the number that stands for all.
    clips : int
        Those with at least two ratings; no others count.
    """

    icc_1: float
    icc_k: float
    kind: str
    raters: float
    clips: int


@dataclass(frozen=True)
class Ratings:
    """One column of ratings.

    Attributes
    ----------
    path : Path
        The file, for messages.
    by : str
        What tells the clips: ``"name"`` or ``"path"``.
    column : str
        The column.
    clips : tuple of str
        Names or paths of the clips that have a rating, in the order of their first rows.
    mean : mapping of str to float
        Name or path of a clip to the mean over its raters.
    raters : int
        How many there are.
    table : ndarray of float64, shape (n_clips, n_raters)
        All ratings, clips in the order of ``clips``, raters in that of their first rows; NaN where
        a rater did not rate a clip.
    agreement : Agreement or None
        As :func:`agreement_of` finds it.
    description : str
        How the file was read, in one line; empty if there is nothing to say.
    """

    path: Path
    by: str
    column: str
    clips: tuple[str, ...]
    mean: Mapping[str, float]
    raters: int
    table: NDArray[np.float64]
    agreement: Agreement | None
    description: str = ""


def read_ratings(path: Path, column: str) -> Ratings:
    """Read one column of ratings.

    Parameters
    ----------
    path : Path
        A table, as :func:`~serpipe.corpora.csv_table.read_table` reads it, with a row for each clip
        and rater. Its columns are ``path`` (in the corpus) or ``name`` (in the cache), of which
        ``path`` is taken if both are there; one or more of numbers; and ``rater``, which may be
        lacking where each clip has one row. Rows that bear the same rater are taken for ratings of
        the same person.
    column : str
        The column of numbers, or nothing for the only one. Rows in which it is empty are left out.

    Returns
    -------
    Ratings

    Raises
    ------
    UserError
        Tells each line that cannot be used, at most ten: no number, no clip or no rater, or a clip
        that the same rater rated before. Also if there is no such column, or nothing in it.
    """
    read = read_table(path, (*_CLIP_COLUMNS, _RATER, *([column] if column else [])))
    columns = read.columns
    by = next((key for key in _CLIP_COLUMNS if key in columns), None)
    if by is None:
        raise UserError(
            f"{path}: columns {', '.join(columns)}; expected name or path, to tell the clips, and "
            "ratings; add one of the two"
        )
    possible = [name for name in columns if name not in (*_CLIP_COLUMNS, _RATER)]
    if not column and len(possible) == 1:
        (column,) = possible
    if column not in possible:
        expected = f"one of {', '.join(possible) or 'some'}"
        if not column:
            raise UserError(
                f"{path}: {len(possible)} columns of ratings; expected --target with {expected}"
            )
        raise UserError(
            f"{path}: no column {column!r} of ratings; expected {expected}; check its name"
        )
    wrong: list[str] = []
    lines: dict[tuple[str, str], int] = {}
    place_of_clip: dict[str, int] = {}
    place_of_rater: dict[str, int] = {}
    values: list[float] = []
    places: list[tuple[int, int]] = []
    for row, number in zip(read.rows, read_numbers(read, column), strict=True):
        cell, clip, rater = row.cells[column], nfc(row.cells[by]), row.cells.get(_RATER, "")
        where = f"{path}, line {row.line}"
        if not cell:
            continue
        if number is None:
            wrong.append(f"{where}: {column} is {cell!r}; expected a number or nothing")
        elif not clip or (_RATER in columns and not rater):
            wrong.append(f"{where}: {_RATER if clip else by} is empty; expected one in each row")
        elif (earlier := lines.setdefault((clip, rater), row.line)) != row.line:
            fix = f" by {rater}; remove one" if rater else "; tell raters apart in a column rater"
            wrong.append(f"{where}: {clip} is rated in line {earlier} already; expected once{fix}")
        else:
            values.append(number)
            clip_place = place_of_clip.setdefault(clip, len(place_of_clip))
            rater_place = place_of_rater.setdefault(rater, len(place_of_rater))
            places.append((clip_place, rater_place))
    refuse_lines(wrong)
    if not values:
        raise UserError(f"{path}: {column} is empty in every row; expected ratings; fill it")
    shape = (len(place_of_clip), len(place_of_rater))
    if math.prod(shape) > MAX_CELLS:
        raise UserError(
            f"{path}: {shape[0]} clips and {shape[1]} raters; expected at most {MAX_CELLS} when "
            "multiplied; give one row for each clip, with the mean of its ratings and no rater"
        )
    clip_places, rater_places = np.array(places, dtype=np.intp).T
    table = np.full(shape, np.nan)
    table[clip_places, rater_places] = values
    means = np.bincount(clip_places, weights=values) / np.bincount(clip_places)
    return Ratings(
        path=path,
        by=by,
        column=column,
        clips=tuple(place_of_clip),
        mean=dict(zip(place_of_clip, means.tolist(), strict=True)),
        raters=shape[1],
        table=table,
        agreement=agreement_of(table),
        description=read.description(numbers=[column]),
    )


def join_ratings(ratings: Ratings, clips: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Give every clip of a cache its mean rating.

    Parameters
    ----------
    ratings : Ratings
        What was read.
    clips : mapping of str to ndarray, shape (n_clips,)
        The clip table: ``name`` or ``path``, whichever tells the clips of ``ratings``.

    Returns
    -------
    ndarray of float64, shape (n_clips,)
        NaN where a clip has no rating.

    Raises
    ------
    UserError
        If a rated clip is not in the cache, or stands there more than once.
    """
    keys: list[str] = [nfc(key) for key in clips[ratings.by].tolist()]
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    # A table from Windows has backslashes in its paths.
    key_of = {clip: clip if clip in rows else clip.replace("\\", "/") for clip in ratings.clips}
    unknown = [clip for clip in ratings.clips if key_of[clip] not in rows]
    if unknown:
        others = f" (nor {counted(len(unknown) - 1, 'other')})" if unknown[1:] else ""
        raise UserError(
            f"{ratings.path}: {ratings.by} {unknown[0]!r} is not in the cache{others}; expected "
            f"each {ratings.by} as the cache has it, such as {keys[0]!r}; rename or remove it"
        )
    joined = np.full(len(keys), np.nan)
    for clip, mean in ratings.mean.items():
        found = rows[key_of[clip]]
        if len(found) > 1:
            other = "path" if ratings.by == "name" else "name"
            corpora = sorted({str(clips["corpus"][row]) for row in found})
            raise UserError(
                f"{ratings.path}: {len(found)} clips of the cache have the {ratings.by} "
                f"{clip!r} (of {', '.join(corpora)}); expected one; tell clips by a column {other} "
                f"in place of {ratings.by}, or make a cache for each corpus"
            )
        joined[found[0]] = mean
    return joined


def agreement_of(table: NDArray[np.float64]) -> Agreement | None:
    """Compute how far raters agree.

    The formulas are those of Shrout and Fleiss (1979), "Intraclass correlations: uses in assessing
    rater reliability", Psychological Bulletin 86(2), 420-428. Where the same raters rated every
    clip, they are ICC(2,1) and ICC(2,k). Else they are ICC(1,1) and ICC(1,k), with the number of
    raters that a one-way analysis of variance with unequal groups has for k (Donner, 1986, "A
    review of inference procedures for the intraclass correlation coefficient in the one-way random
    effects model", International Statistical Review 54(1), 67-82): for m clips with n_i ratings
    each, N in all, ``(N - sum(n_i ** 2) / N) / (m - 1)``.

    Parameters
    ----------
    table : ndarray of float64, shape (n_clips, n_raters)
        Ratings; NaN where there is none.

    Returns
    -------
    Agreement or None
        ``None`` with fewer than two clips of two ratings. A correlation is NaN where it is not
        defined: all ratings are the same, or clips differ by so much less than their ratings that
        its denominator is not positive.
    """
    there = ~np.isnan(table)
    used = there.sum(axis=1) >= 2
    if used.sum() < 2:
        return None
    raters = there[used].any(axis=0)
    table = table[used][:, raters]
    complete = not np.isnan(table).any()
    k, icc_1, icc_k = _two_way(table) if complete else _one_way(table)
    if np.nanmin(table) == np.nanmax(table):  # rounding would make a correlation of nothing
        icc_1 = icc_k = math.nan
    return Agreement(icc_1, icc_k, "ICC(2)" if complete else "ICC(1)", k, len(table))


def _two_way(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the number of raters, ICC(2,1) and ICC(2,k) of a table without gaps."""
    n, k = table.shape
    mean = table.mean()
    of_clips = table.mean(axis=1, keepdims=True)
    of_raters = table.mean(axis=0, keepdims=True)
    between = k * np.sum((of_clips - mean) ** 2) / (n - 1)
    judges = n * np.sum((of_raters - mean) ** 2) / (k - 1)
    error = np.sum((table - of_clips - of_raters + mean) ** 2) / ((n - 1) * (k - 1))
    icc_1 = _ratio(between - error, between + (k - 1) * error + k * (judges - error) / n)
    icc_k = _ratio(between - error, between + (judges - error) / n)
    return float(k), icc_1, icc_k


def _one_way(table: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the number of raters for a clip, ICC(1,1) and ICC(1,k) of a table with gaps."""
    counts = (~np.isnan(table)).sum(axis=1)
    m, total = len(table), counts.sum()
    of_clips = np.nanmean(table, axis=1)
    mean = np.nansum(table) / total
    between = np.sum(counts * (of_clips - mean) ** 2) / (m - 1)
    within = np.nansum((table - of_clips[:, None]) ** 2) / (total - m)
    k = float((total - np.sum(counts**2) / total) / (m - 1))
    icc_1 = _ratio(between - within, between + (k - 1) * within)
    return k, icc_1, _ratio(between - within, between)


def _ratio(over: float, under: float) -> float:
    """Divide, or return NaN where the denominator is negative, or nothing but rounding."""
    return float(over / under) if under > 1e-9 * abs(over) else math.nan
