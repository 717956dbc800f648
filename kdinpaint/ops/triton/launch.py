"""The Triton backend of `adaptive_conv2d`, from PyTorch tensors to launches. Triton itself is imported on first use."""

import functools
import importlib.util
import os
import sys
from typing import Any

import torch
from torch import Tensor

from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.triton import columns
from kdinpaint.ops.triton.arguments import (
    constants,
    cut,
    image_rows,
    input_gradient,
    launch,
    precision,
    region_index,
    strides,
    tile_width,
    weight_gradient,
)
from kdinpaint.ops.triton.configs import Config, choose

__all__ = ["backward", "forward", "unsupported"]

Wanted = tuple[bool, bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def _has_triton() -> bool:
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False  # blocked or half removed


def _interpreter_asked_for() -> bool:
    triton = sys.modules.get("triton")
    if triton is not None and hasattr(triton, "knobs"):
        return bool(triton.knobs.runtime.interpret)
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@functools.cache
def _too_old(index: int) -> bool:
    return torch.cuda.get_device_capability(index) < (8, 0)


def unsupported(input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor) -> str | None:
    """Why this backend cannot run on these arguments, or None if it can.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, K, K).
        offset: (B, 2*K*K, H_out, W_out).
        kernel: (B, K*K, H_out, W_out).
    """
    if input.dtype not in _DTYPES or offset.dtype not in _DTYPES or kernel.dtype not in _DTYPES:
        return "a dtype other than float32, float16 and bfloat16"
    if weight.dtype != input.dtype:
        return "input and weight of different dtypes"
    if input.device.type not in ("cuda", "cpu") or torch.version.hip is not None:
        return "not an NVIDIA GPU"
    if not _has_triton():
        return "Triton is not installed"
    if input.device.type == "cpu":
        if not _interpreter_asked_for():
            return "not an NVIDIA GPU"
    elif _too_old(torch.cuda.current_device() if input.device.index is None else input.device.index):
        return "a GPU older than compute capability 8.0"
    if 0 in input.shape or 0 in weight.shape or 0 in kernel.shape:
        return "an empty argument"
    # Within an image positions are 32-bit; images may be any number.
    if max(input[0].numel(), offset[0].numel(), kernel.numel(), weight.shape[0] * kernel[0, 0].numel()) >= 2**31:
        return "more than 2^31 elements"
    return None


def forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    region: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Eq. 4, channels-last, in the dtype of `input`; exactly 0 outside the region.

    Args:
        input: (B, C_in, H, W), best channels-last.
        weight: (C_out, C_in, K, K), of the dtype of `input`.
        offset: (B, 2*K*K, H_out, W_out), any layout.
        kernel: (B, K*K, H_out, W_out), any layout.
        bias: (C_out,).
        region: (B, 1, H_out, W_out); work is done where it is not 0.
        geometry: Of the convolution.

    Returns:
        (B, C_out, H_out, W_out).
    """
    with torch.cuda.device_of(input):  # type: ignore[no-untyped-call]
        if columns.preferred(weight):
            return columns.forward(input, weight, offset, kernel, bias, region, geometry)
        return fused_forward(input, weight, offset, kernel, bias, region, geometry)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    wanted: tuple[bool, bool, bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """Gradients for input, weight, offset, kernel and bias; only those wanted are computed.

    That of the input is summed by atomic additions in float32, whose order varies; under
    `torch.use_deterministic_algorithms` by a sort. The others are the same bits every time.

    Args:
        grad: Of the output of `forward`.
        input: As in `forward`.
        weight: As in `forward`.
        offset: As in `forward`.
        kernel: As in `forward`.
        region: As in `forward`.
        geometry: As in `forward`.
        wanted: Which gradients.

    Returns:
        Each in the dtype of what it belongs to and the layout that `torch.empty_like` gives it, or None.
    """
    with torch.cuda.device_of(input):  # type: ignore[no-untyped-call]
        run = columns.backward if columns.preferred(weight) else fused_backward
        gradients = run(grad, input, weight, offset, kernel, region, geometry, wanted[:4])
        if not wanted[4]:
            return *gradients, None
        inside = grad if region is None else torch.where(region != 0, grad, 0.0)
        return *gradients, inside.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)


def _common(rows: Tensor, offset: Tensor, kernel: Tensor, region: Tensor | None, geometry: Geometry) -> dict[str, Any]:
    """Arguments that all fused kernels take under the same names."""
    batch, height, width, channels = rows.shape
    index, count = (None, None) if region is None else region_index(region)
    return {
        "x": rows,
        "offset": offset,
        "kernel": kernel,
        "index": index,
        "count": count,
        "B": batch,
        "H": height,
        "W": width,
        "HO": kernel.shape[2],
        "WO": kernel.shape[3],
        "C": channels,
        **strides("so", offset),
        **strides("sv", kernel),
        **constants(geometry),
        "PRECISION": precision(rows.dtype),
    }


def _tiling(config: Config, kernel: Tensor, region: Tensor | None) -> tuple[int, dict[str, int]]:
    """How many blocks of positions there are at most, and the block sizes under their names in the kernels."""
    batch, _, height, width = kernel.shape
    across = 0 if region is not None else tile_width(config.pixels, height, width)
    if across:
        blocks = batch * cut(height, config.pixels // across) * cut(width, across)
    else:
        blocks = cut(batch * height * width, config.pixels)
    return blocks, {"BP": config.pixels, "TW": across, "BC": config.channels, "BO": config.outputs}


def _packed(weight: Tensor, *, outputs_last: bool) -> tuple[Tensor, dict[str, int]]:
    """The weight as dense (K*K, C, O) or (K*K, O, C), with the strides of taps, input and output channels.

    Last comes what is summed over: matrix units want that contiguous in 32-bit operands. A channels-last weight
    already is in the second form but for the order of taps and output channels, and is not copied.
    """
    outputs, channels, *kernel = weight.shape
    if outputs_last:
        return weight.permute(2, 3, 1, 0).contiguous(), {"w_tap": channels * outputs, "w_c": outputs, "w_o": 1}
    if weight.permute(0, 2, 3, 1).is_contiguous():
        return weight, {"w_tap": channels, "w_c": 1, "w_o": kernel[0] * kernel[1] * channels}
    return weight.permute(2, 3, 0, 1).contiguous(), {"w_tap": channels * outputs, "w_c": 1, "w_o": channels}


def fused_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    region: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """`forward` in one kernel, without a column buffer."""
    from kdinpaint.ops.triton.kernels import forward_kernel

    rows, (outputs, channels) = image_rows(input), weight.shape[:2]
    batch, _, height, width = kernel.shape
    config = choose("forward", channels, outputs, input.dtype, batch * height * width, input.device)
    blocks, sizes = _tiling(config, kernel, region)
    packed, weight_strides = _packed(weight, outputs_last=False)
    allocate = torch.empty if region is None else torch.zeros
    out = allocate((batch, height, width, outputs), dtype=input.dtype, device=input.device)
    arguments = _common(rows, offset, kernel, region, geometry) | weight_strides | sizes
    arguments |= {"w": packed, "bias": None if bias is None else bias.contiguous(), "out": out, "N": outputs}
    launch(forward_kernel, (blocks, cut(outputs, config.outputs)), arguments, config)
    return out.permute(0, 3, 1, 2)


def fused_backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    wanted: Wanted,
) -> Gradients:
    """`backward` in two kernels, without a column buffer unless it must be deterministic."""
    grad_rows, rows = image_rows(grad.to(input.dtype)), image_rows(input)
    common = _common(rows, offset, kernel, region, geometry)
    common |= {"grad": grad_rows, "N": weight.shape[0]}
    dx, doffset, dkernel = columns.gradient_buffers(rows, offset, kernel, region, wanted)
    if dx is not None or doffset is not None or dkernel is not None:
        _data_gradients(common, weight, region, dx, doffset, dkernel)
    dweight = _weight_gradient(common, weight, region) if wanted[1] else None
    if wanted[0] and dx is None:
        dx = columns.sorted_input_gradient(grad_rows, rows, weight, offset, kernel, region, geometry)
    dinput = None if dx is None else input_gradient(dx, input)
    return dinput, dweight, doffset, dkernel


def _data_gradients(
    common: dict[str, Any],
    weight: Tensor,
    region: Tensor | None,
    dx: Tensor | None,
    doffset: Tensor | None,
    dkernel: Tensor | None,
) -> None:
    from kdinpaint.ops.triton.gradients import data_gradient_kernel

    outputs, channels = weight.shape[:2]
    kernel: Tensor = common["kernel"]
    positions = kernel.shape[0] * kernel.shape[2] * kernel.shape[3]
    config = choose("data", channels, outputs, weight.dtype, positions, weight.device)
    blocks, sizes = _tiling(config, kernel, region)
    packed, weight_strides = _packed(weight, outputs_last=True)
    arguments = common | weight_strides | sizes | strides("do", doffset) | strides("dv", dkernel)
    arguments |= {"w": packed, "dx": dx, "doffset": doffset, "dkernel": dkernel}
    launch(data_gradient_kernel, (blocks,), arguments, config)


def _weight_gradient(common: dict[str, Any], weight: Tensor, region: Tensor | None) -> Tensor:
    from kdinpaint.ops.triton.gradients import weight_gradient_kernel

    outputs, channels, kernel_height, kernel_width = weight.shape
    kernel: Tensor = common["kernel"]
    positions = kernel.shape[0] * kernel.shape[2] * kernel.shape[3]
    config = choose("weight", channels, outputs, weight.dtype, positions, weight.device)
    blocks, sizes = _tiling(config, kernel, region)
    taps, parts = kernel_height * kernel_width, cut(channels, config.channels) * cut(outputs, config.outputs)
    splits = max(1, min(blocks, cut(config.programs, taps * parts)))
    partial = torch.empty((splits, taps, channels, outputs), dtype=torch.float32, device=weight.device)
    arguments = common | sizes | {"partial": partial, "blocks": blocks}
    launch(weight_gradient_kernel, (taps, splits, parts), arguments, config)
    return weight_gradient(partial.sum(0), weight)
