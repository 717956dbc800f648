"""Benchmarks as tables on the terminal."""

from collections.abc import Sequence
from typing import Any

__all__ = ["case_table", "costs_table", "distillation_table", "share_table"]

_PASSES = {"forward": "forward", "training": "fwd + bwd"}


def case_table(case: dict[str, Any]) -> str:
    """What `measure_case` returned."""
    shape = "x".join(map(str, case["shape"]))
    title = f"{case['device']}, {case['dtype']}, {shape} -> {case['out_channels']}, offsets {case['spread']:g} px"
    header = ["", "", "ms", "best", "x torchvision", "of conv2d", "peak MiB", "extra", "error", ""]
    rows = [row for one in case["contenders"] for row in _contender(one)]
    legend = "x torchvision: times as fast, 95 % interval; of conv2d: times as long; extra: peak less the results"
    return f"\n{title}\n{_aligned(header, rows)}\n{legend}"


def _contender(one: dict[str, Any]) -> list[list[str]]:
    reason = one.get("unavailable") or one.get("refused")
    if reason:
        return [[one["name"], *[""] * 8, f"{'not timed, ' if 'refused' in one else ''}{reason}"]]
    rows: list[list[str]] = []
    for which, label in _PASSES.items():
        if which not in one:
            continue
        ratios = one["speedup"][which]
        rows.append(
            [
                one["name"] if not rows else "",
                label,
                f"{one[which]['median']:.2f}",
                f"{one[which]['best']:.2f}",
                "{:.2f} ({:.2f}-{:.2f})".format(*ratios["torchvision"]) if "torchvision" in ratios else "",
                f"{1 / ratios['conv2d'][0]:.2f}" if "conv2d" in ratios else "",
                *_memory(one.get("memory", {}).get(which)),
                f"{one['error'][which]:.0e}",
                one["note"] if not rows else "",
            ]
        )
    return rows


def _memory(found: dict[str, int] | None) -> list[str]:
    if found is None:
        return ["-", "-"]
    return [f"{found['peak'] / 2**20:.1f}", f"{(found['peak'] - found['results']) / 2**20:.1f}"]


def share_table(rows: Sequence[dict[str, Any]]) -> str:
    """What `TrainingStep.filler_share` returned."""
    table = [
        [
            f"{row['hole_ratio']:.0%}",
            " ".join(f"{ratio:.0%}" for ratio in row["level_ratios"]),
            f"{row['with']['median']:.1f}",
            f"{row['without']['median']:.1f}",
            f"{row['blocks']['median']:.1f}",
            "{:.0%} ({:.0%}-{:.0%})".format(*row["filler_share"]),
        ]
        for row in rows
    ]
    header = ["hole", "of the levels' cells", "ms a step", "without fillers", "fillers alone", "their share"]
    return "\n" + _aligned(header, table)


def distillation_table(result: dict[str, Any]) -> str:
    """What `TrainingStep.distillation` returned."""
    names = {
        "plain": "plain step",
        "distilled": "cross and self distillation",
        "distilled_with_meta": "the same and a meta step",
        "amortised": f"with a meta step every {result['meta_every']}",
        "teacher_forward": "of it the teacher's forward pass",
    }
    rows = [[label, f"{result[key]['median']:.1f}", f"{result[key]['best']:.1f}"] for key, label in names.items()]
    cost = "distilled / plain: {:.2f} ({:.2f}-{:.2f})".format(*result["cost"])
    header = [f"hole {result['hole_ratio']:.0%}", "ms", "best"]
    return f"\n{_aligned(header, rows)}\n{cost}"


def costs_table(result: dict[str, list[dict[str, Any]]]) -> str:
    """What `TrainingStep.largest_costs` returned."""
    rows = [
        [step if not number else "", cost["operator"], f"{cost['share']:.0%}", f"{cost['milliseconds']:.1f}"]
        for step, costs in result.items()
        for number, cost in enumerate(costs)
    ]
    return "\n" + _aligned(["step", "largest costs", "share", "ms"], rows, left=2)


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Columns of equal width: the first ones and the last, if it has no title, to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [
            text.ljust(width) if i < left or not title else text.rjust(width)
            for i, (text, width, title) in enumerate(zip(row, widths, header, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
