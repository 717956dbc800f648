"""Total variation, on the whole image or around the hole."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_feature, check_mask
from kdinpaint._core.errors import ShapeError

__all__ = ["total_variation_loss"]


def total_variation_loss(image: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference of neighbours along rows, plus that along columns.

    Args:
        image: (B, C, H, W), at least 2 x 2.
        mask: (B, 1, H, W), 1 = hole: only pairs count that lie in the hole grown by one pixel (the smoothing term
            of Liu et al. 2018, Eq. 6); still divided by the number of all pairs. None counts all pairs.

    Returns:
        A scalar.

    Raises:
        ShapeError: Shapes do not fit each other, or the image has a side of one pixel.

    Example:
        >>> import torch
        >>> from kdinpaint.losses import total_variation_loss
        >>> total_variation_loss(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]))
        tensor(1.)
    """
    check_feature(image, "image")
    if not torch.compiler.is_compiling() and min(image.shape[-2:]) < 2:
        raise ShapeError(f"image is {tuple(image.shape[-2:])}; expected at least two pixels along each axis.")
    rows = (image[..., 1:, :] - image[..., :-1, :]).abs()
    columns = (image[..., 1:] - image[..., :-1]).abs()
    if mask is not None:
        check_mask(mask, image)
        near = F.max_pool2d((mask != 0).to(image.dtype), 3, 1, 1)
        rows = rows * near[..., 1:, :] * near[..., :-1, :]
        columns = columns * near[..., 1:] * near[..., :-1]
    return rows.mean() + columns.mean()
