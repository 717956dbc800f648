"""Adaptive convolution in plain PyTorch, in pieces: sampling table, weighted gather, matrix product.

Work is cut three times. Groups of images bound the memory of the framed input; blocks of output positions that of
the sampling table; tiles that of the columns, the K^2 * C_in samples of every position, which so stay in the cache
between the gather that writes them and the matrix product that reads them. Nothing is kept for the backward pass,
which gathers again. Runs on every device; made for the CPU.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kdinpaint.ops.frame import Frame, frame_planes, unframe_planes
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.pieces import block_size, groups, keep_memory, some, tile_size
from kdinpaint.ops.products import as_matrix, as_weight, matmul, working_dtype
from kdinpaint.ops.sampling import Scatter, corners, dot, gather
from kdinpaint.ops.table import Positions, Table, sampling_table

__all__ = ["backward", "forward"]

Gradients = tuple[Tensor | None, ...]


def forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    region: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """As `kdinpaint.adaptive_conv2d`, in channels-last memory format."""
    keep_memory()
    dtype = working_dtype(input)
    matrix, bias = as_matrix(weight.to(dtype)), None if bias is None else bias.to(dtype)
    shape = (kernel.shape[0], *kernel.shape[-2:], weight.shape[0])
    output = input.new_empty(shape) if region is None else input.new_zeros(shape)
    for images in groups(kernel, region):
        part = some(region, images)
        _forward_images(input[images], offset[images], kernel[images], part, output[images], matrix, bias, geometry)
    return output.permute(0, 3, 1, 2)


def _forward_images(
    input: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    output: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
) -> None:
    """Write the output (B, H_out, W_out, C_out) of images that are worked on together."""
    frame, rows = frame_planes(input, matrix.dtype)
    for positions in Positions.blocks(kernel, region, block_size(geometry.taps)):
        table = sampling_table(offset, kernel, frame, geometry, positions)
        index, corner_weight = corners(table.first, frame.step), table.weight.to(rows.dtype)
        block = output[positions.index].view(-1, matrix.shape[0])
        for tile, samples in _tiles(index, matrix.shape[1], geometry):
            columns = gather(index[samples], corner_weight[samples], rows).view(-1, matrix.shape[1])
            block[tile] = matmul(columns, matrix, bias)
            del columns  # leaves its memory, warm, to the next
        if region is not None:  # a list of positions, so the block is a copy
            output[positions.index] = block


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    wanted: tuple[bool, ...],
) -> Gradients:
    """Gradients for input, weight, offset, kernel and bias, those that are wanted."""
    keep_memory()
    dtype = working_dtype(input)
    matrix = as_matrix(weight.to(dtype))
    sums = torch.promote_types(dtype, torch.float32)
    allocate = torch.empty_like if region is None else torch.zeros_like
    grad_input = torch.empty_like(input) if wanted[0] else None
    grad_matrix = torch.zeros_like(matrix, dtype=sums) if wanted[1] else None
    grad_offset, grad_kernel = (allocate(t) if w else None for t, w in ((offset, wanted[2]), (kernel, wanted[3])))
    grad_bias = weight.new_zeros(weight.shape[0], dtype=sums) if wanted[4] else None
    for images in groups(kernel, region):
        _backward_images(
            grad[images],
            input[images],
            offset[images],
            kernel[images],
            some(region, images),
            some(grad_input, images),
            some(grad_offset, images),
            some(grad_kernel, images),
            matrix,
            grad_matrix,
            grad_bias,
            geometry,
        )

    grad_weight = None if grad_matrix is None else as_weight(grad_matrix, weight)
    grad_bias = None if grad_bias is None else grad_bias.to(weight.dtype)
    return grad_input, grad_weight, grad_offset, grad_kernel, grad_bias


def _backward_images(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    grad_input: Tensor | None,
    grad_offset: Tensor | None,
    grad_kernel: Tensor | None,
    matrix: Tensor,
    grad_matrix: Tensor | None,
    grad_bias: Tensor | None,
    geometry: Geometry,
) -> None:
    """Write the gradients of images that are worked on together, and add theirs to those of matrix and bias."""
    frame, rows = frame_planes(input, matrix.dtype)
    sums = torch.promote_types(rows.dtype, torch.float32)
    grad_rows = None if grad_input is None else torch.zeros_like(rows, dtype=sums)
    for positions in Positions.blocks(kernel, region, block_size(geometry.taps)):
        table = sampling_table(offset, kernel, frame, geometry, positions)
        slopes = positions.take(grad).reshape(-1, matrix.shape[0]).to(rows.dtype)
        if grad_bias is not None:
            grad_bias += slopes.sum(0, dtype=sums)
        want_place = grad_offset is not None or grad_kernel is not None
        corner_slopes = torch.empty_like(table.weight) if want_place else None
        _backward_block(slopes, table, frame, rows, matrix, grad_rows, grad_matrix, corner_slopes, geometry)
        if corner_slopes is not None:
            for planes, value in zip((grad_offset, grad_kernel), table.gradients(corner_slopes), strict=True):
                if planes is not None:
                    positions.put(planes, value)
    if grad_input is not None and grad_rows is not None:
        unframe_planes(grad_rows, frame, grad_input)


def _backward_block(
    slopes: Tensor,
    table: Table,
    frame: Frame,
    rows: Tensor,
    matrix: Tensor,
    grad_rows: Tensor | None,
    grad_matrix: Tensor | None,
    corner_slopes: Tensor | None,
    geometry: Geometry,
) -> None:
    """Add a block's gradients to those of rows and matrix, and write those of the weights of its corners (N, 4)."""
    index, corner_weight = corners(table.first, frame.step), table.weight.to(rows.dtype)
    scatter = None
    if grad_rows is not None and index.shape[0]:
        size = tile_size(slopes.shape[0], matrix.shape[1]) * geometry.taps
        scatter = Scatter(table.first, corner_weight, (frame.step, frame.count), size)
    for number, (tile, samples) in enumerate(_tiles(index, matrix.shape[1], geometry)):
        if grad_matrix is not None:
            columns = gather(index[samples], corner_weight[samples], rows).view(-1, matrix.shape[1])
            grad_matrix += matmul(slopes[tile].t(), columns.t())
            del columns  # leaves its memory, warm, to the column slopes
        if scatter is None and corner_slopes is None:
            continue
        column_slopes = matmul(slopes[tile], matrix.t()).view(-1, rows.shape[1])
        if grad_rows is not None and scatter is not None:
            scatter.add(grad_rows, column_slopes, number)
        if corner_slopes is not None:
            corner_slopes[samples] = dot(index[samples], rows, column_slopes)
        del column_slopes


def _tiles(index: Tensor, columns: int, geometry: Geometry) -> Iterator[tuple[slice, slice]]:
    """Positions of every tile of a block, and their samples."""
    taps = geometry.taps
    count = index.shape[0] // taps
    size = tile_size(count, columns)
    for start in range(0, count, size):
        yield slice(start, start + size), slice(start * taps, (start + size) * taps)
