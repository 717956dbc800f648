"""The decoder: context at the deepest level, upsampling, optional skips and attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint.layers.attention import AttentionFusion, GlobalLocalAttention
from kdinpaint.layers.blocks import ResidualBlock

__all__ = ["AttentionMap", "Decoder"]


@dataclass
class AttentionMap:
    """What the attention of a decoder did.

    Attributes:
        rows: (B, H, W, N), how each position shares itself among N keys; sums to 1.
        feature: (B, C, H, W), what it looked at.
    """

    rows: Tensor
    feature: Tensor


class Decoder(nn.Module):
    """Features of L levels to an image in [0, 1].

    Dilated residual blocks at the deepest level; then, level by level, nearest upsampling, a convolution that
    joins the skip (if any), and a residual block; attention at the second deepest level, or the only one.

    Args:
        channels: Channels of each encoder level.
        out_channels: Channels of the image.
        input_channels: Channels of the network input that joins at full resolution; 0 for no skips at all.
        head_channels: Width at full resolution.
        dilations: Of the residual blocks at the deepest level, one each.
        attention: Fusion of a `GlobalLocalAttention`, or None for none.
        known_keys: See `GlobalLocalAttention`.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        channels: Sequence[int],
        out_channels: int,
        *,
        input_channels: int = 0,
        head_channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4),
        attention: AttentionFusion | None = None,
        known_keys: bool = False,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.skips = input_channels > 0
        self.channels = tuple(channels)

        def conv(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1, device=device, dtype=dtype)

        self.context = nn.Sequential(
            *(ResidualBlock(channels[-1], dilation=d, device=device, dtype=dtype) for d in dilations)
        )
        self.joins = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for deep, shallow in zip(channels[:0:-1], channels[-2::-1], strict=True):
            self.joins.append(conv(deep + (shallow if self.skips else 0), shallow))
            self.blocks.append(ResidualBlock(shallow, device=device, dtype=dtype))
        self.attention = (
            None
            if attention is None
            else GlobalLocalAttention(
                channels[-2] if len(channels) > 1 else channels[-1],
                fusion=attention,
                known_keys=known_keys,
                device=device,
                dtype=dtype,
            )
        )
        self.head = nn.Sequential(
            conv(channels[0] + input_channels, head_channels),
            nn.LeakyReLU(0.2),
            conv(head_channels, out_channels),
        )

    def forward(
        self,
        features: Sequence[Tensor],
        x: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        tapped: list[AttentionMap] | None = None,
    ) -> Tensor:
        """The image.

        Args:
            features: One (B, C_l, H / 2^l, W / 2^l) a level, shallow to deep.
            x: (B, input_channels, H, W), the network input, where there are skips.
            mask: (B, 1, H, W), 1 = hole; only attention with known_keys uses it.
            tapped: A list that gets the attention map, if there is attention.

        Returns:
            (B, out_channels, H, W) in [0, 1].
        """
        out: Tensor = self.context(features[-1])
        if len(features) == 1:
            out = self._attend(out, mask, tapped)
        for number, (join, block) in enumerate(zip(self.joins, self.blocks, strict=True)):
            out = F.interpolate(out, scale_factor=2.0, mode="nearest")
            out = block(join(torch.cat([out, features[-2 - number]], 1) if self.skips else out))
            if number == 0:
                out = self._attend(out, mask, tapped)
        out = F.interpolate(out, scale_factor=2.0, mode="nearest")
        if self.skips:
            assert x is not None
            out = torch.cat([out, x], 1)
        return torch.sigmoid(self.head(out))

    @torch.no_grad()
    def load_from(self, other: "Decoder") -> None:
        """Start as a decoder that has no skips and as many or fewer residual blocks at the deepest level.

        Both give the same image of the same features: weights of skips become zero, further residual blocks the
        identity. Attention that the other one lacks stays as it is. Where the other one is wider, its leading channels
        are taken.

        Args:
            other: Has the same number of levels.
        """
        theirs = other.state_dict()
        # Inputs beyond these are skips, whatever the other one, wider, has in their place.
        deep = {f"joins.{number}.weight": width for number, width in enumerate(self.channels[:0:-1])}
        deep["head.0.weight"] = self.channels[0]
        for name, mine in self.state_dict().items():
            if name in theirs:
                own = mine[:, : deep[name]] if name in deep else mine
                common = tuple(slice(min(a, b)) for a, b in zip(own.shape, theirs[name].shape, strict=True))
                mine.zero_()
                own[common] = theirs[name][common]
            elif name.startswith("context.") and ".conv2." in name:
                mine.zero_()  # a residual block that adds nothing

    def _attend(self, x: Tensor, mask: Tensor | None, tapped: list[AttentionMap] | None) -> Tensor:
        if self.attention is None:
            return x
        if tapped is None:
            return self.attention(x, mask)
        out, rows = self.attention(x, mask, return_attention=True)
        tapped.append(AttentionMap(rows, x))
        return out
