"""Distances between lists of features: perceptual loss, feature matching and style."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdinpaint._core.checks import check_feature, check_level_lists

__all__ = ["feature_matching_loss", "gram_matrix", "style_loss"]


def feature_matching_loss(preds: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the mean absolute difference; no gradient reaches the target.

    On features of a classification network this is the perceptual loss (Johnson et al. 2016, with L1); on those of
    a discriminator, feature matching (Wang et al. 2018).

    Args:
        preds: Features of the generated image, one (B, C, H, W) a level.
        target: Features of the true image, of the same shapes.

    Returns:
        A scalar, 0 if all features are equal.

    Raises:
        ShapeError: Other shapes or another number of levels.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import feature_matching_loss
        >>> ones, zeros = torch.ones(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)
        >>> feature_matching_loss([ones, ones], [zeros, zeros])
        tensor(2.)
    """
    check_level_lists(preds, target, ("preds", "target"))
    return torch.stack([(p - t.detach()).abs().mean() for p, t in zip(preds, target, strict=True)]).sum()


def gram_matrix(feature: Tensor) -> Tensor:
    """Inner products of all pairs of channels, divided by C H W (Gatys et al. 2016).

    Computed in float32 at least: in float16 the sum over cells overflows.

    Args:
        feature: (B, C, H, W).

    Returns:
        (B, C, C), float32 or wider.

    Raises:
        ShapeError: `feature` is no (B, C, H, W).

    Example:
        >>> import torch
        >>> from kdinpaint.losses import gram_matrix
        >>> gram_matrix(torch.ones(1, 2, 3, 3))
        tensor([[[0.5000, 0.5000],
                 [0.5000, 0.5000]]])
    """
    check_feature(feature, "feature")
    with torch.autocast(feature.device.type, enabled=False):
        flat = feature.flatten(2).to(torch.promote_types(feature.dtype, torch.float32))
        return flat @ flat.mT / (flat.shape[1] * flat.shape[2])


def style_loss(preds: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """Sum over levels of the mean absolute difference of Gram matrices; no gradient reaches the target.

    Args:
        preds: Features of the generated image, one (B, C, H, W) a level.
        target: Features of the true image, of the same shapes.

    Returns:
        A scalar.

    Raises:
        ShapeError: Other shapes or another number of levels.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import style_loss
        >>> style_loss([torch.ones(1, 2, 3, 3)], [torch.zeros(1, 2, 3, 3)])
        tensor(0.5000)
    """
    check_level_lists(preds, target, ("preds", "target"))
    pairs = zip(preds, target, strict=True)
    return torch.stack([(gram_matrix(p) - gram_matrix(t.detach())).abs().mean() for p, t in pairs]).sum()
