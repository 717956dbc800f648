"""Canny's edge detector on tensors (Canny 1986), with the defaults and borders of scikit-image's."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.checks import check_feature, check_mask

__all__ = ["canny_edges", "to_grey"]

_EPS = torch.finfo(torch.float32).eps


def to_grey(image: Tensor) -> Tensor:
    """(B, C, H, W) to (B, 1, H, W): luminance of three channels (.2125, .7154, .0721), else the mean."""
    if image.shape[1] != 3:
        return image.mean(1, keepdim=True)
    return (image * image.new_tensor([0.2125, 0.7154, 0.0721])[:, None, None]).sum(1, keepdim=True)


@torch.no_grad()
def canny_edges(
    grey: Tensor, mask: Tensor | None = None, *, sigma: float = 2.0, low: float = 0.1, high: float = 0.2
) -> Tensor:
    """Edges of grey images: smoothed, thinned across the gradient, and linked from strong ones to weak ones.

    Args:
        grey: (B, 1, H, W) in [0, 1].
        mask: (B, 1, H, W), 1 = hole: what is there has no influence, and no edge lies there or beside it.
        sigma: Deviation of the Gaussian, pixels; cut off at four of them.
        low: Gradients of this size belong to an edge if they touch one of size `high`.
        high: Gradients of this size start an edge.

    Returns:
        (B, 1, H, W), 0 or 1, of the dtype of `grey`.

    Raises:
        ShapeError: Shapes do not fit each other.

    Example:
        >>> import torch
        >>> from kdinpaint.models.comparators import canny_edges
        >>> grey = torch.zeros(1, 1, 16, 16)
        >>> grey[..., 8:] = 1
        >>> canny_edges(grey)[0, 0, 8].nonzero().flatten()
        tensor([7])
    """
    check_feature(grey, "grey", channels=1)
    if mask is not None:
        check_mask(mask, grey)
    with torch.autocast(grey.device.type, enabled=False):  # rounding would move edges and break thresholds
        wide = grey.to(torch.promote_types(grey.dtype, torch.float32))
        return _edges(wide, mask, sigma, low, high).to(grey.dtype)


def _edges(grey: Tensor, mask: Tensor | None, sigma: float, low: float, high: float) -> Tensor:
    known = torch.ones_like(grey)
    if mask is not None:
        known = (mask == 0).to(grey.dtype)
        grey = torch.where(mask == 0, grey, 0.0)
    smooth = _gaussian(grey, sigma) / (_gaussian(known, sigma) + _EPS)
    inner = 1 - F.max_pool2d(F.pad(1 - known, (1, 1, 1, 1), value=1.0), 3, 1)
    down, right = _sobel(smooth)
    strength = torch.hypot(down, right)
    weak = _thin(down, right, strength) & (inner > 0) & (strength >= low)
    edges, before = weak & (strength >= high), -1
    while before != (before := int(edges.sum())):  # one more step of linking for as long as it finds something
        edges = (F.max_pool2d(edges.to(grey.dtype), 3, 1, 1) > 0) & weak
    return edges.to(grey.dtype)


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    """Separable smoothing with zeros outside."""
    radius = int(4 * sigma + 0.5)
    steps = torch.arange(-radius, radius + 1, device=x.device, dtype=torch.float64)
    kernel = (-0.5 * (steps / sigma) ** 2).exp()
    kernel = (kernel / kernel.sum()).to(x.dtype)
    x = F.conv2d(x, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return F.conv2d(x, kernel.view(1, 1, 1, -1), padding=(0, radius))


def _sobel(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences down and to the right, each smoothed across; the border repeats the outermost pixel."""
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across = x[..., :-2] + 2 * x[..., 1:-1] + x[..., 2:]
    along = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]
    return across[..., 2:, :] - across[..., :-2, :], along[..., 2:] - along[..., :-2]


def _thin(down: Tensor, right: Tensor, strength: Tensor) -> Tensor:
    """Whether a gradient is no smaller than those one step along it and against it, between two neighbours each."""
    steep = down.abs() > right.abs()
    major, minor = torch.where(steep, down.abs(), right.abs()), torch.where(steep, right.abs(), down.abs())
    share = minor / major.clamp_min(torch.finfo(strength.dtype).tiny)  # of the diagonal neighbour
    padded = F.pad(strength, (1, 1, 1, 1))
    height, width = strength.shape[-2:]

    def neighbour(dy: int, dx: int) -> Tensor:
        return padded[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    same = down * right >= 0  # the gradient points down and right, or up and left
    result = torch.ones_like(same)
    for sign in (1, -1):
        straight = torch.where(steep, neighbour(sign, 0), neighbour(0, sign))
        falling = neighbour(sign, sign)
        rising = torch.where(steep, neighbour(sign, -sign), neighbour(-sign, sign))
        diagonal = torch.where(same, falling, rising)
        result &= strength >= share * diagonal + (1 - share) * straight
    return result
