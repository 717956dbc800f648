"""The protocols of published evaluation scripts, for numbers that stand beside theirs and nobody else's.

Each function takes (prediction, image, mask) as `measure` has checked them, and gives (B,) values by metric. The
truth is brought to 8 bit first, as the file that every script reads; what becomes of the prediction differs.
"""

import torch
from torch import Tensor

from kdinpaint._core.errors import ShapeError
from kdinpaint.metrics.image import PSNR_CAP, psnr, ssim
from kdinpaint.metrics.rounding import round_to_uint8, truncate_to_uint8
from kdinpaint.metrics.windowed_ssim import gaussian_window, uniform_window, windowed_ssim
from kdinpaint.ops.masks import composite

__all__ = ["edgeconnect", "lama", "lbam", "mat", "skimage7"]

_GREY = (0.2125, 0.7154, 0.0721)


def edgeconnect(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Truncated to 8 bit, grey; SSIM with a uniform window of 51 and sample covariance; MAE relative to the sums."""
    filled, truth = (_grey(x) for x in _truncated(prediction, image, mask))
    return {
        "psnr": psnr(filled, truth),
        "ssim": windowed_ssim(filled, truth, uniform_window(51), sample_covariance=True),
        "mae": _relative_l1(filled, truth),
    }


def skimage7(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Truncated to 8 bit, RGB; SSIM with a uniform window of 7 and sample covariance: scikit-image's defaults."""
    filled, truth = _truncated(prediction, image, mask)
    return {
        "psnr": psnr(filled, truth),
        "ssim": windowed_ssim(filled, truth, uniform_window(7), sample_covariance=True),
        "mae": _relative_l1(filled, truth),
    }


def lama(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Truncated to 8 bit, RGB; SSIM with a Gaussian window over an image padded with zeros; no PSNR."""
    filled, truth = _truncated(prediction, image, mask)
    return {"ssim": windowed_ssim(filled, truth, gaussian_window(), border="zero")}


def lbam(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """No 8-bit step; PSNR from the error of the whole batch; SSIM of values up to 255 with the constants of 1."""
    truth = _levels(round_to_uint8(image))
    filled = composite(prediction.to(truth).clamp(0, 1), truth, mask)
    error = (filled - truth).square().mean()
    pooled = (-10 * error.log10()).clamp(max=PSNR_CAP)
    return {
        "psnr": pooled.expand(filled.shape[0]),
        "ssim": windowed_ssim(255 * filled, 255 * truth, gaussian_window(), border="zero"),
    }


def mat(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Rounded to 8 bit, RGB; Gaussian SSIM over the valid region; L1 over all pixels."""
    filled, truth = (_levels(round_to_uint8(x)) for x in (composite(prediction, image, mask), image))
    return {"psnr": psnr(filled, truth), "ssim": ssim(filled, truth), "l1": (filled - truth).abs().flatten(1).mean(1)}


def _truncated(prediction: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The composite whose hole was truncated to 8 bit, and the truth: both in [0, 1]."""
    truth = round_to_uint8(image)
    # Only the hole has a value between two levels: known pixels keep theirs whatever the rounding.
    hole = truncate_to_uint8(torch.where(mask != 0, prediction, 0))
    return _levels(torch.where(mask != 0, hole, truth)), _levels(truth)


def _levels(x: Tensor) -> Tensor:
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64) / 255


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    if x.shape[1] != 3:
        raise ShapeError(f"images have {x.shape[1]} channels; this protocol turns RGB into grey and expected 3, or 1.")
    return (x * x.new_tensor(_GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _relative_l1(preds: Tensor, target: Tensor) -> Tensor:
    """The sum of the errors over the sum of all values of both images."""
    error, total = (x.flatten(1).sum(1) for x in ((preds - target).abs(), preds + target))
    return error / total.clamp_min(1e-12)
