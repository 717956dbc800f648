"""The one training loop: a stage optimises one objective, and can stop and go on exactly at any step."""

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from kdinpaint._core.errors import CheckpointError, ConfigError, KDInpaintError
from kdinpaint._core.files import clear_leftovers
from kdinpaint.models import save_model
from kdinpaint.models.comparators import settle_spectral_norm
from kdinpaint.training.batches import BatchSource, Samples, split_batch, step_batches
from kdinpaint.training.checkpoint import (
    has_checkpoint,
    load_latest_checkpoint,
    random_state,
    remove_previous,
    restore_random_state,
    save_checkpoint,
)
from kdinpaint.training.config import OptimConfig, RuntimeConfig
from kdinpaint.training.interrupt import StopRequest
from kdinpaint.training.objectives import Objective
from kdinpaint.training.schedule import lr_factor
from kdinpaint.training.sentinel import LossSentinel
from kdinpaint.training.tracking import finish_trackers, require_trackers, start_trackers, writing_logs

__all__ = ["BatchSource", "Stage", "make_accelerator"]


def make_accelerator(runtime: RuntimeConfig, mixed_precision: str, logs: Path) -> Accelerator:
    """The Accelerate front end: device, precision, processes and where logs lie."""
    require_trackers(runtime.trackers)
    return Accelerator(
        cpu=runtime.device == "cpu",
        mixed_precision=mixed_precision,
        project_dir=str(logs),
        # What the meta-learner owns, and what a schedule switches off, gets no gradient.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class _WarmAverage:
    """Exponential moving average whose decay grows with the number of updates, (1 + n) / (10 + n) at most."""

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def __call__(self, averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        n = int(count)
        if not averaged[0].is_floating_point():  # counters of batch normalisation
            torch._foreach_copy_(list(averaged), list(current))
            return
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
        settings: Of the whole run, for logs that show them.

    In distributed training every process has its stage and calls the same methods; the main one alone writes.

    Raises:
        ConfigError: `runtime.compile` for an objective that never calls the network itself: it would do nothing.
    """

    name: str
    objective: Objective
    config: OptimConfig
    runtime: RuntimeConfig
    folder: Path
    accelerator: Accelerator
    on_step: "Callable[[Stage], None] | None" = None
    quiet: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.runtime.compile and not self.objective.calls_net:
            raise ConfigError(
                f"runtime.compile is set, and stage {self.name} trains a {type(self.objective.net).__name__} by its "
                f"methods, which are not compiled; it works for autoencoders, students and pc. Leave it out."
            )
        groups = _parameter_groups(self.objective, self.config)
        self.objective.to(self.accelerator.device)
        if self.runtime.channels_last:
            self.objective.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(groups, lr=self.config.lr, betas=self.objective.betas)
        self.ema = AveragedModel(self.objective.net, multi_avg_fn=_WarmAverage(self.config.ema_decay), use_buffers=True)
        self.model, self.optimizer = self.accelerator.prepare(self.objective, optimizer)
        if self.runtime.compile:
            self.objective.net.compile()
        self.scaler = self.accelerator.scaler
        if self.scaler is not None:
            self.scaler.load_state_dict(torch.amp.GradScaler("cpu").state_dict())
        self.sentinel = LossSentinel.for_precision(self.accelerator.device, scaled=self.scaler is not None)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)
        self.step = 0
        self.seconds = 0.0
        self._random: dict[str, Any] | None = None
        self._minimised: list[Tensor] = []

    def _lr_factor(self, step: int) -> float:
        rise = min(1.0, (step + 1) / (self.config.warmup + 1))
        return rise * lr_factor(self.config.schedule, step / self.config.steps)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file."""
        return self.folder / "checkpoint.pt"

    def run(self, samples: Samples) -> nn.Module:
        """Train to the end, from the checkpoint if there is one, and keep the averaged weights.

        Args:
            samples: Sample i is what the run sees in place i, whenever it is asked; or a source of whole batches.

        Returns:
            The network with averaged weights, in eval mode.

        Raises:
            KeyboardInterrupt: After Ctrl-C, with everything on disk; after SIGTERM or SIGUSR1 it is a `Preempted`.
            KDInpaintError: The loss or weights are not finite; they are not saved.
            ConfigError: Processes and accumulation do not divide the batch.
            CheckpointError: No checkpoint can be read, it does not fit, or processes see different ones.
            OutputError: The checkpoint or the log cannot be written.
        """
        if self.accelerator.is_main_process:
            clear_leftovers(self.checkpoint)
        self.accelerator.wait_for_everyone()
        if has_checkpoint(self.checkpoint):
            self._load()
        self._agree_on_step()
        if self.step < self.config.steps:
            self._train(samples)
        net = self.ema.module.eval()
        if self.config.ema_decay:
            settle_spectral_norm(net)
        if self.accelerator.is_main_process:
            save_model(cast(Any, net), self.folder)
            remove_previous(self.checkpoint)
        self.accelerator.wait_for_everyone()
        return net

    def _train(self, samples: Samples) -> None:
        accelerator = self.accelerator
        batches = step_batches(
            samples,
            self.step,
            self.config,
            self.runtime,
            device=accelerator.device,
            rank=accelerator.process_index,
            count=accelerator.num_processes,
        )
        start_trackers(
            accelerator,
            self.runtime.trackers,
            stage=self.name,
            folder=self.folder,
            step=self.step,
            settings=self.settings,
        )
        self.model.train()
        began = time.monotonic() - self.seconds
        bar = tqdm(
            total=self.config.steps,
            initial=self.step,
            desc=self.name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else 10.0,
            disable=self.quiet or not accelerator.is_main_process,
        )
        news: dict[str, Tensor | float] = {}  # with what steps since the last report alone had to say
        try:
            with StopRequest() as stop, bar, self._own_random_numbers() as begin_step:
                for batch in batches:
                    begin_step()
                    news |= self._one_step(batch)
                    self.seconds = time.monotonic() - began
                    end = self.step == self.config.steps
                    saves = end or self.step % self.runtime.checkpoint_every == 0
                    reports = end or self.step % self.runtime.log_every == 0
                    if reports:
                        self._report(news, bar)
                        news = {}
                    if reports or saves:
                        self._check_loss(samples)
                    bar.update()
                    if self.on_step is not None:
                        self.on_step(self)
                    stops = self._stops(stop, at_report=reports)
                    if saves or stops:
                        self._save()
                    if stops:
                        raise stop.reason()
                if self._stops(stop, at_report=True):  # while the last step was saved
                    raise stop.reason()
        finally:
            finish_trackers(accelerator)

    def _one_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor | float]:
        parts = self.config.accumulate
        logs: list[dict[str, Tensor | float]] = []
        self._minimised = []
        if self.scaler is not None:
            self.objective.loss_scale = self.scaler.get_scale()
        for number, part in enumerate(split_batch(self._laid_out(batch), parts)):
            self.objective.part = number, parts
            alone = number < parts - 1  # gradients meet those of other processes with the last part
            with self.accelerator.no_sync(self.model) if alone else contextlib.nullcontext():
                losses = self.model(part, self.step / self.config.steps)
                extra = self.objective.backward(losses, self.step, self._backward)
            logs.append({"loss": losses.total.detach(), **losses.parts, **extra})
        if self.config.clip_norm is not None:
            self.accelerator.clip_grad_norm_(self.objective.trainable(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._advance_schedule()
        self.ema.update_parameters(self.objective.net)
        log = logs[0] if parts == 1 else _mean_log(logs)
        self.sentinel.see(torch.stack(self._minimised).sum(), self.step)
        self.step += 1
        return log

    def _advance_schedule(self) -> None:
        if self.scaler is None:
            self.scheduler.step()
            return
        # Steps that gradient scaling passes over count; and Accelerate puts its own `step` around the optimiser's.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"Detected call of `lr_scheduler|Seems like `optimizer\.step")
            self.scheduler.step()

    def _backward(self, loss: Tensor) -> None:
        self._minimised.append(loss.detach())
        parts = self.config.accumulate
        self.accelerator.backward(loss if parts == 1 else loss / parts)

    def _laid_out(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.runtime.channels_last:
            return batch
        return {name: value.contiguous(memory_format=torch.channels_last) for name, value in batch.items()}

    @contextlib.contextmanager
    def _own_random_numbers(self) -> Iterator[Callable[[], None]]:
        """What to call before each step, so that it draws the same numbers whether the stage was interrupted or not.

        What the main process draws is the run's; the others draw something else for their samples.
        """
        seed, rank = torch.initial_seed(), self.accelerator.process_index

        def begin_step() -> None:
            if not self.accelerator.is_main_process:
                torch.manual_seed(hash((seed, self.step, rank)) % 2**63)
            elif self._random is not None:
                # Making the loader has drawn a number; the step must draw what it would have drawn.
                restore_random_state(self._random)
            self._random = None

        with contextlib.nullcontext() if self.accelerator.is_main_process else torch.random.fork_rng():
            yield begin_step

    def _stops(self, stop: StopRequest, *, at_report: bool) -> bool:
        """Whether to stop now; processes do so together, when they talk to each other anyway."""
        if self.accelerator.num_processes == 1:
            return stop.requested
        if not at_report:
            return False
        asked = torch.tensor([float(stop.requested), float(stop.preempted)], device=self.accelerator.device)
        stop.requested, stop.preempted = (bool(value) for value in self.accelerator.reduce(asked, "sum"))
        return stop.requested

    def _agree_on_step(self) -> None:
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.accelerator.device)).tolist()
        if len(set(steps)) > 1:
            raise CheckpointError(
                f"the processes found checkpoints of stage {self.name} at steps {steps}; expected one that all of "
                f"them see. Put the run folder on storage that all machines share."
            )

    def _check_loss(self, samples: Samples) -> None:
        self.sentinel.check(
            self.step,
            stage=self.name,
            folder=self.folder,
            samples=samples,
            batch=self.config.batch,
            main=self.accelerator.is_main_process,
        )

    def _report(self, log: dict[str, Tensor | float], bar: Any) -> None:  # noqa: ANN401 - tqdm is untyped
        values = {name: float(value) for name, value in log.items()}
        if self.accelerator.num_processes > 1:
            found = torch.tensor([values[name] for name in sorted(values)], device=self.accelerator.device)
            means = self.accelerator.reduce(found, "mean").tolist()
            values = dict(zip(sorted(values), means, strict=True))
        with writing_logs(self.accelerator):
            self.accelerator.log(values, step=self.step)
        bar.set_postfix({name: f"{value:.4f}" for name, value in values.items() if "/" not in name}, refresh=False)

    def _save(self) -> None:
        kept = {**self.objective.state_dict(), **self.ema.state_dict()}
        bad = [name for name, value in kept.items() if not bool(torch.isfinite(value).all())]
        if bad:
            raise KDInpaintError(
                f"stage {self.name} has weights or statistics that are not finite at step {self.step}: "
                f"{', '.join(bad[:3])}{', ...' if len(bad) > 3 else ''}. The last checkpoint "
                f"({self.checkpoint}) is from before; lower the learning rate, or switch off mixed precision."
            )
        if self.accelerator.is_main_process:
            self._write()
        self.accelerator.wait_for_everyone()

    def _write(self) -> None:
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
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        save_checkpoint(self.checkpoint, state)

    def _load(self) -> None:
        state = load_latest_checkpoint(self.checkpoint)
        try:
            self.objective.load_state_dict(state["objective"])
            self.objective.load_extra_state(state["extra"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            restore_random_state(state["random"])
            if self.scaler is not None and state.get("scaler") is not None:
                self.scaler.load_state_dict(state["scaler"])
            self._random = state["random"]
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
        except (KeyError, RuntimeError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{self.checkpoint} does not belong to this stage ({type(error).__name__}: {error}). "
                f"Delete it to start the stage over."
            ) from error


def _mean_log(logs: Sequence[dict[str, Tensor | float]]) -> dict[str, Tensor | float]:
    """Means over the parts of a batch of what each of them has; the rest comes with the last."""
    return {
        name: sum(log[name] for log in logs) / len(logs) if name in logs[0] else value
        for name, value in logs[-1].items()
    }


def _parameter_groups(objective: Objective, config: OptimConfig) -> list[dict[str, Any]]:
    """All trainables; those that generate offsets in a group of their own, if they learn at another rate."""
    trainable = {id(p) for p in objective.trainable()}
    named = [(name, p) for name, p in objective.named_parameters() if id(p) in trainable]
    offsets = [p for name, p in named if ".offset_conv." in name]
    if config.offset_lr_scale == 1.0 or not offsets:
        return [{"params": [p for _, p in named]}]
    rest = [p for name, p in named if ".offset_conv." not in name]
    return [{"params": rest}, {"params": offsets, "lr": config.lr * config.offset_lr_scale}]
