"""Summaries as text: one method's metrics side by side, or one metric of several methods."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError, DataError

__all__ = ["Summary", "TableStyle", "compare_methods", "render_summary"]

Summary = dict[str, Any]
TableStyle = Literal["markdown", "plain"]


def render_summary(summary: Summary, *, digits: int = 2, style: TableStyle = "markdown") -> str:
    """One method: a row per bin, a column per metric, mean ± standard error.

    Args:
        summary: From `RatioTable.summary`.
        digits: Decimals.
        style: "markdown", or "plain" for a terminal.

    Raises:
        ConfigError: Unknown style.
    """
    names = list(summary["overall"]["metrics"])
    rows = [
        [label, str(part["count"]), *(_cell(part, name, digits) for name in names)] for label, part in _parts(summary)
    ]
    return _layout(["hole ratio", "images", *names], rows, style)


def compare_methods(
    summaries: Mapping[str, Summary], metric: str, *, digits: int = 2, style: TableStyle = "markdown"
) -> str:
    """Several methods: a row per bin, a column per method, mean ± standard error of one metric.

    Args:
        summaries: From `RatioTable.summary`, by name of the method.
        metric: Which metric.
        digits: Decimals.
        style: "markdown", or "plain" for a terminal.

    Returns:
        The table, without a final newline.

    Raises:
        DataError: The summaries differ in their bins or in the number of images, so they cannot come from one
            list of pairs.
        ConfigError: No summary, a metric that one of them lacks, or an unknown style.

    Example:
        >>> from kdinpaint.metrics import RatioTable, compare_methods
        >>> ours, other = RatioTable(bins=(0.0, 0.5)), RatioTable(bins=(0.0, 0.5))
        >>> ours.add([0.1, 0.2], {"psnr": [30.0, 28.0]})
        >>> other.add([0.1, 0.2], {"psnr": [29.0, 28.0]})
        >>> summaries = {"ours": ours.summary(), "other": other.summary()}
        >>> print(compare_methods(summaries, "psnr", digits=1, style="plain"))
        psnr    images        ours       other
        0-50 %       2  29.0 ± 1.0  28.5 ± 0.5
        all          2  29.0 ± 1.0  28.5 ± 0.5
    """
    if not summaries:
        raise ConfigError("summaries is empty; expected at least one method.")
    for method, summary in summaries.items():
        known = list(summary["overall"]["metrics"])
        if metric not in known:
            raise ConfigError(f"{method} has no {metric!r}; expected one of {', '.join(known) or 'none'}.")
    shapes = {name: [(label, part["count"]) for label, part in _parts(s)] for name, s in summaries.items()}
    first, *others = summaries
    for method in others:
        if shapes[method] != shapes[first]:
            raise DataError(
                f"{first} and {method} were not measured on the same pairs: {shapes[first]} and {shapes[method]} "
                f"images. Measure both on one manifest."
            )
    columns = [[part for _, part in _parts(summary)] for summary in summaries.values()]
    rows = [
        [label, str(count), *(_cell(column[row], metric, digits) for column in columns)]
        for row, (label, count) in enumerate(shapes[first])
    ]
    return _layout([metric, "images", *summaries], rows, style)


def _parts(summary: Summary) -> list[tuple[str, dict[str, Any]]]:
    named = [(f"{100 * part['low']:g}-{100 * part['high']:g} %", part) for part in summary["bins"]]
    return [*named, ("all", summary["overall"])]


def _cell(part: dict[str, Any], metric: str, digits: int) -> str:
    value = part["metrics"][metric]
    if value["mean"] is None:
        return "-"
    error = "" if value["stderr"] is None else f" ± {value['stderr']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{error}"


def _layout(header: Sequence[str], rows: Sequence[Sequence[str]], style: TableStyle) -> str:
    check_choice(style, ("markdown", "plain"), "style")
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        for cells in (header, *rows)
    ]
    if style == "plain":
        return "\n".join("  ".join(line) for line in lines)
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
