"""FillerBlock: the parallel, lightweight branch that fills holes so that the encoder need not (Eq. 3)."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_feature, check_mask
from kdinpaint._core.errors import ConfigError
from kdinpaint.layers.adaptive_conv import AdaptiveConv2d, Modulation
from kdinpaint.layers.blocks import GatedConv2d, downsampling_conv
from kdinpaint.ops.masks import resize_mask
from kdinpaint.ops.pointwise import pointwise_conv2d

__all__ = ["FillerBlock", "FillerConv", "FillerMode", "FillerRegion"]

FillerMode = Literal["parallel", "serial"]
FillerConv = Literal["adaptive", "kernel", "offsets", "plain", "dilated", "gated"]
FillerRegion = Literal["hole", "everywhere"]


class FillerBlock(nn.Module):
    r"""A residual for hole cells, to be added to the output of an encoder level.

    Eq. 3: $E_m = f_{feat}(E_{m-1}) + f_{fill}(E_{m-1}) \odot M_m$. The block is the second summand. Inside, an
    entry convolution is followed by a residual pair of adaptive convolutions and a 1x1 exit that is zero
    when fresh: added to any network, a fresh block changes nothing, bit for bit, and it is exactly 0 outside
    the hole at any time.

    Args:
        in_channels: Channels of the level's input (mode "parallel") or output (mode "serial").
        out_channels: Channels of the level's output.
        stride: Of the level; 1 or even. Serial blocks have stride 1.
        hidden_channels: Width inside; half of `out_channels` by default.
        conv: "adaptive"; or, for ablations, an adaptive convolution with its "kernel" V or its "offsets" alone,
            "plain" 3x3 convolutions, "dilated" ones (by 2 and 4), or "gated" ones.
        region: "hole", or "everywhere" to add the residual to known cells, too (an ablation: mere capacity).
        mode: "parallel" is Eq. 3, the block reads the level's input. "serial" is the ICCV form, the block
            reads the level's output x' and the level becomes x' + fill(x') M.
        modulation: As in `kdinpaint.AdaptiveConv2d`.
        max_offset: As in `kdinpaint.AdaptiveConv2d`.
        cond_mask: Show the mask to the generators of kernel and offsets.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        x (B, in_channels, H, W), mask (B, 1, H_m, W_m) at any resolution from the output's upwards
        -> (B, out_channels, H / stride, W / stride)

    Raises:
        ConfigError: A serial block whose channels or stride differ between input and output.

    Example:
        >>> import torch
        >>> from kdinpaint import FillerBlock
        >>> fill = FillerBlock(16, 32)
        >>> x, mask = torch.randn(1, 16, 64, 64), torch.ones(1, 1, 64, 64)
        >>> bool((fill(x, mask) == 0).all())
        True
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int = 2,
        hidden_channels: int | None = None,
        conv: FillerConv = "adaptive",
        region: FillerRegion = "hole",
        mode: FillerMode = "parallel",
        modulation: Modulation = "sigmoid",
        max_offset: float | None = None,
        cond_mask: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(conv, get_args(FillerConv), "conv")
        check_choice(region, get_args(FillerRegion), "region")
        check_choice(mode, ("parallel", "serial"), "mode")
        if mode == "serial" and (in_channels != out_channels or stride != 1):
            raise ConfigError(
                f"a serial filler reads and writes the same feature; got {in_channels} to {out_channels} channels "
                f"at stride {stride}. Use in_channels = out_channels and stride=1, or mode='parallel'."
            )
        hidden = hidden_channels or max(out_channels // 2, 1)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.mode: FillerMode = mode
        self.region: FillerRegion = region
        adaptive = conv in ("adaptive", "kernel", "offsets")
        self.cond_mask = cond_mask and adaptive

        def inner(dilation: int) -> nn.Module:
            if conv == "gated":
                return GatedConv2d(hidden, device=device, dtype=dtype)
            if not adaptive:
                reach = dilation if conv == "dilated" else 1
                return nn.Conv2d(hidden, hidden, 3, padding=reach, dilation=reach, device=device, dtype=dtype)
            return AdaptiveConv2d(
                hidden,
                hidden,
                3,
                padding=1,
                modulation="none" if conv == "offsets" else modulation,
                max_offset=max_offset,
                offsets=conv != "kernel",
                condition_channels=int(cond_mask),
                device=device,
                dtype=dtype,
            )

        self.entry = downsampling_conv(in_channels, hidden, stride=stride, device=device, dtype=dtype)
        self.conv1 = inner(2)
        self.conv2 = inner(4)
        self.exit = nn.Conv2d(hidden, out_channels, 1, device=device, dtype=dtype)
        self.act = nn.LeakyReLU(0.2)
        nn.init.zeros_(self.exit.weight)
        nn.init.zeros_(self.exit.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """The hole-only residual of the level.

        Args:
            x: (B, in_channels, H, W).
            mask: (B, 1, H_m, W_m), 1 = hole; reduced to the output's size by nested max-pooling.

        Raises:
            ShapeError: Shapes do not fit the block, or the mask is smaller than the output.
        """
        check_feature(x, "x", channels=self.in_channels)
        check_mask(mask, x, same_size=False)
        hidden = self.act(self.entry(x))
        hole = resize_mask(mask, (hidden.shape[-2], hidden.shape[-1])).to(hidden.dtype)
        if self.region == "everywhere":
            hole = torch.ones_like(hole)
        filled = self.act(self._convolve(self.conv1, hidden, hole, region=None))
        filled = self._convolve(self.conv2, filled, hole, region=hole)
        return pointwise_conv2d(hidden + filled, self.exit.weight, self.exit.bias, hole)

    def _convolve(self, conv: nn.Module, x: Tensor, hole: Tensor, region: Tensor | None) -> Tensor:
        if isinstance(conv, AdaptiveConv2d):
            out: Tensor = conv(x, region, hole if self.cond_mask else None)
        else:
            out = conv(x)
        return out
