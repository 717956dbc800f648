"""Results of several runs as one table, beside the paper's; nothing is mixed that was measured differently."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.metrics.paper import PAPER_BINS, PAPER_TABLE, PublishedValue

__all__ = ["Comparison", "MeasuredMethod", "Value", "compare_runs"]

Bin = tuple[float, float]


@dataclass(frozen=True)
class MeasuredMethod:
    """What one method reached on one data set.

    Attributes:
        dataset: Name of the data set.
        method: Name of the method.
        protocol: What it was measured under.
        manifest: Hash of the pairs it was measured on.
        summary: From `RatioTable.summary`.
        source: Where it comes from, for error messages.
    """

    dataset: str
    method: str
    protocol: str
    manifest: str
    summary: dict[str, Any]
    source: str = ""


@dataclass(frozen=True)
class Value:
    """A cell: mean and standard error over `count` images, or a printed value with neither.

    Attributes:
        mean: In the unit of the metric.
        stderr: Of the mean; None for fewer than two images and for printed values.
        count: Images; None for printed values.
        slip: A printed value that cannot be meant.
    """

    mean: float
    stderr: float | None = None
    count: int | None = None
    slip: bool = False


@dataclass(frozen=True)
class Comparison:
    """Cells by metric, method, data set and bin.

    Attributes:
        protocol: Of everything measured.
        manifests: Hash by data set.
        metrics: In the order of the tables.
        bins: In the order of the columns.
        measured: (metric, method, data set, bin) to value.
        published: The same for the paper's values, by the paper's names of methods.
    """

    protocol: str
    manifests: dict[str, str]
    metrics: tuple[str, ...]
    bins: tuple[Bin, ...]
    measured: dict[tuple[str, str, str, Bin], Value]
    published: dict[tuple[str, str, str, Bin], Value]

    @property
    def columns(self) -> list[tuple[str, Bin]]:
        """Data set and bin of every column."""
        return [(dataset, bounds) for dataset in self.manifests for bounds in self.bins]

    def methods(self, *, published: bool) -> list[str]:
        """Names of the methods, in the order in which they came."""
        return list(dict.fromkeys(key[1] for key in (self.published if published else self.measured)))

    def count(self, dataset: str, bounds: Bin) -> int:
        """Images that every method was measured on."""
        return next(v.count or 0 for (_, _, name, b), v in self.measured.items() if (name, b) == (dataset, bounds))


def compare_runs(
    methods: Sequence[MeasuredMethod],
    *,
    metrics: Sequence[str] | None = None,
    bins: Sequence[Bin] | None = PAPER_BINS,
    published: bool = True,
) -> Comparison:
    """Put methods side by side, data set by data set.

    Args:
        methods: What was measured.
        metrics: Which metrics; "psnr" and "ssim" by default, as far as the protocol has them.
        bins: Bins (low, high] of the hole ratio; None for all that were measured.
        published: Put the paper's numbers beside them, for its data sets, metrics and bins.

    Returns:
        The table; see `kdinpaint.metrics.render_comparison`.

    Raises:
        DataError: Methods were measured under several protocols, or on several manifests of one data set, or one of
            them lacks a bin.
        ConfigError: No method, one that comes twice, or a metric that is not measured.

    Example:
        >>> from kdinpaint.metrics import MeasuredMethod, RatioTable, compare_runs, render_comparison
        >>> table = RatioTable()
        >>> table.add([0.15, 0.18, 0.35], {"psnr": [33.0, 34.0, 28.0]})
        >>> ours = MeasuredMethod("celeba", "mine", "default", "a0b1", table.summary())
        >>> print(render_comparison(compare_runs([ours]), "markdown").splitlines()[3])
        | mine     |   33.50 ± 0.50 |          28.00 |
    """
    if not methods:
        raise ConfigError("there is no method; expected at least one.")
    _check_one_protocol(methods)
    manifests = _manifests(methods)
    wanted = _metrics(methods, metrics)
    chosen = tuple(bins) if bins is not None else _all_bins(methods)
    measured: dict[tuple[str, str, str, Bin], Value] = {}
    for method in methods:
        for metric in wanted:
            for bounds in chosen:
                key = (metric, method.method, method.dataset, bounds)
                if key in measured:
                    raise ConfigError(
                        f"{method.method} comes twice for {method.dataset} ({method.source}); expected one result. "
                        f"Give the runs names: NAME=RUN."
                    )
                measured[key] = _value(method, metric, bounds)
    beside = {_key(cell): Value(cell.value, slip=cell.slip) for cell in PAPER_TABLE if published}
    kept = {key: v for key, v in beside.items() if key[0] in wanted and key[2] in manifests and key[3] in chosen}
    return Comparison(methods[0].protocol, manifests, wanted, chosen, measured, kept)


def _key(cell: PublishedValue) -> tuple[str, str, str, Bin]:
    return cell.metric, cell.method, cell.dataset, (cell.low, cell.high)


def _check_one_protocol(methods: Sequence[MeasuredMethod]) -> None:
    found = {method.protocol: method for method in methods}
    if len(found) > 1:
        named = "; ".join(f"{m.method} under {p!r} ({m.source})" for p, m in found.items())
        raise DataError(
            f"the methods were measured under different protocols: {named}. Such numbers cannot stand in one table: "
            f"evaluate all of them under one protocol, with kdinpaint evaluate --protocol."
        )


def _manifests(methods: Sequence[MeasuredMethod]) -> dict[str, str]:
    manifests: dict[str, str] = {}
    for method in methods:
        first = manifests.setdefault(method.dataset, method.manifest)
        if first != method.manifest:
            raise DataError(
                f"{method.dataset}: {method.method} was measured on manifest {method.manifest[:12]} ({method.source}), "
                f"others on {first[:12]}. Such numbers cannot stand in one table: evaluate all of them on one, with "
                f"kdinpaint evaluate --manifest."
            )
    return manifests


def _metrics(methods: Sequence[MeasuredMethod], metrics: Sequence[str] | None) -> tuple[str, ...]:
    known = list(methods[0].summary["overall"]["metrics"])
    wanted = tuple(name for name in ("psnr", "ssim") if name in known) if metrics is None else tuple(metrics)
    missing = [name for name in wanted if name not in known]
    if missing or not wanted:
        raise ConfigError(f"metrics are {list(wanted)}; expected some of {', '.join(known) or 'none'}.")
    return wanted


def _all_bins(methods: Sequence[MeasuredMethod]) -> tuple[Bin, ...]:
    return tuple((part["low"], part["high"]) for part in methods[0].summary["bins"])


def _value(method: MeasuredMethod, metric: str, bounds: Bin) -> Value:
    parts = {(part["low"], part["high"]): part for part in method.summary["bins"]}
    mean = parts[bounds]["metrics"].get(metric, {}).get("mean") if bounds in parts else None
    if mean is None:
        raise DataError(
            f"{method.method} on {method.dataset} ({method.source}) has no {metric} for hole ratios of "
            f"{100 * bounds[0]:g}-{100 * bounds[1]:g} %. Evaluate it on a manifest with that bin."
        )
    part = parts[bounds]
    return Value(mean, part["metrics"][metric]["stderr"], part["count"])
