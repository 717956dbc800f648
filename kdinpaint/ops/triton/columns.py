"""The column form: weighted samples in a buffer of bounded size, then a matrix product of cuBLAS.

It is the yardstick of the fused kernels and what runs where they have no advantage. A stretch of positions at a
time goes through the buffer. A region saves nothing here; the result is the same.
"""

from typing import Any

import torch
from torch import Tensor

from kdinpaint.ops.frame import Frame
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.sampling import scatter_rows
from kdinpaint.ops.table import Positions, sampling_table
from kdinpaint.ops.triton.arguments import constants, cut, image_rows, input_gradient, launch, strides, weight_gradient
from kdinpaint.ops.triton.configs import choose

__all__ = ["backward", "forward", "gradient_buffers", "preferred", "sorted_input_gradient"]

BUFFER_BYTES = 32 * 2**20
"""Size of the column buffer: what it holds is read again at once, and fits the second-level cache."""

Wanted = tuple[bool, bool, bool, bool]
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def preferred(weight: Tensor) -> bool:
    """Where the column form runs instead of the fused kernels: accumulators of more channels leave the registers."""
    return max(weight.shape[:2]) > 256


def _stretches(positions: int, row_bytes: int) -> list[tuple[int, int]]:
    """First and last position of every turn through the buffer."""
    step = max(1, min(positions, BUFFER_BYTES // row_bytes))
    return [(first, min(first + step, positions)) for first in range(0, positions, step)]


def gradient_buffers(
    rows: Tensor, offset: Tensor, kernel: Tensor, region: Tensor | None, wanted: Wanted
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Room for the gradients of input (float32, channels-last; none when sorting is due), offset and kernel."""
    dx = doffset = dkernel = None
    if wanted[0] and not torch.are_deterministic_algorithms_enabled():
        dx = torch.zeros(rows.shape, dtype=torch.float32, device=rows.device)
    allocate = torch.empty_like if region is None else torch.zeros_like
    if wanted[2]:
        doffset = allocate(offset)
    if wanted[3]:
        dkernel = allocate(kernel)
    return dx, doffset, dkernel


def _matrix(weight: Tensor) -> Tensor:
    """(K*K*C, O)."""
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _common(
    rows: Tensor, offset: Tensor, kernel: Tensor, region: Tensor | None, geometry: Geometry, block: tuple[int, int]
) -> dict[str, Any]:
    _, height, width, channels = rows.shape
    return {
        "x": rows,
        "offset": offset,
        "kernel": kernel,
        "region": None if region is None else (region != 0).contiguous().view(torch.uint8),
        "H": height,
        "W": width,
        "HO": kernel.shape[2],
        "WO": kernel.shape[3],
        "C": channels,
        **strides("so", offset),
        **strides("sv", kernel),
        **constants(geometry),
        "BP": block[0],
        "BC": block[1],
    }


def forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    region: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """As `kdinpaint.ops.triton.forward`."""
    from kdinpaint.ops.triton.column_kernels import columns_kernel

    rows, matrix, (outputs, channels) = image_rows(input), _matrix(weight), weight.shape[:2]
    batch, taps, height, width = kernel.shape
    positions, depth = batch * height * width, taps * channels
    config = choose("columns", channels, outputs, input.dtype, positions, input.device)
    common = _common(rows, offset, kernel, region, geometry, (config.pixels, config.channels))
    out = torch.empty((positions, outputs), dtype=input.dtype, device=input.device)
    stretches = _stretches(positions, depth * input.element_size())
    buffer = torch.empty((stretches[0][1], depth), dtype=input.dtype, device=input.device)
    for first, last in stretches:
        part = buffer[: last - first]
        arguments = common | {"columns": part, "first": first, "last": last}
        launch(columns_kernel, (cut(last - first, config.pixels), taps), arguments, config)
        if bias is None:
            torch.mm(part, matrix, out=out[first:last])
        else:
            torch.addmm(bias.to(input.dtype), part, matrix, out=out[first:last])
    result = out.view(batch, height, width, outputs).permute(0, 3, 1, 2)
    return result if region is None else result.masked_fill_(region == 0, 0.0)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    wanted: Wanted,
) -> Gradients:
    """As `kdinpaint.ops.triton.backward`."""
    from kdinpaint.ops.triton.column_kernels import columns_gradient_kernel, columns_kernel

    grad_rows, rows, matrix = image_rows(grad.to(input.dtype)), image_rows(input), _matrix(weight)
    outputs, channels = weight.shape[:2]
    batch, taps, height, width = kernel.shape
    positions, depth = batch * height * width, taps * channels
    config = choose("columns", channels, outputs, input.dtype, positions, input.device)
    common = _common(rows, offset, kernel, region, geometry, (config.pixels, config.channels))
    dx, doffset, dkernel = gradient_buffers(rows, offset, kernel, region, wanted)
    places = {"dx": dx, "doffset": doffset, "dkernel": dkernel, **strides("do", doffset), **strides("dv", dkernel)}
    total = torch.zeros((depth, outputs), dtype=torch.float32, device=input.device) if wanted[1] else None
    flat = grad_rows.view(positions, outputs)
    if region is not None:
        flat = flat.masked_fill(region.reshape(-1, 1) == 0, 0.0)
    stretches = _stretches(positions, depth * input.element_size())
    buffer = torch.empty((stretches[0][1], depth), dtype=input.dtype, device=input.device)
    for first, last in stretches:
        part, grid = buffer[: last - first], (cut(last - first, config.pixels), taps)
        stretch = {"columns": part, "first": first, "last": last}
        if total is not None:
            launch(columns_kernel, grid, common | stretch, config)
            total += part.t() @ flat[first:last]
        if dx is not None or doffset is not None or dkernel is not None:
            torch.mm(flat[first:last], matrix.t(), out=part)
            launch(columns_gradient_kernel, grid, common | stretch | places, config)
    if wanted[0] and dx is None:
        dx = sorted_input_gradient(grad_rows, rows, weight, offset, kernel, region, geometry)
    dinput = None if dx is None else input_gradient(dx, input)
    dweight = None if total is None else weight_gradient(total, weight)
    return dinput, dweight, doffset, dkernel


def sorted_input_gradient(
    grad_rows: Tensor,
    rows: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """The gradient of the input without atomics, the same bits every time: contributions sorted by destination.

    Args:
        grad_rows: (B, H_out, W_out, C_out).
        rows: The input as (B, H, W, C_in).
        weight: As in `backward`.
        offset: As in `backward`.
        kernel: As in `backward`.
        region: As in `backward`.
        geometry: As in `backward`.

    Returns:
        (B, H, W, C_in), float32.
    """
    batch, height, width, channels = rows.shape
    taps, lines, across = kernel.shape[1:]
    matrix, frame = _matrix(weight).t(), Frame(1, height, width)
    offset, kernel = offset.float(), kernel.float()
    if region is not None:
        # Zeros instead of fewer positions: their contributions are zeros, and no shape depends on the region.
        outside = region == 0
        offset, kernel = offset.masked_fill(outside, 0.0), kernel.masked_fill(outside, 0.0)
        grad_rows = grad_rows.masked_fill(outside.permute(0, 2, 3, 1), 0.0)
    dx = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    for image in range(batch):
        framed = torch.zeros((frame.count, channels), dtype=torch.float32, device=rows.device)
        for first, last in _stretches(lines, across * taps * channels * 4):
            positions = Positions.block(range(1), range(first, last), across, rows.device)
            one = slice(image, image + 1)
            table = sampling_table(offset[one], kernel[one], frame, geometry, positions)
            columns = (grad_rows[image, first:last].reshape(-1, weight.shape[0]) @ matrix).float().view(-1, channels)
            framed += scatter_rows(table.first, table.weight, columns, frame.step, frame.count)
        dx[image] = frame.pixels(framed)[0]
    return dx
