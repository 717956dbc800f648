"""Square windows of photographs: drawing one, and cutting it out at a given size."""

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.errors import DataError

__all__ = ["Window", "centre_window", "cut_window", "draw_window"]

Window = tuple[int, int, int]  # top, left, side


def centre_window(height: int, width: int) -> Window:
    """The largest square in the middle of the image."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def draw_window(height: int, width: int, *, size: int, smallest: float, rng: np.random.Generator) -> Window:
    """A square of random side at a random place, at least `size` and at most the whole short side.

    Args:
        height: Of the photograph.
        width: Of the photograph.
        size: Smallest side in pixels.
        smallest: Smallest side as a share of the short side.
        rng: Source of randomness; three draws are taken, always.

    Returns:
        (top, left, side).

    Raises:
        DataError: The photograph is smaller than `size`.
    """
    short = min(height, width)
    if short < size:
        raise DataError(
            f"A photograph is {width} x {height} pixels and the window {size}; expected larger photographs. "
            f"Pass min_size={size} to PhotoFolder, or use a smaller size."
        )
    side = int(rng.integers(min(max(size, round(smallest * short)), short), short + 1))
    top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
    return top, left, side


def cut_window(photo: Tensor, window: Window, size: int) -> Tensor:
    """Cut a window and bring it to `size`, bilinearly with antialiasing.

    Args:
        photo: (C, H, W), uint8.
        window: (top, left, side), inside the photograph.
        size: Side of the result.

    Returns:
        (C, size, size), float32 in [0, 1].
    """
    top, left, side = window
    cut = photo[:, top : top + side, left : left + side].float().div(255)
    if side == size:
        return cut
    cut = F.interpolate(cut[None], (size, size), mode="bilinear", antialias=True, align_corners=False)[0]
    return cut.clamp(0, 1)
