"""What all launches share: dense channels-last rows, the list of a region's cells, precision, and the launch itself."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.triton.configs import Config

__all__ = [
    "constants",
    "cut",
    "image_rows",
    "input_gradient",
    "interpreted",
    "launch",
    "precision",
    "region_index",
    "strides",
    "tile_width",
    "weight_gradient",
]


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    from kdinpaint.ops.triton.kernels import INTERPRETED

    return INTERPRETED


def launch(kernel: Any, grid: tuple[int, ...], arguments: Mapping[str, Any], config: Config) -> None:  # noqa: ANN401
    """Start a kernel; the one place where that happens, so that the arguments can be recorded."""
    # Contraction to fused multiply-add is asked for by name: Triton is about to change its default.
    kernel[grid](**arguments, num_warps=config.warps, num_stages=config.stages, enable_fp_fusion=True)


def cut(count: int, block: int) -> int:
    """Blocks needed for `count` items."""
    return -(-count // block)


def image_rows(image: Tensor) -> Tensor:
    """(B, C, H, W) as dense (B, H, W, C); no copy where it is channels-last already."""
    return image.permute(0, 2, 3, 1).contiguous()


def constants(geometry: Geometry) -> dict[str, int]:
    """The geometry under the names it has in the kernels."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = geometry
    return {"KH": kh, "KW": kw, "SH": sh, "SW": sw, "PH": ph, "PW": pw, "DH": dh, "DW": dw}


def strides(prefix: str, planes: Tensor | None) -> dict[str, int]:
    """Strides of offsets, kernels or their gradients, as prefix_b, prefix_c, prefix_h, prefix_w."""
    values = (0, 0, 0, 0) if planes is None else planes.stride()
    return {f"{prefix}_{axis}": value for axis, value in zip("bchw", values, strict=True)}


def tile_width(pixels: int, height: int, width: int) -> int:
    """Width of a tile, or 0 where tiles would hang over the edge of a small map by more than an eighth."""
    across = 8 if pixels >= 64 else 4
    down = pixels // across
    covered = cut(height, down) * down * cut(width, across) * across
    return across if 8 * covered <= 9 * height * width else 0


def precision(dtype: torch.dtype) -> str:
    """How float32 is multiplied: as three TF32 products, as one where PyTorch is told to, exactly when interpreted."""
    if interpreted():
        return "ieee"
    if dtype != torch.float32:
        return "tf32"  # not looked at: 16-bit operands have one way
    said = torch.backends.cuda.matmul.fp32_precision
    if said == "none":
        said = torch.backends.fp32_precision  # type: ignore[attr-defined]
    return "tf32" if said == "tf32" else "tf32x3"


def region_index(region: Tensor) -> tuple[Tensor, Tensor]:
    """The cells of a region that are not 0, in order, and their number; both stay on the device.

    The list has room for all cells. What lies past the number is never read.
    """
    from kdinpaint.ops.triton.kernels import compact_kernel

    running = (region.reshape(-1) != 0).cumsum(0, dtype=torch.int32)
    index = torch.empty(running.shape, dtype=torch.int32, device=region.device)
    block = 1024
    arguments = {"running": running, "index": index, "cells": running.numel(), "BLOCK": block}
    launch(compact_kernel, (cut(running.numel(), block),), arguments, Config(block, 0, 0, 4, 1))
    return index, running[-1:]


def weight_gradient(total: Tensor, weight: Tensor) -> Tensor:
    """(K*K, C, O) or (K*K*C, O) in float32 as a gradient of `weight`, in its dtype and layout."""
    (outputs, channels, *kernel), gradient = weight.shape, torch.empty_like(weight)
    return gradient.copy_(total.view(*kernel, channels, outputs).permute(3, 2, 0, 1))


def input_gradient(dx: Tensor, input: Tensor) -> Tensor:
    """(B, H, W, C) in float32 as a gradient of `input`, in its dtype and layout; no copy where they agree."""
    gradient = dx.permute(0, 3, 1, 2)
    if gradient.dtype == input.dtype and gradient.stride() == torch.empty_like(input, device="meta").stride():
        return gradient
    return torch.empty_like(input).copy_(gradient)
