"""What stands in the place of a stage: the stage itself, and a filler beside it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdinpaint._core.errors import ConfigError
from kdinpaint.layers.filler import FillerBlock
from kdinpaint.retrofitting.feed import MaskFeed
from kdinpaint.retrofitting.layouts import Layout, fit
from kdinpaint.retrofitting.trees import Path, pick, replace

__all__ = ["FILLER", "FilledStage", "StageInput", "StageSpec", "drop_hooks"]

FILLER = "kdinpaint_filler"
OWN = ("base", FILLER, "spec", "feed")


@dataclass(frozen=True)
class StageSpec:
    """How one stage is read and written.

    Attributes:
        name: Dotted path of the module that ends it.
        start: Dotted path of the module that begins it.
        input_path: From (args, kwargs) of the first module to the feature it reads.
        output_path: From the output of the last module to the feature it gives.
        input_layout: Of the feature read.
        output_layout: Of the feature given.
        stride: Of the stage; 0 if its sizes have no simple ratio.
        in_place: Whether the stage changes its input.
    """

    name: str
    start: str
    input_path: Path
    output_path: Path
    input_layout: Layout
    output_layout: Layout
    stride: int
    in_place: bool = False

    def read(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """The feature that the stage reads, as it was before the stage ran."""
        path = self.input_path
        x: Tensor = pick(args if isinstance(path[0], int) else kwargs, path)
        return x.clone() if self.in_place else x


class StageInput:
    """A hook before the first module of a stage of several: it keeps the input until the last one has run.

    Args:
        spec: Of the stage.
        feed: Of the host.
    """

    def __init__(self, spec: StageSpec, feed: MaskFeed) -> None:
        self.spec = spec
        self.feed = feed

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first module runs."""
        if self.feed.enabled:
            x = self.spec.read(args, kwargs)
            self.feed.frame(x.device).inputs[self.spec.name] = x


class FilledStage(nn.Module):
    """A stage of a host with a `FillerBlock` beside it: base(...) + filler(input, mask), Eq. 3.

    Attributes and items are those of the stage, and so are the keys of its state; those of the filler begin with
    "kdinpaint_filler.". States without them load as well and leave the filler alone.

    Args:
        base: The stage; of a stage of several modules, the last.
        filler: What is added.
        spec: How the stage is read and written.
        feed: Brings the mask.
    """

    def __init__(self, base: nn.Module, filler: FillerBlock, spec: StageSpec, feed: MaskFeed) -> None:
        super().__init__()
        self.base = base
        self.kdinpaint_filler = filler
        self.spec = spec
        self.feed = feed
        self.training = base.training
        filler.train(base.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the stage takes and gives
        """The stage's own output, its feature filled where the mask says hole."""
        if not self.feed.enabled:
            return self.base(*args, **kwargs)
        serial, several = self.kdinpaint_filler.mode == "serial", self.spec.start != self.spec.name
        x = None if serial or several else self.spec.read(args, kwargs)
        output = self.base(*args, **kwargs)
        y: Tensor = pick(output, self.spec.output_path)
        frame = self.feed.frame(y.device)
        seen = frame.inputs.pop(self.spec.name, None) if several else x
        if frame.hole is None:
            return output
        if serial:
            seen = y
        if seen is None:
            raise ConfigError(
                f"{self.spec.name} ran without {self.spec.start} before it, as a stage of several modules does under "
                f"gradient checkpointing of its last one alone. Checkpoint the whole stage, or name a single module."
            )
        return replace(output, y, y + self._fill(seen, y, frame.hole))

    def _fill(self, x: Tensor, y: Tensor, hole: Tensor) -> Tensor:
        image = (hole.shape[-2], hole.shape[-1])
        spec, filler = self.spec, self.kdinpaint_filler
        size = spec.output_layout.size(tuple(y.shape), image)
        before = spec.output_layout if filler.mode == "serial" else spec.input_layout
        seen = fit(before.to_nchw(x, image), size, filler.stride if spec.stride else 0)
        hole = hole.to(y.device)
        if hole.shape[0] == 1:
            hole = hole.expand(y.shape[0], -1, -1, -1)
        if not torch.is_autocast_enabled(x.device.type):
            seen = seen.to(filler.exit.weight.dtype)
        return spec.output_layout.from_nchw(filler(seen, hole)).to(y.dtype)

    def state_dict(self, *args: Any, prefix: str = "", keep_vars: bool = False, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401, D102
        destination: Any = args[0] if args else kwargs.get("destination")
        state: dict[str, Any] = self.base.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        self.kdinpaint_filler.state_dict(destination=state, prefix=f"{prefix}{FILLER}.", keep_vars=keep_vars)
        return state

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        own = f"{prefix}{FILLER}."
        for key in [key for key in state_dict if key.startswith(prefix) and not key.startswith(own)]:
            state_dict[f"{prefix}base.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        if not any(key.startswith(own) for key in state_dict):
            self.kdinpaint_filler.state_dict(destination=state_dict, prefix=own, keep_vars=True)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "base" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self._modules["base"], name)

    def __setattr__(self, name: str, value: Any) -> None:  # noqa: ANN401
        base = self.__dict__.get("_modules", {}).get("base")
        own = base is None or name in OWN or name in self.__dict__ or hasattr(nn.Module, name)
        if own or not hasattr(base, name):
            super().__setattr__(name, value)
        else:
            setattr(base, name, value)  # switches of a stage, as grad_checkpointing

    def __len__(self) -> int:
        return len(self.base)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.base)  # type: ignore[call-overload]

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401
        return self.base[key]  # type: ignore[index]

    def __bool__(self) -> bool:
        return True

    def extra_repr(self) -> str:
        """Where the stage begins, if it is one of several modules."""
        return "" if self.spec.start == self.spec.name else f"from {self.spec.start}"


def drop_hooks(module: nn.Module, which: Callable[[Any], bool]) -> None:
    """Take off the forward hooks of a module that `which` says, those before it and those after it."""
    for hooks, kinds in (
        (module._forward_pre_hooks, [module._forward_pre_hooks_with_kwargs]),
        (module._forward_hooks, [module._forward_hooks_with_kwargs, module._forward_hooks_always_called]),
    ):
        for key in [key for key, hook in hooks.items() if which(hook)]:
            del hooks[key]
            for kind in kinds:
                kind.pop(key, None)
