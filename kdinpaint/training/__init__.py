"""Training: typed configurations, objectives, the engine, evaluation and pictures. Needs the extra `train`."""

from kdinpaint.training.config import (
    DataConfig,
    DistillConfig,
    EvaluationConfig,
    LossConfig,
    OptimConfig,
    RuntimeConfig,
    StudentConfig,
    TeacherConfig,
    TrainConfig,
)
from kdinpaint.training.evaluation import evaluate_model, evaluate_models
from kdinpaint.training.objectives import Losses, Objective, StudentObjective, TeacherObjective, inpainting_loss
from kdinpaint.training.presets import PRESETS, Preset
from kdinpaint.training.run import Run
from kdinpaint.training.train import train

__all__ = [
    "PRESETS",
    "DataConfig",
    "DistillConfig",
    "EvaluationConfig",
    "LossConfig",
    "Losses",
    "Objective",
    "OptimConfig",
    "Preset",
    "Run",
    "RuntimeConfig",
    "StudentConfig",
    "StudentObjective",
    "TeacherConfig",
    "TeacherObjective",
    "TrainConfig",
    "evaluate_model",
    "evaluate_models",
    "inpainting_loss",
    "train",
]
