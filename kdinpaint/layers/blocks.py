"""Plain convolution blocks that encoder, decoder, fillers and aligners share.

None normalises: instance and group statistics would carry the hole into known cells, batch statistics
would break exact replays.
"""

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError

__all__ = ["GatedConv2d", "ResidualBlock", "downsampling_conv", "readout_conv"]


def readout_conv(
    in_channels: int,
    out_channels: int,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Conv2d:
    """A 1x1 convolution that reads some features from others; where channels are as many, the identity when fresh.

    Args:
        in_channels: Of the features that are there.
        out_channels: Of those that are read.
        device: Of the parameters.
        dtype: Of the parameters.
    """
    conv = nn.Conv2d(in_channels, out_channels, 1, device=device, dtype=dtype)
    if in_channels == out_channels:
        nn.init.dirac_(conv.weight)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return conv


def downsampling_conv(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 2,
    bias: bool = True,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Conv2d:
    """A convolution from one level to the next, centred on the cells that mask pooling joins.

    Even strides use kernel 2s, padding s/2: a 4x4 kernel at stride 2 is centred on the 2x2 block of the pooled
    mask, where a 3x3 one is half a pixel off. Stride 1 uses a 3x3 kernel.

    Args:
        in_channels: Channels of the finer level.
        out_channels: Channels of the coarser level.
        stride: 1, or even.
        bias: Learn a bias.
        device: Of the parameters.
        dtype: Of the parameters.

    Raises:
        ConfigError: An odd stride above 1.
    """
    if stride != 1 and (stride < 1 or stride % 2):
        raise ConfigError(f"stride is {stride}; expected 1 or an even number.")
    kernel, padding = (3, 1) if stride == 1 else (2 * stride, stride // 2)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias, device=device, dtype=dtype)


class ResidualBlock(nn.Module):
    """x + conv3x3(act(conv3x3(act(x)))), without normalisation.

    Args:
        channels: Channels in and out.
        dilation: Of both convolutions.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(
        self,
        channels: int,
        *,
        dilation: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, device=device, dtype=dtype)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation, device=device, dtype=dtype)
        self.act = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.conv2(self.act(self.conv1(self.act(x))))


class GatedConv2d(nn.Conv2d):
    """conv3x3(x) * sigmoid(conv3x3'(x)), both as one convolution of twice the channels; a gated convolution.

    Args:
        channels: Channels in and out.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, C, H, W) -> (B, C, H, W)
    """

    def __init__(self, channels: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(channels, 2 * channels, 3, padding=1, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        value, gate = super().forward(x).chunk(2, dim=1)
        return value * torch.sigmoid(gate)
