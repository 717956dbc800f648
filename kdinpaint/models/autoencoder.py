"""The teacher: an under-complete autoencoder that sees the intact image."""

import warnings
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_feature
from kdinpaint._core.errors import ConfigError, KDInpaintWarning
from kdinpaint.layers.attention import AttentionFusion
from kdinpaint.models.decoder import AttentionMap, Decoder
from kdinpaint.models.encoder import Encoder
from kdinpaint.models.hub import HubModel
from kdinpaint.models.padding import crop_to, pad_to_multiple

__all__ = ["AutoEncoder"]


class LevelLike(Protocol):
    """What `AutoEncoder.for_levels` reads of a level."""

    @property
    def channels(self) -> int:
        """Channels of the feature."""

    @property
    def stride(self) -> int:
        """Pixels of the image a cell."""


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
        taught: Indices of the levels that `encode` returns, in its order; all of them by default.
        attention: Fusion of a `GlobalLocalAttention` in the decoder, as in the student's: it teaches attention, see
            `kdinpaint.AttentionTransferLoss`. None for none.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, in_channels, H, W) in [0, 1] -> the same

    Raises:
        ConfigError: No levels, a level without channels, or `taught` names none or one that there is not.

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
        taught: Sequence[int] | None = None,
        attention: AttentionFusion | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigError(f"channels is {channels}; expected the width of at least one level, each at least 1.")
        levels = range(len(channels))
        self.taught = tuple(levels) if taught is None else tuple(taught)
        if not self.taught or any(level not in levels for level in self.taught):
            raise ConfigError(f"taught is {taught}; expected indices of levels, 0 to {len(channels) - 1}.")
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
            attention=attention,
            device=device,
            dtype=dtype,
        )

    @classmethod
    def for_levels(
        cls,
        levels: Sequence[LevelLike],
        in_channels: int = 3,
        *,
        blocks: int = 1,
        head_channels: int = 16,
        dilations: Sequence[int] = (1,),
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> "AutoEncoder":
        """A teacher whose taught levels have the channels and strides of a student's.

        Levels in between are added where strides do more than double: for a ResNet, whose first stage has stride
        4, one at stride 2, which is not taught. Levels of one stride share one of the teacher's. Where the deepest
        level is too wide to be a bottleneck, levels that are not taught follow until there is one.

        Args:
            levels: Whatever has `channels` and `stride`, shallow to deep, such as `report.levels` of `retrofit`.
            in_channels: Channels of the image.
            blocks: See the class.
            head_channels: See the class.
            dilations: See the class.
            device: Of the parameters.
            dtype: Of the parameters.

        Raises:
            ConfigError: No levels, a stride that is not 2, 4, 8, ..., strides that fall, or levels of one
                stride that differ in channels.

        Example:
            >>> from types import SimpleNamespace as Level
            >>> from kdinpaint import AutoEncoder
            >>> net = AutoEncoder.for_levels([Level(channels=16, stride=4), Level(channels=32, stride=8)])
            >>> [tuple(f.shape) for f in net.encode(torch.rand(1, 3, 32, 32))]
            [(1, 16, 8, 8), (1, 32, 4, 4)]
        """
        channels, taught = _widths([(level.channels, level.stride) for level in levels])
        while channels[-1] >= in_channels * 4 ** len(channels):
            channels.append(channels[-1])
        return cls(
            in_channels,
            channels,
            blocks=blocks,
            head_channels=head_channels,
            dilations=dilations,
            taught=None if taught == list(range(len(channels))) else taught,
            device=device,
            dtype=dtype,
        )

    @property
    def feature_channels(self) -> tuple[int, ...]:
        """Channels of the features that `encode` returns."""
        return tuple(self.channels[level] for level in self.taught)

    def encode(self, image: Tensor) -> list[Tensor]:
        """The features x* of the taught levels, shallow to deep, of the image padded to a multiple of 2^L."""
        features = self._levels(image)
        return [features[level] for level in self.taught]

    def attend(self, image: Tensor) -> tuple[list[Tensor], AttentionMap]:
        """The features that `encode` returns, and what the decoder's attention did with them.

        Raises:
            ConfigError: There is no attention.
        """
        features, tapped = self._levels(image), list[AttentionMap]()
        self.decoder(features, tapped=tapped)
        if not tapped:
            raise ConfigError("this autoencoder has no attention; build it with attention='fuse', as the student's.")
        return [features[level] for level in self.taught], tapped[0]

    def _levels(self, image: Tensor) -> list[Tensor]:
        check_feature(image, "image", channels=self.in_channels)
        return self.encoder(pad_to_multiple(image, self.stride))

    def forward(self, image: Tensor) -> Tensor:
        """Reconstruct an image of any size.

        Raises:
            ShapeError: `image` is not (B, in_channels, H, W).
        """
        out: Tensor = self.decoder(self._levels(image))
        return crop_to(out, (image.shape[-2], image.shape[-1]))


def _widths(levels: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Channels of all levels from stride 2 on, and which of them the given (channels, stride) are."""
    strides = [stride for _, stride in levels]
    hint = (
        "Leave such levels out, or build AutoEncoder(channels=...) or another teacher by hand: features that "
        "differ in channels or size from the student's are aligned by Distiller."
    )
    if not levels or any(s < 2 or s & (s - 1) for s in strides) or strides != sorted(strides):
        raise ConfigError(
            f"the strides of the levels are {strides}; this autoencoder halves the resolution at each level and "
            f"needs strides among 2, 4, 8, ..., from shallow to deep. {hint}"
        )
    width: dict[int, int] = {}
    for channels, stride in levels:
        if width.setdefault(stride, channels) != channels:
            raise ConfigError(
                f"levels of stride {stride} have {width[stride]} and {channels} channels; one level of the teacher "
                f"cannot match both. {hint}"
            )
    all_channels: list[int] = []
    for depth in range(strides[-1].bit_length() - 1, 0, -1):
        above = all_channels[0] if all_channels else 0
        all_channels.insert(0, width.get(2**depth, min(above, max(16, above // 2))))
    return all_channels, [stride.bit_length() - 2 for stride in strides]
