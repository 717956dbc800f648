"""A running deviation, channel by channel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdinpaint._core.processes import process_count, summed

__all__ = ["RunningStd", "observed_together"]


class RunningStd(nn.Module):
    """Running per-channel standard deviation of a feature, kept as a buffer; before the first update see `inverse`.

    An update takes in a whole batch: what all processes of a distributed run see of it, and with gradient accumulation
    all its parts (see `observed_together`). Infinite and undefined numbers are left out, as mixed precision meets them
    now and then; a channel of which nothing is left stays as it is.

    The buffers are float32, whatever the module is converted to: in bfloat16 small updates would be rounded away.
    """

    var: Tensor
    updates: Tensor

    def __init__(self, channels: int, momentum: float, device: torch.device | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.waiting = False
        self._seen: list[tuple[Tensor, ...]] = []
        self.register_buffer("var", torch.ones(channels, device=device, dtype=torch.float32))
        self.register_buffer("updates", torch.zeros((), device=device, dtype=torch.float32))

    @torch.no_grad()
    def update(self, feature: Tensor) -> None:
        """Take in the variance over batch and positions; the first update replaces the initial value.

        A channel with a single number has none.
        """
        feature = feature.float()
        finite = feature.isfinite()
        count = finite.sum((0, 2, 3)).float()
        centre = torch.where(finite, feature, 0.0).sum((0, 2, 3)) / count.clamp_min(1)
        squares = torch.where(finite, feature - centre[:, None, None], 0.0).square().sum((0, 2, 3))
        if self.waiting or self._seen or process_count() > 1:
            self._seen.append((count, centre, squares))
            if self.waiting:
                return
            # Squares about the common centre: those about the parts' own, and those of the way to it.
            counts, centres, parts = (torch.stack(column) for column in zip(*self._seen, strict=True))
            self._seen.clear()
            count, total = summed([counts.sum(0), (counts * centres).sum(0)])
            way = centres - total / count.clamp_min(1)
            (squares,) = summed([(parts + counts * way.square()).sum(0)])
        self.take(squares / count.clamp_min(1), count > 1)

    @torch.no_grad()
    def update_mean(self, values: Tensor) -> None:
        """Take in, as the variance, the mean over samples of values (B, C) of those samples that have any above 0."""
        said = (values > 0).any(1, keepdim=True) & values.isfinite()
        total, count = torch.where(said, values, 0.0).sum(0), said.sum(0)
        if self.waiting or self._seen or process_count() > 1:
            self._seen.append((total, count))
            if self.waiting:
                return
            total, count = summed([torch.stack(column).sum(0) for column in zip(*self._seen, strict=True)])
            self._seen.clear()
        self.take(total / count.clamp_min(1), count > 0)

    @torch.no_grad()
    def take(self, var: Tensor, known: Tensor) -> None:
        """Take in a variance (C,) that was measured elsewhere, of the channels where `known` (C,), bool, says so.

        Updates replace the initial value until one has known all channels.
        """
        var = var.to(self.var.dtype)
        known = known & var.isfinite()
        rate = torch.where(self.updates == 0, 1.0, self.momentum).to(self.var.dtype)
        self.var.copy_(torch.where(known, self.var.lerp(var, rate), self.var))
        self.updates.add_(known.all())

    def inverse(self, feature: Tensor | None = None) -> Tensor:
        """1 / std; channels that hardly vary are not amplified beyond ten times the average.

        Args:
            feature: (B, C, H, W), what is to be scaled. Before the first update each of its samples is measured by
                itself: so the first loss has the scale of all others, and parts of a batch add up to the whole. Without
                it, or where a sample does not vary, the deviation is 1 until then.

        Returns:
            (C,), float32, or (B, C) if there is a feature.
        """
        if feature is None:
            return _inverse(self.var)
        own = feature.detach().float().var((-2, -1), correction=0)
        own = torch.where(own.mean(-1, keepdim=True) > 0, own, 1.0)
        return _inverse(torch.where(self.updates == 0, own, self.var))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RunningStd":
        def move(buffer: Tensor) -> Tensor:
            moved = fn(buffer)
            return moved if moved.dtype == buffer.dtype else buffer.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self


def _inverse(var: Tensor) -> Tensor:
    return (var + 0.01 * var.mean(-1, keepdim=True)).clamp_min(1e-12).rsqrt()


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
