"""Pure functions on tensors: the operator, masks and reductions."""

from kdinpaint.ops.adaptive_conv import BackendChoice, adaptive_conv2d, adaptive_conv2d_backend
from kdinpaint.ops.masks import RATIO_BINS, composite, hole_ratio, mask_pyramid, orient_mask, resize_mask
from kdinpaint.ops.reduce import masked_channel_mean, weighted_channel_sum

__all__ = [
    "RATIO_BINS",
    "BackendChoice",
    "adaptive_conv2d",
    "adaptive_conv2d_backend",
    "composite",
    "hole_ratio",
    "mask_pyramid",
    "masked_channel_mean",
    "orient_mask",
    "resize_mask",
    "weighted_channel_sum",
]
