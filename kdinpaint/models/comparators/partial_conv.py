"""Partial convolution: renormalised by what is known, and a mask that shrinks (Liu et al. 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_feature, describe
from kdinpaint._core.errors import ShapeError

__all__ = ["PartialConv2d"]


class PartialConv2d(nn.Module):
    """Convolution over known cells, scaled by how many there are; what saw any is known afterwards.

    With X the feature, M = 1 - hole for every channel, and N = C k k the cells of a window (Liu et al. 2018, Eq. 1
    and 2): y = W (X M) N / sum(M) + b where sum(M) > 0, else 0, and the new hole is where sum(M) = 0. Cells of the
    zero padding count as hole.

    Args:
        in_channels: Channels C in.
        out_channels: Channels out.
        kernel_size: Side k of the kernel, odd.
        stride: Step of the window.
        bias: Learn b.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        x (B, C, H, W), hole (B, 1, H, W) or (B, C, H, W), 0 or 1
        -> y (B, out, h, w), hole (B, 1, h, w), with h = ceil(H / stride)

    Raises:
        ShapeError: Shapes do not fit each other.

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import PartialConv2d
        >>> hole = torch.zeros(1, 1, 7, 7)
        >>> hole[..., 1:6, 1:6] = 1
        >>> y, smaller = PartialConv2d(2, 4, 3)(torch.rand(1, 2, 7, 7), hole)
        >>> y.shape, int(smaller.sum())
        (torch.Size([1, 4, 7, 7]), 9)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        # Its own bias stands outside: the scale must not touch it.
        self.conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, bias=False, device=device, dtype=dtype
        )
        self.bias = nn.Parameter(torch.zeros(out_channels, device=device, dtype=dtype)) if bias else None
        self.window = (kernel_size, stride, padding)

    def forward(self, x: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        check_feature(x, "x", channels=self.conv.in_channels)
        if not torch.compiler.is_compiling() and (
            hole.dim() != 4 or hole.shape[1] not in (1, x.shape[1]) or hole.shape[::2] != x.shape[::2]
        ):
            raise ShapeError(f"hole is {describe(hole)}; expected {(x.shape[0], 1, *x.shape[2:])}, or all channels.")
        known = 1 - hole.to(x.dtype)
        y = self.conv(x * known)
        # Counted by pooling, which stays in float32 under autocast: up to C k k must be exact.
        wide = torch.promote_types(x.dtype, torch.float32)
        counts = known.sum(1, keepdim=True, dtype=wide) * (x.shape[1] // known.shape[1])
        kernel, stride, padding = self.window
        seen = F.avg_pool2d(counts, kernel, stride, padding, divisor_override=1)
        some = seen > 0
        scale = torch.where(some, x.shape[1] * kernel * kernel / seen.clamp_min(1), 0)
        y = y * scale.to(y.dtype)
        if self.bias is not None:
            y = y + self.bias[:, None, None] * some
        return y, (~some).to(hole.dtype)
