"""Ratings are read line by line, averaged by clip, and agreement is what was published."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import f_oneway
from serpipe.errors import UserError
from serpipe.pipeline.ratings import agreement_of, join_ratings, read_ratings

from .messages import assert_names, raises_about

#: Shrout and Fleiss (1979), table 2: six targets, four judges.
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)

TABLE = """name,rater,fatigue,note
b,anna,3,x
a,bert,1.5,
b,bert,4,
c,anna,,
a,cleo,2.5,
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_ratings_are_averaged_over_raters(tmp_path: Path) -> None:
    ratings = read_ratings(write(tmp_path, TABLE), "fatigue")
    assert (ratings.by, ratings.column) == ("name", "fatigue")
    assert ratings.mean == {"b": 3.5, "a": 2.0}  # c has no rating
    assert ratings.agreement is not None
    assert (ratings.agreement.kind, ratings.agreement.clips) == ("ICC(1)", 2)


def test_without_a_rater_or_with_one_there_is_no_agreement(tmp_path: Path) -> None:
    plain = read_ratings(write(tmp_path, "path,name,mood\nx/a.wav,a,1\nx/b.wav,b,-2e0\n"), "mood")
    assert (plain.by, plain.mean) == ("path", {"x/a.wav": 1.0, "x/b.wav": -2.0})
    assert plain.agreement is None
    text = "name,mood,rater\na,1,anna\nb,2,anna\nc,,bert\n"
    alone = read_ratings(write(tmp_path, text), "mood")
    assert alone.agreement is None


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("clip,x\na,1\n", ["clip, x", "name", "path"]),
        ("name,y\na,1\n", ["column 'x'", "y"]),
        ("name,x\na,\nb,\n", ["x"]),
        ("name,x\na,1\nb,high\n", ["line 3", "x", "'high'"]),
        ("name,x\na,1\nb,nan\n", ["line 3", "x", "'nan'"]),
        ("name,x\na,1\nb,inf\n", ["line 3", "x", "'inf'"]),
        ('name,x\na,1\nb,"3,5"\n', ["line 3", "x", "'3,5'"]),
        ("name,x\na,1\n,2\n", ["line 3", "name"]),
        ("name,rater,x\na,p,1\nb,,2\n", ["line 3", "rater"]),
        ("name,x\na,1\nb,2\na,3\n", ["line 4", "line 2", "rater"]),
        ("name,rater,x\na,p,1\na,q,2\n\na,p,1\n", ["line 5", "line 2", "p"]),
    ],
)
def test_unusable_lines_of_a_table_are_listed(tmp_path: Path, text: str, values: list[str]) -> None:
    path = write(tmp_path, text)
    with raises_about(UserError, *values) as caught:
        read_ratings(path, "x")
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("column", ["name", "rater"])
def test_columns_that_identify_clips_and_raters_are_not_ratings(
    tmp_path: Path, column: str
) -> None:
    with raises_about(UserError, f"column {column!r}", "fatigue, note"):
        read_ratings(write(tmp_path, TABLE), column)


def test_a_clip_rated_twice_may_be_left_empty_once(tmp_path: Path) -> None:
    ratings = read_ratings(write(tmp_path, "name,x\na,\na,2\n"), "x")
    assert ratings.mean == {"a": 2.0}


def test_ten_unusable_lines_are_listed_at_once(tmp_path: Path) -> None:
    rows = "".join(f"c{n},high\n" for n in range(15))
    with pytest.raises(UserError) as caught:
        read_ratings(write(tmp_path, f"name,x\n{rows}"), "x")
    lines = str(caught.value).splitlines()
    assert len(lines) == 11
    assert_names(lines[-1], 5)


def test_a_small_file_cannot_fill_the_memory(tmp_path: Path) -> None:
    rows = "".join(f"c{n},r{n},1\n" for n in range(20_000))  # 3 GiB as a table
    with raises_about(UserError, 20_000, 64 << 20):
        read_ratings(write(tmp_path, f"name,rater,x\n{rows}"), "x")


def cache_table() -> dict[str, np.ndarray]:
    """The columns of a cache of two corpora, in which both have a clip of the name a."""
    return {
        "name": np.array(["d", "b", "a", "a", "c"]),
        "path": np.array(["d.wav", "b.wav", "a.wav", "x/a.wav", "x/c.wav"]),
        "corpus": np.array(["one", "one", "one", "two", "two"]),
    }


def test_each_clip_of_a_cache_gets_its_own_rating(tmp_path: Path) -> None:
    by_name = read_ratings(write(tmp_path, "name,x\nc,1\nd,2\n"), "x")
    joined = join_ratings(by_name, cache_table())
    assert joined.dtype == np.float64
    np.testing.assert_array_equal(joined, [2, math.nan, math.nan, math.nan, 1])
    by_path = read_ratings(write(tmp_path, "path,x\nx/a.wav,1\na.wav,2\n"), "x")
    joined = join_ratings(by_path, cache_table())
    np.testing.assert_array_equal(joined, [math.nan, math.nan, 2, 1, math.nan])


def test_a_rating_of_no_clip_or_of_two_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "name,x\nc,1\ne.wav,2\nf,1\n")
    with raises_about(UserError, path, "name 'e.wav'", 1, "'d'"):
        join_ratings(read_ratings(path, "x"), cache_table())
    path = write(tmp_path, "path,x\nc,1\n")
    with raises_about(UserError, path, "path 'c'", "'d.wav'"):
        join_ratings(read_ratings(path, "x"), cache_table())
    path = write(tmp_path, "name,x\nc,1\na,2\n")
    with raises_about(UserError, path, 2, "name 'a'", "one, two", "path"):
        join_ratings(read_ratings(path, "x"), cache_table())


def with_gaps(ratings: np.ndarray) -> np.ndarray:
    """The same ratings, those of each clip by other raters."""
    clips, raters = ratings.shape
    table = np.full((clips, clips * raters), np.nan)
    for clip in range(clips):
        table[clip, raters * clip : raters * (clip + 1)] = ratings[clip]
    return table


def test_agreement_is_that_of_shrout_and_fleiss() -> None:
    same = agreement_of(SHROUT_FLEISS)
    assert same is not None
    assert (same.kind, same.raters, same.clips) == ("ICC(2)", 4, 6)
    assert (round(same.icc_1, 2), round(same.icc_k, 2)) == (0.29, 0.62)
    others = agreement_of(with_gaps(SHROUT_FLEISS))
    assert others is not None
    assert (others.kind, others.raters, others.clips) == ("ICC(1)", 4, 6)
    assert (round(others.icc_1, 2), round(others.icc_k, 2)) == (0.17, 0.44)


def test_clips_of_one_rating_do_not_count() -> None:
    alone = np.full((2, 4), np.nan)
    alone[0, 1] = 9.0
    assert agreement_of(np.vstack([alone, SHROUT_FLEISS])) == agreement_of(SHROUT_FLEISS)
    fifth = np.pad(SHROUT_FLEISS, ((0, 1), (0, 1)), constant_values=np.nan)
    fifth[6, 4] = 3.0  # one more rater, of one more clip
    assert agreement_of(fifth) == agreement_of(SHROUT_FLEISS)
    assert agreement_of(fifth[5:]) is None  # one clip of two ratings


def test_unequal_numbers_of_ratings_are_weighted_as_in_analysis_of_variance() -> None:
    draw = np.random.default_rng(0)
    table = draw.normal(size=(30, 1)) + draw.normal(size=(30, 8))
    table[draw.random(table.shape) < 0.5] = np.nan
    groups = [row[~np.isnan(row)] for row in table]
    groups = [group for group in groups if len(group) > 1]
    sizes = [len(group) for group in groups]
    total = sum(sizes)
    k = (total - sum(size**2 for size in sizes) / total) / (len(sizes) - 1)
    ratio = f_oneway(*groups).statistic  # of the mean squares between clips and within them
    agreement = agreement_of(table)
    assert agreement is not None
    assert (agreement.kind, agreement.clips) == ("ICC(1)", len(groups))
    assert agreement.raters == pytest.approx(k)
    assert min(sizes) < k < max(sizes)
    assert agreement.icc_1 == pytest.approx((ratio - 1) / (ratio + k - 1))
    assert agreement.icc_k == pytest.approx((ratio - 1) / ratio)


@pytest.mark.parametrize("gaps", [False, True])
def test_identical_raters_agree_unless_their_ratings_are_constant(gaps: bool) -> None:
    same = np.repeat(np.array([[0.1], [0.7], [0.3]]), 3, axis=1)
    agreement = agreement_of(with_gaps(same) if gaps else same)
    assert agreement is not None
    assert [agreement.icc_1, agreement.icc_k] == pytest.approx([1, 1])
    agreement = agreement_of(np.full((3, 9), 0.1) if not gaps else with_gaps(np.full((3, 3), 0.1)))
    assert agreement is not None
    assert math.isnan(agreement.icc_1)
    assert math.isnan(agreement.icc_k)


def test_absolute_agreement_is_less_where_a_rater_is_stricter() -> None:
    rated = np.arange(10.0)
    agreement = agreement_of(np.stack([rated, rated + 3], axis=1))
    assert agreement is not None
    assert 0.5 < agreement.icc_1 < 0.9


@pytest.mark.parametrize("gaps", [False, True])
def test_undefined_reliability_is_nan(gaps: bool) -> None:
    """Clips with the same mean: the mean over raters does not distinguish them."""
    against = np.array([[0.1, 0.7], [0.7, 0.1]])
    agreement = agreement_of(with_gaps(against) if gaps else against)
    assert agreement is not None
    assert math.isnan(agreement.icc_k)
