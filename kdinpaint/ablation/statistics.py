"""Paired differences and what they are worth: intervals over seeds, and over the pairs measured on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.optional import require
from kdinpaint.ablation.values import near

__all__ = ["Difference", "Interval", "contrast", "effects", "hole_bins", "interval", "paired_difference"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval.

    Attributes:
        mean: The estimate.
        low: Lower end, or None where one unit says nothing about the spread.
        high: Upper end, or None.
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Difference:
    """A paired difference of means over seeds and pairs, with two answers to "how sure?".

    Attributes:
        seeds: The unit is the seed: Student's t over one number a seed, the mean difference over all pairs. It holds
            the difference that another seed, and so another training, would give on these same pairs.
        pairs: The unit is the photograph: each pair's difference, averaged over the seeds that were run, with an error
            that is robust to pairs sharing a photograph. It holds the difference that other photographs would give
            with these same trained networks.
        count: Seeds.
    """

    seeds: Interval
    pairs: Interval
    count: int


def interval(values: Sequence[float] | Values, groups: Sequence[Any] | None = None) -> Interval:
    """Mean of independent values and its 95 % interval by Student's t.

    Args:
        values: At least one.
        groups: A label for each value; values of one label may depend on each other (cluster-robust error, with as many
            degrees of freedom as labels less one). By default every value stands for itself.

    Raises:
        DataError: No values.
        MissingDependencyError: scipy is not installed.

    Example:
        >>> from kdinpaint.ablation import interval
        >>> found = interval([0.1, 0.2, 0.3])
        >>> round(found.mean, 3), round(found.low, 3), round(found.high, 3)
        (0.2, -0.048, 0.448)
    """
    x = np.asarray(values, dtype=np.float64)
    if not x.size:
        raise DataError("there are no values; expected at least one.")
    mean = float(x.mean())
    _, place = np.unique(np.asarray(range(x.size) if groups is None else groups), return_inverse=True)
    sums = np.bincount(place, weights=x - mean)
    count = len(sums)
    if count < 2:
        return Interval(mean, None, None)
    error = math.sqrt(float((sums**2).sum()) * count / (count - 1)) / x.size
    half = float(require("scipy.stats", extra="train").t.ppf(0.975, count - 1)) * error
    return Interval(mean, mean - half, mean + half)


def hole_bins(content: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The bins of the hole ratio, (low, high), that hold pairs."""
    first = next(run for cell in content["results"].values() for run in cell.values())
    return [(row["low"], row["high"]) for row in first["bins"] if row["count"]]


def contrast(
    content: Mapping[str, Any], weights: Mapping[str, float], metric: str, hole: tuple[float, float] | None = None
) -> tuple[Values, list[str]]:
    """A weighted sum of cells for every seed and pair.

    Args:
        content: Of a result file.
        weights: By name of the cell: {"ours": 1, "plain": -1} is a paired difference.
        metric: "psnr", "ssim", "hole_psnr" or "hole_l1".
        hole: Only pairs with a hole ratio in (low, high]; all by default.

    Returns:
        (seeds, pairs), over the seeds for which every cell is there, and the photograph of each pair.

    Raises:
        ConfigError: There is no such cell or metric.
        DataError: No seed has all cells, or no pair such a hole ratio.
    """
    results = content["results"]
    for name in weights:
        if name not in results:
            raise ConfigError(f"there is no cell {name!r}; {near(name, list(results))}")
    seeds = [str(s) for s in content["seeds"] if all(str(s) in results[name] for name in weights)]
    if not seeds:
        raise DataError(f"no seed has all of {', '.join(weights)}; run the same command again to complete them.")
    known = list(results[next(iter(weights))][seeds[0]]["records"])
    if metric not in known:
        raise ConfigError(f"there is no metric {metric!r}; {near(metric, known)}")
    ratio = np.asarray(content["ratio"])
    chosen = np.ones(len(ratio), bool) if hole is None else (ratio > hole[0]) & (ratio <= hole[1])
    if not chosen.any():
        raise DataError(f"no pair has a hole ratio in {hole}.")
    total = sum(
        weight * np.asarray([results[name][seed]["records"][metric] for seed in seeds], dtype=np.float64)
        for name, weight in weights.items()
    )
    photos = [image for image, wanted in zip(content["image"], chosen, strict=True) if wanted]
    return np.asarray(total)[:, chosen], photos


def paired_difference(
    content: Mapping[str, Any],
    weights: Mapping[str, float],
    metric: str,
    hole: tuple[float, float] | None = None,
) -> Difference:
    """The mean of a contrast with both of its intervals; arguments and errors are those of `contrast`."""
    values, photos = contrast(content, weights, metric, hole)
    return Difference(interval(values.mean(1)), interval(values.mean(0), photos), len(values))


def effects(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Contrasts of a two-level factorial grid: main effects and two-way interactions.

    A main effect is the mean of the cells with the factor less the mean of those without. An interaction "a x b" is a
    difference of differences: the effect of a with b less the effect of a without b.

    Args:
        cells: With "name" and "factors"; every combination of levels once.

    Returns:
        By name of the effect, the weight of each cell; empty where cells have no factors.

    Raises:
        DataError: Some combination is missing or there twice.

    Example:
        >>> from kdinpaint.ablation import effects
        >>> cells = [{"name": f"{a}{b}", "factors": {"a": a, "b": b}} for a in (0, 1) for b in (0, 1)]
        >>> effects(cells)["a x b"]
        {'00': 1.0, '01': -1.0, '10': -1.0, '11': 1.0}
    """
    names = list(cells[0].get("factors") or {}) if cells else []
    if not names:
        return {}
    levels = {cell["name"]: tuple(cell["factors"].get(name) for name in names) for cell in cells}
    wanted = 2 ** len(names)
    if len(set(levels.values())) != wanted or len(levels) != wanted:
        raise DataError(f"the factors {', '.join(names)} need {wanted} cells, one a combination; got {len(cells)}.")
    signs = {
        cell: {name: 2 * level - 1 for name, level in zip(names, row, strict=True)} for cell, row in levels.items()
    }
    found = {name: {cell: 2 * signs[cell][name] / wanted for cell in signs} for name in names}
    for a, b in combinations(names, 2):
        found[f"{a} x {b}"] = {cell: 4 * signs[cell][a] * signs[cell][b] / wanted for cell in signs}
    return found
