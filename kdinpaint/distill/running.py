"""A running deviation, channel by channel."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdinpaint._core.processes import mean, process_count, summed

__all__ = ["RunningStd", "observed_together"]


class RunningStd(nn.Module):
    """Running per-channel standard deviation of a feature, kept as a buffer; 1 before the first update.

    An update takes in a whole batch: what all processes of a distributed run see of it, each a share of the same size,
    and with gradient accumulation all its parts (see `observed_together`).
    """

    var: Tensor
    updates: Tensor

    def __init__(self, channels: int, momentum: float, device: torch.device | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.waiting = False
        self._seen: list[tuple[Tensor, Tensor]] = []
        self.register_buffer("var", torch.ones(channels, device=device))
        self.register_buffer("updates", torch.zeros((), device=device))

    @torch.no_grad()
    def update(self, feature: Tensor) -> None:
        """Take in the variance over batch and positions; the first update replaces the initial value."""
        feature = feature.float()
        var = feature.var((0, 2, 3), correction=0)
        if not self.waiting and not self._seen and process_count() == 1:
            self.take(var)
            return
        self._seen.append((feature.mean((0, 2, 3)), var))
        if self.waiting:
            return
        # Variance of the whole: mean of the variances, and variance of the means.
        means, variances = (torch.stack(column) for column in zip(*self._seen, strict=True))
        self._seen.clear()
        centre = mean(means.mean(0))
        self.take(mean((variances + (means - centre).square()).mean(0)))

    @torch.no_grad()
    def update_mean(self, values: Tensor) -> None:
        """Take in, as the variance, the mean over samples of values (B, C) of those samples that have one above 0."""
        total, count = values.sum(0), (values > 0).sum(0)
        if self.waiting or self._seen or process_count() > 1:
            self._seen.append((total, count))
            if self.waiting:
                return
            total, count = summed([torch.stack(column).sum(0) for column in zip(*self._seen, strict=True)])
            self._seen.clear()
        self.take(total / count.clamp_min(1))

    @torch.no_grad()
    def take(self, var: Tensor) -> None:
        """Take in a variance (C,) that was measured elsewhere."""
        var = var.to(self.var.dtype)
        rate = torch.where(self.updates == 0, 1.0, self.momentum).to(self.var.dtype)
        self.var.lerp_(var, rate)
        self.updates.add_(1)

    def inverse(self) -> Tensor:
        """1 / std, (C,); channels that hardly vary are not amplified beyond ten times the average."""
        return (self.var + 0.01 * self.var.mean()).clamp_min(1e-12).rsqrt()


@contextmanager
def observed_together(module: nn.Module, *, last: bool) -> Iterator[None]:
    """For one part of a batch: statistics inside `module` are updated once, with the last part, from all of them.

    Args:
        module: Anything that holds distillation losses.
        last: Whether this is the last part.
    """
    running = [m for m in module.modules() if isinstance(m, RunningStd)]
    for m in running:
        m.waiting = not last
    try:
        yield
    finally:
        for m in running:
            m.waiting = False
