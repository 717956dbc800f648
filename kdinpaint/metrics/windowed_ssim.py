"""SSIM with any separable window: the published scripts differ in window, border, covariance and constants."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint._core.errors import ShapeError

__all__ = ["gaussian_window", "uniform_window", "windowed_ssim"]


def gaussian_window(size: int = 11, sigma: float = 1.5) -> Tensor:
    """Gaussian weights that sum to 1: (size,), float64."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weight = torch.exp(-place.square() / (2 * sigma**2))
    return weight / weight.sum()


def uniform_window(size: int) -> Tensor:
    """Equal weights that sum to 1: (size,), float64."""
    return torch.full((size,), 1 / size, dtype=torch.float64)


def windowed_ssim(
    preds: Tensor,
    target: Tensor,
    window: Tensor,
    *,
    border: Literal["valid", "zero"] = "valid",
    sample_covariance: bool = False,
    constants: tuple[float, float] = (0.01**2, 0.03**2),
) -> Tensor:
    """Structural similarity of each image, averaged over pixels and channels.

    Args:
        preds: (B, C, H, W), of any range that fits the constants.
        target: (B, C, H, W).
        window: (k,), weights of the separable window, k odd, summing to 1.
        border: "valid" leaves out the pixels whose window passes the border; "zero" pads with zeros.
        sample_covariance: Variances over n - 1 instead of n, with n = k².
        constants: C1 and C2.

    Returns:
        (B,), at most 1, of the dtype of `preds`.

    Raises:
        ShapeError: With "valid", a side is shorter than the window.
    """
    side = window.numel()
    if border == "valid" and min(preds.shape[-2:]) < side:
        raise ShapeError(
            f"preds is {tuple(preds.shape[-2:])} (height, width); the SSIM of this protocol has a window of {side} and "
            f"needs sides of at least {side} pixels. Measure larger images, or under another protocol."
        )
    weight = window.to(preds)
    padding = side // 2 if border == "zero" else 0

    def mean(x: Tensor) -> Tensor:
        flat = x.flatten(0, 1)[:, None]
        rows = F.conv2d(flat, weight.view(1, 1, side, 1), padding=(padding, 0))
        return F.conv2d(rows, weight.view(1, 1, 1, side), padding=(0, padding)).view(*x.shape[:2], -1)

    scale = side**2 / (side**2 - 1) if sample_covariance else 1.0
    mean_p, mean_t = mean(preds), mean(target)
    var_p, var_t = ((mean(x.square()) - m.square()) * scale for x, m in ((preds, mean_p), (target, mean_t)))
    covariance = (mean(preds * target) - mean_p * mean_t) * scale
    c1, c2 = constants
    luminance = (2 * mean_p * mean_t + c1) / (mean_p.square() + mean_t.square() + c1)
    structure = (2 * covariance + c2) / (var_p + var_t + c2)
    return (luminance * structure).flatten(1).mean(1)
