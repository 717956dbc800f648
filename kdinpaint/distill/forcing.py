"""Teacher forcing: decoders learn to read features that are right before encoders can make them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdinpaint._core.checks import check_level_lists
from kdinpaint.ops import resize_mask

__all__ = ["teacher_forcing"]


def teacher_forcing(
    features: Sequence[Tensor], targets: Sequence[Tensor], mask: Tensor, *, share: float = 1.0
) -> list[Tensor]:
    """The features with the teacher's in the hole, as if the encoder knew what is missing.

    A decoder that reads them early learns what hole features can tell, and asks the encoder for them through the task
    loss. For features what teacher forcing (Williams and Zipser 1989) with a falling share (Bengio et al. 2015) is for
    sequences; not in the paper.

    Which samples get them is a hash of their holes, pixel by pixel; restarts, batches and processes do not change it.

    Args:
        features: One (B, C_l, H_l, W_l) a level.
        targets: The teacher's, of the same shapes.
        mask: (B, 1, H, W), 1 = hole.
        share: Of the samples that get the teacher's features, in [0, 1].

    Returns:
        One tensor a level. Gradients reach a level's hole cells in the other samples only.

    Raises:
        ShapeError: Levels that differ in number or shape from the teacher's.

    Example:
        >>> import torch
        >>> from kdinpaint.distill import teacher_forcing
        >>> mask = torch.zeros(1, 1, 4, 4)
        >>> mask[..., :2, :2] = 1
        >>> teacher_forcing([torch.zeros(1, 1, 2, 2)], [torch.ones(1, 1, 2, 2)], mask)[0].tolist()
        [[[[1.0, 0.0], [0.0, 0.0]]]]
    """
    check_level_lists(features, targets, ("features", "targets"))
    chosen = (_hash(mask) < share * 2**31).view(-1, 1, 1, 1)
    return [
        torch.where(chosen & (resize_mask(mask, (f.shape[-2], f.shape[-1]), mode="max") != 0), t.to(f.dtype), f)
        for f, t in zip(features, targets, strict=True)
    ]


def _hash(mask: Tensor) -> Tensor:
    """A number in [0, 2^31) for the holes of each sample (B,): the sum of those of its hole pixels, mixed."""
    holes = (mask != 0).flatten(1)
    pixels = _mixed(torch.arange(1, holes.shape[1] + 1, device=mask.device))
    return _mixed((holes * pixels).sum(1) % 2**31)


def _mixed(numbers: Tensor) -> Tensor:
    """Integers below 2^31 in an order that looks random: Knuth's multiplicative hash, its high bits folded in."""
    numbers = numbers * 2654435761 % 2**31
    return (numbers ^ (numbers >> 15)) * 2246822519 % 2**31
