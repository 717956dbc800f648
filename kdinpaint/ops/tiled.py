"""Adaptive convolution in plain PyTorch, in pieces: sampling table, weighted gather, matrix product.

Work is cut three times. Groups of images bound the memory of the framed input; blocks of output positions that of
the sampling table; tiles that of the columns, the K^2 * C_in samples of every position, which so stay in the cache
between the gather that writes them and the matrix product that reads them. Nothing is kept for the backward pass,
which gathers again. Runs on every device; made for the CPU.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.sampling import Frame, add_sorted, copy_planes, dot, gather, pixels_last, sort
from kdinpaint.ops.table import Positions, Table, sampling_table

__all__ = ["backward", "forward"]

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]

BLOCK = 1 << 16
"""Samples of a block."""
TILE = 1 << 19
"""Elements of the columns of a tile: 2 MiB of float32."""


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
    _keep_memory()
    matrix = _as_matrix(weight)
    shape = (kernel.shape[0], *kernel.shape[-2:], weight.shape[0])
    output = input.new_empty(shape) if region is None else input.new_zeros(shape)
    for images in _groups(kernel):
        frame, rows = _framed(input[images])
        moves, scales = pixels_last(offset[images]), pixels_last(kernel[images])
        part = None if region is None else region[images]
        for positions in Positions.blocks(scales, part, BLOCK // geometry.taps):
            table = sampling_table(moves, scales, frame, geometry, positions)
            block = output[images][positions.index].view(-1, matrix.shape[0])
            for tile, some in _tiles(table, matrix, geometry, rows.dtype):
                columns = gather(some.first, some.weight, rows, frame.step).view(-1, matrix.shape[1])
                block[tile] = _matmul(columns, matrix, bias)
                del columns  # leaves its memory, warm, to the next
            if part is not None:  # a list of positions, so the block is a copy
                output[images][positions.index] = block
    return output.permute(0, 3, 1, 2)


def backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    wanted: tuple[bool, bool, bool, bool],
) -> Gradients:
    """Gradients for input, weight, offset and kernel, those that are wanted."""
    _keep_memory()
    matrix = _as_matrix(weight)
    want_place = wanted[2] or wanted[3]
    grad_input, grad_offset, grad_kernel = (
        torch.empty_like(t) if wish else None
        for t, wish in ((input, wanted[0]), (offset, wanted[2]), (kernel, wanted[3]))
    )
    sums = torch.promote_types(input.dtype, torch.float32)
    grad_matrix = torch.zeros_like(matrix, dtype=sums) if wanted[1] else None
    transposed = matrix.t().contiguous() if wanted[0] or want_place else None

    for images in _groups(kernel):
        frame, rows = _framed(input[images])
        moves, scales, slopes = (pixels_last(t[images]) for t in (offset, kernel, grad))
        grad_rows = torch.zeros_like(rows, dtype=sums) if wanted[0] else None
        grad_moves, grad_scales = (torch.zeros_like(t) if want_place else None for t in (moves, scales))
        part = None if region is None else region[images]
        for positions in Positions.blocks(scales, part, BLOCK // geometry.taps):
            table = sampling_table(moves, scales, frame, geometry, positions)
            block = slopes[positions.index].reshape(-1, weight.shape[0])
            corner_slopes = torch.empty_like(table.weight)
            orders = None if grad_rows is None else _tile_orders(table.first, frame.count, matrix, geometry)
            for tile, some in _tiles(table, matrix, geometry, rows.dtype):
                if grad_matrix is not None:
                    columns = gather(some.first, some.weight, rows, frame.step).view(-1, matrix.shape[1])
                    grad_matrix += _matmul(block[tile].t(), columns.t())
                    del columns  # leaves its memory, warm, to the samples
                if transposed is None:
                    continue
                samples = _matmul(block[tile], transposed).view(-1, input.shape[1])
                if grad_rows is not None and orders is not None:
                    add_sorted(grad_rows, *next(orders), some.weight, samples, frame.step)
                if want_place:
                    found = dot(some.first, rows, samples, frame.step)
                    corner_slopes.view(-1, geometry.taps, 4)[tile] = found.view(-1, geometry.taps, 4)
                del samples
            if grad_moves is not None and grad_scales is not None:
                for target, value in zip((grad_moves, grad_scales), table.gradients(corner_slopes), strict=True):
                    target[positions.index] = value.reshape(target[positions.index].shape).to(target.dtype)
        for planes, pixels in (
            (grad_input, None if grad_rows is None else frame.pixels(grad_rows)),
            (grad_offset, grad_moves),
            (grad_kernel, grad_scales),
        ):
            if planes is not None and pixels is not None:
                copy_planes(planes[images], pixels)

    grad_weight = None
    if grad_matrix is not None:
        out_channels, channels, *kernel_size = weight.shape
        square = grad_matrix.view(out_channels, *kernel_size, channels).permute(0, 3, 1, 2)
        grad_weight = torch.empty_like(weight).copy_(square)
    return grad_input, grad_weight, grad_offset, grad_kernel


@functools.cache
def _keep_memory() -> None:
    """Have the C library reuse the memory of tiles instead of handing it back to the system after each.

    glibc keeps freed blocks up to the size of the largest that was ever freed, 32 MiB at most. Without one of that
    size every tile is paid for in page faults: a quarter of the forward pass at (2, 64, 64, 64).
    """
    torch.empty(31 << 20, dtype=torch.uint8)


def _as_matrix(weight: Tensor) -> Tensor:
    """(C_out, C_in, kh, kw) as (C_out, kh kw C_in)."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def _groups(kernel: Tensor) -> Iterator[slice]:
    """Images that are worked on together: one, or several small ones that make a block."""
    batch, taps, height, width = kernel.shape
    several = max(1, BLOCK // (taps * height * width))
    for start in range(0, batch, several):
        yield slice(start, min(batch, start + several))


def _framed(input: Tensor) -> tuple[Frame, Tensor]:
    frame = Frame(input.shape[0], input.shape[-2], input.shape[-1])
    return frame, frame.rows(pixels_last(input))


def _tiles(table: Table, matrix: Tensor, geometry: Geometry, dtype: torch.dtype) -> Iterator[tuple[slice, Table]]:
    """Positions within a block, and their part of its table, with weights of a dtype."""
    size, taps = _tile_size(matrix), geometry.taps
    weight = table.weight.to(dtype)
    for start in range(0, table.first.shape[0] // taps, size):
        samples = slice(start * taps, (start + size) * taps)
        yield slice(start, start + size), table._replace(first=table.first[samples], weight=weight[samples])


def _tile_size(matrix: Tensor) -> int:
    """Positions of a tile."""
    return max(1, TILE // matrix.shape[1])


def _tile_orders(first: Tensor, rows: int, matrix: Tensor, geometry: Geometry) -> Iterator[tuple[Tensor, Tensor]]:
    """For each tile its part of `first` in order, and where each stood in it: one sort for all tiles of a block."""
    size = _tile_size(matrix) * geometry.taps
    tiles = -(-first.shape[0] // size)
    if tiles * rows >= torch.iinfo(first.dtype).max:
        first = first.long()
    tile = torch.arange(tiles, device=first.device, dtype=first.dtype).repeat_interleave(size)[: first.shape[0]]
    ordered, order = sort(first + tile * rows)
    for number in range(tiles):
        part = slice(number * size, (number + 1) * size)
        yield ordered[part] - number * rows, order[part] - number * size


def _matmul(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of x (P, K) and matrix (N, K) transposed, plus bias (N,).

    oneDNN's product where PyTorch has it: twice the rate of the library behind `torch.mm` on AMD processors, the
    same on Intel's (benchmarks/NOTES.md). A rule, not a trial at run time, so that results repeat.
    """
    if x.is_cpu and x.dtype in (torch.float32, torch.bfloat16) and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
        return product
    return F.linear(x, matrix, bias)
