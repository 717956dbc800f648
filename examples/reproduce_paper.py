"""One data set of the paper, all rows of its table: ours, plain, and every comparator.

Each row is what `kdinpaint train` does with the preset and the options in `rows`; rows share the evaluation pairs, the
number of iterations, the images a step and the averaging of weights; ours and plain the teacher, too. Interrupted, the
same command goes on; a row that is done is not trained again. SIGTERM and SIGUSR1 end it with status 75, as they do
`kdinpaint train`. With several GPUs, run it under `accelerate launch --num_processes N`.

python examples/reproduce_paper.py --preset paper-celeba --data celeba/ --masks masks/ --out runs/celeba
python examples/reproduce_paper.py --preset paper-celeba --data celeba/ --out runs/celeba --budget 1% --rows ours plain
python examples/reproduce_paper.py --smoke    photographs from scikit-image, a few steps
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState

from kdinpaint.cli.table import TableConfig
from kdinpaint.cli.table import command as print_table
from kdinpaint.data import demo_photos
from kdinpaint.training import (
    PRESETS,
    RECIPES,
    ComparatorConfig,
    DataConfig,
    DistillConfig,
    TeacherConfig,
    TrainConfig,
    train,
)
from kdinpaint.training.interrupt import Preempted, preemptible
from kdinpaint.training.presets import find_preset, parse_budget


def rows(options: argparse.Namespace) -> dict[str, TrainConfig]:
    """The configuration of every row, "ours" first because it trains the teacher."""
    ours = find_preset(options.preset, options.budget).config(photos=options.data, out=options.out / "ours")
    data = replace(ours.data, masks=options.training_masks)
    evaluation = replace(ours.evaluation, masks=options.masks)
    if options.smoke:
        data, evaluation = DataConfig(size=64, masks=data.masks), replace(evaluation, per_bin=1)
        small = replace(ours.student.optim, batch=2)
        ours = replace(
            ours,
            model="kdinpaint_tiny",
            teacher=TeacherConfig(optim=small),
            student=replace(ours.student, optim=small),
            runtime=replace(ours.runtime, workers=0),
        )
    ours = replace(ours, data=data, evaluation=evaluation, mixed_precision=options.mixed_precision)
    plain = replace(
        ours,
        model=f"{ours.model}_plain",
        out=options.out / "plain",
        teacher=TeacherConfig(weights=ours.out / "teacher"),
        student=replace(ours.student, distill=DistillConfig(cross=0.0, self_distill=0.0)),
    )
    found = {"ours": ours, "plain": plain}
    optim = ours.student.optim
    for name in RECIPES:  # the published recipe, in as many iterations and images as ours, averaged like ours
        budget = ComparatorConfig(steps=optim.steps, batch=optim.batch, ema_decay=optim.ema_decay, vgg=options.vgg)
        found[name] = replace(ours, model=name, out=options.out / name, comparator=budget)
    return {name: found[name] for name in options.rows or found}


def borrow_photos(folder: Path) -> Path:
    """A small folder of photographs for the small mode."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in demo_photos().held_out:
        shutil.copy(file, folder)
    return folder


@preemptible()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="paper-celeba")
    parser.add_argument("--budget", type=parse_budget, default=1.0, help="share of the iterations: 0.01, or 1%%")
    parser.add_argument("--data", type=Path, help="the data set, laid out as it comes")
    parser.add_argument("--masks", type=Path, help="mask files to evaluate with; generated ones by default")
    parser.add_argument("--training-masks", type=Path, help="mask files to train with; generated ones by default")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--rows", nargs="*", choices=["ours", "plain", *RECIPES], help="all by default")
    parser.add_argument("--vgg", default="imagenet", help="VGG weights for pc and ec, see ComparatorConfig")
    parser.add_argument("--mixed-precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    options = parser.parse_args()
    if options.smoke:
        options.budget, options.data = 1e-5, borrow_photos(options.out / "photos")
        # Comparators and VGG have one size, the published one: two minutes for all of them. Name them to run them.
        options.rows, options.vgg = options.rows or ["ours", "plain"], "random"
    if options.data is None:
        parser.error("--data is needed, or --smoke")
    configs = rows(options)
    for name, config in configs.items():
        print(f"== {name}: {config.model}, into {config.out}", flush=True)
        train(config)
    if PartialState().is_main_process:
        print_table(
            TableConfig(runs=tuple(f"{name}={config.out}" for name, config in configs.items()), out=options.out)
        )


if __name__ == "__main__":
    try:
        main()
    except Preempted as stop:
        print("Stopped; the same command goes on.", file=sys.stderr)
        sys.exit(stop.status)
