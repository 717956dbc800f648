"""Training: typed configurations, objectives, the engine, evaluation and pictures. Needs the extra `train`."""

from kdinpaint.training.adversarial import AdversarialObjective
from kdinpaint.training.comparators import GatedConvObjective, PartialConvObjective, PluralisticObjective
from kdinpaint.training.config import (
    ComparatorConfig,
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
from kdinpaint.training.edge_connect import EdgeConnectObjective
from kdinpaint.training.evaluation import evaluate_model, evaluate_models
from kdinpaint.training.objectives import Losses, Objective, TeacherObjective, inpainting_loss
from kdinpaint.training.phases import comparator_objective, make_comparator, train_comparator
from kdinpaint.training.presets import PRESETS, Preset
from kdinpaint.training.recipes import RECIPES, Phase, Recipe
from kdinpaint.training.run import Run
from kdinpaint.training.student import StudentObjective
from kdinpaint.training.train import train

__all__ = [
    "PRESETS",
    "RECIPES",
    "AdversarialObjective",
    "ComparatorConfig",
    "DataConfig",
    "DistillConfig",
    "EdgeConnectObjective",
    "EvaluationConfig",
    "GatedConvObjective",
    "LossConfig",
    "Losses",
    "Objective",
    "OptimConfig",
    "PartialConvObjective",
    "Phase",
    "PluralisticObjective",
    "Preset",
    "Recipe",
    "Run",
    "RuntimeConfig",
    "StudentConfig",
    "StudentObjective",
    "TeacherConfig",
    "TeacherObjective",
    "TrainConfig",
    "comparator_objective",
    "evaluate_model",
    "evaluate_models",
    "inpainting_loss",
    "make_comparator",
    "train",
    "train_comparator",
]
