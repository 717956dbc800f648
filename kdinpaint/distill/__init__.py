"""Feature-level supervision: importance predictors, distillation losses, the teacher, the meta-learner.

The losses take tensors and lists of tensors; none of them needs a kdinpaint model.
"""

from kdinpaint.distill.attention import AttentionTransferLoss
from kdinpaint.distill.cross import CrossDistillLoss
from kdinpaint.distill.forcing import teacher_forcing
from kdinpaint.distill.health import effective_channels, importance_correlation, importance_health
from kdinpaint.distill.hypergradient import channel_alignment
from kdinpaint.distill.importance import TransferImportancePredictor
from kdinpaint.distill.meta import MetaLearner
from kdinpaint.distill.self_distill import SelfDistillLoss
from kdinpaint.distill.teacher import FrozenTeacher

__all__ = [
    "AttentionTransferLoss",
    "CrossDistillLoss",
    "FrozenTeacher",
    "MetaLearner",
    "SelfDistillLoss",
    "TransferImportancePredictor",
    "channel_alignment",
    "effective_channels",
    "importance_correlation",
    "importance_health",
    "teacher_forcing",
]
