"""kdinpaint: distillation-guided image inpainting as modules that plug into any encoder-decoder."""

from kdinpaint.distill import (
    AttentionTransferLoss,
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
from kdinpaint.retrofitting import (
    Distiller,
    ModuleTeacher,
    RetrofitPlan,
    TimmTeacher,
    inspect,
    retrofit,
    strip,
    unretrofit,
)

__version__ = "0.1.0"

__all__ = [
    "AdaptiveConv2d",
    "AttentionTransferLoss",
    "AutoEncoder",
    "CrossDistillLoss",
    "Distiller",
    "FillerBlock",
    "FrozenTeacher",
    "GlobalLocalAttention",
    "Inpainter",
    "InpaintingNet",
    "MetaLearner",
    "ModuleTeacher",
    "RetrofitPlan",
    "SelfDistillLoss",
    "TimmTeacher",
    "TransferImportancePredictor",
    "adaptive_conv2d",
    "create_model",
    "export",
    "inspect",
    "list_models",
    "retrofit",
    "strip",
    "unretrofit",
]
