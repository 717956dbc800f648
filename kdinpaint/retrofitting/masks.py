"""Where the mask of a call is found, and what it becomes: (B, 1, H, W), bool, True = hole."""

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kdinpaint._core.checks import describe
from kdinpaint._core.errors import ConfigError, ShapeError

__all__ = ["MaskSource", "as_hole"]


class MaskSource:
    """Reads the mask out of the arguments of a call; see `RetrofitPlan.mask`.

    Args:
        spec: As in `RetrofitPlan.mask`.
        model: The host, whose signature tells where a named argument stands.

    Raises:
        ConfigError: The text is not understood.
    """

    def __init__(
        self,
        spec: str | Callable[[tuple[Any, ...], dict[str, Any]], Tensor | None],
        model: nn.Module | None = None,
    ) -> None:
        self.spec = spec
        self.kind, self.key, self.inverted = "call", "", False
        if isinstance(spec, str):
            found = re.fullmatch(r"(~?)(?:(input):(-?\d+)|(arg):(\d+)|(kwarg):(\w+)|(key):(.+))", spec)
            if found is None:
                raise ConfigError(
                    f'mask is {spec!r}; expected "input:-1" (a channel of the first argument), "arg:1", '
                    f'"kwarg:mask", "key:mask" (of a dict), one of these after "~" if 1 means known, or a function '
                    f"(args, kwargs) -> mask."
                )
            parts = [part for part in found.groups()[1:] if part]
            self.inverted, (self.kind, self.key) = bool(found.group(1)), parts
        elif not callable(spec):
            raise ConfigError(f"mask is {describe(spec)}; expected a text or a function (args, kwargs) -> mask.")
        parameters = inspect.signature(model.forward).parameters.values() if model is not None else ()
        self.order = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        self.optional = [p.name for p in parameters if p.default is not p.empty]

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The hole (B, 1, H, W), bool, or None if the call has no mask."""
        if callable(self.spec):
            mask = self.spec(args, kwargs)
        elif self.kind == "input":
            first = self._argument(0, "", args, kwargs)
            channel = int(self.key)
            if not isinstance(first, Tensor) or first.dim() != 4 or not -first.shape[1] <= channel < first.shape[1]:
                raise ShapeError(
                    f"mask={self.spec!r} wants channel {channel} of the first argument, which is {describe(first)}; "
                    f"expected a tensor (B, C, H, W) with that channel."
                )
            mask = first.select(1, channel).unsqueeze(1)
        elif self.kind == "arg":
            mask = self._argument(int(self.key), "", args, kwargs)
        elif self.kind == "kwarg":
            place = self.order.index(self.key) if self.key in self.order else len(args)
            mask = self._argument(place, self.key, args, kwargs)
        else:
            first = self._argument(0, "", args, kwargs)
            if not isinstance(first, dict) or self.key not in first:
                raise ConfigError(f"mask={self.spec!r} wants a dict with that key first; got {describe(first)}.")
            mask = first[self.key]
        return None if mask is None else as_hole(mask, inverted=self.inverted)

    def _argument(self, place: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """The argument at a place of the signature, passed by position or by name."""
        if name in kwargs:
            return kwargs[name]
        if place < len(args):
            return args[place]
        known = self.order[place] if place < len(self.order) else name
        if known in kwargs:
            return kwargs[known]
        if known in self.optional:
            return None  # left at its default, which is taken for no mask
        raise ConfigError(
            f"mask={self.spec!r} finds nothing: the call has {len(args)} positional arguments and the names "
            f"{sorted(kwargs)}. Name another place in RetrofitPlan(mask=...), or give a function."
        )


def as_hole(mask: Tensor, *, inverted: bool = False) -> Tensor:
    """(B, 1, H, W), bool, True = hole, from (B, H, W) or (B, C, H, W) of any dtype.

    Raises:
        ShapeError: `mask` is no such tensor.
    """
    if not isinstance(mask, Tensor) or mask.dim() not in (3, 4):
        raise ShapeError(f"the mask is {describe(mask)}; expected a tensor (B, 1, H, W) or (B, H, W).")
    hole = mask > 0.5 if mask.is_floating_point() else mask != 0
    hole = ~hole if inverted else hole
    hole = hole.unsqueeze(1) if hole.dim() == 3 else hole
    return hole if hole.shape[1] == 1 else hole.any(1, keepdim=True)
