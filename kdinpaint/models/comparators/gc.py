"""GC: gated convolutions in two stages, the second with contextual attention (Yu et al., ICCV 2019)."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint.models.comparators.base import Comparator, to_unit
from kdinpaint.models.comparators.contextual_attention import contextual_attention
from kdinpaint.models.comparators.gated_conv import GatedConv2d, same_pad

__all__ = ["GatedConvNet"]


class Doubled(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 gated convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.gated = GatedConv2d(before, after, 3)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.gated(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


class ToImage(nn.Module):
    """3x3 convolution without gate, tanh: an image in [-1, 1]."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return torch.tanh(self.conv(same_pad(x, 3)))


def dilated(channels: int) -> list[nn.Module]:
    """Four 3x3 gated convolutions that reach ever farther."""
    return [GatedConv2d(channels, channels, 3, dilation=d) for d in (2, 4, 8, 16)]


def decoder(before: int, width: int, image: int) -> list[nn.Module]:
    """From a quarter of the size to the image."""
    c = width
    return [
        GatedConv2d(before, 4 * c, 3),
        GatedConv2d(4 * c, 4 * c, 3),
        Doubled(4 * c, 2 * c),
        GatedConv2d(2 * c, 2 * c, 3),
        Doubled(2 * c, c),
        GatedConv2d(c, c // 2, 3),
        ToImage(c // 2, image),
    ]


class GatedConvNet(Comparator):
    """GC: a coarse network, and a refinement of convolution and attention branch; 4.1 million parameters.

    Every convolution but the last of a stage is gated; none is followed by a normalisation. The coarse result is
    pasted into the hole and refined. Widths are those after the gate: 24, 48, 96.

    Args:
        in_channels: Channels C of the image.
        width: Of the first layers, even.

    Shape:
        image (B, C, H, W) in [0, 1], mask (B, 1, H, W) with 1 = hole -> (B, C, H, W) in [0, 1]

    Example:
        >>> import torch
        >>> from kdinpaint import create_model
        >>> net = create_model("gc", width=4)
        >>> net(torch.rand(2, 3, 30, 44), torch.zeros(2, 1, 30, 44)).shape
        torch.Size([2, 3, 30, 44])
    """

    retrofit_levels: ClassVar[tuple[str, ...]] = ("refine_conv.1", "refine_conv.3")

    def __init__(self, in_channels: int = 3, width: int = 24) -> None:
        super().__init__(in_channels, 8)
        c = width
        self.coarse = nn.Sequential(
            GatedConv2d(in_channels + 2, c, 5),
            GatedConv2d(c, 2 * c, 3, 2),
            GatedConv2d(2 * c, 2 * c, 3),
            GatedConv2d(2 * c, 4 * c, 3, 2),
            GatedConv2d(4 * c, 4 * c, 3),
            GatedConv2d(4 * c, 4 * c, 3),
            *dilated(4 * c),
            *decoder(4 * c, c, in_channels),
        )
        self.refine_conv = nn.Sequential(
            GatedConv2d(in_channels, c, 5),
            GatedConv2d(c, c, 3, 2),
            GatedConv2d(c, 2 * c, 3),
            GatedConv2d(2 * c, 2 * c, 3, 2),
            GatedConv2d(2 * c, 4 * c, 3),
            GatedConv2d(4 * c, 4 * c, 3),
            *dilated(4 * c),
        )
        self.before_attention = nn.Sequential(
            GatedConv2d(in_channels, c, 5),
            GatedConv2d(c, c, 3, 2),
            GatedConv2d(c, 2 * c, 3),
            GatedConv2d(2 * c, 4 * c, 3, 2),
            GatedConv2d(4 * c, 4 * c, 3),
            GatedConv2d(4 * c, 4 * c, 3, activation="relu"),
        )
        self.after_attention = nn.Sequential(GatedConv2d(4 * c, 4 * c, 3), GatedConv2d(4 * c, 4 * c, 3))
        self.decoder = nn.Sequential(*decoder(8 * c, c, in_channels))

    def stages(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """The coarse and the refined image, (B, C, H, W) in [0, 1]; arguments as for `predict`."""
        seen = (2 * image - 1) * (1 - hole)
        coarse = self.coarse(torch.cat([seen, torch.ones_like(hole), hole], 1))
        pasted = torch.where(hole != 0, coarse, seen)
        patched = contextual_attention(self.before_attention(pasted), hole[..., ::4, ::4])
        both = torch.cat([self.refine_conv(pasted), self.after_attention(patched)], 1)
        return to_unit(coarse), to_unit(self.decoder(both))

    def predict(self, image: Tensor, hole: Tensor) -> Tensor:
        """See `Comparator`."""
        return self.stages(image, hole)[1]
