"""Gated convolution: half of the channels decide what of the other half passes (Yu et al. 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice

__all__ = ["GatedConv2d", "same_pad"]


def same_pad(x: Tensor, kernel: int, stride: int = 1, dilation: int = 1) -> Tensor:
    """Zeros around x so that a convolution gives ceil(size / stride) cells; an odd one goes below and right."""
    pads: list[int] = []
    for size in (x.shape[-1], x.shape[-2]):
        cells = (size + stride - 1) // stride
        total = max((cells - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


class GatedConv2d(nn.Module):
    """act(feature) * sigmoid(gate), feature and gate the halves of one convolution (Yu et al. 2019, Eq. 2 and 3).

    Args:
        in_channels: Channels in.
        out_channels: Channels out; the convolution has twice as many.
        kernel_size: Side of the kernel.
        stride: Step of the window.
        dilation: Of the kernel.
        activation: "elu" or "relu".
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, C, H, W) -> (B, out, ceil(H / stride), ceil(W / stride))

    Raises:
        ConfigError: Unknown activation.

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import GatedConv2d
        >>> GatedConv2d(5, 8, 3, 2)(torch.rand(1, 5, 9, 12)).shape
        torch.Size([1, 8, 5, 6])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        activation: str = "elu",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(activation, ("elu", "relu"), "activation")
        self.conv = nn.Conv2d(
            in_channels, 2 * out_channels, kernel_size, stride, dilation=dilation, device=device, dtype=dtype
        )
        if not self.conv.weight.is_meta:
            nn.init.xavier_uniform_(self.conv.weight)  # the default of the framework that GC was published in
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        self.window = (kernel_size, stride, dilation)
        self.act = nn.ELU() if activation == "elu" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        feature, gate = self.conv(same_pad(x, *self.window)).chunk(2, 1)
        gated: Tensor = self.act(feature) * torch.sigmoid(gate)
        return gated
