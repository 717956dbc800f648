"""Put fillers into a host, and take them out again."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdinpaint._core.checks import check_choice, describe
from kdinpaint._core.errors import ConfigError, KDInpaintError
from kdinpaint.layers.filler import FillerBlock
from kdinpaint.retrofitting.feed import MaskFeed
from kdinpaint.retrofitting.layouts import Size
from kdinpaint.retrofitting.masks import MaskSource
from kdinpaint.retrofitting.names import places, resolve_levels
from kdinpaint.retrofitting.plan import RetrofitPlan
from kdinpaint.retrofitting.probe import Seen, arguments, dry_run
from kdinpaint.retrofitting.report import Level, RetrofitReport
from kdinpaint.retrofitting.stages import check_options, specify
from kdinpaint.retrofitting.trainable import TRAINABLE, Trainable, filled_stages, restore_trainable, set_trainable
from kdinpaint.retrofitting.trees import leaves
from kdinpaint.retrofitting.wrappers import FilledStage, StageInput, StageSpec, drop_hooks

__all__ = ["retrofit", "strip", "unretrofit"]

# Wrappers that keep parameters or code of the model as they found them.
LATE = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel", "OptimizedModule")


def retrofit(
    model: nn.Module,
    plan: RetrofitPlan,
    example: Any = None,  # noqa: ANN401 - whatever the host takes
    *,
    example_kwargs: Mapping[str, Any] | None = None,
    trainable: Trainable = "all",
) -> RetrofitReport:
    """Put a `FillerBlock` beside encoder stages of any network. Its own code stays as it is, and so do its keys.

    Every stage of the plan gives way to a wrapper that keeps it as `.base` and adds the filler to its output.
    Fresh fillers change nothing, bit for bit. All is checked by a dry run first; if anything fails, the host is
    as it was. Checkpoints of the host load before and after, and `unretrofit` gives the host back. Retrofit
    before `torch.compile` or data-parallel wrappers, and before making the optimiser.

    Args:
        model: The host, called as `model(...)`; changed in place.
        plan: What to add, and where.
        example: Positional arguments for the dry run, as a tuple: `example=(x, mask)`.
        example_kwargs: Named arguments for the dry run.
        trainable: "all", "fillers", or "encoder" (the fillers and the stages beside them); the rest is frozen.

    Raises:
        ConfigError: A name that fits nothing, a stage that cannot be filled, a call without mask, an example that
            does not run, or a model that is retrofitted already.
        ShapeError: The mask is no (B, 1, H, W).

    Example:
        >>> import torch
        >>> import kdinpaint
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 4, 2, 1), torch.nn.ConvTranspose2d(8, 3, 4, 2, 1))
        >>> x = torch.rand(1, 4, 32, 32)
        >>> before = net(x)
        >>> plan = kdinpaint.RetrofitPlan(["0"], mask="input:-1", hidden_channels=4)
        >>> report = kdinpaint.retrofit(net, plan, example=(x,))
        >>> report.levels[0].channels, report.levels[0].stride
        (8, 2)
        >>> torch.equal(net(x), before)
        True
        >>> kdinpaint.unretrofit(net)
    """
    check_choice(trainable, TRAINABLE, "trainable")
    _check_host(model, example, example_kwargs)
    args, kwargs = arguments(example, example_kwargs)
    stages = resolve_levels(model, plan.levels)
    check_options(plan, [name for _, name in stages])
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = dry_run(model, args, kwargs, {name: modules[name] for stage in stages for name in stage}, stages)
    source = MaskSource(plan.mask, model)
    hole = source(args, kwargs)
    if hole is None:
        raise ConfigError(f"the example has no mask where mask={plan.mask!r} says; give an example with a mask.")
    image: Size = (hole.shape[-2], hole.shape[-1])
    order = {call.name: call.begin for call in reversed(calls)}
    batch = {hole.shape[0]}
    if hole.shape[0] == 1:
        batch |= {t.shape[0] for _, t in [*leaves(args), *leaves(kwargs)] if t.dim() > 2}
    found = [specify(plan, model, stage, calls, image, batch) for stage in stages]
    found.sort(key=lambda one: order[one[0].name])
    levels = tuple(level for _, level, _ in found)
    ends = {modules[end]: end for stage in stages for end in stage}
    feed = MaskFeed(source, levels, {name: ends[module] for name, module in modules.items() if module in ends})
    wrapped, costs, seed = [], [], torch.get_rng_state()
    try:
        for spec, level, feature in found:
            filler = _filler(plan, spec, level, modules[spec.name], feature)
            costs.append(_gmac(filler, level))
            wrapped.append(FilledStage(modules[spec.name], filler, spec, feed))
        _install(model, modules, wrapped, feed)
        _verify(model, args, kwargs, wrapped)
        set_trainable(model, trainable)
    except BaseException:
        torch.set_rng_state(seed)
        _remove(model)
        raise
    counts = tuple(sum(p.numel() for p in stage.kdinpaint_filler.parameters()) for stage in wrapped)
    return RetrofitReport(levels, counts, tuple(costs), trainable)


def unretrofit(model: nn.Module) -> None:
    """Give the host back as it was: modules, keys, hooks, what is trainable, and outputs, bit for bit.

    The fillers are gone; `kdinpaint.retrofitting.filler_state_dict` keeps them.

    Args:
        model: What was given to `retrofit`, or a module that holds it.

    Raises:
        ConfigError: It is not retrofitted.
    """
    if not filled_stages(model):
        raise ConfigError(f"{type(model).__name__} is not retrofitted; there is nothing to take out.")
    _remove(model)


def strip(model: nn.Module) -> None:
    """Take off what only training needs and keep the fillers; outputs stay as they are.

    Hooks that carry a true attribute `kdinpaint_training_only`, as those by which losses see features do, are
    removed, and what `retrofit` froze is trainable again. For a model without any of these nothing happens.

    Args:
        model: A host, retrofitted or not.
    """
    restore_trainable(model)
    for module in model.modules():
        drop_hooks(module, lambda hook: getattr(hook, "kdinpaint_training_only", False))


def _check_host(model: nn.Module, example: Any, example_kwargs: Mapping[str, Any] | None) -> None:  # noqa: ANN401
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model is {describe(model)}; expected a torch.nn.Module.")
    if type(model).__name__ in LATE or isinstance(model, torch.jit.ScriptModule):
        raise ConfigError(
            f"the model is wrapped in {type(model).__name__} already; retrofit the module inside, then wrap it again."
        )
    if filled_stages(model):
        names = [stage.spec.name for stage in filled_stages(model)]
        raise ConfigError(
            f"{type(model).__name__} is retrofitted already, at {', '.join(names)}. Call kdinpaint.unretrofit(model) "
            f"first, then retrofit with one plan that names all levels."
        )
    if example is None and not example_kwargs:
        raise ConfigError("example is missing; give what the model is called with, as in example=(image, mask).")


def _filler(plan: RetrofitPlan, spec: StageSpec, level: Level, base: nn.Module, feature: Seen) -> FillerBlock:
    """A fresh filler with device, dtype and memory format of the stage."""
    kinds = [p for p in base.parameters() if p.is_floating_point()]
    weights = [p for p in kinds if p.dim() == 4 and min(p.shape[1:]) > 1]
    filler = FillerBlock(
        level.channels if plan.mode == "serial" else level.in_channels,
        level.channels,
        stride=1 if plan.mode == "serial" else max(spec.stride, 1),
        hidden_channels=plan.hidden_channels,
        conv=plan.conv,
        mode=plan.mode,
        modulation=plan.modulation,
        max_offset=plan.max_offset,
        cond_mask=plan.cond_mask,
        device=kinds[0].device if kinds else feature.device,
        dtype=kinds[0].dtype if kinds else feature.dtype,
    )
    if weights and not weights[0].is_contiguous() and weights[0].is_contiguous(memory_format=torch.channels_last):
        filler.to(memory_format=torch.channels_last)
    return filler


def _gmac(filler: FillerBlock, level: Level) -> float:
    """What a filler costs for one image that is all hole."""
    weight: Tensor = filler.exit.weight
    size = [n * filler.stride for n in level.size]
    x, mask = weight.new_zeros(1, filler.in_channels, *size), weight.new_ones(1, 1, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        filler(x, mask)
    return counter.get_total_flops() / 2e9


def _install(model: nn.Module, modules: Mapping[str, nn.Module], wrapped: list[FilledStage], feed: MaskFeed) -> None:
    for stage in wrapped:
        for parent, name in places(model, stage.base):
            parent._modules[name] = stage
        _move_hooks(stage.base, stage)
        if stage.spec.start != stage.spec.name and stage.kdinpaint_filler.mode != "serial":
            modules[stage.spec.start].register_forward_pre_hook(StageInput(stage.spec, feed), with_kwargs=True)
    feed.attach(model)


def _verify(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], wrapped: list[FilledStage]) -> None:
    """Run the host again and see that every wrapper takes part."""
    try:
        calls = dry_run(model, args, kwargs, {stage.spec.name: stage for stage in wrapped})
    except KDInpaintError as error:
        raise ConfigError(f"with fillers in place, {error} The model is as it was before.") from error
    missed = {stage.spec.name for stage in wrapped} - {call.name for call in calls}
    if missed:
        raise ConfigError(
            f"the model runs {', '.join(sorted(missed))} without going through the place it hangs at (a plain list "
            f"beside the module tree, or a direct call of its parts). Name a module that is called. The model is as "
            f"it was before."
        )


def _remove(model: nn.Module) -> None:
    restore_trainable(model)
    for stage in filled_stages(model):
        for parent, name in places(model, stage):
            parent._modules[name] = stage.base
        drop_hooks(stage, lambda hook: getattr(hook, "kdinpaint_training_only", False))
        _move_hooks(stage, stage.base)
    for module in model.modules():
        drop_hooks(
            module, lambda hook: isinstance(hook, StageInput) or isinstance(getattr(hook, "__self__", None), MaskFeed)
        )


def _move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Whoever watches the output of a stage sees the filled one: hooks go where the stage is called."""
    for key in ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"):
        old.__dict__[key], new.__dict__[key] = new.__dict__[key], old.__dict__[key]
