"""Pictures of a result file: differences with their intervals, over steps, and by hole ratio."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.files import atomic_path
from kdinpaint._core.optional import require
from kdinpaint.ablation.statistics import Interval, effects, hole_bins, paired_difference
from kdinpaint.ablation.values import near

__all__ = ["draw_figures"]

_COLORS = ("#2f6690", "#d1812c", "#5b8c5a", "#7a5195", "#b33951", "#6b7280", "#1b998b", "#8d6a3f")
_UNITS = {"psnr": "PSNR, dB", "hole_psnr": "hole PSNR, dB", "ssim": "SSIM"}


def draw_figures(
    content: Mapping[str, Any],
    folder: Path,
    *,
    name: str | None = None,
    reference: str | None = None,
    metric: str = "psnr",
) -> list[Path]:
    """Draw `NAME_forest.png`, `NAME_steps.png` and `NAME_holes.png`.

    Args:
        content: Of a result file.
        folder: Made if missing.
        name: Of the files; that of the grid by default.
        reference: The cell that differences are taken from; the grid's own by default.
        metric: "psnr", "hole_psnr" or "ssim".

    Returns:
        The files; without learning curves there is no picture of them.

    Raises:
        ConfigError: There is no such cell or metric.
        DataError: Nothing can be compared with the reference yet.
        MissingDependencyError: matplotlib is not installed.
    """
    names = [name for name, runs in content["results"].items() if runs]
    reference = reference or content["grid"]["reference"]
    if reference not in names or metric not in _UNITS:
        raise ConfigError(
            f"reference {reference!r}: {near(reference, names)} Metric {metric!r}: one of {list(_UNITS)}."
        )
    others = [name for name in names if name != reference and _seeds(content, name, reference)]
    if not others:
        raise DataError(f"no cell shares a finished seed with {reference!r}; run the ablation to its end.")
    drawn = []
    for kind, draw in (("forest", _forest), ("steps", _steps), ("holes", _holes)):
        figure = require("matplotlib.figure", extra="train").Figure(layout="constrained")
        axes = figure.subplots()
        if not draw(figure, axes, content, others, reference, metric):
            continue
        axes.spines[["top", "right"]].set_visible(False)
        path = folder / f"{name or content['grid']['name']}_{kind}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=130, metadata={"Software": None})
        drawn.append(path)
    return drawn


def _seeds(content: Mapping[str, Any], *names: str) -> list[str]:
    return [str(seed) for seed in content["seeds"] if all(str(seed) in content["results"][name] for name in names)]


def _bar(axes: Any, y: float, value: Interval, color: str, label: str | None, width: float) -> None:  # noqa: ANN401
    if value.low is not None:
        axes.plot([value.low, value.high], [y, y], color=color, linewidth=width, solid_capstyle="butt", label=label)
    axes.plot([value.mean], [y], marker="o", markersize=5, color=color)


def _forest(
    figure: Any,  # noqa: ANN401 - matplotlib is untyped
    axes: Any,  # noqa: ANN401
    content: Mapping[str, Any],
    others: Sequence[str],
    reference: str,
    metric: str,
) -> bool:
    """A line a difference: thin over seeds, thick over photographs, points for single seeds."""
    rows = {name: {name: 1.0, reference: -1.0} for name in others}
    with contextlib.suppress(DataError):  # only some cells of a factorial grid
        rows |= {f"effect: {name}": weights for name, weights in effects(content["grid"]["cells"]).items()}
    rows = {name: weights for name, weights in rows.items() if _seeds(content, *weights)}
    for y, weights in enumerate(rows.values()):
        found = paired_difference(content, weights, metric)
        _bar(axes, y, found.pairs, "#a9c6dc", "95 % over photographs" if y == 0 else None, 7)
        _bar(axes, y, found.seeds, "#2f6690", "95 % over seeds" if y == 0 else None, 1.5)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlabel(f"difference from {reference}, {_UNITS[metric]}")
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.set_size_inches(7, 1.4 + 0.38 * len(rows))
    return True


def _steps(
    figure: Any,  # noqa: ANN401
    axes: Any,  # noqa: ANN401
    content: Mapping[str, Any],
    others: Sequence[str],
    reference: str,
    metric: str,
) -> bool:
    """The paired difference while the networks train: mean over seeds, and each seed as a thin line."""
    some = False
    for number, name in enumerate(others):
        curves = []
        for seed in _seeds(content, name, reference):
            ours, theirs = (
                {point["step"]: point[metric] for point in content["results"][cell][seed]["curve"] if metric in point}
                for cell in (name, reference)
            )
            curves.append({step: ours[step] - theirs[step] for step in sorted(ours.keys() & theirs.keys())})
        steps = sorted(set.intersection(*(set(curve) for curve in curves)))
        if not steps:
            continue
        some = True
        color = _COLORS[number % len(_COLORS)]
        for curve in curves if len(curves) > 1 else ():
            axes.plot(steps, [curve[step] for step in steps], color=color, linewidth=0.6, alpha=0.5)
        axes.plot(steps, [np.mean([curve[step] for curve in curves]) for step in steps], color=color, label=name)
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xlabel("training step")
    axes.set_ylabel(f"difference from {reference}, {_UNITS[metric]}")
    if some:
        figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.set_size_inches(8.5, 4)
    return some


def _holes(
    figure: Any,  # noqa: ANN401
    axes: Any,  # noqa: ANN401
    content: Mapping[str, Any],
    others: Sequence[str],
    reference: str,
    metric: str,
) -> bool:
    """The paired difference by hole ratio, with intervals over seeds."""
    bins = hole_bins(content)
    for number, name in enumerate(others):
        found = [paired_difference(content, {name: 1.0, reference: -1.0}, metric, hole).seeds for hole in bins]
        places = np.arange(len(bins)) + 0.6 * (number + 0.5) / len(others) - 0.3
        color = _COLORS[number % len(_COLORS)]
        for place, value in zip(places, found, strict=True):
            if value.low is not None:
                axes.plot([place, place], [value.low, value.high], color=color, linewidth=1, alpha=0.6)
        axes.plot(places, [value.mean for value in found], "o", markersize=4, color=color, label=name)
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(bins)), [f"{100 * low:g}-{100 * high:g} %" for low, high in bins])
    axes.set_xlabel("hole ratio")
    axes.set_ylabel(f"difference from {reference}, {_UNITS[metric]}")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.set_size_inches(8.5, 4)
    return True
