"""Texts that tables of all kinds share."""

from collections.abc import Mapping, Sequence
from typing import Any

from kdinpaint._core.markdown import markdown_table
from kdinpaint.ablation.statistics import Interval

__all__ = ["costs", "machine", "spread"]


def machine(environment: Mapping[str, Any], *, on: str | None = None) -> str:
    """Hardware, threads and torch; `on` names a device in the processor's place."""
    threads = "1 thread" if environment["threads"] == 1 else f"{environment['threads']} threads"
    return f"{on or environment['processor']}, {threads}, torch {environment['torch']}"


def spread(found: Interval, digits: int, sign: str = "") -> str:
    """Mean and half the width of its interval, if there is one."""
    half = "" if found.high is None else f" ± {found.high - found.mean:.{digits}f}"
    return f"{found.mean:{sign}.{digits}f}{half}"


def costs(largest: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A table of the operators that take most of some kinds of steps."""
    rows = [
        [f"{step}, `{cost['operator']}`", f"{cost['share']:.0%}", f"{cost['milliseconds']:.0f}"]
        for step, found in largest.items()
        for cost in found
    ]
    return markdown_table(["largest costs of a step", "share", "ms"], rows)
