"""How the comparators are trained, as data: published numbers, with a budget in their place if asked for."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal

from kdinpaint._core.errors import ConfigError
from kdinpaint.training.config import OptimConfig

__all__ = ["RECIPES", "Phase", "Recipe"]


@dataclass(frozen=True)
class Phase:
    """One stage of a recipe: what is trained, and for how long.

    Attributes:
        name: Of the phase; the objective knows by it what to do.
        steps: Optimiser steps as published, or as often used.
        share: Of a budget that is given for the whole recipe.
        lr: Learning rate of the network's Adam.
        schedule: Of both optimisers, as in `OptimConfig`.
    """

    name: str
    steps: int
    share: float
    lr: float
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True)
class Recipe:
    """How a comparator is trained.

    Attributes:
        model: Its name for `create_model`.
        batch: Images a step.
        betas: Of Adam, for network and discriminators.
        weights: Of the terms of its loss.
        phases: In order.
        discriminator_lr: Learning rate of the discriminators, as a factor on the network's.
        ema_decay: Of averaged weights; 0, as published, keeps the last ones.
    """

    model: str
    batch: int
    betas: tuple[float, float]
    weights: Mapping[str, float]
    phases: tuple[Phase, ...]
    discriminator_lr: float = 1.0
    ema_decay: float = 0.0

    def with_budget(
        self, *, steps: int | None = None, batch: int | None = None, ema_decay: float | None = None
    ) -> "Recipe":
        """The same recipe in another number of steps, shared out among its phases, or with other batches.

        Args:
            steps: Of all phases together; as published by default.
            batch: Images a step; as published by default.
            ema_decay: Of averaged weights; as it is by default.

        Raises:
            ConfigError: Fewer steps than phases, or an empty batch.

        Example:
            >>> from kdinpaint.training import RECIPES
            >>> [phase.steps for phase in RECIPES["ec"].with_budget(steps=100).phases]
            [30, 30, 30, 10]
        """
        phases = self.phases
        if steps is not None:
            if steps < len(phases):
                raise ConfigError(f"steps is {steps}; the recipe of {self.model} has {len(phases)} phases to share it.")
            given = [max(1, int(steps * phase.share)) for phase in phases]
            given[0] += steps - sum(given)  # what rounding left over
            phases = tuple(replace(phase, steps=n) for phase, n in zip(phases, given, strict=True))
        if batch is not None and batch < 1:
            raise ConfigError(f"batch is {batch}; expected at least 1.")
        decay = self.ema_decay if ema_decay is None else ema_decay
        return replace(self, phases=phases, batch=batch or self.batch, ema_decay=decay)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, as a run folder keeps it.

        Example:
            >>> from kdinpaint.training import RECIPES
            >>> RECIPES["gc"].as_dict()["weights"]
            {'coarse': 1.0, 'refined': 1.0, 'adversarial': 1.0}
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            **plain,
            "betas": list(self.betas),
            "weights": dict(self.weights),
            "phases": [asdict(phase) for phase in self.phases],
        }

    def optim(self, phase: Phase) -> OptimConfig:
        """The engine's configuration of a phase."""
        return OptimConfig(
            steps=phase.steps,
            batch=self.batch,
            lr=phase.lr,
            schedule=phase.schedule,
            clip_norm=None,
            ema_decay=self.ema_decay,
        )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "pc": Recipe(
            model="pc",
            batch=6,
            betas=(0.9, 0.999),
            weights=MappingProxyType({"valid": 1.0, "hole": 6.0, "perceptual": 0.05, "style": 120.0, "tv": 0.1}),
            phases=(Phase("main", 350_000, 0.7, 2e-4), Phase("frozen_norm", 150_000, 0.3, 5e-5)),
        ),
        "gc": Recipe(
            model="gc",
            batch=16,
            betas=(0.5, 0.999),
            weights=MappingProxyType({"coarse": 1.0, "refined": 1.0, "adversarial": 1.0}),
            phases=(Phase("main", 1_000_000, 1.0, 1e-4),),
        ),
        "ec": Recipe(
            model="ec",
            batch=8,
            betas=(0.0, 0.9),
            weights=MappingProxyType(
                {
                    "edge_adversarial": 1.0,
                    "feature_matching": 10.0,
                    "l1": 1.0,
                    "perceptual": 0.1,
                    "style": 250.0,
                    "adversarial": 0.1,
                }
            ),
            phases=(
                Phase("edge", 2_000_000, 0.3, 1e-4, "cosine"),
                Phase("completion", 2_000_000, 0.3, 1e-4, "cosine"),
                Phase("predicted_edges", 2_000_000, 0.3, 1e-4, "cosine"),
                Phase("joint", 2_000_000, 0.1, 1e-6),
            ),
            discriminator_lr=0.1,
        ),
        "pic": Recipe(
            model="pic",
            batch=8,
            betas=(0.0, 0.999),
            weights=MappingProxyType({"kl": 20.0, "l1": 20.0, "adversarial": 1.0, "feature_matching": 1.0}),
            phases=(Phase("main", 5_000_000, 1.0, 1e-4),),
        ),
    }
)
"""The published recipe of each comparator, by name."""
