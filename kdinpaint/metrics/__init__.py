"""Image quality per image, under named protocols, in tables per hole ratio; what features know and give away."""

from kdinpaint.metrics.features import adaptive_statistics, area_under_curve, hole_gap, mask_probe_auc
from kdinpaint.metrics.image import PSNR_CAP, hole_l1, hole_psnr, psnr, ssim
from kdinpaint.metrics.protocols import PROTOCOLS, measure, round_to_uint8
from kdinpaint.metrics.render import compare_methods, render_summary
from kdinpaint.metrics.table import RatioTable

__all__ = [
    "PROTOCOLS",
    "PSNR_CAP",
    "RatioTable",
    "adaptive_statistics",
    "area_under_curve",
    "compare_methods",
    "hole_gap",
    "hole_l1",
    "hole_psnr",
    "mask_probe_auc",
    "measure",
    "psnr",
    "render_summary",
    "round_to_uint8",
    "ssim",
]
