"""Image quality per image, under named protocols, in tables per hole ratio."""

from kdinpaint.metrics.image import PSNR_CAP, hole_l1, hole_psnr, psnr, ssim
from kdinpaint.metrics.protocols import PROTOCOLS, measure
from kdinpaint.metrics.render import compare_methods, render_summary
from kdinpaint.metrics.rounding import round_to_uint8
from kdinpaint.metrics.table import RatioTable

__all__ = [
    "PROTOCOLS",
    "PSNR_CAP",
    "RatioTable",
    "compare_methods",
    "hole_l1",
    "hole_psnr",
    "measure",
    "psnr",
    "render_summary",
    "round_to_uint8",
    "ssim",
]
