"""Named evaluation protocols: what happens to a prediction between the network and the number.

The same prediction scores between 0.76 and 0.84 SSIM depending on rounding, colour and window, so a number
means something only together with the name of its protocol. Each protocol is one function in `PROTOCOLS`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor

from kdinpaint._core.checks import check_binary_mask, check_choice, check_feature, check_image, check_mask
from kdinpaint._core.errors import ShapeError
from kdinpaint.metrics import published
from kdinpaint.metrics.image import hole_l1, hole_psnr, psnr, ssim
from kdinpaint.metrics.rounding import round_to_uint8
from kdinpaint.ops.masks import composite

__all__ = ["PROTOCOLS", "Protocol", "measure"]

Protocol = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


def _default(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Composited, 8-bit, RGB PSNR per image, Gaussian SSIM over the valid region, and the hole alone."""
    filled, truth = (round_to_uint8(x).float() / 255 for x in (composite(prediction, image, mask), image))
    return {
        "psnr": psnr(filled, truth),
        "ssim": ssim(filled, truth),
        "hole_psnr": hole_psnr(filled, truth, mask),
        "hole_l1": hole_l1(filled, truth, mask),
    }


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "default": _default,
        "edgeconnect": published.edgeconnect,
        "skimage7": published.skimage7,
        "lama": published.lama,
        "lbam": published.lbam,
        "mat": published.mat,
    }
)
"""Protocol by name; each takes (prediction, image, mask), checked, and returns (B,) values by metric."""


def measure(prediction: Tensor, image: Tensor, mask: Tensor, *, protocol: str = "default") -> dict[str, Tensor]:
    """Measure predictions under a named protocol.

    "default": the prediction is composited with the image, both are clamped and rounded to 8 bit, and every
    image is measured by itself: "psnr" and "ssim" of the whole image, "hole_psnr" and "hole_l1" of the hole.

    The others follow the scripts that published numbers were made with, all on the composite. "edgeconnect":
    truncated to 8 bit, grey, SSIM with a uniform window of 51, "mae" as the sum of the errors over the sum of both
    images. "skimage7" (AOT-GAN): truncated, RGB, the uniform window of 7. "lama": truncated, RGB, a Gaussian window
    over zero padding, no PSNR. "lbam": not rounded, PSNR of the pooled error of a batch (16 in the script) given to
    each of its images, SSIM of values up to 255 with the constants for 1. "mat": rounded, RGB, Gaussian window
    inside the image, "l1" over all pixels; of equal images the script has an infinite PSNR and this one 100 dB.

    Args:
        prediction: (B, C, H, W); expected in [0, 1] and clamped to it. What it holds outside the hole does not
            matter.
        image: The truth, (B, C, H, W) in [0, 1].
        mask: (B, 1, H, W), 1 = hole, float or bool.
        protocol: One of `PROTOCOLS`.

    Returns:
        (B,) values by metric.

    Raises:
        ConfigError: Unknown protocol.
        ShapeError: Shapes do not fit each other, a side is below the window of SSIM (11, 51 or 7 pixels), or
            "edgeconnect" is given neither 1 nor 3 channels.
        RangeError: The image is not in [0, 1], the mask is not binary, or the prediction is not finite inside
            the hole.
        MissingDependencyError: torchmetrics is not installed.

    Example:
        >>> import torch
        >>> from kdinpaint.metrics import measure
        >>> image, mask = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 1, 64, 64)
        >>> mask[..., :32, :32] = 1
        >>> for protocol in ("default", "lama", "lbam"):
        ...     print(protocol, round(float(measure(image + 0.1, image, mask, protocol=protocol)["ssim"]), 2))
        default 0.93
        lama 0.95
        lbam 0.86
    """
    check_choice(protocol, tuple(PROTOCOLS), "protocol")
    check_feature(prediction, "prediction")
    check_image(image)
    if prediction.shape != image.shape:
        raise ShapeError(
            f"prediction is {tuple(prediction.shape)} and image {tuple(image.shape)}; expected equal shapes."
        )
    check_mask(mask, image)
    check_binary_mask(mask)
    return PROTOCOLS[protocol](prediction, image, mask)
