"""Features in other layouts than (B, C, H, W): channels last as an axis, and tokens with or without a prefix."""

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError, ShapeError

__all__ = ["Layout", "fit", "grids", "guess_layout", "match"]

Size = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """How a feature lies in memory.

    Attributes:
        kind: "nchw", "nhwc" or "tokens".
        stride: Pixels of the image for one cell; tells the grid of tokens at any image size.
        prefix: Tokens before those of the grid, as class and register tokens.
        grid: (h, w) of the tokens if it is fixed.
    """

    kind: str = "nchw"
    stride: int = 1
    prefix: int = 0
    grid: Size | None = None

    def size(self, shape: tuple[int, ...], image: Size) -> Size:
        """(h, w) of a feature of that shape, for an image of that size."""
        if self.kind == "nchw":
            return (shape[2], shape[3])
        if self.kind == "nhwc":
            return (shape[1], shape[2])
        found = self.grid or _grid(shape[1] - self.prefix, image, self.stride)
        if found is None or found[0] * found[1] != shape[1] - self.prefix:
            raise ShapeError(
                f"{shape[1] - self.prefix} tokens are no grid over an image of {tuple(image)} at stride "
                f'{self.stride}; give the grid, as in RetrofitPlan(layout="tokens:14x14").'
            )
        return found

    def channels(self, shape: tuple[int, ...]) -> int:
        """Number of channels of a feature of that shape."""
        return shape[1] if self.kind == "nchw" else shape[-1]

    def to_nchw(self, x: Tensor, image: Size) -> Tensor:
        """(B, C, h, w); tokens of the prefix are left out."""
        if self.kind == "nchw":
            return x
        if self.kind == "nhwc":
            return x.permute(0, 3, 1, 2)
        height, width = self.size(tuple(x.shape), image)
        return x[:, self.prefix :].transpose(1, 2).reshape(x.shape[0], -1, height, width)

    def from_nchw(self, x: Tensor) -> Tensor:
        """Back to the layout; zeros for the prefix."""
        if self.kind == "nchw":
            return x
        if self.kind == "nhwc":
            return x.permute(0, 2, 3, 1)
        return F.pad(x.flatten(2).transpose(1, 2), (0, 0, self.prefix, 0))


def grids(image: Size, stride: int) -> list[Size]:
    """Grids (h, w) of that stride over an image: both axes rounded down, up, or one each."""
    down, up = [n // stride for n in image], [-(-n // stride) for n in image]
    return [(down[0], down[1]), (up[0], up[1]), (up[0], down[1]), (down[0], up[1])]


def _grid(cells: int, image: Size, stride: int) -> Size | None:
    """The grid (h, w) of that many cells over an image."""
    return next(((h, w) for h, w in grids(image, stride) if h * w == cells and h > 0), None)


def match(size: Size, image: Size, *, loose: bool = True) -> int:
    """The stride at which an image gives that size; 0 if there is none.

    Less than one cell may be missing or surplus; else, if `loose`, a power of two is taken that leaves up to a
    quarter of the cells to borders, as convolutions without padding do.
    """
    rounded = {round(n / max(m, 1)) for n, m in zip(image, size, strict=True)}
    strides = {max(1, stride + more) for stride in rounded for more in (-1, 0, 1)}

    def error(stride: int) -> float:
        return max(abs(m - n / stride) for n, m in zip(image, size, strict=True))

    best = min(sorted(strides), key=error)
    if error(best) < 1:
        return best
    near = 2 ** max(0, round(math.log2(max(image[0] / max(size[0], 1), 1))))
    return near if loose and error(near) <= min(size) / 4 else 0


def guess_layout(shape: tuple[int, ...], image: Size, *, last: bool | None = None, given: str | None = None) -> Layout:
    """The layout of a feature, from its shape and the size of the image.

    Args:
        shape: Of the feature.
        image: (H, W).
        last: Whether the modules of the stage say that channels are the last axis, if they say anything.
        given: What the plan says: it is believed.

    Raises:
        ConfigError: The feature has no layout that is known, or `given` is none.
    """
    kind, _, fixed = (given or "").partition(":")
    if given and not (kind in ("nchw", "nhwc", "tokens") and (not fixed or re.fullmatch(r"\d+x\d+", fixed))):
        raise ConfigError(f'layout is {given!r}; expected "nchw", "nhwc", "tokens" or, for example, "tokens:14x14".')
    if len(shape) == 4 and kind != "tokens":
        if not kind:
            first_ok, last_ok = (bool(match(size, image, loose=False)) for size in (shape[2:4], shape[1:3]))
            kind = "nhwc" if (last_ok and not first_ok) or (last_ok == first_ok and last) else "nchw"
        return Layout(kind, match(shape[2:4] if kind == "nchw" else shape[1:3], image))
    if len(shape) == 3 and kind in ("", "tokens"):
        if fixed:
            height, width = (int(n) for n in fixed.split("x"))
            return Layout("tokens", match((height, width), image), shape[1] - height * width, (height, width))
        strides = sorted(range(1, max(image) + 1), key=lambda s: any(n % s for n in image))  # whole cells first
        exact = sum(not any(n % s for n in image) for s in strides)
        for tried in (strides[:exact], strides[exact:]):
            for prefix in range(min(shape[1], 17)):
                for stride in tried:
                    if _grid(shape[1] - prefix, image, stride):
                        return Layout("tokens", stride, prefix)
    raise ConfigError(
        f"a feature of shape {shape} over an image of {image} is neither (B, C, H, W), (B, H, W, C) nor tokens "
        f"(B, N, C) of a grid{f' as layout={given!r} says' if given else ''}. Choose another stage, select its tensor "
        f'with inputs= and outputs=, or give its layout, as "tokens:14x14".'
    )


def fit(x: Tensor, size: Size, stride: int) -> Tensor:
    """Bring (B, C, H, W) to exactly `stride` times `size` by zeros or cropping at the borders.

    With stride 0 the two sizes have no simple ratio, and cells are averaged over (or repeated) instead.
    """
    if stride == 0:
        return x if tuple(x.shape[-2:]) == size else F.adaptive_avg_pool2d(x, size)
    missing = [m * stride - n for m, n in zip(size, x.shape[-2:], strict=True)]
    if not torch.compiler.is_exporting() and missing == [0, 0]:
        return x
    top, left = (torch.sym_int(n / 2) for n in missing)  # rounds to zero: what is odd is at the end
    return F.pad(x, (left, missing[1] - left, top, missing[0] - top))
