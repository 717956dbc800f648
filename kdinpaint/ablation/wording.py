"""Intervals as the text of a table's cell."""

from kdinpaint.ablation.statistics import Interval

__all__ = ["judged", "signed", "span"]


def span(value: Interval, digits: int) -> str:
    """[low, high]; "(one)" where one unit says nothing about the spread."""
    return "(one)" if value.low is None else f"[{value.low:+.{digits}f}, {value.high:+.{digits}f}]"


def signed(value: Interval, digits: int) -> str:
    """The mean with its sign, and the span."""
    return f"{value.mean:+.{digits}f} {span(value, digits)}"


def judged(value: Interval, digits: int) -> str:
    """The same, called noise when the interval holds 0."""
    return signed(value, digits) + (" *noise*" if value.low is not None and not value.clear else "")
