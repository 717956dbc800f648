"""PC: the U-Net of partial convolutions (Liu et al., ECCV 2018), from its layer table."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError
from kdinpaint.models.comparators.base import Comparator
from kdinpaint.models.comparators.partial_conv import PartialConv2d

__all__ = ["PartialConvNet"]


class PartialConvStage(nn.Module):
    """Partial convolution, batch normalisation, activation: (x, hole) -> (y, hole)."""

    def __init__(
        self, before: int, after: int, kernel: int, stride: int, *, norm: bool, act: nn.Module, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = PartialConv2d(before, after, kernel, stride, bias=bias)
        self.norm = nn.BatchNorm2d(after) if norm else nn.Identity()
        self.act = act

    def forward(self, x: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        y, hole = self.conv(x, hole)
        return self.act(self.norm(y)), hole


class PartialConvNet(Comparator):
    """PC, the partial-convolution U-Net: L encoder and L decoder stages, features and holes both handed across.

    At 512 pixels the paper has eight levels; for 256 one of the 512-channel levels is left out, so that the deepest
    is 2 x 2 again. Encoder kernels 7, 5, 5, 3, ..., ReLU; decoder 3 x 3 after nearest doubling, leaky ReLU 0.2;
    batch normalisation everywhere but in the first and the last stage; no bias but in the last.

    Args:
        in_channels: Channels C of the image.
        channels: Of the encoder levels.

    Shape:
        image (B, C, H, W) in [0, 1], mask (B, 1, H, W) with 1 = hole -> (B, C, H, W); in [0, 1] in eval mode, not
        limited in training, as the last stage has no activation

    Raises:
        ConfigError: Fewer than two levels.

    Example:
        >>> import torch
        >>> from kdinpaint import create_model
        >>> net = create_model("pc", channels=(8, 16))
        >>> net(torch.rand(2, 3, 50, 70), torch.zeros(2, 1, 50, 70)).shape
        torch.Size([2, 3, 50, 70])
    """

    retrofit_levels: ClassVar[tuple[str, ...]] = ("encoder.0", "encoder.1", "encoder.2")

    def __init__(self, in_channels: int = 3, channels: Sequence[int] = (64, 128, 256, 512, 512, 512, 512)) -> None:
        if len(channels) < 2:
            raise ConfigError(f"channels is {tuple(channels)}; expected at least two levels.")
        super().__init__(in_channels, 2 ** len(channels))
        kernels = [7, 5, 5] + [3] * len(channels)
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(
            PartialConvStage(before, after, kernel, 2, norm=level > 0, act=nn.ReLU())
            for level, (before, after, kernel) in enumerate(zip(widths, channels, kernels, strict=False))
        )
        self.decoder = nn.ModuleList()
        below = channels[-1]
        for level in range(len(channels) - 1, -1, -1):
            last = level == 0
            out = in_channels if last else widths[level]
            act = nn.Identity() if last else nn.LeakyReLU(0.2)
            stage = PartialConvStage(below + widths[level], out, 3, 1, norm=not last, act=act, bias=last)
            self.decoder.append(stage)
            below = out
        self.encoder_norm_frozen = False
        self.reset_parameters()

    @staticmethod
    def channels_for(size: int) -> tuple[int, ...]:
        """`channels` for training crops of a side: 512-channel levels are left out until the deepest is 2 x 2 or 3 x 3.

        That is how the paper goes from 512 pixels to 256. More levels would only pad: seven of them quadruple the work
        at 64 pixels. There are at least three.

        Args:
            size: Side of the crops in pixels.

        Example:
            >>> from kdinpaint.models.comparators import PartialConvNet
            >>> PartialConvNet.channels_for(64)
            (64, 128, 256, 512, 512)
        """
        levels = max(3, size.bit_length() - 2)
        return (64, 128, 256, *[512] * (levels - 3))

    def reset_parameters(self) -> None:
        """He initialisation of all kernels."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.0, mode="fan_in")

    def freeze_encoder_norm(self) -> None:
        """Stop the encoder's batch normalisation, statistics and parameters, for fine-tuning on masked images."""
        self.encoder_norm_frozen = True
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "PartialConvNet":
        """As always, except that a frozen normalisation stays in eval mode."""
        super().train(mode)
        if self.encoder_norm_frozen:
            self.freeze_encoder_norm()
        return self

    def predict(self, image: Tensor, hole: Tensor) -> Tensor:
        """See `Comparator`."""
        x = image
        skips = []
        for stage in self.encoder:
            skips.append((x, hole))
            x, hole = stage(x, hole)
        for stage, (skip, skip_hole) in zip(self.decoder, reversed(skips), strict=True):
            x, hole = (F.interpolate(t, scale_factor=2.0, mode="nearest") for t in (x, hole))
            holes = torch.cat([hole.expand(-1, x.shape[1], -1, -1), skip_hole.expand(-1, skip.shape[1], -1, -1)], 1)
            x, hole = stage(torch.cat([x, skip], 1), holes)
        return x
