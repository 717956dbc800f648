"""From the calls of a dry run to how each stage is read and written."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting.layouts import Layout, Size, guess_layout, match
from kdinpaint.retrofitting.names import resolve
from kdinpaint.retrofitting.plan import RetrofitPlan, Selector
from kdinpaint.retrofitting.probe import Call, Seen
from kdinpaint.retrofitting.report import Level
from kdinpaint.retrofitting.trees import Path
from kdinpaint.retrofitting.wrappers import StageSpec

__all__ = ["channels_last", "check_options", "specify", "stage_stride"]


def channels_last(module: nn.Module, *, first: bool) -> bool | None:
    """Whether the modules of a stage say that its input (or output) has the channels in the last axis."""

    def says(child: nn.Module) -> bool | None:
        if isinstance(child, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.GroupNorm | nn.InstanceNorm2d):
            return False
        return True if type(child) in (nn.Linear, nn.LayerNorm) else None

    answers = [answer for child in module.modules() if (answer := says(child)) is not None]
    if not answers:
        return None
    if first:
        return answers[0]
    ends = [child for child in module.children() if not isinstance(child, nn.Identity)]
    return bool(ends and says(ends[-1])) or all(answers)


def check_options(plan: RetrofitPlan, names: Sequence[str]) -> None:
    """Raise ConfigError if an option of the plan is for a level that there is not."""
    for given in (plan.inputs, plan.outputs, plan.layout):
        for key in given if isinstance(given, Mapping) else ():
            resolve(key, names)


def _option(given: Any, name: str) -> Any:  # noqa: ANN401 - a selector or a layout, or one for each level
    """What an option of a plan says about a level: under its name, the end of it, or a pattern."""
    if not isinstance(given, Mapping):
        return given
    keys = [key for key in given if name in resolve(key, [name], missing=True)]
    return given[name] if name in given else given[keys[0]] if keys else None


def _choose(name: str, what: str, tensors: Sequence[Seen], selector: Selector | None, first: bool) -> Seen:
    """The tensor that a selector means, or the only (or first) one that can be a feature."""
    path: Path = () if selector is None else selector if isinstance(selector, tuple) else (selector,)
    listed = ", ".join(f"{t.path}: {t.shape}" for t in tensors) or "no tensor"
    option_name = "inputs" if first else "outputs"
    if selector is not None:
        found = [t for t in tensors if t.path == path]
        if not found:
            raise ConfigError(f"{option_name} selects {path} of the {what} of {name}, which has {listed}.")
        return found[0]
    features = [t for t in tensors if t.feature]
    if not features:
        raise ConfigError(
            f"{name} has no feature among its {what}: {listed}; expected a floating-point (B, C, H, W), (B, H, W, C) "
            f"or (B, N, C). Name another module."
        )
    if len(features) > 1 and not first:
        listed = ", ".join(f"{t.path}: {t.shape}" for t in features)
        raise ConfigError(
            f"{name} gives several features: {listed}. Say which one is filled, as in "
            f"RetrofitPlan(outputs={{{name!r}: {features[0].path}}}), or name the modules that make them."
        )
    return features[0]


def stage_stride(before: Size, after: Size) -> int:
    """Cells of the input for one of the output if a filler can have that stride: 1 or even; else 0."""
    stride = match(after, before)
    return stride if stride == 1 or (stride and stride % 2 == 0) else 0


def _called(calls: Sequence[Call], name: str, module: nn.Module) -> Call:
    found = next((call for call in calls if call.name == name and call.end >= 0), None)
    if found is None and isinstance(module, torch.jit.ScriptModule):
        raise ConfigError(
            f"{name} is a {type(module).__name__}, which hides its calls; name another module, or script it later."
        )
    if found is None:
        parts = [n for n, _ in module.named_children()]
        hint = f" Its parts may be: {', '.join(f'{name}.{n}' for n in parts[:8])}." if parts else ""
        raise ConfigError(
            f"{name} ({type(module).__name__}) is never called when the model runs on the example, so it has no "
            f"input and output to fill; a list of modules or one of unused modules cannot be a level.{hint}"
        )
    return found


def specify(
    plan: RetrofitPlan,
    model: nn.Module,
    stage: tuple[str, str],
    calls: Sequence[Call],
    image: Size,
    batch: Collection[int],
) -> tuple[StageSpec, Level, Seen]:
    """How a stage is read and written, what the report says of it, and its feature in the dry run.

    Args:
        plan: What is to be filled.
        model: The host.
        stage: Names of its first and its last module.
        calls: Of the dry run.
        image: Size of the mask.
        batch: Of the mask; for a single mask, also those of the example, since it is then that of every image.

    Raises:
        ConfigError: It cannot be filled; the text says why and what to do.
    """
    start, name = stage
    modules = dict(model.named_modules(remove_duplicate=False))
    first, last = _called(calls, start, modules[start]), _called(calls, name, modules[name])
    if start != name and not first.end < last.begin:
        raise ConfigError(f"{start} does not end before {name} begins; write the pair in the order of running.")
    runs = [sum(call.name == end for call in calls) for end in stage]
    if runs[0] != runs[1]:
        raise ConfigError(f"{start} runs {runs[0]} times in a call and {name} {runs[1]} times: they are no one stage.")
    x = _choose(start, "inputs", first.inputs, _option(plan.inputs, name), True)
    y = _choose(name, "outputs", last.outputs, _option(plan.outputs, name), False)

    def layout(t: Seen, module: nn.Module, is_input: bool) -> Layout:
        given = _option(plan.layout, name)
        if is_input and given and len(t.shape) == 4 and given.startswith("tokens"):
            given = None
        if is_input and given and len(t.shape) == 3 and not given.startswith("tokens"):
            given = None
        try:
            return guess_layout(t.shape, image, last=channels_last(module, first=is_input), given=given)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None

    after = layout(y, modules[name], False)
    before = layout(x, modules[start], True)
    sizes: list[Size] = [found.size(t.shape, image) for found, t in ((before, x), (after, y))]
    if any(a > b for a, b in zip(sizes[1], image, strict=True)):
        raise ConfigError(f"the feature of {name} is {sizes[1]}, larger than the mask {image}: it cannot be filled.")
    if y.shape[0] not in batch:
        raise ConfigError(
            f"the feature of {name} has a batch of {y.shape[0]} and the mask one of {min(batch)}; expected one mask "
            f"for each. Name a module outside of windows or repeated batches."
        )
    stride = stage_stride(sizes[0], sizes[1])
    in_place = x.path in first.in_place
    spec = StageSpec(name, start, x.path, y.path, before, after, stride, in_place)
    level = Level(
        name,
        before.channels(x.shape),
        after.channels(y.shape),
        match(sizes[1], image),
        sizes[1],
        after.kind,
        start,
        y.path if sum(t.feature for t in last.outputs) > 1 else (),
    )
    return spec, level, y
