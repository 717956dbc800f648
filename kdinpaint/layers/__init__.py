"""Building blocks as modules: adaptive convolution, filler block, attention, plain convolution blocks."""

from kdinpaint.layers.adaptive_conv import AdaptiveConv2d
from kdinpaint.layers.attention import GlobalLocalAttention
from kdinpaint.layers.blocks import ResidualBlock, downsampling_conv
from kdinpaint.layers.filler import FillerBlock

__all__ = ["AdaptiveConv2d", "FillerBlock", "GlobalLocalAttention", "ResidualBlock", "downsampling_conv"]
