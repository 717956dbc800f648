"""Attention with an adaptive global-local structure, for the decoder."""

from typing import Literal, cast, overload

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice, check_feature, check_mask
from kdinpaint._core.errors import ConfigError
from kdinpaint._core.tracing import is_exporting
from kdinpaint.layers.adaptive_conv import AdaptiveConv2d
from kdinpaint.ops.masks import resize_mask

__all__ = ["AttentionFusion", "GlobalLocalAttention"]

AttentionFusion = Literal["fuse", "sum", "concat", "attention", "local"]


class GlobalLocalAttention(nn.Module):
    r"""Attention over a low-resolution feature beside an adaptive local branch, fused per pixel.

    Global: $r_{ij} = \mathrm{softmax}_j(Q_i^\top K_j / \sqrt{d})$, $y_G = \sum_j r_{ij} f_V(d_j)$. Local:
    $y_L$, an adaptive convolution. Both are joined by a map $W \in [0, 1]^{1 \times H \times W}$ predicted from
    the feature: $y = d + W\,y_G + (1 - W)\,y_L$, with $W = 1/2$ when fresh. The form follows the ICCV version
    of the paper as far as it is public; the short paper names the structure only.

    Args:
        channels: Channels in and out.
        key_channels: Width d of queries and keys; a quarter of `channels` by default.
        fusion: "fuse" as above; "sum" d + y_G + y_L; "concat" d + conv1x1([y_G, y_L]); "attention" and
            "local" use one branch alone.
        known_keys: Let positions attend to known cells only (needs a mask).
        scaled: Divide by sqrt(d).
        max_keys: Keys and values of larger maps are average-pooled until at most this many are left, so that
            cost grows linearly with the number of pixels.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, C, H, W) -> (B, C, H, W)

    Raises:
        ConfigError: Unknown fusion, or `max_keys` below 1.

    Example:
        >>> import torch
        >>> from kdinpaint import GlobalLocalAttention
        >>> GlobalLocalAttention(32)(torch.randn(1, 32, 16, 16)).shape
        torch.Size([1, 32, 16, 16])
    """

    def __init__(
        self,
        channels: int,
        *,
        key_channels: int | None = None,
        fusion: AttentionFusion = "fuse",
        known_keys: bool = False,
        scaled: bool = True,
        max_keys: int = 1024,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(fusion, ("fuse", "sum", "concat", "attention", "local"), "fusion")
        if max_keys < 1:
            raise ConfigError(f"max_keys is {max_keys}; expected at least 1.")
        keys = key_channels or max(channels // 4, 1)
        self.channels = channels
        self.fusion: AttentionFusion = fusion
        self.known_keys = known_keys
        self.max_keys = max_keys
        self.scale = keys**-0.5 if scaled else 1.0

        def pointwise(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 1, device=device, dtype=dtype)

        self.query = self.key = self.value = self.local = self.gate = self.join = None
        if fusion != "local":
            self.query = pointwise(channels, keys)
            self.key = pointwise(channels, keys)
            self.value = pointwise(channels, channels)
        if fusion != "attention":
            self.local = AdaptiveConv2d(channels, channels, 3, padding=1, device=device, dtype=dtype)
        if fusion == "fuse":
            self.gate = nn.Conv2d(channels, 1, 3, padding=1, device=device, dtype=dtype)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)  # type: ignore[arg-type]
        if fusion == "concat":
            self.join = pointwise(2 * channels, channels)

    def attention(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attention rows r (B, H*W, N) and values (B, N, C), N being the number of keys.

        Args:
            x: (B, C, H, W).
            mask: (B, 1, H_m, W_m), 1 = hole; used with `known_keys`. Where no key is known all are used.
        """
        if self.query is None or self.key is None or self.value is None:
            raise RuntimeError("fusion='local' has no attention branch")
        source = _pool_to(x, self.max_keys)
        query = rearrange(self.query(x), "b d h w -> b (h w) d")
        key = rearrange(self.key(source), "b d h w -> b d (h w)")
        scores = query @ key * self.scale
        if self.known_keys and mask is not None:
            check_mask(mask, x, same_size=False)
            hole = resize_mask(mask, (source.shape[-2], source.shape[-1])).flatten(2) != 0
            hole = hole & ~hole.all(-1, keepdim=True)
            scores = scores.masked_fill(hole, -torch.inf)
        return scores.softmax(-1), rearrange(self.value(source), "b c h w -> b (h w) c")

    @overload
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor: ...
    @overload
    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, return_attention: Literal[True]
    ) -> tuple[Tensor, Tensor]: ...
    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Apply the block.

        Args:
            x: (B, C, H, W).
            mask: (B, 1, H_m, W_m), 1 = hole, from the feature's resolution upwards; only `known_keys` uses it.
            return_attention: Also return the attention (B, H, W, N), how each position shares itself among N keys.

        Raises:
            ShapeError: Shapes do not fit the block.
            ConfigError: `return_attention` with fusion="local", which has none.
        """
        check_feature(x, "x", channels=self.channels)
        if not return_attention:
            return self._fuse(x, *(self.attention(x, mask) if self.query is not None else (None, None)))
        if self.query is None:
            raise ConfigError("fusion='local' has no attention to return; choose another fusion.")
        rows, values = self.attention(x, mask)
        return self._fuse(x, rows, values), rearrange(rows, "b (h w) n -> b h w n", h=x.shape[-2])

    def _fuse(self, x: Tensor, rows: Tensor | None, values: Tensor | None) -> Tensor:
        far = near = None
        if rows is not None and values is not None:
            far = rearrange(rows @ values, "b (h w) c -> b c h w", h=x.shape[-2])
        if self.local is not None:
            near = self.local(x)
        if far is None or near is None:
            branch = near if far is None else far
            assert branch is not None
            return x + branch
        if self.gate is not None:
            weight = torch.sigmoid(self.gate(x))
            return x + weight * far + (1 - weight) * near
        if self.join is not None:
            joined: Tensor = self.join(torch.cat([far, near], 1))
            return x + joined
        return x + far + near


def _pool_to(x: Tensor, cells: int) -> Tensor:
    """Average-pool until at most `cells` positions are left; x itself if it is small enough."""
    if is_exporting():
        return _pool_any(x, cells)
    height, width = x.shape[-2:]
    factor = 1
    while -(-height // factor) * -(-width // factor) > cells:
        factor += 1
    return x if factor == 1 else F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def _pool_any(x: Tensor, cells: int) -> Tensor:
    """The same with a factor that an exported graph finds for the size it is given."""
    height, width = x.shape[-2:]
    factors = torch.arange(1, height + width + 1, device=x.device)
    left = ((height - 1 + factors) // factors) * ((width - 1 + factors) // factors)
    factor = cast(int, (1 + (left > cells).sum()).item())  # the larger the factor, the fewer cells are left
    torch._check(factor >= 1)

    def averages(pixels: int) -> Tensor:
        count = (pixels + factor - 1) // factor
        torch._check(count >= 1)
        cell = torch.arange(pixels, device=x.device) // factor
        member = (torch.arange(count, device=x.device)[:, None] == cell).to(x.dtype)
        return member / member.sum(1, keepdim=True)

    return torch.einsum("ih,bchw,jw->bcij", averages(height), x, averages(width))
