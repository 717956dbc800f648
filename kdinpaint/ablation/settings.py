"""What one cell of a grid is trained with: typed settings, made from a base and a few overrides."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from kdinpaint._core.errors import ConfigError
from kdinpaint.ablation.values import check_option, near, override
from kdinpaint.models import InpaintingNet, list_models
from kdinpaint.training.config import DataConfig, OptimConfig, StudentConfig

__all__ = ["CellSettings", "TeacherSettings", "change"]

_OPTIM = OptimConfig(steps=1500, batch=12, lr=1e-3, schedule="cosine")
_TEACHER_OPTIM = replace(_OPTIM, steps=1000)
_STUDENT = StudentConfig(optim=_OPTIM)
_DATA = DataConfig(size=64)


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher of a cell; cells with equal settings share it."""

    kind: Literal["trained", "random", "timm"] = "trained"
    """random keeps its fresh weights: a control. timm is an encoder of timm; it has other widths and no decoder, so the
    student starts from scratch, and cross distillation compares a linear readout of its features."""
    timm: str = "resnet18"
    """That encoder, as `kdinpaint.TimmTeacher` takes it by name; it has features at the strides of the student's
    levels."""
    pretrained: bool = True
    """Give it the weights that timm has, downloaded on first use; without, a dry run."""
    code_channels: int | None = None
    """Channels of its deepest level instead of the student's; the student imitates the leading ones. From 3 * 4^L on
    the teacher is over-complete and can copy."""
    attention: bool = False
    """Attention in its decoder, which `student.distill.attention_transfer` needs."""
    optim: OptimConfig = _TEACHER_OPTIM


@dataclass(frozen=True)
class CellSettings:
    """Everything that a cell's result depends on, but for photos, masks and seed."""

    model: str = "kdinpaint_tiny"
    """A student of `kdinpaint.list_models()`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword options of `kdinpaint.InpaintingNet` that differ from the named model's, as "model.NAME" sets them."""
    data: DataConfig = _DATA
    teacher: TeacherSettings = TeacherSettings()
    student: StudentConfig = _STUDENT
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"

    def plain(self) -> dict[str, Any]:
        """As nested dicts."""
        return dataclasses.asdict(self)

    def json(self) -> dict[str, Any]:
        """As a result file holds them."""
        return cast("dict[str, Any]", json.loads(json.dumps(self.plain(), default=str)))


def change(settings: CellSettings, name: str, value: Any) -> CellSettings:  # noqa: ANN401 - any TOML value
    """Settings with one override.

    Args:
        settings: The settings before.
        name: "model"; "model.NAME", an option of the student; or a dotted field, such as "student.distill.cross".
        value: As TOML has it.

    Raises:
        ConfigError: There is no such setting, or the value does not fit; near misses are named.

    Example:
        >>> from kdinpaint.ablation import CellSettings, change
        >>> change(CellSettings(), "student.distill.cross", 0).student.distill.cross
        0.0
        >>> change(CellSettings(), "model.filler", "none").options
        {'filler': 'none'}
    """
    if name == "model":
        students = [known for known in list_models() if known.startswith("kdinpaint_")]
        if value not in students:
            raise ConfigError(f"model is {value!r}; {near(str(value), students)}")
        return replace(settings, model=value)
    if name.startswith("model."):
        option = name.removeprefix("model.")
        value = check_option(InpaintingNet.__init__, option, value, name)
        if isinstance(value, tuple):
            value = list(value)
        return replace(settings, options={**settings.options, option: value})
    if name.partition(".")[0] == "options":
        raise ConfigError(f"{name!r} cannot be set; write model.NAME for an option of the student.")
    return override(settings, name, value)
