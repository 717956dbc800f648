"""The reference student: a U-Net with filler blocks in the encoder and attention in the decoder."""

from collections.abc import Callable, Sequence
from typing import Literal, overload

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, check_feature, check_mask
from kdinpaint._core.errors import ConfigError
from kdinpaint.layers.attention import AttentionFusion
from kdinpaint.layers.filler import FillerBlock, FillerConv, FillerRegion
from kdinpaint.models.autoencoder import AutoEncoder
from kdinpaint.models.decoder import AttentionMap, Decoder
from kdinpaint.models.encoder import Encoder
from kdinpaint.models.hub import HubModel
from kdinpaint.models.padding import crop_to, pad_to_multiple

__all__ = ["Filler", "InpaintingNet"]

Filler = Literal["parallel", "serial", "none"]
Reread = Callable[[list[Tensor], Tensor], list[Tensor]]


class InpaintingNet(nn.Module, HubModel):
    """Fills the hole of an image; the inpainting network of the paper, re-implemented.

    The input is the image with its hole painted over, and the mask. Each encoder level has a filler block
    beside it (Eq. 3); the decoder has attention with a global-local structure. `filler="none"` and
    `attention=None` give the plain network that comparisons use: the same net without the additions.

    Args:
        in_channels: Channels C of the image; the network itself sees C + 1.
        channels: Channels of the L encoder levels.
        blocks: Residual blocks a level.
        head_channels: Width at full resolution.
        dilations: Of the residual blocks at the deepest level.
        skips: Hand encoder features and the input to the decoder.
        filler: "parallel" (Eq. 3), "serial" (the ICCV form) or "none".
        filler_conv: As `conv` of `FillerBlock`: "adaptive", or one of its ablations.
        filler_region: As `region` of `FillerBlock`.
        filler_width: Width inside a filler block, as a share of its level's channels.
        cond_mask: See `FillerBlock`.
        max_offset: See `FillerBlock`.
        attention: Fusion of the `GlobalLocalAttention`, or None for no attention.
        known_keys: See `GlobalLocalAttention`.
        fill: Value painted into the hole; 1 is white.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        image (B, C, H, W) in [0, 1], mask (B, 1, H, W) with 1 = hole -> (B, C, H, W) in [0, 1]

    Raises:
        ConfigError: No levels, a level without channels, an unknown filler, or a filler_width that is not positive.

    Example:
        >>> import torch
        >>> from kdinpaint import InpaintingNet
        >>> net = InpaintingNet(channels=(8, 16))
        >>> image, mask = torch.rand(1, 3, 50, 70), torch.zeros(1, 1, 50, 70)
        >>> net(image, mask).shape
        torch.Size([1, 3, 50, 70])
    """

    def __init__(
        self,
        in_channels: int = 3,
        channels: Sequence[int] = (32, 64, 128),
        *,
        blocks: int = 1,
        head_channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4),
        skips: bool = True,
        filler: Filler = "parallel",
        filler_conv: FillerConv = "adaptive",
        filler_region: FillerRegion = "hole",
        filler_width: float = 0.5,
        cond_mask: bool = False,
        max_offset: float | None = None,
        attention: AttentionFusion | None = "fuse",
        known_keys: bool = False,
        fill: float = 1.0,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(filler, ("parallel", "serial", "none"), "filler")
        if not channels or min(channels) < 1:
            raise ConfigError(f"channels is {channels}; expected the width of at least one level, each at least 1.")
        if filler_width <= 0:
            raise ConfigError(f"filler_width is {filler_width}; expected a positive share of the level's channels.")
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.stride = 2 ** len(channels)
        self.fill = fill
        self.encoder = Encoder(in_channels + 1, channels, blocks=blocks, device=device, dtype=dtype)
        self.decoder = Decoder(
            channels,
            in_channels,
            input_channels=in_channels + 1 if skips else 0,
            head_channels=head_channels,
            dilations=dilations,
            attention=attention,
            known_keys=known_keys,
            device=device,
            dtype=dtype,
        )
        if filler != "none":
            for before, after in zip([in_channels + 1, *channels[:-1]], channels, strict=True):
                self.encoder.fillers.append(
                    FillerBlock(
                        after if filler == "serial" else before,
                        after,
                        stride=1 if filler == "serial" else 2,
                        hidden_channels=max(int(after * filler_width), 1),
                        conv=filler_conv,
                        region=filler_region,
                        mode=filler,
                        max_offset=max_offset,
                        cond_mask=cond_mask,
                        device=device,
                        dtype=dtype,
                    )
                )

    def prepare(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Network input (B, C+1, H', W') and mask (B, 1, H', W'), padded to a multiple of 2^L.

        What the image holds inside the hole does not matter, not even NaN.
        """
        hole = mask != 0
        seen = torch.where(hole, self.fill, image)
        x = torch.cat([seen, hole.to(image.dtype)], 1)
        x = pad_to_multiple(x, self.stride)
        return x, x[:, -1:]

    def load_from(self, teacher: AutoEncoder, *, decoder: bool = True, leading: bool = False) -> None:
        """Start from a teacher's weights: of an intact image, a fresh student then makes what the teacher makes.

        The mask channel, skips and further residual blocks begin at zero; fillers and attention stay as they are. The
        features, and what the decoder reads in them, are the teacher's from the first step on.

        Args:
            teacher: An autoencoder of the same levels.
            decoder: Start the decoder, too; else the encoder alone.
            leading: Let the teacher have wider levels, of which the leading channels are taken.

        Raises:
            ConfigError: The levels differ.
        """
        mine, theirs = self.channels, teacher.channels
        fits = len(mine) == len(theirs) and all(
            a == b or (leading and a < b) for a, b in zip(mine, theirs, strict=True)
        )
        if not fits:
            raise ConfigError(
                f"the student's levels have {list(mine)} channels, the teacher's {list(theirs)}; expected the same"
                f"{' or wider ones' if leading else ', or leading=True and wider ones'}."
            )
        self.encoder.load_from(teacher.encoder, leading=leading)
        if decoder:
            self.decoder.load_from(teacher.decoder)

    def encode(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        """The features x of every level, shallow to deep; arguments as for `forward`."""
        return self.encoder(*self.prepare(image, mask))

    @overload
    def forward(self, image: Tensor, mask: Tensor, *, before_decoder: Reread | None = None) -> Tensor: ...
    @overload
    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        return_features: Literal[True],
        before_decoder: Reread | None = None,
    ) -> tuple[Tensor, list[Tensor]]: ...
    @overload
    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        return_features: Literal[True],
        return_attention: Literal[True],
        before_decoder: Reread | None = None,
    ) -> tuple[Tensor, list[Tensor], AttentionMap]: ...
    def forward(
        self,
        image: Tensor,
        mask: Tensor,
        *,
        return_features: bool = False,
        return_attention: bool = False,
        before_decoder: Reread | None = None,
    ) -> Tensor | tuple[Tensor, list[Tensor]] | tuple[Tensor, list[Tensor], AttentionMap]:
        """Predict the whole image; use `kdinpaint.ops.composite` to keep the known pixels.

        Args:
            image: (B, C, H, W) in [0, 1]; any size.
            mask: (B, 1, H, W), 1 = hole, float or bool.
            return_features: Also return the encoder features, for distillation.
            return_attention: Also return the features and what the decoder's attention did, for its transfer.
            before_decoder: Called with the features and the mask (B, 1, H', W'), both padded to a multiple of 2^L;
                returns what the decoder reads in place of the features, as `kdinpaint.distill.teacher_forcing` does.

        Raises:
            ShapeError: Shapes do not fit each other or the network.
            ConfigError: `return_attention` from a network without attention.
        """
        check_feature(image, "image", channels=self.in_channels)
        check_mask(mask, image)
        x, hole = self.prepare(image, mask)
        features: list[Tensor] = self.encoder(x, hole)
        tapped: list[AttentionMap] | None = [] if return_attention else None
        read = features if before_decoder is None else before_decoder(features, hole)
        out: Tensor = self.decoder(read, x, hole, tapped=tapped)
        out = crop_to(out, (image.shape[-2], image.shape[-1]))
        if tapped is None:
            return (out, features) if return_features else out
        if not tapped:
            raise ConfigError("this network has no attention to return; build it with attention='fuse'.")
        return out, features, tapped[0]
