"""Contextual attention: holes are rebuilt from patches of the known part (Yu et al. 2018, used in GC)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_feature, check_mask
from kdinpaint._core.errors import ShapeError

__all__ = ["contextual_attention"]


def contextual_attention(feature: Tensor, hole: Tensor, *, scale: float = 10.0) -> Tensor:
    """Rebuild every cell of a feature from its patches in the known part, weighted by likeness.

    1. The feature is halved by taking every other cell; 3 x 3 patches of it, divided by their norm, are compared
       with those around every place: a cosine but for the norm of the place.
    2. Scores are summed along equal shifts of place and patch, by one step to either side, first in row-major and
       then in column-major order, so that neighbouring places prefer neighbouring patches.
    3. A softmax over patches of `scale` times the scores. Patches that touch the hole have score 0 before, and
       weight 0 after it.
    4. The weighted mean of 4 x 4 patches of the feature in full, taken and put back two cells apart; cells where four
       overlap are divided by 4, as are those at the border where fewer do.

    Args:
        feature: (B, C, H, W), sides even.
        hole: (B, 1, H, W), 1 = hole, of the same size.
        scale: Sharpness of the softmax.

    Returns:
        (B, C, H, W). Memory grows with (H W)^2 / 16.

    Raises:
        ShapeError: Shapes do not fit each other, or a side is odd.

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import contextual_attention
        >>> hole = torch.zeros(1, 1, 16, 16)
        >>> hole[..., 4:8, 4:8] = 1
        >>> contextual_attention(torch.rand(1, 8, 16, 16), hole).shape
        torch.Size([1, 8, 16, 16])
    """
    check_feature(feature, "feature")
    check_mask(hole, feature)
    height, width = feature.shape[-2:]
    if not torch.compiler.is_compiling() and (height % 2 or width % 2):
        raise ShapeError(f"feature is {(height, width)}; expected even sides.")
    half = feature[..., ::2, ::2]
    rows, columns = half.shape[-2:]
    places = F.unfold(half, 3, padding=1)  # (B, 9 C, N)
    patches = places / places.norm(dim=1, keepdim=True).clamp_min(1e-4)
    known = F.max_pool2d((hole[..., ::2, ::2] != 0).to(feature.dtype), 3, 1, 1).flatten(2).mT == 0  # (B, N, 1)
    scores = patches.mT @ places  # (B, patch, place)
    scores = _along_shifts(scores)
    swap = torch.arange(rows * columns, device=feature.device).view(rows, columns).T.flatten()
    back = torch.arange(rows * columns, device=feature.device).view(columns, rows).T.flatten()
    scores = _along_shifts(scores[:, swap][:, :, swap])[:, back][:, :, back]
    weights = (scale * scores * known).softmax(1) * known
    sources = F.unfold(feature, 4, padding=1, stride=2)  # (B, 16 C, N)
    return F.fold(sources @ weights, (height, width), 4, padding=1, stride=2) / 4


def _along_shifts(scores: Tensor) -> Tensor:
    """Each score plus those of the patch and the place one before, and one after."""
    padded = F.pad(scores, (1, 1, 1, 1))
    return scores + padded[:, :-2, :-2] + padded[:, 2:, 2:]
