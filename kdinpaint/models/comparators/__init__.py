"""The networks that the paper compares itself with, written from published facts; all called `net(image, mask)`."""

from kdinpaint.models.comparators.base import Comparator, settle_spectral_norm
from kdinpaint.models.comparators.canny import canny_edges
from kdinpaint.models.comparators.contextual_attention import contextual_attention
from kdinpaint.models.comparators.discriminators import (
    PatchDiscriminator,
    ResidualDiscriminator,
    SNPatchDiscriminator,
)
from kdinpaint.models.comparators.ec import EdgeConnectNet
from kdinpaint.models.comparators.gated_conv import GatedConv2d
from kdinpaint.models.comparators.gc import GatedConvNet
from kdinpaint.models.comparators.partial_conv import PartialConv2d
from kdinpaint.models.comparators.pc import PartialConvNet
from kdinpaint.models.comparators.pic import Gaussian, PluralisticNet

__all__ = [
    "Comparator",
    "EdgeConnectNet",
    "GatedConv2d",
    "GatedConvNet",
    "Gaussian",
    "PartialConv2d",
    "PartialConvNet",
    "PatchDiscriminator",
    "PluralisticNet",
    "ResidualDiscriminator",
    "SNPatchDiscriminator",
    "canny_edges",
    "contextual_attention",
    "settle_spectral_norm",
]
