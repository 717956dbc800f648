"""Argument checks at the public boundary.

Every function here is a no-op while a graph is being compiled or exported: the same call was checked
eagerly, or its shapes are checked by the compiler. None of them reads tensor values except
`check_image` and `check_binary_mask`, which serve boundaries where a host synchronisation is affordable.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdinpaint._core.errors import ConfigError, RangeError, ShapeError

__all__ = [
    "check_binary_mask",
    "check_choice",
    "check_feature",
    "check_image",
    "check_level_lists",
    "check_mask",
    "describe",
]


def describe(value: object) -> str:
    """A short description of what came in, for error messages."""
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}"[:120]


def check_choice(value: str, choices: Sequence[str], name: str) -> None:
    """Raise ConfigError unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


def check_feature(x: Tensor, name: str, *, channels: int | None = None) -> None:
    """Raise ShapeError unless `x` is (B, C, H, W) and floating point, with `channels` channels if given."""
    if torch.compiler.is_compiling():
        return
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
        raise ShapeError(f"{name} is {describe(x)}; expected a floating-point tensor (B, C, H, W).")
    if channels is not None and x.shape[1] != channels:
        raise ShapeError(
            f"{name} has {x.shape[1]} channels (shape {tuple(x.shape)}); expected {channels}. "
            f"Build the module with the number of channels it will be given."
        )


def check_mask(mask: Tensor, like: Tensor | None = None, name: str = "mask", *, same_size: bool = True) -> None:
    """Raise ShapeError unless `mask` is (B, 1, H, W), of the batch and (with `same_size`) the size of `like`."""
    if torch.compiler.is_compiling():
        return
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[1] != 1:
        raise ShapeError(
            f"{name} is {describe(mask)}; expected (B, 1, H, W) with 1 = hole, float or bool. "
            f"Add missing axes with mask[None, None] or mask[:, None]."
        )
    if like is not None and mask.shape[0] != like.shape[0]:
        raise ShapeError(
            f"{name} holds {mask.shape[0]} masks and the batch {like.shape[0]} images; expected one mask "
            f"per image. Use mask.expand({like.shape[0]}, -1, -1, -1) to share one."
        )
    if like is not None and same_size and mask.shape[-2:] != like.shape[-2:]:
        raise ShapeError(
            f"{name} is {tuple(mask.shape[-2:])} and the image {tuple(like.shape[-2:])} (height, width); "
            f"expected equal sizes. Resize the mask with nearest-neighbour interpolation."
        )


def check_level_lists(student: Sequence[Tensor], other: Sequence[Tensor], names: tuple[str, str]) -> None:
    """Raise ShapeError unless both lists hold features of the same shapes, level by level."""
    if torch.compiler.is_compiling():
        return
    if len(student) != len(other):
        raise ShapeError(f"{names[0]} has {len(student)} levels and {names[1]} {len(other)}; expected as many.")
    for level, (a, b) in enumerate(zip(student, other, strict=True)):
        if a.shape != b.shape:
            raise ShapeError(
                f"level {level}: {names[0]} is {tuple(a.shape)} and {names[1]} {tuple(b.shape)}; expected equal "
                f"shapes. Tap the teacher at the same resolution, or align the channels with a 1x1 convolution."
            )


def check_image(image: Tensor, name: str = "image") -> None:
    """Raise unless `image` is (B, C, H, W), finite and in [0, 1]. Reads values (synchronises a GPU)."""
    check_feature(image, name)
    if torch.compiler.is_compiling() or image.numel() == 0:
        return
    if not bool(torch.isfinite(image).all()):
        bad = int((~torch.isfinite(image)).sum())
        raise RangeError(f"{name} holds {bad} values that are NaN or infinite; expected finite values in [0, 1].")
    low, high = (float(v) for v in image.aminmax())
    if low < -1e-3 or high > 1 + 1e-3:
        hint = "Divide by 255." if high > 2 else "Map it to [0, 1] first, for example with (x + 1) / 2."
        raise RangeError(f"{name} has values from {low:.4g} to {high:.4g}; expected [0, 1]. {hint}")


def check_binary_mask(mask: Tensor, name: str = "mask") -> None:
    """Raise unless every value of `mask` is 0 or 1. Reads values (synchronises a GPU)."""
    if torch.compiler.is_compiling() or mask.dtype == torch.bool:
        return
    odd = mask[(mask != 0) & (mask != 1)]
    if odd.numel():
        raise RangeError(
            f"{name} is not binary: {odd.numel()} of {mask.numel()} values are neither 0 nor 1 "
            f"(for example {float(odd.flatten()[0]):.4g}). Threshold it first: mask > 0.5, with 1 = hole."
        )
