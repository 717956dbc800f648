"""Any input size: pad to what the levels divide, crop back afterwards."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["pad_to_multiple"]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are divisible by `multiple`.

    Args:
        x: (B, C, H, W).
        multiple: 2^L for a network of L levels.

    Returns:
        (B, C, H', W') with H <= H' < H + multiple; x itself if nothing is missing.
    """
    # Not -n % multiple: compilers with symbolic sizes fail on the remainder of a negative number.
    bottom, right = (-(-n // multiple) * multiple - n for n in x.shape[-2:])
    if not torch.compiler.is_compiling() and not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="replicate")
