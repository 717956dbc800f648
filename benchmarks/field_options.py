"""What comparisons of whole methods can be told: one set of options, the same for every row."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from kdinpaint import create_model
from kdinpaint._core.errors import ConfigError, WeightsError
from kdinpaint.training import RECIPES, OptimConfig, Recipe, make_comparator

TINY: dict[str, dict[str, Any]] = {
    "pc": {"channels": (8, 8, 8)},
    "gc": {"width": 4},
    "ec": {"width": 4, "blocks": 1},
    "pic": {"channels": (4, 8, 8), "latent": 4, "inference": 1},
}
Budget = Literal["steps", "time"]


@dataclass(frozen=True)
class Options:
    """What both comparisons can be told."""

    photos: Path
    """Training photos."""
    held_out: Path
    """Photos to measure on."""
    name: str
    """Of the result file and of the folder that work goes to."""
    masks: Path | None = None
    """Mask files, 255 = hole, to measure with; generated ones by default. Training masks are always generated."""
    size: int = 128
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: tuple[Budget, ...] = ("steps", "time")
    """What is equal for all rows: optimiser steps, or wall time of training."""
    steps: int = 5000
    """Budget of steps, of all phases of a recipe and of a teacher together."""
    seconds: float | None = None
    """Budget of wall time; by default what the method of the paper needs for the budget of steps."""
    teacher_share: float = 0.2
    """Share of its budget that a method with a teacher spends on it."""
    batch: int = 8
    lr: float = 1e-4
    """Of the method of the paper and of teachers; comparators have those of their recipes."""
    lr_scale: float = 1.0
    """Factor on the learning rates of all rows: published ones are for a hundred times as many steps."""
    schedule: Literal["recipe", "cosine"] = "recipe"
    """As published, or a cosine in every phase of every row."""
    ema_decay: float = 0.999
    """Decay of averaged weights, for all rows alike; 0 keeps the last ones."""
    mixed_precision: Literal["no", "bf16"] = "no"
    vgg: str = "imagenet"
    """Weights of VGG-16 and VGG-19 for PC and EC: imagenet; a folder with torchvision's files; or random, for dry
    runs."""
    per_bin: int = 50
    pool: int = 4096
    """Training masks that are kept on the device."""
    tiny: bool = False
    """Comparators of a few channels, for dry runs."""
    minutes: float | None = None
    """Stop cleanly after that; the same command goes on."""
    device: Literal["auto", "cpu"] = "auto"
    checkpoint_every: int = 1000
    timing_steps: int = 20
    """Steps by which the speed of a method is measured, to turn a budget of time into one of steps."""
    work: Path = Path("runs/field")
    """Where checkpoints and finished rows go."""

    def __post_init__(self) -> None:
        if not 0 < self.teacher_share < 1 or self.steps < 5 or not self.seeds or not self.budget:
            raise ConfigError(
                f"teacher_share is {self.teacher_share}, steps {self.steps}, seeds {self.seeds} and budget "
                f"{self.budget}; expected a share between 0 and 1, 5 steps or more, and some seed and budget."
            )

    def settled(self) -> dict[str, Any]:
        """What every row depends on; steps are part of a row's name."""
        free = ("photos", "held_out", "masks", "name", "seeds", "budget", "steps", "seconds", "methods", "minutes")
        free += ("device", "checkpoint_every", "timing_steps", "work")
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in free}))

    def recipe(self, model: str, steps: int) -> Recipe:
        """A published recipe within the budget."""
        recipe = RECIPES[model].with_budget(steps=steps, batch=self.batch, ema_decay=self.ema_decay)
        changes = {} if self.schedule == "recipe" else {"schedule": self.schedule}
        phases = (replace(phase, lr=phase.lr * self.lr_scale, **changes) for phase in recipe.phases)
        return replace(recipe, phases=tuple(phases))

    def optim(self, steps: int) -> OptimConfig:
        """Of the method of the paper."""
        schedule = "constant" if self.schedule == "recipe" else self.schedule
        lr = self.lr * self.lr_scale
        return OptimConfig(steps=steps, batch=self.batch, lr=lr, schedule=schedule, ema_decay=self.ema_decay)

    def comparator(self, model: str) -> nn.Module:
        """A fresh network."""
        return create_model(model, **TINY[model]) if self.tiny else make_comparator(model, self.size)

    def vgg_of(self, model: str) -> str:
        """VGG's weights as the library takes them."""
        if not Path(self.vgg).is_dir() or model not in ("pc", "ec"):
            return self.vgg
        arch = {"pc": "vgg16", "ec": "vgg19"}[model]
        found = sorted(Path(self.vgg).glob(f"{arch}*.pth"))
        if len(found) != 1:
            raise WeightsError(f"{self.vgg} holds {len(found)} files {arch}*.pth; expected torchvision's one.")
        return str(found[0])


def comparator_shares(model: str) -> list[float]:
    """Of the phases of a recipe."""
    return [phase.share for phase in RECIPES[model].phases]


def vgg_name(options: Options) -> str:
    """Which weights of VGG, without the place they lie at."""
    return options.vgg if options.vgg in ("imagenet", "random") else f"files in {Path(options.vgg).name}"
