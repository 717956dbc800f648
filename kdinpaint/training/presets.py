"""The paper's runs as data, and their scaling to a budget."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kdinpaint._core.checks import check_choice
from kdinpaint._core.errors import ConfigError
from kdinpaint.training.config import (
    ComparatorConfig,
    DataConfig,
    DistillConfig,
    EvaluationConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)

__all__ = ["PRESETS", "Preset", "find_preset", "parse_budget"]

_SHORT = 20_000
_FEWEST_PAIRS = 20


@dataclass(frozen=True)
class Preset:
    """A training configuration without the places of photos and results.

    Attributes:
        name: Of the preset.
        model: As in `TrainConfig`, and so the others.
        data: What the networks see.
        teacher: How the teacher is trained.
        student: How the student is trained.
        evaluation: What is measured.
        runtime: What does not change results.
        comparator: How a comparator is trained that is put in the model's place; by default as published.
        notes: What the paper says and what is our choice.
    """

    name: str
    model: str
    data: DataConfig
    teacher: TeacherConfig
    student: StudentConfig
    evaluation: EvaluationConfig
    runtime: RuntimeConfig
    comparator: ComparatorConfig = field(default_factory=ComparatorConfig)
    notes: Mapping[str, str] = field(default_factory=dict)

    def scaled(self, budget: float) -> "Preset":
        """The same recipe with a share of the iterations.

        Steps of teacher and student, pairs of the evaluation (20 a bin at least) and the distance between
        checkpoints scale; ramps and schedules are shares of the steps and follow. Below 20,000 steps the learning
        rates are those for short runs: 2e-4, and 1e-3 for the importance predictors. A comparator gets as many steps
        and images as the student.

        Args:
            budget: Share of the paper's iterations, more than 0; 1 leaves everything as it is.

        Raises:
            ConfigError: `budget` is not a positive number.

        Example:
            >>> from kdinpaint.training import PRESETS
            >>> PRESETS["paper-celeba"].scaled(0.01).student.optim.steps
            4000
        """
        if not (math.isfinite(budget) and budget > 0):
            raise ConfigError(f"budget is {budget}; expected a share of the iterations such as 0.01, more than 0.")
        if budget == 1:
            return self
        student = _scaled_optim(self.student.optim, budget)
        distill = self.student.distill
        if student.steps < _SHORT:
            distill = replace(distill, meta_lr=max(distill.meta_lr, 1e-3))
        pairs = min(max(_FEWEST_PAIRS, round(self.evaluation.per_bin * budget)), self.evaluation.per_bin)
        every = max(min(self.runtime.checkpoint_every, student.steps // 20), 50)
        return replace(
            self,
            teacher=replace(self.teacher, optim=_scaled_optim(self.teacher.optim, budget)),
            student=replace(self.student, optim=student, distill=distill),
            evaluation=replace(self.evaluation, per_bin=pairs),
            runtime=replace(self.runtime, checkpoint_every=every),
            comparator=replace(self.comparator, steps=student.steps, batch=student.batch),
        )

    def config(self, *, photos: Path, out: Path) -> TrainConfig:
        """The configuration for `train`.

        Args:
            photos: Where the data set lies.
            out: Run folder.
        """
        return TrainConfig(
            photos=photos,
            out=out,
            model=self.model,
            data=self.data,
            teacher=self.teacher,
            student=self.student,
            comparator=self.comparator,
            evaluation=self.evaluation,
            runtime=self.runtime,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values that JSON can hold."""
        return {**dataclasses.asdict(self), "notes": dict(self.notes)}


def parse_budget(text: str) -> float:
    """A share of the iterations: "0.01", or "1%".

    Raises:
        ConfigError: Something else, or not more than 0.
    """
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(
            f"--budget is {text!r}; expected a share of the paper's iterations such as 0.01 or 1%. "
            f"`kdinpaint doctor` tells which share fits into an hour or a day on this machine."
        )
    return value


def _scaled_optim(optim: OptimConfig, budget: float) -> OptimConfig:
    steps = max(1, round(optim.steps * budget))
    return replace(optim, steps=steps, lr=max(optim.lr, 2e-4) if steps < _SHORT else optim.lr)


def _paper(name: str, data: DataConfig, steps: int, per_bin: int) -> Preset:
    optim = OptimConfig(steps=steps, batch=6, lr=1e-4)
    return Preset(
        name=name,
        model="kdinpaint_base",
        data=data,
        teacher=TeacherConfig(optim=replace(optim, steps=steps // 4)),
        student=StudentConfig(optim=optim, distill=DistillConfig(meta_lr=1e-4)),
        evaluation=EvaluationConfig(per_bin=per_bin),
        runtime=RuntimeConfig(checkpoint_every=2000, log_every=100, workers=4),
        notes={
            "paper": f"256 px, batch 6, Adam with 1e-4, {steps:,} iterations, irregular masks of 0-60 %, the teacher "
            "trained first",
            "ours": "the teacher's iterations (a quarter), widths of the networks, loss weights, and what else the "
            "paper leaves open: see the page Decisions",
            "masks": "generated ones of the same range, unless data.masks and evaluation.masks name the NVIDIA files",
        },
    )


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            _paper("paper-celeba", DataConfig(dataset="celeba", size=256, min_window=1.0), 400_000, 1000),
            _paper("paper-paris", DataConfig(dataset="paris", size=256, min_window=1.0), 400_000, 100),
            _paper("paper-places2", DataConfig(dataset="places2", size=256, min_window=1.0), 2_500_000, 1000),
        )
    }
)
"""The runs of the paper's Table 1, by name."""


def find_preset(name: str, budget: float = 1.0) -> Preset:
    """A preset by name, scaled.

    Raises:
        ConfigError: Unknown name, or a budget that is not positive.
    """
    check_choice(name, tuple(PRESETS), "preset")
    return PRESETS[name].scaled(budget)
