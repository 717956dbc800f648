"""Blocks of PIC: residual blocks with spectral norms that keep, halve or double, and its attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint.models.comparators.base import spectral_norm

__all__ = ["ResidualDown", "ResidualUnit", "ResidualUp", "SelfAttention", "ToImage", "normed_conv"]


def normed_conv(before: int, after: int, kernel: int) -> nn.Module:
    """Convolution that keeps the size, orthogonal at first, spectrally normalised."""
    return _orthogonal(nn.Conv2d(before, after, kernel, padding=kernel // 2))


def normed_doubling(before: int, after: int) -> nn.Module:
    """Transposed 3x3 convolution that doubles the size, orthogonal at first, spectrally normalised."""
    return _orthogonal(nn.ConvTranspose2d(before, after, 3, 2, 1, output_padding=1))


def _orthogonal(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    if not convolution.weight.is_meta:
        nn.init.orthogonal_(convolution.weight)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return spectral_norm(convolution)


class ResidualUnit(nn.Module):
    """conv3(act(conv3(act(x)))) plus a 1x1 convolution of x."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(0.1), normed_conv(before, after, 3), nn.LeakyReLU(0.1), normed_conv(after, after, 3)
        )
        self.shortcut = normed_conv(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H, W)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class ResidualDown(nn.Module):
    """As `ResidualUnit`, and halved by mean pooling. The first of a network has no activation before its input."""

    def __init__(self, before: int, after: int, *, first: bool = False) -> None:
        super().__init__()
        self.first = first
        self.conv1, self.conv2 = normed_conv(before, after, 3), normed_conv(after, after, 3)
        self.shortcut = normed_conv(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H / 2, W / 2)."""
        y = self.conv1(x if self.first else F.leaky_relu(x, 0.1))
        y = F.avg_pool2d(self.conv2(F.leaky_relu(y, 0.1)), 2)
        # Pooling and a 1x1 convolution commute; this order is the cheaper one.
        short: Tensor = self.shortcut(F.avg_pool2d(x, 2))
        return y + short


class ResidualUp(nn.Module):
    """Instance normalisation, activation and convolution twice, the second one doubling; doubled shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.InstanceNorm2d(before),
            nn.LeakyReLU(0.1),
            normed_conv(before, after, 3),
            nn.InstanceNorm2d(after),
            nn.LeakyReLU(0.1),
            normed_doubling(after, after),
        )
        self.shortcut = normed_doubling(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, 2 H, 2 W)."""
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


class ToImage(nn.Module):
    """Activation, 3x3 convolution with reflected border, tanh."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(1)
        self.conv = _orthogonal(nn.Conv2d(before, after, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, after, H, W) in [-1, 1]."""
        return torch.tanh(self.conv(self.pad(F.leaky_relu(x, 0.1))))


class SelfAttention(nn.Module):
    """Every place looks at every other (short-term), and by the same weights at an encoder feature (long-term).

    Queries are keys: one 1x1 convolution to a quarter of the channels gives both. With a = softmax(q q') and the
    decoder feature d: short = gamma a d + d. With an encoder feature e: long = alpha (1 - known) a e + known e, and a
    residual block mixes both. gamma and alpha start at 0.

    Args:
        channels: Of the decoder feature.
        encoder_channels: Of the encoder feature, or None for a layer without one.
    """

    def __init__(self, channels: int, encoder_channels: int | None = None) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, max(channels // 4, 1), 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        if encoder_channels is not None:
            self.alpha = nn.Parameter(torch.zeros(1))
            self.mix = ResidualUnit(channels + encoder_channels, channels)

    def forward(self, x: Tensor, encoded: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """(B, C, H, W), encoder feature (B, E, H, W), known (B, 1, H, W) -> (B, C, H, W)."""
        query = self.query(x).flatten(2)
        weights = (query.mT @ query).softmax(2)
        short = self.gamma * (x.flatten(2) @ weights.mT).view_as(x) + x
        if encoded is None or known is None:
            return short
        flow = (encoded.flatten(2) @ weights.mT).view_as(encoded)
        mixed: Tensor = self.mix(torch.cat([short, self.alpha * (1 - known) * flow + known * encoded], 1))
        return mixed
