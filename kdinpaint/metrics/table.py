"""Collecting per-image values and summing them up per bin of the hole ratio."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from kdinpaint._core.errors import ConfigError, RangeError, ShapeError
from kdinpaint.metrics.render import Summary, render_summary
from kdinpaint.ops.masks import RATIO_BINS

__all__ = ["RatioTable"]


class RatioTable:
    """Values of single images, with mean and standard error per half-open bin (low, high] of the hole ratio.

    Args:
        bins: Edges, rising, in [0, 1].

    Attributes:
        bins: As given.
        records: One dict an image, in the order in which they were added: "ratio" and every metric. Two tables
            filled from one manifest can be subtracted record by record.

    Raises:
        ConfigError: Fewer than two edges, or edges that do not rise within [0, 1].

    Example:
        >>> from kdinpaint.metrics import RatioTable
        >>> table = RatioTable(bins=(0.0, 0.2, 0.4))
        >>> table.add([0.1, 0.2, 0.3], {"psnr": [30.0, 28.0, 25.0]})
        >>> [row["metrics"]["psnr"]["mean"] for row in table.summary()["bins"]]
        [29.0, 25.0]
    """

    def __init__(self, bins: Sequence[float] = RATIO_BINS) -> None:
        rising = len(bins) > 1 and all(low < high for low, high in pairwise(bins))
        if not rising or bins[0] < 0 or bins[-1] > 1:
            raise ConfigError(f"bins are {tuple(bins)}; expected at least two edges in [0, 1], rising.")
        self.bins = tuple(float(edge) for edge in bins)
        self.records: list[dict[str, float]] = []

    def add(
        self, ratio: float | Sequence[float] | Tensor, values: Mapping[str, float | Sequence[float] | Tensor]
    ) -> None:
        """Add one image or a batch.

        Args:
            ratio: Hole ratios, (B,) or a number.
            values: As many values of every metric, as `measure` returns them.

        Raises:
            ShapeError: Not as many values as ratios.
            RangeError: A value is not finite, or a ratio not in [0, 1].
            ConfigError: Other metrics than before.
        """
        # Six digits: a ratio that has been float32 must not slip over the edge of a bin.
        columns = {"ratio": [round(value, 6) for value in _numbers(ratio)]}
        columns |= {name: _numbers(value) for name, value in values.items()}
        expected = list(self.records[0]) if self.records else ["ratio", *values]
        if "ratio" in values or sorted(columns) != sorted(expected):
            raise ConfigError(
                f"values has {', '.join(values) or 'no metrics'}; expected {', '.join(expected[1:]) or 'some'}, "
                f"the same in every call, and none called 'ratio'."
            )
        for name, column in columns.items():
            if len(column) != len(columns["ratio"]):
                raise ShapeError(
                    f"{name} has {len(column)} values for {len(columns['ratio'])} ratios; expected one an image."
                )
            odd = [value for value in column if not math.isfinite(value)]
            if odd:
                raise RangeError(f"{name} holds {odd[0]}; expected finite values.")
        if any(not 0 <= value <= 1 for value in columns["ratio"]):
            raise RangeError(f"ratio is {columns['ratio']}; expected values in [0, 1].")
        names = list(columns)
        self.records += [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def summary(self) -> Summary:
        """Count, mean and standard error per bin and over all records.

        The standard error is that of the mean, from the sample deviation (n - 1); it is None for fewer than two
        records, and the mean None for none.

        Returns:
            A dict that JSON can hold: "bins", a list of {"low", "high", "count", "metrics"}; "overall", {"count",
            "metrics"}, which includes records outside of every bin; and "outside", their number. "metrics" maps
            each name to {"mean", "stderr"}.
        """
        bins: list[dict[str, Any]] = []
        for low, high in pairwise(self.bins):
            inside = [record for record in self.records if low < record["ratio"] <= high]
            bins.append({"low": low, "high": high, **self._statistics(inside)})
        outside = len(self.records) - sum(row["count"] for row in bins)
        return {"bins": bins, "overall": self._statistics(self.records), "outside": outside}

    def to_markdown(self, *, digits: int = 2) -> str:
        """The summary as a Markdown table: a row per bin, a column per metric, mean ± standard error.

        Args:
            digits: Decimals.
        """
        return render_summary(self.summary(), digits=digits)

    def _statistics(self, records: list[dict[str, float]]) -> dict[str, Any]:
        names = [name for name in (self.records[0] if self.records else {}) if name != "ratio"]
        metrics = {name: _mean_and_error([record[name] for record in records]) for name in names}
        return {"count": len(records), "metrics": metrics}


def _numbers(value: float | Sequence[float] | Tensor) -> list[float]:
    if isinstance(value, Tensor):
        return [float(v) for v in value.detach().flatten().tolist()]
    return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]


def _mean_and_error(values: list[float]) -> dict[str, float | None]:
    count = len(values)
    mean = math.fsum(values) / count if count else None
    if mean is None or count < 2:
        return {"mean": mean, "stderr": None}
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return {"mean": mean, "stderr": math.sqrt(variance / count)}
