"""From floating point to the 256 levels of an image file."""

import torch
from torch import Tensor

from kdinpaint._core.errors import RangeError

__all__ = ["round_to_uint8", "truncate_to_uint8"]


def round_to_uint8(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the nearest of 256 levels, as an image file holds them.

    Args:
        x: Any shape, floating point, finite.

    Returns:
        The same shape, uint8.

    Raises:
        RangeError: Values are not finite.
    """
    _check_finite(x)
    return x.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def truncate_to_uint8(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and cut to the level below, as scripts do that cast to integers; darker by half a level.

    Args:
        x: Any shape, floating point, finite.

    Returns:
        The same shape, uint8.

    Raises:
        RangeError: Values are not finite.
    """
    _check_finite(x)
    return x.float().clamp(0, 1).mul(255).to(torch.uint8)


def _check_finite(x: Tensor) -> None:
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise RangeError(f"x holds {bad} values that are NaN or infinite; expected finite values.")
