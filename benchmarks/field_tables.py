"""Tables of the comparisons of whole methods; `tables.py` puts them into the documentation."""

from collections.abc import Sequence
from typing import Any

from table_parts import machine, spread

from kdinpaint._core.markdown import markdown_table
from kdinpaint.ablation import paired_difference
from kdinpaint.ablation.statistics import contrast, interval

# Heading, metric, bin of the hole ratio, digits.
COLUMNS = (
    ("PSNR 10-20 %", "psnr", (0.1, 0.2), 2),
    ("PSNR 30-40 %", "psnr", (0.3, 0.4), 2),
    ("SSIM 10-20 %", "ssim", (0.1, 0.2), 4),
    ("SSIM 30-40 %", "ssim", (0.3, 0.4), 4),
)
BUDGETS = {"steps": "Equal optimiser steps", "time": "Equal wall time"}
INTERVALS = (
    "Mean over seeds ± half the 95 % interval over seeds; in square brackets that over photographs, with these same "
    "trained networks. *noise*: the interval over seeds holds 0.\n\n"
)


def single(values: Sequence[float], digits: int) -> str:
    """Of numbers that seeds agree on more or less."""
    return f"{sum(values) / len(values):,.{digits}f}"


def scores(part: dict[str, Any]) -> str:
    """Quality and cost of every row."""
    rows = []
    for name, runs in part["results"].items():
        texts = [
            spread(interval(contrast(part, {name: 1.0}, metric, hole)[0].mean(1)), digits)
            for _, metric, hole, digits in COLUMNS
        ]
        column = {
            key: [run[key] for run in runs.values()]
            for key in ("steps", "train_seconds", "images_per_second", "parameters", "gmac", "milliseconds")
        }
        rows.append(
            [
                name,
                *texts,
                single(column["steps"], 0),
                single(column["train_seconds"], 0),
                single(column["images_per_second"], 1),
                f"{column['parameters'][0] / 1e6:.2f} M",
                single(column["gmac"], 2),
                single(column["milliseconds"], 1),
            ]
        )
    header = ["", *(name for name, *_ in COLUMNS), "steps", "training, s", "images/s", "parameters", "GMAC", "ms"]
    return markdown_table(header, rows) + "\n\n"


def differences(part: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """Paired differences of rows with their intervals."""
    rows = []
    for better, worse in pairs:
        texts = []
        for _, metric, hole, digits in COLUMNS:
            found = paired_difference(part, {better: 1.0, worse: -1.0}, metric, hole)
            over = found.pairs
            photos = "" if over.low is None else f" [{over.low:+.{digits}f}, {over.high:+.{digits}f}]"
            noise = "" if found.seeds.clear or found.seeds.low is None else " (noise)"
            texts.append(spread(found.seeds, digits, "+") + photos + noise)
        rows.append([f"{better} - {worse}", *texts])
    return markdown_table(["paired difference", *(name for name, *_ in COLUMNS)], rows) + "\n\n"


def rendered(content: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> str:
    """Both budgets, one after the other."""
    text = ""
    for budget, part in content["budgets"].items():
        seeds = ", ".join(map(str, part["seeds"]))
        part = {**content, **part}
        text += f"**{BUDGETS[budget]}**, seeds {seeds}\n\n{scores(part)}{differences(part, pairs)}"
    config = content["config"]
    runs = [run for part in content["budgets"].values() for seeds in part["results"].values() for run in seeds.values()]
    devices = " and ".join(sorted({run["device"] for run in runs}))
    where = machine(content["environment"], on=None if devices == "cpu" else devices)
    dry = "; **a dry run: networks of a few channels**" if config["tiny"] else ""
    return (
        f"{text}{INTERVALS}`{content['command']}`; {content['photos']} photos to train on, {content['held_out']} to "
        f"measure on; {config['size']} px, budget of {config['steps']:,} steps, batch {config['batch']}, learning rate "
        f"of the recipes and of {config['lr']:g} for ours, all times {config['lr_scale']:g}, schedule "
        f"{config['schedule']}, averaged weights {config['ema_decay']:g}, precision {config['mixed_precision']}, "
        f"VGG's weights: {config['vgg']}; inference of one image with a hole of 25 %; "
        f"manifest {content['manifest'][:12]}; {where}{dry}.\n"
    )


def table1_small(content: dict[str, Any]) -> str:
    others = [name for name in content["config"]["methods"] if name != "ours"]
    return rendered(content, [("ours", name) for name in others] if "ours" in content["config"]["methods"] else [])


def comparators_retrofitted(content: dict[str, Any]) -> str:
    plain, fillers, guided = "plain", "fillers", "fillers and distillation"
    return rendered(
        content,
        [
            (f"{model}, {one}", f"{model}, {other}")
            for model in content["config"]["methods"]
            for one, other in ((fillers, plain), (guided, plain), (guided, fillers))
        ],
    )
