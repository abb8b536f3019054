"""Scores, intervals and p-values as text, the same in tables, figures and messages."""

import math

from ..pipeline.measures import Measure
from ..pipeline.statistics import Interval


def percent(value: float) -> str:
    """Return a fraction as a percentage with one decimal; empty for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.1f}"


def score_text(value: float, measure: Measure) -> str:
    """Return a score in percent with one decimal, or on its own scale with three."""
    if measure.in_percent:
        return percent(value)
    return "" if math.isnan(value) else f"{value:.3f}"


def interval_text(interval: Interval, measure: Measure) -> str:
    """Return a score with its interval, if it has one."""
    if measure.in_percent:
        return percent_interval(interval)
    if math.isnan(interval.low):
        return score_text(interval.value, measure)
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def percent_interval(interval: Interval) -> str:
    """Return a fraction with its interval, if it has one, in percent."""
    if math.isnan(interval.low):
        return percent(interval.value)
    # Without a space in the brackets: long lines break before them.
    return f"{percent(interval.value)} [{percent(interval.low)}-{percent(interval.high)}]"


def difference_text(difference: Interval, measure: Measure) -> str:
    """Return a difference of scores with its interval, if it has one, all with signs."""
    value, low, high = (
        signed_text(each, measure) for each in (difference.value, difference.low, difference.high)
    )
    return value if math.isnan(difference.low) else f"{value} [{low}, {high}]"


def signed_text(difference: float, measure: Measure) -> str:
    """Return a difference of scores with its sign, as :func:`score_text` returns a score."""
    return f"{measure.scale * difference:+.{1 if measure.in_percent else 3}f}"


def p_text(value: float) -> str:
    """Return a p-value with three decimals; empty if nothing was tested."""
    if math.isnan(value):
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
