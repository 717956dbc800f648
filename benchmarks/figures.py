"""Draw the figures of the page "How fast, and why" from benchmarks/results/*.json, and from nothing else.

python benchmarks/figures.py            writes docs/images/speed_*.png
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
BLUE, ORANGE, GREY, LIGHT = "#1b6ca8", "#d9762b", "#8a8f98", "#d5d8dd"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
DEVICES = {"cpu": "CPU", "gpu": "GPU"}

Content = dict[str, Any]


def cases(content: Content) -> list[tuple[str, dict[str, Content]]]:
    """(shape, contenders by name) of the float32 cases with the first spread that was measured."""
    spread = content["options"]["spreads"][0]
    return [
        (" x ".join(map(str, case["shape"])), {one["name"]: one for one in case["contenders"]})
        for case in content["cases"]
        if case["dtype"] == content["options"]["dtypes"][0] and case["spread"] == spread
    ]


def ratios(axes: plt.Axes, content: Content) -> None:
    """Bars: how many times as fast as torchvision, by shape."""
    series = [
        ("kdinpaint, forward", "kdinpaint", "forward", BLUE),
        ("kdinpaint, forward + backward", "kdinpaint", "training", ORANGE),
        ("onnxruntime, forward", "onnxruntime", "forward", GREY),
    ]
    shapes = cases(content)
    for number, (label, name, which, color) in enumerate(series):
        places, heights, errors = [], [], []
        for place, (_, found) in enumerate(shapes):
            ratio = found.get(name, {}).get("speedup", {}).get(which, {}).get("torchvision")
            if ratio is not None:
                places.append(place + 0.26 * (number - 1))
                heights.append(ratio[0])
                errors.append((max(ratio[0] - ratio[1], 0), max(ratio[2] - ratio[0], 0)))
        if not places:
            continue
        axes.bar(places, heights, 0.24, color=color, label=label)
        axes.errorbar(places, heights, list(zip(*errors, strict=True)), fmt="none", ecolor="#333333", elinewidth=0.8)
        for x, y, (_, up) in zip(places, heights, errors, strict=True):
            axes.annotate(f"{y:.1f}", (x, y + up), (0, 2), textcoords="offset points", ha="center", fontsize=8)
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(shapes)), [shape for shape, _ in shapes])
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("times as fast as torchvision (1 = line)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=8, columnspacing=1, handlelength=1)


def hole(axes: plt.Axes, content: Content) -> None:
    """Lines: time of forward + backward with a hole region, as a share of the whole map's."""
    for (shape, found), color in zip(cases(content), (BLUE, ORANGE, GREY, "#5b8c5a", "#7a5195"), strict=False):
        points = {1.0: 1.0}
        for one in found.values():
            if one.get("region") is not None and one["backend"] == "auto" and "training" in one:
                points[one["hole_ratio"]] = 1 / one["speedup"]["training"]["dense"][0]
        xs = sorted(points)
        axes.plot(xs, [points[x] for x in xs], marker="o", markersize=4, color=color, label=shape)
    axes.plot([0, 1], [0, 1], color=LIGHT, linewidth=1, linestyle="--", zorder=0, label="proportional to the hole")
    axes.set(xlim=(0, 1.02), ylim=(0, None), xlabel="hole ratio", ylabel="forward + backward, share of the whole map's")
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.legend(loc="upper left", fontsize=8)


def share(axes: plt.Axes, content: Content) -> None:
    """A line with its interval: what part of a training step the filler blocks take."""
    rows = content["filler"]
    xs = [row["hole_ratio"] for row in rows]
    value, low, high = zip(*(row["filler_share"] for row in rows), strict=True)
    axes.fill_between(xs, low, high, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(xs, value, marker="o", markersize=4, color=BLUE)
    axes.set(xlim=(0, None), ylim=(0, max(1e-3, *high) * 1.1), xlabel="hole ratio of the images")
    axes.set_ylabel("filler blocks' share of a training step")
    axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))


FIGURES: dict[str, tuple[str, Callable[[plt.Axes, Content], None]]] = {
    "speed_ratio": ("adaptive_conv", ratios),
    "speed_hole": ("adaptive_conv", hole),
    "speed_step": ("training_step", share),
}
"""By name of the picture: the results it draws, and how."""


def draw(name: str, results: Path, folder: Path) -> Path:
    """One picture with a panel a device; a device without results says so."""
    source, panel = FIGURES[name]
    with plt.rc_context(STYLE):
        figure, row = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(3, 2), layout="constrained")
        for axes, (suffix, device) in zip(row, DEVICES.items(), strict=True):
            path = results / f"{source}_{suffix}.json"
            if not path.exists():
                axes.set_title(device)
                axes.set_axis_off()
                axes.text(0.5, 0.5, "not measured yet", ha="center", va="center", color=GREY, transform=axes.transAxes)
                continue
            content = json.loads(path.read_text(encoding="utf-8"))
            environment = content["environment"]
            where = (
                environment["gpu"]
                if suffix == "gpu"
                else f"{environment['processor']}, {environment['threads']} threads"
            )
            axes.set_title(f"{device}: {where}")
            panel(axes, content)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{name}.png"
        figure.savefig(target, dpi=150, metadata={"Software": None})
        plt.close(figure)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    arguments = parser.parse_args()
    for name in FIGURES:
        print(draw(name, arguments.results, arguments.out))


if __name__ == "__main__":
    main()
