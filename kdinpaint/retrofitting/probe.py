"""The dry run: what every module is given and gives, with the host left exactly as it was."""

import contextlib
import itertools
import random
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting.trees import Path, leaves

__all__ = ["Call", "Seen", "arguments", "dry_run", "untouched"]

REGISTERED = ("_parameters", "_buffers", "_modules")
CONTAINERS = (dict, OrderedDict, defaultdict, list, set)


@dataclass(frozen=True)
class Seen:
    """A tensor that passed by: where it was, and its properties. Not the tensor."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def feature(self) -> bool:
        """Whether it can be a feature: floating point, with three or four axes."""
        return self.dtype.is_floating_point and len(self.shape) in (3, 4) and min(self.shape) > 0


@dataclass
class Call:
    """One call of a module.

    Attributes:
        name: Dotted path of the module.
        inputs: Tensors in its arguments; paths begin with a position or a name.
        begin: Number of module calls begun or ended before it began.
        outputs: Tensors in what it gave.
        end: Number of module calls begun or ended before it ended; -1 if it never did.
        in_place: Paths of the inputs that it changed, or that the stage which it begins changed or may change.
    """

    name: str
    inputs: list[Seen]
    begin: int
    outputs: list[Seen]
    end: int = -1
    in_place: tuple[Path, ...] = ()


def arguments(example: Any, kwargs: Mapping[str, Any] | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401
    """Positional and named arguments of an example: a tuple or list of arguments, or a single one."""
    if isinstance(example, tuple | list):
        return tuple(example), dict(kwargs or {})
    return (() if example is None else (example,)), dict(kwargs or {})


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Random numbers, modes, buffers, parameters' gradients and attributes are afterwards what they were before.

    So is what attributes hold, if they are dicts, lists or sets: a cache that a run fills would be stale later.
    """
    scripted = [m for m in model.modules() if isinstance(m, torch.jit.ScriptModule)]  # they have no __dict__ of use
    scripts = [(m, getattr(m, "training", None), dict(m.named_buffers(recurse=False))) for m in scripted]
    modules = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    tensors = [*model.parameters(), *model.buffers()]
    state = [dict(m.__dict__) for m in modules]
    registered: list[list[dict[str, Any]]] = [[dict(m.__dict__[key]) for key in REGISTERED] for m in modules]
    held = {id(v): (v, v.copy()) for a in state for k, v in a.items() if k not in REGISTERED and type(v) in CONTAINERS}
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    devices = sorted({t.device.index or 0 for t in tensors if t.device.type == "cuda"})
    own = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            yield
    finally:
        random.setstate(own[0])
        np.random.set_state(own[1])
        for module, attributes, kept_dicts in zip(modules, state, registered, strict=True):
            for key in set(module.__dict__) - set(attributes):
                del module.__dict__[key]
            module.__dict__.update(attributes)
            for key, before in zip(REGISTERED, kept_dicts, strict=True):
                present: dict[str, Any] = module.__dict__[key]
                if list(present) != list(before) or any(present[name] is not before[name] for name in before):
                    present.clear()
                    present.update(before)
        for script, training, own_buffers in scripts:
            for key, value in own_buffers.items():
                setattr(script, key, value)
            if training is not None:
                script.training = training
        for container, content in held.values():
            if not _same(container, content):
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def _same(container: Any, content: Any) -> bool:  # noqa: ANN401 - one of CONTAINERS
    """Whether two containers hold the same objects; tensors in them cannot be compared by value."""
    parts = [[*map(id, c), *map(id, c.values() if isinstance(c, dict) else ())] for c in (container, content)]
    return parts[0] == parts[1]


def dry_run(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    modules: Mapping[str, nn.Module],
    stages: Sequence[tuple[str, str]] = (),
) -> list[Call]:
    """Run the host once in eval mode and list the calls of the given modules, in the order in which they begin.

    Compiled parts run as they are written. Scripted ones cannot be watched and have no calls.

    Args:
        model: The host.
        args: Of its call.
        kwargs: Of its call.
        modules: What to watch, by name.
        stages: Names of the first and the last module of stages whose inputs are watched for changes in place.

    Raises:
        ConfigError: The host does not run on the example.
    """
    calls: list[Call] = []
    clock = itertools.count()
    running: dict[str, list[Call]] = {name: [] for name in modules}
    begun: dict[tuple[str, str], tuple[Call, list[tuple[Path, Tensor, int]]]] = {}
    handles: list[Any] = []

    def seen(tree: Any) -> list[Seen]:  # noqa: ANN401
        once = {id(t): (path, t) for path, t in reversed(list(leaves(tree)))}
        return [Seen(path, tuple(t.shape), t.dtype, t.device) for path, t in reversed(once.values())]

    def watch(name: str, module: nn.Module) -> None:
        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = Call(name, [*seen(args), *seen(kwargs)], next(clock), [])
            calls.append(call)
            running[name].append(call)
            for stage in stages:
                if stage[0] == name:
                    given = [*leaves(args), *leaves(kwargs)]
                    begun[stage] = call, [(p, t, t._version) for p, t in given if not t.is_inference()]

        def after(_: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
            call = running[name].pop()
            call.outputs, call.end = seen(output), next(clock)
            for stage in stages:
                if stage[1] == name and stage in begun:
                    start, versions = begun.pop(stage)
                    start.in_place += tuple(path for path, t, version in versions if t._version != version)

        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, prepend=True))

    def change(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a module that works in place: dropout does in training only, when this run would not see it."""
        storages = {t.untyped_storage()._cdata for _, t in [*leaves(args), *leaves(kwargs)]}
        for start, versions in begun.values():
            start.in_place += tuple(path for path, t, _ in versions if t.untyped_storage()._cdata in storages)

    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ConfigError("the model has lazy parameters without a shape; call it once before it is retrofitted.")
    with untouched(model):
        try:
            for module in model.modules():
                if hasattr(module, "training"):  # a frozen script has none
                    module.training = False
            for name, module in modules.items():
                if not isinstance(module, torch.jit.ScriptModule):
                    watch(name, module)
            for module in model.modules() if stages else ():
                if getattr(module, "inplace", False) is True and not isinstance(module, torch.jit.ScriptModule):
                    handles.append(module.register_forward_pre_hook(change, with_kwargs=True))
            with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
                warnings.simplefilter("ignore")  # of the host, about a run without gradients
                model(*args, **kwargs)
        except Exception as error:
            raise ConfigError(
                f"{type(model).__name__} does not run on the example: {type(error).__name__}: {error}. Give in "
                f"example=(...) and example_kwargs={{...}} exactly what the model is called with."
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    return calls
