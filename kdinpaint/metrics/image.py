"""Per-image quality: PSNR and SSIM of the image, PSNR and L1 of the hole alone."""

import torch
from torch import Tensor

from kdinpaint._core.checks import check_binary_mask, check_image, check_mask
from kdinpaint._core.errors import ShapeError
from kdinpaint._core.optional import require

__all__ = ["PSNR_CAP", "SSIM_WINDOW", "hole_l1", "hole_psnr", "psnr", "ssim"]

PSNR_CAP = 100.0
"""What PSNR is at most, in dB: identical images have no finite one, and JSON has no infinity."""

SSIM_WINDOW = 11
"""Side of the Gaussian window of SSIM, in pixels."""


def psnr(preds: Tensor, target: Tensor) -> Tensor:
    r"""Peak signal-to-noise ratio of each image: $-10 \log_{10} \mathrm{MSE}$, at most 100 dB.

    Args:
        preds: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,), in dB; float64, or float32 on devices without it.

    Raises:
        ShapeError: Not two (B, C, H, W) tensors of one shape.
        RangeError: Values are not finite or not in [0, 1].

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import psnr
        >>> [round(v, 3) for v in psnr(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5)).tolist()]
        [20.0]
    """
    preds, target = _checked(preds, target)
    return _decibel((preds - target).square().flatten(1).mean(1))


def ssim(preds: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image: Gaussian window 11 (sigma 1.5), valid region, mean over channels.

    The window is moved only where it lies inside the image, as in the authors' MATLAB code.

    Args:
        preds: (B, C, H, W) in [0, 1], at least 11 x 11.
        target: (B, C, H, W) in [0, 1].

    Returns:
        (B,), at most 1; float64, or float32 on devices without it.

    Raises:
        ShapeError: Not two (B, C, H, W) tensors of one shape, or a side below 11.
        RangeError: Values are not finite or not in [0, 1].
        MissingDependencyError: torchmetrics is not installed.
    """
    preds, target = _checked(preds, target)
    if min(preds.shape[-2:]) < SSIM_WINDOW:
        raise ShapeError(
            f"preds is {tuple(preds.shape[-2:])} (height, width); SSIM needs sides of at least {SSIM_WINDOW} pixels. "
            f"Measure larger images, or PSNR alone."
        )
    functional = require("torchmetrics.functional.image", extra="metrics")
    # The mean that torchmetrics itself returns leaves the padded border in or out, depending on its release.
    _, values = functional.structural_similarity_index_measure(
        preds,
        target,
        gaussian_kernel=True,
        sigma=1.5,
        kernel_size=SSIM_WINDOW,
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )
    border = SSIM_WINDOW // 2
    return values[..., border:-border, border:-border].flatten(1).mean(1)


def hole_psnr(preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """PSNR over the pixels of the hole; 100 dB, the cap, where the hole is empty.

    Args:
        preds: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) in [0, 1].
        mask: (B, 1, H, W), 1 = hole, float or bool.

    Returns:
        (B,), in dB; float64, or float32 on devices without it.

    Raises:
        ShapeError: Shapes do not fit each other.
        RangeError: Images are not finite or not in [0, 1], or the mask is not binary.
    """
    preds, target = _checked(preds, target, mask)
    return _decibel(_hole_mean((preds - target).square(), mask))


def hole_l1(preds: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute error over the pixels of the hole; 0 where the hole is empty.

    Args:
        preds: (B, C, H, W) in [0, 1].
        target: (B, C, H, W) in [0, 1].
        mask: (B, 1, H, W), 1 = hole, float or bool.

    Returns:
        (B,), in [0, 1]; float64, or float32 on devices without it.

    Raises:
        ShapeError: Shapes do not fit each other.
        RangeError: Images are not finite or not in [0, 1], or the mask is not binary.
    """
    preds, target = _checked(preds, target, mask)
    return _hole_mean((preds - target).abs(), mask)


def _checked(preds: Tensor, target: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    check_image(preds, "preds")
    check_image(target, "target")
    if preds.shape != target.shape:
        raise ShapeError(
            f"preds is {tuple(preds.shape)} and target {tuple(target.shape)}; expected equal shapes (B, C, H, W)."
        )
    if mask is not None:
        check_mask(mask, preds)
        check_binary_mask(mask)
    dtype = torch.float32 if preds.device.type == "mps" else torch.float64
    return preds.to(dtype), target.to(dtype)


def _decibel(error: Tensor) -> Tensor:
    return (-10 * error.log10()).clamp(max=PSNR_CAP)


def _hole_mean(error: Tensor, mask: Tensor) -> Tensor:
    mask = mask.to(error.dtype).expand_as(error)
    return (error * mask).flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)
