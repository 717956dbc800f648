"""Taps: the features of named stages of a network, as its forward pass makes them."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import CodeType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdinpaint._core.checks import check_choice, describe
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.retrofitting.feed import MaskFeed
from kdinpaint.retrofitting.layouts import Layout, grids
from kdinpaint.retrofitting.plan import Selector
from kdinpaint.retrofitting.report import Level
from kdinpaint.retrofitting.trees import leaves, pick
from kdinpaint.retrofitting.wrappers import FilledStage, drop_hooks

__all__ = ["Repeats", "Select", "Taps", "bare", "remove_taps"]

Repeats = Literal["last", "first", "error"]
Select = Selector | Callable[[Any], Tensor]
_PREFIX = 16  # more tokens than these are not a prefix (class, register tokens)


class _Record:
    """What the taps of one network have seen during the present run; empty between runs."""

    def __init__(self) -> None:
        self.active = False
        self.grad = False
        self.training = True
        self.found: dict[str, dict[torch.device, Tensor]] = {}
        self.origin: dict[str, tuple[Tensor, int]] = {}


class _Tap:
    """The forward hook of one stage. A class, so that it can be copied, pickled and recognised."""

    kdinpaint_training_only = True  # `strip` takes it off

    def __init__(
        self, record: _Record, name: str, select: Select | None, repeats: Repeats, feeds: list[MaskFeed]
    ) -> None:
        self.record = record
        self.name = name
        self.select = select
        self.repeats = repeats
        self.feeds = feeds
        # Whether later modules change the output in place, by the mode of the network: dropout does in training only.
        self.known: dict[bool, bool] = {}

    @property
    def changes(self) -> bool | None:
        """Whether the output is changed in place in the present mode; None until an eager run has shown it."""
        return self.known.get(self.record.training)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ANN401
        record = self.record
        if not record.active:
            return
        feature = _pick(output, self.select, self.name)
        seen = record.found[self.name]
        if feature.device in seen and self.repeats != "last":
            if self.repeats == "error":
                raise ConfigError(
                    f"stage {self.name!r} ran twice in one forward pass; choose repeats='last' or 'first'."
                )
            return
        if torch.compiler.is_compiling():
            seen[feature.device] = feature.clone()
            return
        if record.grad and not torch.is_grad_enabled():
            raise ConfigError(
                f"stage {self.name!r} runs without gradients, so no loss on its feature can train it. Checkpoint it "
                f"with use_reentrant=False, or take it out of torch.no_grad()."
            )
        if not feature.is_inference():
            record.origin[self.name] = (feature, feature._version)
        found = seen[feature.device] = feature if self.changes is False else feature.clone()
        if record.grad:
            for feed in self.feeds:
                feed.follow(found)


def _selector(select: Select) -> str:
    """A selector as text; of a function its name and a digest of what it does, as its address says nothing."""
    code = getattr(select, "__code__", None)
    if code is None:
        return repr(select)
    constants = [c for c in code.co_consts if not isinstance(c, CodeType)]
    closure = [cell.cell_contents for cell in getattr(select, "__closure__", None) or ()]
    told = (code.co_code, code.co_names, constants, closure, getattr(select, "__defaults__", None))
    return f"{getattr(select, '__qualname__', code.co_name)} {hashlib.sha256(repr(told).encode()).hexdigest()[:8]}"


def _pick(output: Any, select: Select | None, name: str) -> Tensor:  # noqa: ANN401 - whatever a stage returns
    """The feature in what a stage returned."""
    if isinstance(output, Tensor) and select is None:
        return output
    try:
        if select is None:
            found = [t for _, t in leaves(output) if t.is_floating_point() and t.dim() in (3, 4)]
            if len(found) != 1:
                raise LookupError
            return found[0]
        chosen = (
            select(output) if callable(select) else pick(output, select if isinstance(select, tuple) else (select,))
        )
    except (LookupError, TypeError) as error:
        chosen = error
    if not isinstance(chosen, Tensor):
        paths = [".".join(map(str, path)) for path, _ in leaves(output)]
        raise ShapeError(
            f"stage {name!r} returned {type(output).__name__} with tensors at {paths[:8]}, and select={select!r} does "
            f"not lead to one. Say where the feature is: a position, a key, a tuple of these, or a function."
        ) from (chosen if isinstance(chosen, Exception) else None)
    return chosen


def bare(model: nn.Module) -> nn.Module:
    """The network inside data-parallel and compiled wrappers."""
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := model.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            model = inner
        else:
            return model


class Taps:
    """Run a network and get the features of named stages beside its output.

    The hooks stay on the stages until `remove()`, and do nothing outside `Taps.__call__`: nothing is kept between
    calls, and other calls of the network cost nothing and leave no trace. A stage that runs several times in one
    forward pass gives its last output (`repeats`). Recomputation by gradient checkpointing is not a run. An output
    that later modules change in place is copied before they do. Copies and pickles of the network and of the taps
    stay a pair if they are made together.

    Under `torch.compile`, create the taps before the first call of a compiled network, also of another one of its
    class, or call `torch.compiler.reset()` afterwards; or compile what calls the taps, as `torch.compile(guide)` does.

    Args:
        model: The network, also inside `DataParallel`, `DistributedDataParallel` or `torch.compile`.
        levels: Dotted paths of the stages, or `Level`s. Features of `Level`s and of retrofitted stages come as
            (B, C, H, W), others as the stage gives them. Tokens lie on the grid of the dry run, unless `run` is
            told the size of the image.
        select: Where the feature is in the output of a stage that returns several tensors, by name of the stage: a
            position or key, a tuple of these, or a function of the output.
        repeats: Which run counts where a stage runs more than once: "last", "first", or "error".

    Raises:
        ConfigError: No levels, a name twice, or one that the model does not have.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from kdinpaint.retrofitting import Taps
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
        >>> out, features = Taps(net, ["1"])(torch.rand(1, 3, 16, 16))
        >>> [tuple(f.shape) for f in features]
        [(1, 8, 8, 8)]
    """

    def __init__(
        self,
        model: nn.Module,
        levels: Sequence[str | Level],
        *,
        select: Mapping[str, Select] | None = None,
        repeats: Repeats = "last",
    ) -> None:
        check_choice(repeats, ("last", "first", "error"), "repeats")
        self.model = model
        self._levels = {_name(level): level if isinstance(level, Level) else None for level in levels}
        if not levels or len(self._levels) != len(levels):
            raise ConfigError(f"the levels are {[_name(level) for level in levels]}; expected one or more, each once.")
        select = dict(select or {})
        if unknown := sorted(select.keys() - self._levels.keys()):
            raise ConfigError(f"select names {unknown}; the levels are {self.names}.")
        stages = {name: _stage(bare(model), name) for name in self._levels}
        self._layouts: dict[str, Layout] = {}
        for name, stage in stages.items():
            level = self._levels[name]
            if level is not None and level.output:
                select.setdefault(name, level.output)
            if isinstance(stage, FilledStage):
                self._layouts[name] = stage.spec.output_layout
                kept = {filled.name: filled for filled in stage.feed.levels}
                self._levels[name] = level or kept.get(stage.spec.name)
                select.setdefault(name, stage.spec.output_path)
        # Of retrofitted hosts: a loss on features alone may make checkpointed stages run again.
        feeds = list({id(m.feed): m.feed for m in model.modules() if isinstance(m, FilledStage)}.values())
        self._record = _Record()
        self._taps = {name: _Tap(self._record, name, select.get(name), repeats, feeds) for name in stages}
        self._stages = stages
        for name, stage in stages.items():
            stage.register_forward_hook(self._taps[name])

    @property
    def names(self) -> list[str]:
        """Names of the stages."""
        return list(self._levels)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, list[Tensor]]:  # noqa: ANN401
        """Run the model; returns its output and one feature a stage."""
        return self.run(args, kwargs)

    def run(
        self,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        size: tuple[int, int] | None = None,
        model: nn.Module | None = None,
    ) -> tuple[Any, list[Tensor]]:
        """As a call, with what depends on the caller.

        Args:
            args: Of the model.
            kwargs: Of the model.
            size: (H, W) of the image; tokens are laid out on a grid of its shape.
            model: What to call instead of the model given at first, when that has been wrapped since.

        Returns:
            The model's output, and one (B, C, H, W) a stage.

        Raises:
            ConfigError: A stage did not run, ran without gradients, or is no longer part of the network.
            ShapeError: A stage did not give a tensor of its layout.
        """
        model = self.model if model is None else model
        record = self._record
        if not torch.compiler.is_compiling():
            self._check(bare(model))
            record.grad, record.training = torch.is_grad_enabled(), bare(model).training
        record.found = {name: {} for name in self._levels}
        record.active = True
        try:
            out = model(*args, **kwargs)
            found = [self._feature(name, record.found[name], model) for name in self._levels]
            if not torch.compiler.is_compiling():
                self._learn()
        finally:
            record.active = False
            record.found = {}
            record.origin = {}
        return out, [self._lay_out(name, f, size) for name, f in zip(self._levels, found, strict=True)]

    def remove(self) -> None:
        """Take the hooks off again."""
        mine = set(map(id, self._taps.values()))
        for stage in self._stages.values():
            drop_hooks(stage, lambda hook: id(hook) in mine)

    def __repr__(self) -> str:
        """Stages, layouts and selectors, as the same text in every process."""
        lines = []
        for name, level in self._levels.items():
            layout = self._layouts.get(name) or (level.layout if level else "as it is")
            grid = f", stride {level.stride}, {level.size}" if level and level.layout == "tokens" else ""
            select = self._taps[name].select
            lines.append(f"{name!r}: {layout}{grid}" + ("" if select is None else f", select {_selector(select)}"))
        return f"Taps({'; '.join(lines)})"

    def _check(self, model: nn.Module) -> None:
        for name, stage in self._stages.items():
            if _stage(model, name) is not stage or self._taps[name] not in stage._forward_hooks.values():
                raise ConfigError(
                    f"stage {name!r} is not the one that was tapped: it was replaced, or its taps removed. Build "
                    f"Taps or Distiller anew after retrofit, unretrofit or strip."
                )

    def _feature(self, name: str, seen: dict[torch.device, Tensor], model: nn.Module) -> Tensor:
        if not seen:
            raise ConfigError(
                f"stage {name!r} did not run in this forward pass. If the network is compiled by itself, it or another "
                f"one of its class, was compiled and called before it was tapped. Call torch.compiler.reset() and go "
                f"on, or compile the Distiller instead, torch.compile(guide)."
            )
        parts = list(seen.values())
        if len(parts) == 1:
            return parts[0]
        if not isinstance(model, nn.DataParallel):
            return parts[-1]
        target = torch.device("cuda", model.output_device)
        order = [seen[d] for d in (torch.device("cuda", n) for n in model.device_ids) if d in seen]
        return torch.cat([part.to(target) for part in order])

    def _learn(self) -> None:
        """Note which outputs were changed in place after their stage, so that only those are copied."""
        for name, (feature, version) in self._record.origin.items():
            tap, changed = self._taps[name], feature._version != version
            if tap.changes is False and changed:
                tap.known[self._record.training] = True
                raise ConfigError(
                    f"the output of stage {name!r} was changed in place in this forward pass, and never before. "
                    f"Call again; it is copied from now on."
                )
            tap.known[self._record.training] = bool(tap.changes) or changed

    @property
    def learned(self) -> Tensor:
        """Which outputs are changed in place later in training, one number a level: 1, 0, or -1 for not known yet."""
        return torch.tensor([int(tap.known.get(True, -1)) for tap in self._taps.values()])

    @learned.setter
    def learned(self, state: Tensor) -> None:
        for tap, known in zip(self._taps.values(), state.tolist(), strict=True):
            tap.known = {} if known < 0 else {True: bool(known)}

    def _lay_out(self, name: str, feature: Tensor, size: tuple[int, int] | None) -> Tensor:
        level = self._levels[name]
        layout = self._layouts.get(name)
        if layout is not None and (size is not None or layout.grid or layout.kind != "tokens"):
            return layout.to_nchw(feature, size or (0, 0))
        if level is None or level.layout == "nchw":
            return feature
        if feature.dim() != (3 if level.layout == "tokens" else 4):
            raise ShapeError(f"stage {name!r} gives {describe(feature)}, which is not in its layout {level.layout!r}.")
        if level.layout == "nhwc":
            return Layout("nhwc").to_nchw(feature, (0, 0))
        count = feature.shape[1]
        height, width = _grid(level, count, size)
        return Layout("tokens", prefix=count - height * width, grid=(height, width)).to_nchw(feature, (0, 0))


def _grid(level: Level, count: int, size: tuple[int, int] | None) -> tuple[int, int]:
    """The grid that tokens lie on: that of the image, if its size is known, or that of the dry run."""
    known = [*grids(size, level.stride), level.size] if size is not None and level.stride else [level.size]
    fitting = [(h, w) for h, w in known if 0 <= count - h * w <= _PREFIX and h * w]
    if not fitting:
        raise ShapeError(
            f"stage {level.name!r} gives {count} tokens, which are no grid over an image of {size or 'unknown size'} "
            f"at stride {level.stride}, nor the {level.size[0]} x {level.size[1]} of the dry run. Give the size of the "
            f"image, Taps.run(..., size=(H, W))."
        )
    return min(fitting, key=lambda grid: count - grid[0] * grid[1])


def remove_taps(model: nn.Module) -> None:
    """Take all taps off a network, also those of copies and of `Taps` that are gone."""
    for module in model.modules():
        drop_hooks(module, lambda hook: isinstance(hook, _Tap))


def _name(level: str | Level) -> str:
    return level if isinstance(level, str) else level.name


def _stage(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        known = [known for known, _ in model.named_modules() if known]
        near = [k for k in known if k.endswith(name.rpartition(".")[2])] or known
        raise ConfigError(f"the model has no stage {name!r}; it has {', '.join(near[:12])} ...") from error
