"""A running deviation, channel by channel."""

import torch
from torch import Tensor, nn

__all__ = ["RunningStd"]


class RunningStd(nn.Module):
    """Running per-channel standard deviation of a feature, kept as a buffer; 1 before the first update."""

    var: Tensor
    updates: Tensor

    def __init__(self, channels: int, momentum: float, device: torch.device | None) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("var", torch.ones(channels, device=device))
        self.register_buffer("updates", torch.zeros((), device=device))

    @torch.no_grad()
    def update(self, feature: Tensor) -> None:
        """Take in the variance over batch and positions; the first update replaces the initial value."""
        self.take(feature.float().var((0, 2, 3), correction=0))

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
