"""The paper's Table 1 in small: PIC, PC, GC, EC, plain and ours, with equal data, masks and budget.

python benchmarks/table1_small.py --photos DIR --held-out DIR [--masks DIR] --name N --minutes 9

Two budgets: equal optimiser steps, and equal wall time of training. All that a method trains counts: the phases of a
recipe, and a teacher. With --minutes it stops when the time is up, with exit status 3, and the same command goes on.
Writes benchmarks/results/table1_small_NAME.json, and pictures of the first seed's rows into the folder of the work.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import tyro
from field import Bench, Deadline, Method, Runner, compare, row_folder, steps_of
from field_options import Options, comparator_shares
from torch import nn

from kdinpaint import create_model
from kdinpaint._core.errors import MissingDependencyError
from kdinpaint.data import MaskGenerator, PairManifest, common_folder, demo_photos
from kdinpaint.models import load_model
from kdinpaint.training import RECIPES, DistillConfig, LossConfig, StudentObjective, train_comparator
from kdinpaint.training.figures import write_contact_sheet
from kdinpaint.training.train import teacher_name

ROWS = ("pic", "pc", "gc", "ec", "plain", "ours")


@dataclass(frozen=True)
class Config(Options):
    """What is run."""

    methods: tuple[str, ...] = ROWS
    ours: str = "kdinpaint_small"
    """The method of the paper; plain is the same without filler blocks, attention and distillation."""


def train_published(model: str, runner: Runner, steps: int) -> nn.Module:
    """A comparator by its recipe."""
    options = runner.options
    net = options.comparator(model)
    return train_comparator(runner, model, net, options.recipe(model, steps), vgg=options.vgg_of(model))


def train_plain(name: str, runner: Runner, steps: int) -> nn.Module:
    """The network alone."""
    objective = StudentObjective(create_model(f"{name}_plain"), None, loss=LossConfig(), distill=DistillConfig())
    return runner.train("student", objective, runner.options.optim(steps))


def train_ours(name: str, runner: Runner, steps: int) -> nn.Module:
    """A teacher, then the student that starts from its weights and is guided by it."""
    for_teacher, for_student = runner.split(steps)
    teacher = runner.teacher(create_model(teacher_name(name)), for_teacher)
    torch.manual_seed(runner.seed)
    student = create_model(name)
    student.load_from(teacher)
    objective = StudentObjective(student, teacher, loss=LossConfig(), distill=DistillConfig())
    return runner.train("student", objective, runner.options.optim(for_student))


def method(name: str, config: Config) -> Method:
    """A row by its name."""
    if name in RECIPES:
        return Method(name, partial(train_published, name), comparator_shares(name), "ours")
    if name == "plain":
        return Method(name, partial(train_plain, config.ours), [1.0], "ours")
    if name == "ours":
        share = config.teacher_share
        return Method(name, partial(train_ours, config.ours), [share, 1 - share], "ours")
    raise SystemExit(f"there is no method {name!r}; expected some of {', '.join(ROWS)}.")


def draw_samples(bench: Bench, methods: Sequence[Method]) -> None:
    """Photos as the rows of the first seed fill them, side by side, for every budget that is done.

    Those measured on, and, to show to others, those inside scikit-image where it is installed.
    """
    pairs = {"held_out": bench.manifest.pairs(bench.root)}
    with contextlib.suppress(MissingDependencyError):
        shown, size = demo_photos().held_out, bench.options.size
        bundled = PairManifest.build(shown, size=size, masks=MaskGenerator(), per_bin=1, seed=0, windows_per_photo=3)
        pairs["bundled"] = bundled.pairs(common_folder(shown))
    for budget in bench.options.budget:
        end = f"{budget}_{bench.options.steps}.png"
        nets = {}
        for one, steps in zip(methods, steps_of(bench, methods, budget).values(), strict=True):
            folder = row_folder(bench, one, bench.options.seeds[0], steps)
            nets[one.name] = load_model(folder / (one.name if one.name in RECIPES else "student"))
        for name, what in pairs.items():
            write_contact_sheet(bench.folder / f"samples_{name}_{end}", nets, what, rows=6)


def main(config: Config, clock: Callable[[], float] = time.monotonic) -> int:
    methods = [method(name, config) for name in config.methods]
    if "ours" not in config.methods and "time" in config.budget and config.seconds is None:
        raise SystemExit("the budget of time is what ours needs, and ours is not among the methods; give --seconds.")
    bench = Bench(config, "table1_small", Deadline(config.minutes, clock))
    status = compare(bench, methods)
    if not status:
        draw_samples(bench, methods)
    return status


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
