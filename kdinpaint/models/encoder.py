"""The encoder that teacher and student share: one downsampling convolution and residual blocks a level."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdinpaint.layers.blocks import ResidualBlock, downsampling_conv
from kdinpaint.layers.filler import FillerBlock

__all__ = ["Encoder", "encoder_level"]


def encoder_level(
    in_channels: int,
    out_channels: int,
    *,
    blocks: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Sequential:
    """f_feat of Eq. 3: 4x4 convolution at stride 2, then residual blocks.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        blocks: Number of residual blocks.
        device: Of the parameters.
        dtype: Of the parameters.
    """
    return nn.Sequential(
        downsampling_conv(in_channels, out_channels, device=device, dtype=dtype),
        *(ResidualBlock(out_channels, device=device, dtype=dtype) for _ in range(blocks)),
    )


class Encoder(nn.Module):
    """L levels, each with an optional filler beside it (parallel) or behind it (serial).

    Args:
        in_channels: Channels of the input.
        channels: Channels of each level.
        blocks: Residual blocks a level.
        device: Of the parameters.
        dtype: Of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        channels: Sequence[int],
        *,
        blocks: int = 1,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            encoder_level(before, after, blocks=blocks, device=device, dtype=dtype)
            for before, after in zip([in_channels, *channels[:-1]], channels, strict=True)
        )
        self.fillers = nn.ModuleList()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Features of all levels, shallow to deep.

        Args:
            x: (B, C, H, W), sides divisible by 2^L.
            mask: (B, 1, H, W), 1 = hole; needed where there are fillers.
        """
        features = []
        for number, level in enumerate(self.levels):
            out: Tensor = level(x)
            if len(self.fillers) and mask is not None:
                fill = self.fillers[number]
                assert isinstance(fill, FillerBlock)
                out = out + fill(out if fill.mode == "serial" else x, mask)
            features.append(out)
            x = out
        return features

    @torch.no_grad()
    def load_from(self, other: "Encoder", *, leading: bool = False) -> None:
        """Copy the levels of an encoder that sees a prefix of this one's input channels.

        Weights of further input channels become zero, so that features of an intact image are the same.

        Args:
            other: Has the same levels.
            leading: Let it have wider levels, of which the leading channels are taken.
        """
        for mine, theirs in zip(self.levels, other.levels, strict=True):
            state, wanted = theirs.state_dict(), mine.state_dict()
            for name in wanted if leading else ("0.weight",):
                given, target = state[name], wanted[name]
                if leading:
                    given = given[tuple(slice(length) for length in target.shape)]
                if target.shape[1:] != given.shape[1:]:
                    widened = torch.zeros_like(target[: len(given)])
                    widened[:, : given.shape[1]] = given[:, : target.shape[1]]
                    given = widened
                state[name] = given
            mine.load_state_dict(state)
