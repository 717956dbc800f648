"""Propose stages of a host that nobody knows: where a dry run sees the resolution go down."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting.layouts import Layout, Size, guess_layout
from kdinpaint.retrofitting.layouts import match as stride_of
from kdinpaint.retrofitting.probe import Call, Seen, arguments, dry_run
from kdinpaint.retrofitting.report import Level, table
from kdinpaint.retrofitting.stages import channels_last
from kdinpaint.retrofitting.trees import Path, leaves

__all__ = ["Inspection", "inspect"]


@dataclass(frozen=True)
class Inspection:
    """Stages that a host could be retrofitted at; prints as a table.

    Attributes:
        levels: One for each resolution below the image's, shallow to deep; a `RetrofitPlan` takes them as levels.
        image: (height, width) of the example.
    """

    levels: tuple[Level, ...]
    image: tuple[int, int]

    def __str__(self) -> str:
        if not self.levels:
            return f"no stage takes an image of {self.image} to a lower resolution"
        return table(self.levels)


@dataclass(frozen=True)
class _Run:
    """A call of one module with a feature in and one out.

    Attributes:
        output: Path to the feature that it gives, beside others of its size; empty for a single one.
    """

    call: Call
    x: Seen
    y: Seen
    output: Path
    before: Layout
    after: Layout
    fine: int
    coarse: int

    @property
    def parent(self) -> str:
        return self.call.name.rpartition(".")[0]

    def holds(self, other: "_Run") -> bool:
        return self.call.begin < other.call.begin and other.call.end < self.call.end


def inspect(
    model: nn.Module,
    example: Any = None,  # noqa: ANN401 - whatever the host takes
    *,
    example_kwargs: Mapping[str, Any] | None = None,
) -> Inspection:
    """Find the stages of an encoder: modules, or runs of modules, that take the feature to a lower resolution.

    The model is run once and is afterwards as it was before: random numbers, statistics, modes and attributes.

    Args:
        model: Any network.
        example: Positional arguments, as a tuple: `example=(x, mask)`. The largest image in it counts.
        example_kwargs: Named arguments.

    Returns:
        A record whose `levels` fit `RetrofitPlan(levels=...)`, and which prints as a table. Of a stage that gives
        several features of one size, the first one counts; `Level.output` says where it is.

    Raises:
        ConfigError: The model does not run on the example, or there is no image in it.

    Example:
        >>> import torch
        >>> import kdinpaint
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 4, 2, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 4, 2, 1))
        >>> print(kdinpaint.inspect(net, (torch.rand(1, 4, 32, 32),)))
        stage   channels  stride  size   layout
        0 .. 1  4 -> 8    2       16x16  nchw
        2       8 -> 16   4       8x8    nchw
    """
    args, kwargs = arguments(example, example_kwargs)
    images = [t for _, t in [*leaves(args), *leaves(kwargs)] if t.dim() == 4 and t.is_floating_point()]
    if not images:
        raise ConfigError("the example holds no image (B, C, H, W); give what the model is called with.")
    sizes = [(t.shape[-2], t.shape[-1]) for t in images]
    image = max(sizes, key=lambda size: size[0] * size[1])
    # Of a compiled network, names are those of the network inside: that is what a plan is for.
    inner: Any = model._orig_mod if type(model).__name__ == "OptimizedModule" else model
    modules = {name: module for name, module in inner.named_modules() if name}
    calls = dry_run(model, args, kwargs, modules)
    runs = [run for call in calls if (run := _run(call, modules[call.name], image)) is not None]
    levels = []
    crossing = [run for run in runs if run.coarse > run.fine and run.coarse % run.fine == 0]
    found = _stages(runs, crossing, side_branches=False) or _stages(runs, crossing, side_branches=True)
    # Where functions do it, as max_pool2d in a forward pass, what follows first has the resolution at both ends.
    for first, last in found or _stages(runs, [run for run in runs if run.coarse == run.fine], side_branches=True):
        size = last.after.size(last.y.shape, image)
        before, after = first.before.channels(first.x.shape), last.after.channels(last.y.shape)
        start, end = first.call.name, last.call.name
        levels.append(Level(end, before, after, last.coarse, size, last.after.kind, start, last.output))
    return Inspection(tuple(levels), image)


def _run(call: Call, module: nn.Module, image: Size) -> _Run | None:
    """What a call does to the resolution, if it gives one feature, or several of one size: the first counts."""
    features = [t for t in call.outputs if t.feature]
    given = [t for t in call.inputs if t.feature]
    if call.end < 0 or not features or not given or len({t.shape[-2:] for t in features}) > 1:
        return None
    x, y = given[0], features[0]
    try:
        before = guess_layout(x.shape, image, last=channels_last(module, first=True))
        after = guess_layout(y.shape, image, last=channels_last(module, first=False))
        fine, coarse = (stride_of(a.size(t.shape, image), image) for a, t in ((before, x), (after, y)))
        if min(after.size(y.shape, image)) < 2 or not fine or not coarse:
            return None
    except ValueError:
        return None
    return _Run(call, x, y, y.path if len(features) > 1 else (), before, after, fine, coarse)


def _stages(runs: Sequence[_Run], down: Sequence[_Run], *, side_branches: bool) -> list[tuple[_Run, _Run]]:
    """First and last module of each stage: a way down, and what follows beside it at that resolution."""
    if not side_branches:  # what a module takes down and up again, as attention with reduced keys
        down = [r for r in down if not any(o.holds(r) and o.coarse < r.coarse for o in runs)]
    single = [r for r in down if not any(r.holds(o) and o.coarse != r.coarse for o in down)]
    outer = [r for r in single if not any(o.holds(r) for o in single)]
    often = Counter(run.call.name for run in runs)
    chosen: list[_Run] = []
    for run in sorted(outer, key=lambda r: r.call.begin):
        reached = chosen[-1].coarse if chosen else 1
        if run.coarse > reached and run.fine >= reached and (not chosen or run.call.begin > chosen[-1].call.end):
            chosen.append(run)
    stages = []
    for number, run in enumerate(chosen):
        limit = chosen[number + 1].call.begin if number + 1 < len(chosen) else float("inf")
        last = run
        for other in runs:
            beside = other.parent == run.parent and last.call.end < other.call.begin and other.call.end < limit
            if (
                beside
                and often[other.call.name] == 1
                and other.fine == other.coarse == run.coarse
                and _follows(last, other)
            ):
                last = other
            elif beside and other.fine < run.coarse:
                break
        stages.append((run, last))
    return stages


def _follows(last: _Run, other: _Run) -> bool:
    """Whether a module can read what the last one gave: as many channels, in the same layout."""
    return other.before.channels(other.x.shape) == last.after.channels(last.y.shape)
