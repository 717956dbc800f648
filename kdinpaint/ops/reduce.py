"""Masked means that stay finite on empty holes, and weighted channel sums."""

import torch
from torch import Tensor

from kdinpaint._core.checks import check_feature, check_mask, describe
from kdinpaint._core.errors import ShapeError

__all__ = ["masked_channel_mean", "weighted_channel_sum"]


def masked_channel_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the cells of the mask, per sample and channel; 0 where the mask is empty.

    Sums are taken in float32 at least: in float16 the number of cells alone is infinite from 256 x 256 on.

    Args:
        values: (B, C, H, W).
        mask: (B, 1, H, W), float or bool.

    Returns:
        (B, C), float32 or wider. An empty mask gives 0 with zero gradient, without a data-dependent branch.

    Raises:
        ShapeError: Shapes do not fit each other.
    """
    check_feature(values, "values")
    check_mask(mask, values)
    wide = torch.promote_types(values.dtype, torch.float32)
    mask = mask.to(values.dtype)
    return (values * mask).sum((-2, -1), dtype=wide) / mask.sum((-2, -1), dtype=wide).clamp_min(1.0)


def weighted_channel_sum(weights: Tensor, distances: Tensor) -> Tensor:
    """sum_c weights[b, c] * distances[b, c], averaged over the batch: the outer sum of Eq. 1 and 2.

    Args:
        weights: (B, C).
        distances: (B, C).

    Returns:
        A scalar.

    Raises:
        ShapeError: The shapes differ.
    """
    if weights.shape != distances.shape or weights.dim() != 2:
        raise ShapeError(
            f"weights are {describe(weights)} and distances {describe(distances)}; expected equal shapes (B, C)."
        )
    return (weights * distances).sum(1).mean()
