"""The teacher: an under-complete autoencoder that sees the intact image."""

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_feature
from kdinpaint._core.errors import ConfigError, KDInpaintWarning
from kdinpaint.models.decoder import Decoder
from kdinpaint.models.encoder import Encoder
from kdinpaint.models.hub import HubModel
from kdinpaint.models.padding import crop_to, pad_to_multiple

__all__ = ["AutoEncoder"]


class AutoEncoder(nn.Module, HubModel):
    """Reconstructs an intact image through a bottleneck; its encoder features teach the inpainting encoder.

    It has no skips: with them the shallow levels would carry the image and the deep ones need not know it.
    For the same reason it must be under-complete: the deepest level holds C_L (H / 2^L)^2 numbers, which is
    fewer than the in_channels H^2 of the image if C_L < in_channels 4^L.

    Args:
        in_channels: Channels of the image.
        channels: Channels of the L encoder levels.
        blocks: Residual blocks a level.
        head_channels: Width of the decoder at full resolution.
        dilations: Of the residual blocks at the deepest level of the decoder.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, in_channels, H, W) in [0, 1] -> the same

    Raises:
        ConfigError: No levels, or a level without channels.

    Example:
        >>> import torch
        >>> from kdinpaint import AutoEncoder
        >>> net = AutoEncoder(channels=(8, 16))
        >>> net(torch.rand(1, 3, 33, 40)).shape
        torch.Size([1, 3, 33, 40])
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        *,
        blocks: int = 1,
        head_channels: int = 16,
        dilations: Sequence[int] = (1,),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigError(f"channels is {channels}; expected the width of at least one level, each at least 1.")
        limit = in_channels * 4 ** len(channels)
        if channels[-1] >= limit:
            warnings.warn(
                f"an autoencoder with {channels[-1]} channels at 1/{2 ** len(channels)} resolution is over-complete: "
                f"it can copy a {in_channels}-channel image and teaches little. Use fewer than {limit} channels "
                f"at the deepest level, or more levels.",
                KDInpaintWarning,
                stacklevel=2,
            )
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.stride = 2 ** len(channels)
        self.encoder = Encoder(in_channels, channels, blocks=blocks, device=device, dtype=dtype)
        self.decoder = Decoder(
            channels,
            in_channels,
            head_channels=head_channels,
            dilations=dilations,
            device=device,
            dtype=dtype,
        )

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features x* of every level, shallow to deep, of the image padded to a multiple of 2^L."""
        check_feature(image, "image", channels=self.in_channels)
        return self.encoder(pad_to_multiple(image, self.stride))

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct an image of any size.

        Raises:
            ShapeError: `image` is not (B, in_channels, H, W).
        """
        out: Tensor = self.decoder(self.encode(image))
        return crop_to(out, (image.shape[-2], image.shape[-1]))
