"""The way of the mask from the host's own arguments to its stages."""

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from kdinpaint._core.errors import ConfigError
from kdinpaint.retrofitting.masks import MaskSource
from kdinpaint.retrofitting.report import Level
from kdinpaint.retrofitting.trees import leaves

__all__ = ["Frame", "MaskFeed", "feed_of"]


class Frame:
    """What one call of the host hands to its stages: the hole, and inputs of stages that have begun."""

    __slots__ = ("hole", "inputs")

    def __init__(self, hole: Tensor | None = None) -> None:
        self.hole = hole
        self.inputs: dict[str, Tensor] = {}


class _Stack(threading.local):
    """Calls in progress in this thread, and masks that it was given from outside. A copy is empty."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.given: list[Frame] = []

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (_Stack, ())


class MaskFeed:
    """Two hooks on the host and what they share with the wrappers.

    A call of the host puts its mask on a stack of the calling thread and takes it away at the end, also when the
    call raises. Checkpointed stages run again during the backward pass, when the call is over: gradients that
    reach the outputs of a call bring its mask back until the backward pass ends.

    Args:
        source: Reads the mask out of the arguments.
        levels: The stages, in the order in which they run, as the report has them.
        names: First name of each module that begins or ends a stage, by all its names.
    """

    def __init__(self, source: MaskSource, levels: Sequence[Level], names: Mapping[str, str]) -> None:
        self.source = source
        self.levels = tuple(levels)
        self.names = dict(names)
        self.enabled = True
        self.frozen: list[tuple[nn.Module, str]] = []  # names of parameters: loading may replace these
        self._stack = _Stack()
        self._again: dict[torch.device, Frame] = {}
        self._lent: list[Frame] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_again": {}, "_lent": []}

    def attach(self, model: nn.Module) -> None:
        """Put the hooks on the host."""
        model.register_forward_pre_hook(self.enter, prepend=True, with_kwargs=True)
        model.register_forward_hook(self.leave, always_call=True)

    def enter(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the host runs."""
        frames = self._stack.frames
        if frames and not torch.compiler.is_compiling() and not _runs(model):
            frames.clear()  # an interrupt, which hooks do not see, has ended an earlier call
        frame = Frame()
        frames.append(frame)
        if self.enabled:
            given = self._stack.given
            frame.hole = given[-1].hole if given else self.source(args, kwargs)

    def leave(self, model: nn.Module, args: Any, output: Any) -> None:  # noqa: ANN401
        """After the host has run or raised."""
        frames = self._stack.frames
        if not frames:
            return
        frame = frames.pop()
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        kept = Frame(frame.hole)
        for _, tensor in leaves(output):
            if tensor.requires_grad and tensor.grad_fn is not None:
                tensor.register_hook(_Again(self._again, kept))  # type: ignore[no-untyped-call]

    def follow(self, feature: Tensor) -> None:
        """During a call: gradients that reach this feature bring the mask back, too, as those of the output do."""
        frames = self._stack.frames
        if frames and feature.requires_grad and feature.grad_fn is not None and not torch.compiler.is_compiling():
            feature.register_hook(_Again(self._again, Frame(frames[-1].hole)))  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def give(self, hole: Tensor) -> Iterator[None]:
        """Inside, this is the hole, for calls of the host and of any method or part of it."""
        frame = Frame(hole)
        self._stack.given.append(frame)
        self._lent.append(frame)  # a backward pass on a GPU runs in a thread of its own
        try:
            yield
        finally:
            self._stack.given.pop()
            self._lent.remove(frame)

    def frame(self, device: torch.device) -> Frame:
        """The call in progress, the mask that was given, or the call that a backward pass repeats on that device.

        Raises:
            ConfigError: None of them: a stage was called without the host.
        """
        frames = self._stack.frames or self._stack.given
        if frames:
            return frames[-1]
        if not torch.compiler.is_compiling() and self._again:
            return self._again.get(device) or next(iter(self._again.values()))
        if not torch.compiler.is_compiling() and self._lent and torch._C._current_graph_task_id() != -1:
            return self._lent[-1]
        raise ConfigError(
            "a retrofitted stage runs outside a call of the model that was retrofitted, so nothing says where the "
            "hole is. Call that model itself; or give the mask to methods such as forward_features, which pass by its "
            "hooks: `with kdinpaint.retrofitting.masked(model, mask): ...`, the backward pass of checkpointed stages "
            "included; or run it without fillers, inside disabled(model)."
        )


class _Again:
    """Brings the mask of a call back when gradients reach its outputs."""

    def __init__(self, again: dict[torch.device, Frame], frame: Frame) -> None:
        self.again = again
        self.frame = frame

    def __call__(self, gradient: Tensor) -> None:
        self.again[gradient.device] = self.frame
        Variable._execution_engine.queue_callback(self.again.clear)


def _runs(model: nn.Module) -> bool:
    """Whether a call of the module is in progress further up, beside the one that asks."""
    frame: FrameType | None = sys._getframe(2)
    found = 0
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model:
            found += 1
        frame = frame.f_back
    return found > 1


def feed_of(model: nn.Module) -> MaskFeed | None:
    """The feed of a retrofitted host, if it is one."""
    for hook in model._forward_pre_hooks.values():
        feed = getattr(hook, "__self__", None)
        if isinstance(feed, MaskFeed):
            return feed
    return None
