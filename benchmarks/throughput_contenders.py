"""Who takes part in throughput.py: for each row the steps of its training, made by the engine as in a real run."""

import copy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from field_options import TINY
from torch import Tensor, nn

from kdinpaint import create_model
from kdinpaint.layers import AdaptiveConv2d
from kdinpaint.training import (
    RECIPES,
    DataConfig,
    DistillConfig,
    LossConfig,
    OptimConfig,
    Phase,
    RuntimeConfig,
    StudentObjective,
    TeacherObjective,
    make_comparator,
    train_comparator,
)
from kdinpaint.training.engine import Stage
from kdinpaint.training.objectives import Objective

OURS = "ours"
TORCHVISION = "ours, torchvision's operator"
CONTENDERS = ("pic", "pc", "gc", "ec", "teacher", "plain", OURS, TORCHVISION)

DISTILL = DistillConfig(self_ramp=0.0)  # at its full weight from the first step on
SPREAD = 2.0  # pixels: a fresh network's offsets are zero
VGG: Literal["random"] = "random"  # no time depends on its weights

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """What all contenders share.

    Attributes:
        model: Size of our networks: tiny, small, base.
        batch: What every step is made with, on the device.
        runtime: Device, memory format, compilation.
        accelerator: Device and precision.
        narrow: Comparators of a few channels, for dry runs.
    """

    model: str
    batch: Batch
    runtime: RuntimeConfig
    accelerator: Accelerator
    narrow: bool = False


@dataclass(frozen=True)
class Part:
    """One kind of step of a contender: a phase of a recipe, or a step with or without an update of the predictors.

    Attributes:
        name: Of the phase.
        share: Of all steps of the contender.
        stage: Makes them.
        number: Of the step in the run; predictors are updated in those divisible by `meta_every`.
        peak: Most bytes on a GPU, of networks, optimisers and a step.
    """

    name: str
    share: float
    stage: Stage
    number: int = 1
    peak: int | None = None

    def steps(self, batch: Batch, count: int) -> Callable[[], None]:
        """Some steps of the engine, to be called."""

        def call() -> None:
            for _ in range(count):
                self.stage.step = self.number
                self.stage._one_step(dict(batch))

        return call


def contender(name: str, setting: Setting) -> list[Part]:
    """The kinds of steps of a row, warmed up; their shares sum to 1."""
    torch.manual_seed(0)
    if name in RECIPES:
        return published(name, setting)
    if name == "teacher":
        objective: Objective = TeacherObjective(create_model(f"autoencoder_{setting.model}"))
        return [warmed(name, 1.0, objective, _optim(setting), setting)]
    if name == "plain":
        net, config = create_model(f"kdinpaint_{setting.model}_plain"), replace(DISTILL, cross=0.0, self_distill=0.0)
        objective = StudentObjective(net, None, loss=LossConfig(), distill=config)
        return [warmed(name, 1.0, objective, _optim(setting), setting)]
    if name not in (OURS, TORCHVISION):
        raise SystemExit(f"there is no contender {name!r}; expected some of {', '.join(CONTENDERS)}.")
    every = DISTILL.meta_every
    step = warmed("step", 1 - 1 / every, ours(setting, torchvision=name == TORCHVISION), _optim(setting), setting)
    return [step, replace(step, name="step with an update of the predictors", share=1 / every, number=0)]


def ours(setting: Setting, *, torchvision: bool = False) -> StudentObjective:
    """Student and teacher, fresh but for offsets that lead somewhere."""
    student = create_model(f"kdinpaint_{setting.model}")
    for module in adaptive_convs(student):
        nn.init.normal_(module.offset_conv.bias, std=SPREAD)
        if torchvision:
            module.backend = "torchvision"
    teacher = create_model(f"autoencoder_{setting.model}")
    return StudentObjective(student, teacher, loss=LossConfig(), distill=DISTILL)


def adaptive_convs(net: nn.Module) -> list[AdaptiveConv2d]:
    """All adaptive convolutions of a network."""
    return [module for module in net.modules() if isinstance(module, AdaptiveConv2d)]


def warmed(name: str, share: float, objective: Objective, optim: OptimConfig, setting: Setting) -> Part:
    """A stage that has made the first steps of a run, an update of the predictors among them."""
    cuda = setting.accelerator.device.type == "cuda"
    held = torch.cuda.memory_allocated() if cuda else 0
    # The folder is only named to the engine, which writes there in a whole run.
    folder = Path(tempfile.gettempdir())
    stage = Stage(name, objective, optim, setting.runtime, folder, setting.accelerator, quiet=True)
    stage.model.train()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    for number in range(3 if cuda else 1):  # compilation, states of optimisers, memory
        Part(name, share, stage, number).steps(setting.batch, 1)()
    return Part(name, share, stage, peak=torch.cuda.max_memory_allocated() - held if cuda else None)


@dataclass
class PhaseCollector:
    """Stands where `train_comparator` wants a `Run`: keeps the phases of a recipe in the place of training them."""

    setting: Setting
    phases: Sequence[Phase]
    parts: list[Part] = field(default_factory=list)

    @property
    def data(self) -> DataConfig:
        """Tells the size of the crops."""
        return DataConfig(size=self.setting.batch["image"].shape[-1])

    def train(self, name: str, objective: Objective, optim: OptimConfig) -> nn.Module:
        """As `Run.train`; the next phase gets a copy, for it freezes other parts of the network."""
        net, phase = copy.deepcopy(objective.net), self.phases[len(self.parts)]
        self.parts.append(warmed(phase.name, phase.share, objective, optim, self.setting))
        return net


def published(model: str, setting: Setting) -> list[Part]:
    """A comparator by its recipe."""
    recipe = RECIPES[model].with_budget(batch=len(setting.batch["image"]))
    collector = PhaseCollector(setting, recipe.phases)
    net: Any = create_model(model, **TINY[model]) if setting.narrow else make_comparator(model, collector.data.size)
    train_comparator(collector, model, net, recipe, vgg=VGG)  # type: ignore[arg-type]
    return collector.parts


def _optim(setting: Setting) -> OptimConfig:
    return OptimConfig(steps=1_000_000, batch=len(setting.batch["image"]), lr=1e-4)
