"""The one training loop: a stage optimises one objective, and can stop and go on exactly at any step."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from kdinpaint._core.errors import CheckpointError, KDInpaintError
from kdinpaint._core.files import clear_leftovers
from kdinpaint.models import save_model
from kdinpaint.training.checkpoint import (
    load_checkpoint,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from kdinpaint.training.config import OptimConfig, RuntimeConfig
from kdinpaint.training.interrupt import StopRequest
from kdinpaint.training.objectives import Objective

__all__ = ["BatchSource", "Stage", "make_accelerator"]


@runtime_checkable
class BatchSource(Protocol):
    """Makes whole batches, each a function of its step: `kdinpaint.data.ResidentBatches`, for one."""

    def batches(self, first: int, last: int, batch: int) -> Iterator[dict[str, Tensor]]:
        """Batches of `batch` images for steps first to last - 1, on the device."""


def make_accelerator(runtime: RuntimeConfig, mixed_precision: str, logs: Path) -> Accelerator:
    """The Accelerate front end: device, precision, processes and trackers."""
    return Accelerator(
        cpu=runtime.device == "cpu",
        mixed_precision=mixed_precision,
        log_with="tensorboard",
        project_dir=str(logs),
        # What the meta-learner owns, and what a schedule switches off, gets no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class _From(Sampler[int]):
    """Sample numbers from a given one on: the position in the data is a number, so resuming is exact."""

    def __init__(self, first: int, end: int) -> None:
        self.first, self.end = first, end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.end))

    def __len__(self) -> int:
        return self.end - self.first


class _WarmAverage:
    """Exponential moving average whose decay grows with the number of updates, (1 + n) / (10 + n) at most."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def __call__(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(list(averaged), list(current), 1 - min(self.decay, (1 + n) / (10 + n)))


@dataclass
class Stage:
    """One network's training: objective, optimiser, averaged weights, checkpoint, log.

    Attributes:
        name: Of the stage; its folder and its log go by it.
        objective: What is minimised.
        config: Optimisation.
        runtime: What does not change the result.
        folder: Where the checkpoint and the finished weights go.
        accelerator: See `make_accelerator`.
        on_step: Called with the stage after every step, before a checkpoint that may be due.
        quiet: No progress bar.
    """

    name: str
    objective: Objective
    config: OptimConfig
    runtime: RuntimeConfig
    folder: Path
    accelerator: Accelerator
    on_step: "Callable[[Stage], None] | None" = None
    quiet: bool = False

    def __post_init__(self) -> None:
        groups = _parameter_groups(self.objective, self.config)
        self.objective.to(self.accelerator.device)
        optimizer = torch.optim.Adam(groups, lr=self.config.lr)
        self.ema = AveragedModel(self.objective.net, multi_avg_fn=_WarmAverage(self.config.ema_decay), use_buffers=True)
        self.model, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        self.step = 0
        self.seconds = 0.0

    def _lr_factor(self, step: int) -> float:
        if self.config.schedule == "constant":
            return 1.0
        share = min(step / self.config.steps, 1.0)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(share * math.pi))

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file."""
        return self.folder / "checkpoint.pt"

    def run(self, samples: Dataset[dict[str, Tensor]] | BatchSource) -> nn.Module:
        """Train to the end, from the checkpoint if there is one, and keep the averaged weights.

        Args:
            samples: Sample i is what the run sees in place i, whenever it is asked; or a source of whole batches.

        Returns:
            The network with averaged weights, in eval mode.

        Raises:
            KeyboardInterrupt: After Ctrl-C or SIGTERM, with everything on disk.
            KDInpaintError: Weights are not finite; they are not saved.
            CheckpointError: The checkpoint cannot be read or does not fit.
            OutputError: The checkpoint cannot be written.
        """
        clear_leftovers(self.checkpoint)
        if self.checkpoint.exists():
            self._load()
        if self.step < self.config.steps:
            self._train(samples)
        net = self.ema.module.eval()
        if self.accelerator.is_main_process:
            save_model(cast(Any, net), self.folder)
        return net

    def _loader(self, samples: Dataset[dict[str, Tensor]] | BatchSource) -> Iterable[dict[str, Tensor]]:
        if isinstance(samples, BatchSource):
            return samples.batches(self.step, self.config.steps, self.config.batch)
        end = self.config.steps * self.config.batch
        if len(cast(Sized, samples)) < end:
            raise KDInpaintError(f"the stage needs {end} samples and the data set has {len(cast(Sized, samples))}.")
        loader = DataLoader(
            samples,
            batch_size=self.config.batch,
            sampler=_From(self.step * self.config.batch, end),
            num_workers=self.runtime.workers,
        )
        return cast("Iterable[dict[str, Tensor]]", self.accelerator.prepare(loader))

    def _train(self, samples: Dataset[dict[str, Tensor]] | BatchSource) -> None:
        loader = self._loader(samples)
        self.accelerator.init_trackers(self.name, init_kwargs={"tensorboard": {"purge_step": self.step}})
        self.model.train()
        began = time.monotonic() - self.seconds
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
            disable=self.quiet or not self.accelerator.is_local_main_process,
        )
        try:
            with StopRequest() as stop, bar:
                for batch in loader:
                    log = self._one_step(batch)
                    self.seconds = time.monotonic() - began
                    if self.step % self.runtime.log_every == 0 or self.step == self.config.steps:
                        self._report(log, bar)
                    bar.update()
                    if self.on_step is not None:
                        self.on_step(self)
                    last = stop.requested or self.step == self.config.steps
                    if last or self.step % self.runtime.checkpoint_every == 0:
                        self._save()
                    if stop.requested:
                        raise KeyboardInterrupt
        finally:
            self.accelerator.end_training()

    def _one_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor | float]:
        losses = self.model(batch, self.step / self.config.steps)
        extra = self.objective.backward(losses, self.step, self.accelerator.backward)
        if self.config.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.objective.trainable(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduler.step()
        self.ema.update_parameters(self.objective.net)
        self.step += 1
        return {"loss": losses.total.detach(), **losses.parts, **extra}

    def _report(self, log: dict[str, Tensor | float], bar: Any) -> None:  # noqa: ANN401 - tqdm is untyped
        values = {name: float(value) for name, value in log.items()}
        self.accelerator.log(values, step=self.step)
        bar.set_postfix({name: f"{value:.4f}" for name, value in values.items() if "/" not in name}, refresh=False)

    def _save(self) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.objective.parameters()):
            raise KDInpaintError(
                f"stage {self.name} has weights that are not finite at step {self.step}. The last checkpoint "
                f"({self.checkpoint}) is from before; lower the learning rate, or switch off mixed precision."
            )
        if not self.accelerator.is_main_process:
            return
        state = {
            "steps": self.config.steps,
            "step": self.step,
            "seconds": self.seconds,
            "objective": self.objective.state_dict(),
            "extra": self.objective.extra_state(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "random": random_state(),
        }
        save_checkpoint(self.checkpoint, state)

    def _load(self) -> None:
        state = load_checkpoint(self.checkpoint)
        try:
            self.objective.load_state_dict(state["objective"])
            self.objective.load_extra_state(state["extra"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            restore_random_state(state["random"])
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.checkpoint} does not belong to this stage ({type(error).__name__}: {error}). "
                f"Delete it to start the stage over."
            ) from error


def _parameter_groups(objective: Objective, config: OptimConfig) -> list[dict[str, Any]]:
    """All trainables; those that generate offsets in a group of their own, if they learn at another rate."""
    trainable = {id(p) for p in objective.trainable()}
    named = [(name, p) for name, p in objective.named_parameters() if id(p) in trainable]
    offsets = [p for name, p in named if ".offset_conv." in name]
    if config.offset_lr_scale == 1.0 or not offsets:
        return [{"params": [p for _, p in named]}]
    rest = [p for name, p in named if ".offset_conv." not in name]
    return [{"params": rest}, {"params": offsets, "lr": config.lr * config.offset_lr_scale}]
