"""The paper's second claim, that its parts lift other methods: PC, GC and EC with and without `kdinpaint.retrofit`.

python benchmarks/comparators_retrofitted.py --photos DIR --held-out DIR [--masks DIR] --name N --minutes 9

Of each network three copies start from the same weights, with the same discriminators, and see the same samples: as
published; with fillers; with fillers and guided by a Distiller, whose teacher, an autoencoder for the network's levels,
is trained on the same samples and paid from the budget. Budgets and pieces are those of table1_small.py. Writes
benchmarks/results/comparators_retrofitted_NAME.json.
"""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import tyro
from field import Bench, Deadline, Method, Runner, compare
from field_options import Options, comparator_shares
from torch import Tensor, nn

import kdinpaint
from kdinpaint.models.comparators import Comparator, EdgeConnectNet
from kdinpaint.retrofitting import Level, masked
from kdinpaint.training import Losses, Objective, OptimConfig, train_comparator

MODELS = ("pc", "gc", "ec")
ARMS = ("plain", "fillers", "fillers and distillation")


@dataclass(frozen=True)
class Config(Options):
    """What is run."""

    methods: tuple[str, ...] = MODELS
    cross: float = 0.01
    """Weight of cross distillation."""
    self_distill: float = 0.01
    """Weight of self distillation."""


class Step(nn.Module):
    """A comparator's whole training step as a network, so that its features can be tapped wherever they are made."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, truth: Tensor, hole: Tensor, progress: float) -> Losses:
        """Losses of the objective; the fillers are told where the hole is."""
        with masked(self.objective.net, hole):
            return self.objective({"image": truth, "mask": hole}, progress)


class RetrofittedObjective(Objective):
    """A comparator's published objective for its retrofitted network, with guidance if there is a teacher.

    Args:
        inner: The published objective.
        levels: Of the retrofit; empty for fillers alone.
        teacher: Has one feature a level, or None.
        options: Of the Distiller.
    """

    def __init__(self, inner: Objective, levels: tuple[Level, ...], teacher: nn.Module | None, **options: Any) -> None:
        super().__init__()
        self.step = Step(inner)
        self.betas = inner.betas
        self.guide = self.meta = None
        if teacher is not None:
            inside = [replace(level, name=f"objective.net.{level.name}", start="") for level in levels]
            self.guide = kdinpaint.Distiller(self.step, teacher, inside, **options)
            self.meta = kdinpaint.MetaLearner(self.guide.predictors(), every=10, lr=1e-3)

    @property
    def net(self) -> Comparator:
        """The network."""
        return self.step.objective.net

    def trainable(self) -> list[nn.Parameter]:
        """See `Objective`."""
        return [*self.step.objective.trainable(), *([] if self.guide is None else self.guide.trainable())]

    def forward(self, batch: Mapping[str, Tensor], progress: float) -> Losses:
        """See `Objective`."""
        given = (batch["image"], batch["mask"], progress)
        if self.guide is None:
            losses, added = self.step(*given), {}
        else:
            losses, added = self.guide(*given, image=batch["image"], mask=batch["mask"])
        parts = {**losses.parts, **{name: value.detach() for name, value in added.items()}}
        return Losses(losses.total, parts, (losses, added, given), progress)

    def backward(self, losses: Losses, step: int, backward: Callable[[Tensor], None]) -> dict[str, float]:
        """The published step, discriminators included, with the guidance added to what the network minimises."""
        inner, added, given = losses.kept
        due = self.meta is not None and self.meta.due(step)
        direction: list[Any] = []

        def with_guidance(task: Tensor) -> None:
            if due:
                direction.extend(self.guide.direction(task))
            backward(task + sum(added.values()))

        log = self.step.objective.backward(inner, step, with_guidance)
        if due:
            self.guide.meta_step(self.meta, direction, *given, image=given[0], mask=given[1])
        return log

    def extra_state(self) -> dict[str, Any]:
        """See `Objective`."""
        return {"inner": self.step.objective.extra_state(), "meta": self.meta.state_dict() if self.meta else None}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """See `Objective`."""
        self.step.objective.load_extra_state(state["inner"])
        if self.meta is not None:
            self.meta.load_state_dict(state["meta"])


class RetrofittedRun:
    """Stands where `train_comparator` wants a `Run`, and gives every phase its fillers' masks and its guidance.

    Args:
        runner: Trains.
        levels: Of the retrofit.
        teacher: See `RetrofittedObjective`.
        config: Weights of the guidance.
    """

    def __init__(self, runner: Runner, levels: tuple[Level, ...], teacher: nn.Module | None, config: Config) -> None:
        self.runner, self.data = runner, runner.data
        self.levels, self.teacher, self.config = levels, teacher, config

    def train(self, name: str, objective: Objective, optim: OptimConfig) -> nn.Module:
        """As `Run.train`."""
        # EC's first phase trains the edge generator alone: the stages that are guided do not run in it.
        runs = not (isinstance(objective.net, EdgeConnectNet) and objective.phase == "edge")
        config = self.config
        options = {"cross": config.cross, "self_distill": config.self_distill, "self_ramp": max(1, optim.steps // 5)}
        whole = RetrofittedObjective(objective, self.levels, self.teacher if runs else None, **options)
        net = self.runner.train(name, whole, optim)
        kdinpaint.strip(net)
        return net


def train(model: str, arm: str, config: Config, runner: Runner, steps: int) -> nn.Module:
    """One copy of one network."""
    net = config.comparator(model).to(runner.bench.accelerator.device)
    run: Any = runner
    if arm != ARMS[0]:
        # Stages of PC give a feature and its hole.
        plan = kdinpaint.RetrofitPlan(net.retrofit_levels, mask="arg:1", outputs=0 if model == "pc" else None)
        example = (runner.bench.pairs.image[:2], runner.bench.pairs.mask[:2])
        levels = kdinpaint.retrofit(net, plan, example=example).levels
        teacher = None
        if arm == ARMS[2]:
            for_teacher, steps = runner.split(steps)
            teacher = runner.teacher(kdinpaint.AutoEncoder.for_levels(levels), for_teacher)
        run = RetrofittedRun(runner, levels, teacher, config)
    torch.manual_seed(runner.seed)
    return train_comparator(run, model, net, config.recipe(model, steps), vgg=config.vgg_of(model))


def methods(config: Config) -> list[Method]:
    """Three rows a network."""
    found = []
    for model in config.methods:
        if model not in MODELS:
            raise SystemExit(f"there is no method {model!r}; expected some of {', '.join(MODELS)}.")
        for arm in ARMS:
            shares = comparator_shares(model)
            if arm == ARMS[2]:
                shares = [config.teacher_share, *((1 - config.teacher_share) * share for share in shares)]
            name = f"{model}, {arm}"
            found.append(Method(name, partial(train, model, arm, config), shares, f"{model}, {ARMS[2]}"))
    return found


def main(config: Config, clock: Callable[[], float] = time.monotonic) -> int:
    bench = Bench(config, "comparators_retrofitted", Deadline(config.minutes, clock))
    return compare(bench, methods(config))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
