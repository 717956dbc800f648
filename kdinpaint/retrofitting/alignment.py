"""What brings the features of a student and those of a teacher together."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.teacher import FrozenTeacher
from kdinpaint.retrofitting.report import Level

__all__ = ["channels_of", "check_features", "freeze", "resize", "step_between"]


def freeze(teacher: nn.Module) -> FrozenTeacher:
    """Any module as a teacher: its `encode`, or else its forward pass, gives the features."""
    if isinstance(teacher, FrozenTeacher):
        return teacher
    return FrozenTeacher(teacher, method="encode" if callable(getattr(teacher, "encode", None)) else "forward")


def channels_of(teacher: FrozenTeacher, given: Sequence[int] | None, student: list[int]) -> list[int]:
    """Channels of the teacher's features: given, or what the teacher says, or those of the student.

    Raises:
        ConfigError: As many levels as the student has not.
    """
    known: Any = given
    for owner in (teacher, teacher.module):
        if known is None:
            known = getattr(owner, "feature_channels", None)
    found = student if known is None else list(known)
    if len(found) != len(student):
        raise ConfigError(
            f"the teacher has {len(found)} levels, of {found} channels, and the student {len(student)}, of {student}; "
            f"expected one of the teacher's for each of the student's."
        )
    return found


def check_features(found: object) -> list[Tensor]:
    """What a teacher gave, or a user in its place, as a list of features.

    Raises:
        ShapeError: It is no list of (B, C, H, W).
    """
    if not isinstance(found, list | tuple) or not all(isinstance(f, Tensor) and f.dim() == 4 for f in found):
        what = describe(found)
        if isinstance(found, list | tuple | dict):
            what = f"a {type(found).__name__} of {', '.join(map(describe, [*found][:4])) or 'nothing'}"
        raise ShapeError(
            f"the teacher's features are {what}; expected a list of tensors (B, C, H, W), one a level. "
            f"ModuleTeacher(net, [...], example=image) makes such a teacher of any network, from its stages."
        )
    return list(found)


def step_between(shallow: Level, deep: Level) -> int:
    """Stride of the aligner from one level to the next; what is left of their ratio is resampled."""
    ratio = deep.stride / shallow.stride if shallow.stride and deep.stride else shallow.size[0] / max(deep.size[0], 1)
    step = round(ratio)
    return step if step in (2, 4, 8) else 1


def resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, *size), averaged or interpolated; the feature itself where the size is right."""
    if tuple(feature.shape[-2:]) == size:
        return feature
    return F.interpolate(feature.float(), size, mode="bilinear", antialias=True).to(feature.dtype)
