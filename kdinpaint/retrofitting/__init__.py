"""Fillers in networks that know nothing of them: plan, dry run, wrappers, and the way back."""

from kdinpaint.retrofitting.distiller import Distiller
from kdinpaint.retrofitting.feature_cache import FeatureCache
from kdinpaint.retrofitting.inspecting import Inspection, inspect
from kdinpaint.retrofitting.plan import RetrofitPlan
from kdinpaint.retrofitting.report import Level, RetrofitReport
from kdinpaint.retrofitting.retrofit import retrofit, strip, unretrofit
from kdinpaint.retrofitting.taps import Taps, remove_taps
from kdinpaint.retrofitting.teachers import ModuleTeacher, TimmTeacher
from kdinpaint.retrofitting.trainable import (
    disabled,
    filler_state_dict,
    load_filler_state_dict,
    masked,
    set_trainable,
)
from kdinpaint.retrofitting.wrappers import FilledStage

__all__ = [
    "Distiller",
    "FeatureCache",
    "FilledStage",
    "Inspection",
    "Level",
    "ModuleTeacher",
    "RetrofitPlan",
    "RetrofitReport",
    "Taps",
    "TimmTeacher",
    "disabled",
    "filler_state_dict",
    "inspect",
    "load_filler_state_dict",
    "masked",
    "remove_taps",
    "retrofit",
    "set_trainable",
    "strip",
    "unretrofit",
]
