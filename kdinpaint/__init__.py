"""kdinpaint: distillation-guided image inpainting as modules that plug into any encoder-decoder."""

from kdinpaint.distill import (
    CrossDistillLoss,
    FrozenTeacher,
    MetaLearner,
    SelfDistillLoss,
    TransferImportancePredictor,
)
from kdinpaint.exporting import export
from kdinpaint.inference import Inpainter
from kdinpaint.layers import AdaptiveConv2d, FillerBlock, GlobalLocalAttention
from kdinpaint.models import AutoEncoder, InpaintingNet, create_model, list_models
from kdinpaint.ops import adaptive_conv2d

__version__ = "0.1.0"

__all__ = [
    "AdaptiveConv2d",
    "AutoEncoder",
    "CrossDistillLoss",
    "FillerBlock",
    "FrozenTeacher",
    "GlobalLocalAttention",
    "Inpainter",
    "InpaintingNet",
    "MetaLearner",
    "SelfDistillLoss",
    "TransferImportancePredictor",
    "adaptive_conv2d",
    "create_model",
    "export",
    "list_models",
]
