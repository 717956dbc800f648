"""Masks: polarity, the nested pyramid, hole ratio and composition. Inside kdinpaint 1 means hole."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice, check_feature, check_mask
from kdinpaint._core.errors import ShapeError
from kdinpaint._core.tracing import is_exporting

__all__ = [
    "RATIO_BINS",
    "MaskResize",
    "Polarity",
    "composite",
    "hole_ratio",
    "mask_pyramid",
    "orient_mask",
    "resize_mask",
]

Polarity = Literal["hole", "known"]
MaskResize = Literal["max", "nearest", "area"]

RATIO_BINS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Edges of the hole-ratio bins (low, high] by which the field reports."""


def orient_mask(mask: Tensor, polarity: Polarity) -> Tensor:
    """Turn a mask of either polarity into 1 = hole.

    Args:
        mask: Any shape, binary.
        polarity: What 1 (or white) means in `mask`: "hole" or "known".

    Returns:
        The mask with 1 = hole, of the same dtype.

    Raises:
        ConfigError: Unknown polarity.
    """
    check_choice(polarity, ("hole", "known"), "polarity")
    if polarity == "hole":
        return mask
    return ~mask if mask.dtype == torch.bool else 1 - mask


def resize_mask(mask: Tensor, size: tuple[int, int], *, mode: MaskResize = "max") -> Tensor:
    """Bring a mask to the resolution of a feature level.

    With "max", the default, max-pooling by two along each axis (last odd row and column kept) is repeated as long
    as it does not pass the target; what is left is covered by adaptive max-pooling, and so is a step from 3 cells
    to 2, because networks that round sizes up and down put the second cell at different places. No hole pixel is
    lost, and levels made from one mask are nested: at 256 pixels "nearest" keeps 29 % of a 3-pixel stroke at 1/8
    resolution.

    Args:
        mask: (B, 1, H, W), 1 = hole, float or bool.
        size: Target (h, w), from (1, 1) to (H, W).
        mode: "max"; "nearest"; or "area" (hole where more than half of the cell is).

    Returns:
        (B, 1, h, w), of the dtype of `mask`, binary if `mask` is.

    Raises:
        ShapeError: `mask` is not (B, 1, H, W), or smaller than `size`, or `size` is empty.
        ConfigError: Unknown mode.
    """
    check_mask(mask)
    check_choice(mode, ("max", "nearest", "area"), "mode")
    height, width = mask.shape[-2:]
    if not is_exporting() and not (1 <= size[0] <= height and 1 <= size[1] <= width):
        raise ShapeError(
            f"mask is {(height, width)} and the level {tuple(size)}; a mask can only be reduced. "
            f"Pass the mask at full image size."
        )
    pooled = mask if mask.is_floating_point() else mask.float()
    if mode == "nearest":
        pooled = F.interpolate(pooled, size=size, mode="nearest-exact")
    elif mode == "area":
        pooled = (F.adaptive_avg_pool2d(pooled, size) > 0.5).to(pooled.dtype)
    elif is_exporting() and not _halves((height, width), size):
        pooled = _cover(_cover(pooled, 2, size[0]), 3, size[1])
    else:
        while 2 in (window := [_window(n, m) for n, m in zip(pooled.shape[-2:], size, strict=True)]):
            pooled = F.max_pool2d(pooled, window, ceil_mode=True)
        if tuple(pooled.shape[-2:]) != tuple(size):
            pooled = F.adaptive_max_pool2d(pooled, size)
    return pooled.to(mask.dtype)


def _window(cells: int, target: int) -> int:
    """2 along an axis that can be halved without passing the target, else 1."""
    return 2 if cells > target and (cells + 1) // 2 >= target and (cells, target) != (3, 2) else 1


def _halves(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether repeated halving is known to lead to the target, for every size that a graph is exported for."""
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # imports sympy

    return all(
        any(statically_known_true(cells == goal * 2**times) for times in range(12))
        for cells, goal in zip(size, target, strict=True)
    )


def _cover(mask: Tensor, axis: int, target: int) -> Tensor:
    """Max-pooling of a binary mask along one axis as above, with sizes that are known when a graph runs, no earlier.

    The halvings and the adaptive step give every cell an interval of pixels; a running sum tells whether it holds any.
    """
    pixels = mask.shape[axis]
    power = 2 ** torch.arange(30, device=mask.device)
    cells = (pixels - 1 + power) // power
    half = (cells + 1) // 2
    halved = (cells > target) & (half >= target) & ~((cells == 3) & (half == target))
    span = 1 + (halved * power).sum()  # 2 to the number of halvings
    left = (pixels - 1 + span) // span
    cell = torch.arange(target, device=mask.device)
    start = cell * left // target * span
    stop = (((cell + 1) * left + target - 1) // target * span).clamp(max=pixels)
    total = F.pad((mask != 0).float().cumsum(axis), (0, 0, 1, 0) if axis == 2 else (1, 0))
    return (total.index_select(axis, stop) - total.index_select(axis, start) > 0).to(mask.dtype)


def mask_pyramid(mask: Tensor, sizes: Sequence[tuple[int, int]], *, mode: MaskResize = "max") -> list[Tensor]:
    """The mask at every feature level: M_l of Eq. 1 to 3.

    Args:
        mask: (B, 1, H, W), 1 = hole, at full image size.
        sizes: (h, w) of each level.
        mode: As in `resize_mask`.

    Returns:
        One (B, 1, h, w) mask a level.

    Raises:
        ShapeError: A level is larger than the mask.

    Example:
        >>> import torch
        >>> from kdinpaint.ops import mask_pyramid
        >>> mask = torch.zeros(1, 1, 8, 8); mask[..., 3, 5] = 1
        >>> [int(m.sum()) for m in mask_pyramid(mask, [(8, 8), (4, 4), (2, 2)])]
        [1, 1, 1]
    """
    return [resize_mask(mask, size, mode=mode) for size in sizes]


def erode(hole: Tensor) -> Tensor:
    """Holes (B, 1, H, W), float, less their cells beside a known one, diagonals included; the border is not known."""
    return 1 - F.max_pool2d(1 - hole, 3, 1, 1)  # padding is -inf for a maximum


def hole_ratio(mask: Tensor) -> Tensor:
    """The share of hole pixels of each mask.

    Args:
        mask: (B, 1, H, W), 1 = hole, float or bool.

    Returns:
        (B,), float, in [0, 1].

    Raises:
        ShapeError: `mask` is not (B, 1, H, W).
    """
    check_mask(mask)
    return mask.flatten(1).float().mean(1)


def composite(prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Prediction inside the hole, image elsewhere, chosen pixel by pixel: known pixels are bit-exact.

    Args:
        prediction: (B, C, H, W).
        image: (B, C, H, W); may hold anything, even NaN, inside the hole.
        mask: (B, 1, H, W), 1 = hole, float or bool.

    Returns:
        (B, C, H, W).

    Raises:
        ShapeError: Shapes do not fit each other.
    """
    check_feature(prediction, "prediction")
    check_feature(image, "image", channels=prediction.shape[1])
    check_mask(mask, image)
    return torch.where(mask != 0, prediction, image)
