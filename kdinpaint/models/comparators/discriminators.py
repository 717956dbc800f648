"""The discriminators of GC, EC and PIC. Each gives a list of features, the scores of patches (logits) last."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint.models.comparators.base import spectral_norm
from kdinpaint.models.comparators.gated_conv import same_pad
from kdinpaint.models.comparators.pic_blocks import ResidualDown, ResidualUnit, SelfAttention, normed_conv

__all__ = ["PatchDiscriminator", "ResidualDiscriminator", "SNPatchDiscriminator"]


class SNPatchDiscriminator(nn.Module):
    """Of GC: six 5x5 convolutions at stride 2, spectrally normalised, leaky ReLU 0.2 after each.

    Args:
        in_channels: 4 for an RGB image and its mask.
        width: Of the first layer; then twice, and four times that.

    Shape:
        (B, in, H, W) -> list of 6 features, the last (B, 4 width, H / 64, W / 64): every value is a score

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import SNPatchDiscriminator
        >>> SNPatchDiscriminator(4, width=4)(torch.rand(1, 4, 64, 64))[-1].shape
        torch.Size([1, 16, 1, 1])
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        super().__init__()
        widths = [in_channels, width, 2 * width, *[4 * width] * 4]
        self.convs = nn.ModuleList(spectral_norm(nn.Conv2d(before, after, 5, 2)) for before, after in pairwise(widths))

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for conv in self.convs:
            x = F.leaky_relu(conv(same_pad(x, 5, 2)), 0.2)
            found.append(x)
        return found


class PatchDiscriminator(nn.Module):
    """Of EC: 70 x 70 patches (Isola et al. 2017), spectrally normalised 4x4 convolutions, leaky ReLU 0.2.

    Args:
        in_channels: 2 for grey image and edges, 3 for a colour image.
        width: Of the first layer; then 2, 4 and 8 times that, and 1.

    Shape:
        (B, in, H, W) -> list of 5 features, the last (B, 1, H / 8 - 2, W / 8 - 2)

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import PatchDiscriminator
        >>> PatchDiscriminator(3, width=4)(torch.rand(1, 3, 64, 64))[-1].shape
        torch.Size([1, 1, 6, 6])
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        super().__init__()
        widths, strides = [in_channels, width, 2 * width, 4 * width, 8 * width, 1], (2, 2, 2, 1, 1)
        self.convs = nn.ModuleList(
            spectral_norm(nn.Conv2d(before, after, 4, stride, 1, bias=False))
            for before, after, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        found = []
        for conv in self.convs[:-1]:
            x = F.leaky_relu(conv(x), 0.2)
            found.append(x)
        return [*found, self.convs[-1](x)]


class ResidualDiscriminator(nn.Module):
    """Of PIC: residual blocks that halve, self-attention before the fourth (or last), spectrally normalised.

    Args:
        in_channels: Channels of the image.
        channels: Of the blocks.

    Shape:
        (B, in, H, W) in [-1, 1] -> list of 1 score map (B, 1, h, w), h = H / 2^len(channels)

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import ResidualDiscriminator
        >>> ResidualDiscriminator(3, channels=(4, 4, 8))(torch.rand(1, 3, 32, 32))[-1].shape
        torch.Size([1, 1, 4, 4])
    """

    def __init__(self, in_channels: int, channels: Sequence[int] = (32, 64, 128, 128, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = [ResidualDown(in_channels, channels[0], first=True)]
        for number in range(1, len(channels)):
            if number == min(3, len(channels) - 1):
                layers.append(SelfAttention(channels[number - 1]))
            layers.append(ResidualDown(channels[number - 1], channels[number]))
        layers += [ResidualUnit(channels[-1], channels[-1]), nn.LeakyReLU(0.1), normed_conv(channels[-1], 1, 3)]
        self.body = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """See the class."""
        return [self.body(x)]
