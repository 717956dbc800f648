"""Any input size: pad to what the levels divide, crop back afterwards."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.tracing import is_exporting

__all__ = ["crop_to", "pad_to_multiple"]


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are divisible by `multiple`.

    Args:
        x: (B, C, H, W).
        multiple: 2^L for a network of L levels.

    Returns:
        (B, C, H', W') with H <= H' < H + multiple; x itself if nothing is missing.
    """
    # No negative number is divided: compilers fail on its remainder, and ONNX rounds its quotient the other way.
    bottom, right = ((n + multiple - 1) // multiple * multiple - n for n in x.shape[-2:])
    if not torch.compiler.is_compiling() and not bottom and not right:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


def crop_to(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The upper left part of a size: what `pad_to_multiple` was given.

    Args:
        x: (B, C, H', W').
        size: (H, W), at most (H', W').
    """
    if is_exporting():
        # A slice would be contiguous for some sizes only, and the exported graph would be held to one kind of them.
        return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]))
    return x[..., : size[0], : size[1]]
