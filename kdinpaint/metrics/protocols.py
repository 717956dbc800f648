"""Named evaluation protocols: what happens to a prediction between the network and the number.

The same prediction scores between 0.76 and 0.84 SSIM depending on rounding, colour and window, so a number
means something only together with the name of its protocol. Each protocol is one function in `PROTOCOLS`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from kdinpaint._core.checks import check_binary_mask, check_choice, check_feature, check_image, check_mask
from kdinpaint._core.errors import RangeError, ShapeError
from kdinpaint.metrics.image import hole_l1, hole_psnr, psnr, ssim
from kdinpaint.ops.masks import composite

__all__ = ["PROTOCOLS", "Protocol", "measure", "round_to_uint8"]

Protocol = Callable[[Tensor, Tensor, Tensor], dict[str, Tensor]]


def round_to_uint8(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the nearest of 256 levels, as an image file holds them.

    Args:
        x: Any shape, floating point, finite.

    Returns:
        The same shape, uint8.

    Raises:
        RangeError: Values are not finite.
    """
    if not bool(torch.isfinite(x).all()):
        bad = int((~torch.isfinite(x)).sum())
        raise RangeError(f"x holds {bad} values that are NaN or infinite; expected finite values.")
    return x.float().clamp(0, 1).mul(255).round().to(torch.uint8)


def _default(prediction: Tensor, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Composited, 8-bit, RGB PSNR per image, Gaussian SSIM over the valid region, and the hole alone."""
    filled, truth = (round_to_uint8(x).float() / 255 for x in (composite(prediction, image, mask), image))
    return {
        "psnr": psnr(filled, truth),
        "ssim": ssim(filled, truth),
        "hole_psnr": hole_psnr(filled, truth, mask),
        "hole_l1": hole_l1(filled, truth, mask),
    }


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({"default": _default})
"""Protocol by name; each takes (prediction, image, mask), checked, and returns (B,) values by metric."""


def measure(prediction: Tensor, image: Tensor, mask: Tensor, *, protocol: str = "default") -> dict[str, Tensor]:
    """Measure predictions under a named protocol.

    "default": the prediction is composited with the image, both are clamped and rounded to 8 bit, and every
    image is measured by itself: "psnr" and "ssim" of the whole image, "hole_psnr" and "hole_l1" of the hole.

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
        ShapeError: Shapes do not fit each other, or a side is below 11 pixels.
        RangeError: The image is not in [0, 1], the mask is not binary, or the prediction is not finite inside
            the hole.
        MissingDependencyError: torchmetrics is not installed.
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
