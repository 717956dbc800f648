"""Turn benchmarks/results/*.json into the tables of the documentation, between their begin and end comments.

python benchmarks/tables.py            write them
python benchmarks/tables.py --check    fail if one is not what the results give
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from cost_tables import loading, paper_cost, throughput
from field_tables import comparators_retrofitted, table1_small
from speed_tables import adaptive_conv, call_overhead, training_step
from table_parts import machine, spread

from kdinpaint._core.markdown import markdown_table
from kdinpaint.ablation import interval, paired_difference, report_sections

ROOT = Path(__file__).parent.parent
RESULTS, METHOD = ROOT / "benchmarks" / "results", ROOT / "docs" / "method"


def model_cost(content: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", f"{m['parameters'] / 1e6:.2f} M", f"{m['gmac']:.2f}", f"{m['milliseconds']:.0f}"]
        for name, m in sorted(content["models"].items(), key=lambda item: item[1]["gmac"])
    ]
    gated = content["gated_convolution"]
    rows.append(
        ["gated-convolution generator, published", f"{gated['parameters'] / 1e6:.1f} M", f"{gated['gmac']:.1f}", "-"]
    )
    size = content["size"]
    return (
        markdown_table(["model", "parameters", f"GMAC at {size} x {size}", "ms an image"], rows)
        + f"\n\n`{content['command']}`; {machine(content['environment'])}; hole of {content['hole_ratio']:.0%}.\n"
    )


def score(model: dict[str, Any], metric: str, low: float | None) -> float:
    """Mean of a metric over a bin, given by its lower end, or over all pairs."""
    part = model["overall"] if low is None else next(b for b in model["bins"] if b["low"] == low)
    return float(part["metrics"][metric]["mean"])


SCORES = [
    ("PSNR 10-20 %", "psnr", 0.1, 2),
    ("PSNR 30-40 %", "psnr", 0.3, 2),
    ("PSNR all", "psnr", None, 2),
    ("hole PSNR all", "hole_psnr", None, 2),
    ("SSIM 10-20 %", "ssim", 0.1, 4),
    ("SSIM 30-40 %", "ssim", 0.3, 4),
]


def scores(seeds: Sequence[dict[str, Any]]) -> str:
    """Models of every seed by name: mean and deviation of each over the seeds."""
    rows = []
    for cell in seeds[0]:
        texts = []
        for _, metric, low, digits in SCORES:
            values = [score(seed[cell], metric, low) for seed in seeds]
            texts.append(f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}")
        rows.append([cell, *texts, f"{seeds[0][cell]['parameters'] / 1e6:.2f} M"])
    header = ["", *(name for name, *_ in SCORES), "parameters"]
    return markdown_table(header, rows) + f"\n\nMean ± deviation over {len(seeds)} seeds.\n\n"


def differences(seeds: Sequence[dict[str, Any]], pairs: Sequence[tuple[str, str]]) -> str:
    """Paired differences between models of the same seed, with their intervals."""
    rows = []
    for better, worse in pairs:
        texts = []
        for _, metric, low, digits in SCORES:
            found = interval([score(s[better], metric, low) - score(s[worse], metric, low) for s in seeds])
            noise = "" if found.clear else " (noise)"
            texts.append(spread(found, digits, "+") + noise)
        rows.append([f"{better} - {worse}", *texts])
    return (
        markdown_table(["paired difference", *(name for name, *_ in SCORES)], rows)
        + "\n\nMean of the differences within a seed ± half the 95 % interval; *noise* where the interval holds 0.\n\n"
    )


def plain_vs_distilled(content: dict[str, Any]) -> str:
    seeds = [seed["models"] for seed in content["seeds"].values()]
    pairs = (
        ("distilled", "plain"),
        ("distilled, scratch", "plain, scratch"),
        ("plain", "plain, scratch"),
        ("distilled", "distilled, scratch"),
    )
    config = content["config"]
    manifests = ", ".join(seed["manifest"][:12] for seed in content["seeds"].values())
    return (
        scores(seeds)
        + differences(seeds, pairs)
        + f"`{content['command']}`; photos {content['photos']}; {config['size']} px, {config['teacher_steps']} steps "
        f"of the teacher and {config['student_steps']} of each student, batch {config['batch']}, averaged weights; "
        f"manifests {manifests}; {machine(content['environment'])}.\n"
    )


def retrofit_study(content: dict[str, Any]) -> str:
    hosts = list(content["seeds"].values())
    seeds = [{f"{host}, {arm}": seed[host][arm] for host in seed for arm in seed[host]} for seed in hosts]
    pairs = [
        (f"{host}, {later}", f"{host}, {earlier}")
        for host, arms in hosts[0].items()
        for earlier, later in combinations(arms, 2)
    ]
    config = content["config"]
    return (
        scores(seeds)
        + differences(seeds, pairs)
        + f"`{content['command']}`; {content['photos']} photos to train on, {content['held_out']} to measure on; "
        f"{config['size']} px, {config['steps']} steps of every network and teacher, batch {config['batch']}; manifest "
        f"{content['manifest'][:12]}; {machine(content['environment'])}.\n"
    )


def protocols(content: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", f"{found['psnr']:.2f}" if "psnr" in found else "-", f"{found['ssim']:.3f}"]
        for name, found in content["protocols"].items()
    ]
    options = content["options"]
    return (
        markdown_table(["protocol", "PSNR, dB", "SSIM"], rows)
        + f"\n\n`{content['command']}`; {options['images']} images of {options['size']} px from the photographs inside "
        f"scikit-image, holes of 20-30 %; manifest {content['manifest'][:12]}; {machine(content['environment'])}.\n"
    )


def ablation(content: dict[str, Any], name: str) -> str:
    """Scores and differences to see at once, the rest to unfold."""
    parts = report_sections(content)
    for kind, what in (
        ("forest", "Paired differences with their intervals"),
        ("steps", "Paired differences over training steps"),
        ("holes", "Paired differences by hole ratio"),
    ):
        if (ROOT / "docs" / "images" / f"{name}_{kind}.png").exists():
            parts[f"picture of {kind}"] = f"![{what}](../images/{name}_{kind}.png)"

    def some(*keys: str) -> list[str]:
        return [parts[key] for key in keys if key in parts]

    shown = some("scores", "differences", "effects", "picture of forest", "picture of steps")
    folded = {"By hole ratio": some("holes", "picture of holes"), "What the features know": some("features")}
    blocks = [fold(title, texts) for title, texts in folded.items() if texts]
    return "\n\n".join([*shown, *blocks, parts["source"]]) + "\n"


def fold(title: str, texts: Sequence[str]) -> str:
    """A block of Markdown to unfold, on the site as well as where Markdown is only rendered."""
    return "\n\n".join([f'<details markdown="1"><summary>{title}</summary>', *texts, "</details>"])


def ablation_brief(content: dict[str, Any]) -> str:
    reference, first = content["grid"]["reference"], content["grid"]["cells"][0]["settings"]
    rows = []
    for cell in content["grid"]["cells"]:
        name = cell["name"]
        psnr, ssim = (paired_difference(content, {name: 1.0}, metric).seeds.mean for metric in ("psnr", "ssim"))
        found = paired_difference(content, {name: 1.0, reference: -1.0}, "psnr").seeds
        change = "-" if name == reference else f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
        rows.append([name, f"{psnr:.2f}", change, f"{ssim:.4f}", f"{cell['parameters'] / 1e6:.2f} M"])
    return (
        markdown_table(["", "PSNR, dB", f"less {reference} [95 % over seeds]", "SSIM", "parameters"], rows)
        + f"\n\n`{content['command'].partition(' --out')[0]}`: {len(content['seeds'])} paired seeds, "
        f"{first['data']['size']} px, {first['student']['optim']['steps']} steps, {len(content['ratio'])} held-out "
        f"pairs; {machine(content['environment'])}.\n"
    )


def oracle_features(content: dict[str, Any]) -> str:
    variants = list(next(iter(next(iter(content["cells"].values())).values())))
    rows = []
    for cell, seeds in content["cells"].items():
        texts = [f"{mean(one['alone'] for one in seeds.values()):.2f}"]
        texts += [spread(interval([s[v] - s["alone"] for s in seeds.values()]), 2, "+") for v in variants[1:]]
        rows.append([cell, *texts])
    levels = [f"level {int(v) + 1}" if v.isdigit() else f"{v} levels" for v in variants[1:]]
    return (
        markdown_table(["told the truth at", "nothing, dB", *levels], rows)
        + f"\n\n`{content['command']}`: gains ± half their 95 % interval over seeds, {content['pairs']} pairs; "
        f"{machine(content['environment'])}.\n"
    )


def meta_cost(content: dict[str, Any]) -> str:
    rows = [
        [
            name if name == "step" else f"step and update, {name}",
            f"{found['milliseconds']['median']:.0f}",
            "{:.2f} ({:.2f} to {:.2f})".format(*found["times_a_plain_step"]),
            f"{found['peak_mib']:.1f}",
            f"{found['peak_times_a_plain_step']:.2f}",
        ]
        for name, found in content["variants"].items()
    ]
    return (
        markdown_table(["", "ms", "of the step", "peak MiB", "of the step"], rows)
        + f"\n\n`{content['command']}`; `{content['model']}`, {content['size']} px, batch {content['batch']}, hole of "
        f"{content['hole_ratio']:.0%}; {machine(content['environment'])}.\n"
    )


GRIDS = (
    "parts_1500",
    "parts",
    "parts_strong",
    "factorial",
    "capacity",
    "adaptive_conv",
    "importance",
    "importance_meta",
    "forms",
    "where",
    "where_again",
    "where_1500",
    "self",
    "aligner",
    "decoder",
    "init",
    "forcing",
    "forcing_1500",
    "teacher",
    "pretrained",
)
TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "model_cost": ("cost.md", model_cost),
    "plain_vs_distilled_bundled": ("results.md", plain_vs_distilled),
    "retrofit_study_photos": ("results.md", retrofit_study),
    "retrofit_study_readout": ("results.md", retrofit_study),
    "meta_cost": ("distillation.md", meta_cost),
    "throughput_gpu": ("paper_cost.md", paper_cost),
    "loading_cpu": ("paper_cost.md", loading),
    "adaptive_conv_cpu": ("speed.md", adaptive_conv),
    "adaptive_conv_cpu_avx512": ("speed.md", adaptive_conv),
    "call_overhead_cpu": ("speed.md", call_overhead),
    "adaptive_conv_gpu": ("speed.md", adaptive_conv),
    "training_step_cpu": ("speed.md", training_step),
    "training_step_gpu": ("speed.md", training_step),
    "protocols": ("../use/compare.md", protocols),
    "oracle_features_forms": ("what_helps.md", oracle_features),
    "table1_small_cpu": ("comparison.md", table1_small),
    "table1_small_cpu_steps": ("comparison.md", table1_small),
    "table1_small_gpu": ("comparison.md", table1_small),
    "comparators_retrofitted_cpu": ("comparison.md", comparators_retrofitted),
    "comparators_retrofitted_gpu": ("comparison.md", comparators_retrofitted),
    "throughput_cpu": ("comparison.md", throughput),
    "throughput_gpu:contenders": ("comparison.md", throughput),
    "ablation_parts_1500:brief": ("../../README.md", ablation_brief),
    **{f"ablation_{grid}": ("what_helps.md", partial(ablation, name=f"ablation_{grid}")) for grid in GRIDS},
}
"""By name of the result file, with a suffix where it is shown twice: the page that shows it, and how. Without the file
the page says so."""


def main(check: bool) -> int:
    stale = 0
    for name, (page, render) in TABLES.items():
        result = RESULTS / f"{name.partition(':')[0]}.json"
        table = render(json.loads(result.read_text())) if result.exists() else "*Not measured yet.*\n"
        path = METHOD / page
        before = path.read_text()
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        after = re.sub(pattern, lambda found, table=table: found[1] + table + found[2], before, flags=re.DOTALL)
        if check and after != before:
            stale += 1
            print(f"{page}: {name} is not what the results give; run python benchmarks/tables.py", file=sys.stderr)
        elif not check:
            path.write_text(after)
    return stale


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
