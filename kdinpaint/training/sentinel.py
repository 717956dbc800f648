"""Losses that are not finite: noticed without waiting for the device at every step, and explained."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdinpaint._core.errors import KDInpaintError
from kdinpaint._core.files import atomic_path, write_tensors
from kdinpaint._core.processes import distributed
from kdinpaint.training.batches import Samples, whole_batch

__all__ = ["LossSentinel"]

_PATIENCE = 100


class LossSentinel:
    """Remembers on the device since which step the loss has not been finite.

    Args:
        device: Of the losses.
        patience: Steps in a row that may have no finite loss. Gradient scaling in float16 passes over such steps and
            lowers its scale, which takes some; without it weights are lost after the first.
    """

    def __init__(self, device: torch.device, patience: int) -> None:
        self.patience = patience
        self.never = torch.iinfo(torch.int64).max
        self.since = torch.full((), self.never, dtype=torch.int64, device=device)

    @classmethod
    def for_precision(cls, device: torch.device, *, scaled: bool) -> "LossSentinel":
        """With the patience that goes with gradient scaling, or without it."""
        return cls(device, _PATIENCE if scaled else 1)

    @torch.no_grad()
    def see(self, loss: Tensor, step: int) -> None:
        """Take note of the loss of a step; does not wait for it."""
        self.since = torch.where(torch.isfinite(loss.detach()), self.never, self.since.clamp_max(step))

    def check(self, step: int, *, stage: str, folder: Path, samples: Samples, batch: int, main: bool) -> None:
        """Stop if the loss has not been finite for too long; all processes call this at the same steps.

        Args:
            step: Steps done.
            stage: Its name.
            folder: Where to write `bad_batch.pt`.
            samples: What the stage trains on.
            batch: Images a step.
            main: Whether this is the process that writes.

        Raises:
            KDInpaintError: It has not, on any of the processes. The batch with which it began is written first.
        """
        if distributed():
            torch.distributed.all_reduce(self.since, torch.distributed.ReduceOp.MIN)
        since = int(self.since)
        if step - since < self.patience:
            return
        path = folder / "bad_batch.pt"
        if main:
            content: dict[str, Any] = {**whole_batch(samples, since, batch), "step": since}
            seed = getattr(samples, "seed", None)
            with atomic_path(path) as temporary:
                write_tensors(temporary, content if seed is None else {**content, "seed": seed})
        raise KDInpaintError(
            f"stage {stage}: the loss is not finite at step {since + 1}. The batch of that step is in {path} (image, "
            f"mask, step, seed; read it with torch.load). The last checkpoint is from before. If the images are sound, "
            f"lower the learning rate, set optim.warmup or optim.clip_norm, or use bf16 instead of fp16."
        )
