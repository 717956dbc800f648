"""The tables of the page "How fast, and why", from what `kdinpaint bench` measured."""

from collections.abc import Sequence
from typing import Any

from table_parts import costs, machine

from kdinpaint._core.markdown import markdown_table

__all__ = ["adaptive_conv", "call_overhead", "training_step"]


def times_as_fast(ratio: Sequence[float] | None) -> str:
    return "-" if ratio is None else "{:.1f} ({:.1f} to {:.1f})".format(*ratio)


def without_empty(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table less the columns in which nothing was measured."""
    kept = [i for i in range(len(header)) if any(row[i] not in ("-", "") for row in rows)]
    return markdown_table([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


def extra_memory(found: dict[str, int]) -> str:
    """Peak beyond inputs and results, MiB."""
    return f"{(found['peak'] - found['results']) / 2**20:.1f}"


def adaptive_conv(content: dict[str, Any]) -> str:
    tables = []
    for which, title in (("forward", "forward"), ("training", "forward + backward")):
        rows = []
        for case in content["cases"]:
            found = {one["name"]: one for one in case["contenders"] if which in one}
            ours, theirs = found.get("kdinpaint"), found.get("torchvision")
            if ours is None:
                continue
            ratios = ours["speedup"][which]
            rows.append(
                [
                    problem(case),
                    f"{ours[which]['median']:.2f}",
                    "-" if theirs is None else f"{theirs[which]['median']:.1f}",
                    *(times_as_fast(ratios.get(name)) for name in ("torchvision", "torch", "onnxruntime", "openvino")),
                    f"{1 / ratios['conv2d'][0]:.1f}" if "conv2d" in ratios else "-",
                    " / ".join(
                        extra_memory(one[which]) for one in (ours["memory"], theirs and theirs["memory"]) if one
                    ),
                ]
            )
        header = [
            title,
            "ms",
            "torchvision ms",
            "x torchvision",
            "x in PyTorch",
            "x onnxruntime",
            "x OpenVINO",
            "conv2ds",
            "extra MiB / torchvision",
        ]
        tables.append(without_empty(header, rows))
    rows = [
        [
            problem(case),
            f"{one['hole_ratio']:.0%}",
            *(
                cell
                for which in ("forward", "training")
                for cell in (f"{one[which]['median']:.2f}", times_as_fast(one["speedup"][which].get("dense")))
            ),
            times_as_fast(one["speedup"]["training"].get("torch")),
            times_as_fast(one["speedup"]["training"].get("torchvision")),
        ]
        for case in content["cases"]
        for one in case["contenders"]
        if case["dtype"] == content["options"]["dtypes"][0]
        if one.get("region") is not None and one["backend"] == "auto" and "training" in one
    ]
    header = ["hole only", "hole", "forward ms", "x own dense", "fwd + bwd ms", "x own dense"]
    header += ["x in PyTorch", "x torchvision, dense"]
    tables.append(without_empty(header, rows))
    notes = {
        f"{one['name']}: {one.get('unavailable') or one['note']}"
        for case in content["cases"]
        for one in case["contenders"]
        if one.get("unavailable") or (one["name"] == "torchvision" and one["note"])
    }
    versions = [
        f"{name} {content['environment'][name]}"
        for name in ("torchvision", "onnxruntime", "openvino")
        if content["environment"].get(name, "not installed") != "not installed"
    ]
    return (
        "\n\n".join(tables)
        + f"\n\n`{content['command']}`; {machine(content['environment'])}, {', '.join(versions)}; medians of "
        f"{content['options']['rounds']} rounds.{''.join(f' {note}.' for note in sorted(notes))}\n"
    )


def call_overhead(content: dict[str, Any]) -> str:
    """What a call takes when there is next to nothing to compute."""
    rows = []
    for case in content["cases"]:
        found = {one["name"]: one for one in case["contenders"]}
        for name in (n for n in ("kdinpaint", "kdinpaint torch", "torchvision", "conv2d") if n in found):
            times = [f"{found[name][which]['median']:.2f}" for which in ("forward", "training")]
            rows.append([name, problem(case), *times])
    return (
        markdown_table(["a call of", "input", "forward ms", "fwd + bwd ms"], rows)
        + f"\n\n`{content['command']}`; {machine(content['environment'])}; medians of {content['options']['rounds']} "
        "rounds.\n"
    )


def problem(case: dict[str, Any]) -> str:
    shape = " x ".join(map(str, case["shape"]))
    return f"{shape}, {case['dtype']}, offsets {case['spread']:g} px"


def training_step(content: dict[str, Any]) -> str:
    shares = [
        [
            f"{row['hole_ratio']:.0%}",
            f"{row['with']['median']:.0f}",
            f"{row['without']['median']:.0f}",
            f"{row['blocks']['median']:.0f}",
            "{:.0%} ({:.0%} to {:.0%})".format(*row["filler_share"]),
            ", ".join(f"{ratio:.0%}" for ratio in row["level_ratios"]),
        ]
        for row in content["filler"]
    ]
    result = content["distillation"]
    steps = [
        [label, f"{result[name]['median']:.0f}", f"{result[name]['median'] / result['plain']['median']:.2f}"]
        for label, name in (
            ("plain", "plain"),
            ("cross and self distillation", "distilled"),
            ("the same and a meta step", "distilled_with_meta"),
            ("the teacher's forward pass alone", "teacher_forward"),
        )
    ]
    amortised = "{:.2f} ({:.2f} to {:.2f})".format(*result["cost"])
    steps.append([f"**a meta step every {result['meta_every']}**", f"{result['amortised']['median']:.0f}", amortised])
    options = content["options"]
    header = ["hole", "ms a step", "without fillers", "fillers alone", "their share", "hole cells, by level"]
    return (
        markdown_table(header, shares)
        + "\n\n"
        + markdown_table([f"step at {result['hole_ratio']:.0%} hole", "ms", "of the plain step"], steps)
        + "\n\n"
        + costs(content["largest_costs"])
        + f"\n\n`{content['command']}`; `{options['model']}`, {options['size']} px, batch {options['batch']}; "
        f"{machine(content['environment'])}; medians of {options['rounds']} rounds.\n"
    )
