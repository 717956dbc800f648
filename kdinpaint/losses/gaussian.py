"""Divergence of diagonal Gaussians."""

import torch
from torch import Tensor

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ShapeError

__all__ = ["gaussian_kl"]


def gaussian_kl(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(other_mean, other_std^2)), one number for every element.

    Args:
        mean: Any shape.
        std: Above 0, of a shape that broadcasts with the others.
        other_mean: As `mean`.
        other_std: As `std`.

    Returns:
        The divergence of each element, at least 0, of the common shape.

    Raises:
        ShapeError: The shapes do not broadcast.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import gaussian_kl
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> gaussian_kl(one, one, zero, one)
        tensor([0.5000])
    """
    if not torch.compiler.is_compiling():
        try:
            torch.broadcast_tensors(mean, std, other_mean, other_std)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            given = ", ".join(describe(t) for t in (mean, std, other_mean, other_std))
            raise ShapeError(f"the arguments are {given}; expected shapes that broadcast.") from error
    ratio = (std / other_std).square()
    shift = ((mean - other_mean) / other_std).square()
    return 0.5 * (ratio + shift - 1 - ratio.log())
