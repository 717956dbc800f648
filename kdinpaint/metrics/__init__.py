"""Image quality per image, under named protocols, in tables per hole ratio; what features know and give away."""

from kdinpaint.metrics.comparison import Comparison, MeasuredMethod, Value, compare_runs
from kdinpaint.metrics.comparison_text import render_comparison
from kdinpaint.metrics.features import adaptive_statistics, area_under_curve, hole_gap, mask_probe_auc, readout_gap
from kdinpaint.metrics.image import PSNR_CAP, hole_l1, hole_psnr, psnr, ssim
from kdinpaint.metrics.paper import PAPER_BINS, PAPER_TABLE, PublishedValue
from kdinpaint.metrics.perceptual import PerceptualMetrics
from kdinpaint.metrics.protocols import PROTOCOLS, measure
from kdinpaint.metrics.render import compare_methods, render_summary
from kdinpaint.metrics.rounding import round_to_uint8
from kdinpaint.metrics.table import RatioTable

__all__ = [
    "PAPER_BINS",
    "PAPER_TABLE",
    "PROTOCOLS",
    "PSNR_CAP",
    "Comparison",
    "MeasuredMethod",
    "PerceptualMetrics",
    "PublishedValue",
    "RatioTable",
    "Value",
    "adaptive_statistics",
    "area_under_curve",
    "compare_methods",
    "compare_runs",
    "hole_gap",
    "hole_l1",
    "hole_psnr",
    "mask_probe_auc",
    "measure",
    "psnr",
    "readout_gap",
    "render_comparison",
    "render_summary",
    "round_to_uint8",
    "ssim",
]
