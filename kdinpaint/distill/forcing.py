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

    Which samples get them is a hash of the number of their hole pixels, so that restarts, batches and processes do not
    change it.

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
    pixels = (mask != 0).flatten(1).sum(1)
    chosen = (pixels * 2654435761 % 2**32 < share * 2**32).view(-1, 1, 1, 1)  # Knuth's multiplicative hash
    return [
        torch.where(chosen & (resize_mask(mask, (f.shape[-2], f.shape[-1]), mode="max") != 0), t.to(f.dtype), f)
        for f, t in zip(features, targets, strict=True)
    ]
