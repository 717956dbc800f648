"""What a run will take on this machine, from a few of its own steps."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from kdinpaint.benchmark.memory import peak_memory
from kdinpaint.cli import training_step
from kdinpaint.models import AutoEncoder, InpaintingNet, create_model
from kdinpaint.training.config import OptimConfig, RuntimeConfig, TrainConfig
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.objectives import TeacherObjective
from kdinpaint.training.student import StudentObjective
from kdinpaint.training.train import teacher_name

__all__ = ["Estimate", "estimate_run"]

_PROBE, _IMAGES = 256, 1


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        teacher: Seconds a step.
        student: Seconds a step, the meta step spread over the others.
        total: Seconds of all steps; evaluation and data are not in it.
        memory: Bytes at most, of tensors.
        device: Where it was measured.
        scaled: Whether one small image was measured and the numbers scaled by the pixels of a batch.
    """

    teacher: float
    student: float
    total: float
    memory: int
    device: torch.device
    scaled: bool


def estimate_run(config: TrainConfig, *, device: str | None = None) -> Estimate:
    """Time a step of the teacher and of the student of a run, and find the memory that they need.

    On a GPU with the batches of the run; on a CPU with one image of at most 256 pixels, scaled by the number of
    pixels: all but the attention of one small level grows with it.

    Args:
        config: What is to be trained.
        device: "cpu", or None for a GPU if there is one.
    """
    accelerator = make_accelerator(RuntimeConfig(device="cpu" if device == "cpu" else "auto"), "no", Path())
    where = accelerator.device
    data, distill = config.data, replace(config.student.distill, self_ramp=0.0)
    size, batch, factor = data.size, config.student.optim.batch, 1.0
    if where.type == "cpu":
        size = min(size, _PROBE)
        factor, batch = batch / _IMAGES * (data.size / size) ** 2, _IMAGES
    generator = torch.Generator().manual_seed(0)
    mask = torch.zeros(batch, 1, size, size)
    mask[..., size // 4 : size * 3 // 4, size // 4 : size * 3 // 4] = 1
    sample = {
        "image": torch.rand(batch, data.channels, size, size, generator=generator).to(where),
        "mask": mask.to(where),
    }
    # Two of them: the student's is frozen where it stands.
    fresh, teacher = (
        cast(AutoEncoder, create_model(teacher_name(config.model), in_channels=data.channels)) for _ in range(2)
    )
    student = cast(InpaintingNet, create_model(config.model, in_channels=data.channels))
    frozen_optim = OptimConfig(steps=1_000_000, lr=0.0)
    with tempfile.TemporaryDirectory() as folder:
        stages = [
            Stage(name, objective, frozen_optim, RuntimeConfig(), Path(folder), accelerator)
            for name, objective in (
                ("teacher", TeacherObjective(fresh)),
                ("student", StudentObjective(student, teacher, loss=config.student.loss, distill=distill)),
            )
        ]
        seconds = [_seconds(stages[0], sample, number=1)]
        plain, meta = (_seconds(stages[1], sample, number=number) for number in (1, 0))
        memory = _memory(stages[1], sample, factor)
    every = distill.meta_every
    seconds.append(plain + max(meta - plain, 0.0) / every)
    per_step = [value * factor for value in seconds]
    total = per_step[0] * config.teacher.optim.steps + per_step[1] * config.student.optim.steps
    return Estimate(per_step[0], per_step[1], total, memory, where, factor != 1)


def _seconds(stage: Stage, sample: dict[str, Tensor], *, number: int) -> float:
    """The best of three steps after one to warm up."""
    step = training_step._step(stage, sample, number=number)
    stage.model.train()
    times = []
    for _ in range(4):
        _wait(sample)
        began = time.perf_counter()
        step()
        _wait(sample)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def _wait(sample: dict[str, Tensor]) -> None:
    if sample["image"].is_cuda:
        torch.cuda.synchronize(sample["image"].device)


def _memory(stage: Stage, sample: dict[str, Tensor], factor: float) -> int:
    """What is held between steps, and what a step needs: a part that grows with the pixels and one that does not."""
    state = [v for values in stage.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]
    held = sum(t.nbytes for t in (*stage.objective.state_dict().values(), *stage.ema.state_dict().values(), *state))
    peak = _peak(stage, sample)
    if factor == 1:
        return held + peak
    # Another of the same, not less of it: in a small step other phases are the ones that need most.
    twice = _peak(stage, {name: torch.cat([value, value]) for name, value in sample.items()})
    return round(held + peak + (factor - 1) * max(twice - peak, 0))


def _peak(stage: Stage, sample: dict[str, Tensor]) -> int:
    def step() -> Tensor:
        training_step._step(stage, sample, number=0)()
        return sample["image"]

    return peak_memory(step, sample["image"].device).peak
