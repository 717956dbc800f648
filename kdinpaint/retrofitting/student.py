"""What Distiller needs to know of a student: its levels, its own arguments and state among those of ours."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting.feed import MaskFeed, feed_of
from kdinpaint.retrofitting.inspecting import Inspection
from kdinpaint.retrofitting.names import resolve_targets
from kdinpaint.retrofitting.plan import RetrofitPlan
from kdinpaint.retrofitting.report import Level, RetrofitReport
from kdinpaint.retrofitting.wrappers import FilledStage

__all__ = ["OwnArguments", "keep_student", "leave_out_student", "levels_of"]


def levels_of(student: nn.Module, plan: RetrofitPlan | RetrofitReport | Inspection | Sequence[Level]) -> list[Level]:
    """The levels to supervise, shallow to deep; those of a plan in the order in which they run.

    Raises:
        ConfigError: A plan that was not applied to the student, no levels, or something else.
    """
    if isinstance(plan, RetrofitPlan):
        return _planned(student, plan)
    found = list(plan.levels if isinstance(plan, RetrofitReport | Inspection) else plan)
    if not found or not all(isinstance(level, Level) for level in found):
        raise ConfigError(
            f"the levels are {describe(plan)}; expected the RetrofitPlan or the report of a retrofit, or the levels "
            f"that inspect(student, example) proposes."
        )
    return found


def _planned(student: nn.Module, plan: RetrofitPlan) -> list[Level]:
    """The levels that a plan names, of the retrofitted networks in the student to which it was applied."""
    names: dict[MaskFeed, dict[str, str]] = {}
    for name, stage in student.named_modules():
        if isinstance(stage, FilledStage):
            names.setdefault(stage.feed, {})[stage.spec.name] = name
    levels: list[Level] = []
    refused: ConfigError | None = None
    for feed, name_of in names.items():
        found = {(level.start, level.name): level for level in feed.levels if level.name in name_of}
        try:
            named = resolve_targets(plan.levels, feed.names)
        except ConfigError as error:
            refused = error
            continue
        if all(target in found for target in named):
            levels += [
                # Of a network inside the student, names begin with its own.
                level if name_of[level.name] == level.name else replace(level, name=name_of[level.name], start="")
                for target, level in found.items()
                if target in named
            ]
    if not levels:
        filled = [str(level.target) for feed in names for level in feed.levels]
        raise ConfigError(
            f"the student has not been retrofitted with this plan, so its channels are not known: the plan names "
            f"{list(plan.levels)}, and {filled or 'no stages'} of the student have fillers. Call "
            f"retrofit(student, plan, example=...) first and give the plan, or the report, of that; without fillers, "
            f"pass the levels that inspect(student, example) proposes."
        ) from refused
    return levels


class OwnArguments:
    """Arguments of the student that have the names of the Distiller's.

    Args:
        student: The network.
    """

    names = ("image", "mask", "teacher_features", "student_kwargs")

    def __init__(self, student: nn.Module) -> None:
        parameters = list(inspect.signature(student.forward).parameters.values())
        self.places = {p.name: place for place, p in enumerate(parameters) if p.name in self.names}
        feed = next((feed for feed in map(feed_of, student.modules()) if feed is not None), None)
        # The plan says that the argument is the hole, so that the Distiller's own can be handed on.
        self.shared = feed is not None and feed.source.spec == "kwarg:mask"

    def join(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], clashing: Mapping[str, Any] | None, mask: Tensor
    ) -> dict[str, Any]:
        """All named arguments of the student.

        Raises:
            ConfigError: One that has the name of the Distiller's is not given.
        """
        given = {**kwargs, **(clashing or {})}
        for name, place in self.places.items():
            if place < len(args) or name in given:
                continue
            if name == "mask" and self.shared:
                given[name] = mask
                continue
            raise ConfigError(
                f"the student has an argument {name!r}, too, and the call does not give it. Pass it by position, or "
                f"as student_kwargs={{{name!r}: ...}}; the Distiller's own {name} is not handed on."
            )
        return given


def leave_out_student(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:  # noqa: ANN401
    """Hook after `state_dict`: a Distiller's state has no trace of its student."""
    for name in [name for name in state if name.startswith(f"{prefix}student.")]:
        del state[name]


def keep_student(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:  # noqa: ANN401
    """States without the student's part are complete: what is missing is what the student has."""
    student = module.get_submodule("student")
    for name, value in student.state_dict().items():
        state.setdefault(f"{prefix}student.{name}", value)
