"""The C++ backend of `adaptive_conv2d`: loops in C++ around PyTorch's matrix products, tile by tile."""

import torch
from torch import Tensor

from kdinpaint.ops.cpp import build
from kdinpaint.ops.cpp.loops import DTYPES, Loops, as_planes
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.pieces import groups, keep_memory, some
from kdinpaint.ops.products import add_product, as_matrix, as_weight, matmul, working_dtype

__all__ = ["backward", "forward", "unsupported"]

Gradients = tuple[Tensor | None, ...]


def unsupported(input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor) -> str | None:
    """Why this backend cannot run on these arguments, or None if it can; compiles the loops on the first call.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, K, K).
        offset: (B, 2*K*K, H_out, W_out).
        kernel: (B, K*K, H_out, W_out).
    """
    if not input.is_cpu:
        return "not a CPU"
    dtype = working_dtype(input)
    if dtype not in DTYPES:
        return f"products in {str(dtype).removeprefix('torch.')}"
    for name, tensor in (("weight", weight), ("offset", offset), ("kernel", kernel)):
        if torch.promote_types(dtype, tensor.dtype) != dtype:
            return f"{name} of a wider dtype than input"
    if 0 in input.shape or 0 in weight.shape or 0 in kernel.shape:
        return "an empty argument"
    if input.shape[0] * input[0, 0].numel() >= 2**31:
        return "more than 2^31 pixels"
    return build.missing()


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
        loops = _loops(input, offset, kernel, region, geometry, images, dtype)
        pixels = output[images].view(-1, weight.shape[0])
        for first, count in loops.tiles():
            product = matmul(loops.gather(first, count), matrix, bias)
            if loops.positions is None:
                pixels[first : first + count] = product
            else:
                pixels.index_copy_(0, loops.positions[first : first + count], product.to(pixels.dtype))
        del loops  # leaves its memory to the next images
    return output.permute(0, 3, 1, 2)


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
    """Gradients for input, weight, offset, kernel and bias, those that are wanted; the same bits every time."""
    keep_memory()
    dtype = working_dtype(input)
    matrix = as_matrix(weight.to(dtype))
    allocate = torch.empty_like if region is None else torch.zeros_like
    grad_input = torch.empty_like(input, dtype=dtype) if wanted[0] else None
    grad_matrix = torch.zeros_like(matrix) if wanted[1] else None
    grad_offset = allocate(offset, dtype=dtype) if wanted[2] else None
    grad_kernel = allocate(kernel, dtype=dtype) if wanted[3] else None
    grad_bias = matrix.new_zeros(weight.shape[0]) if wanted[4] else None
    for images in groups(kernel, region):
        loops = _loops(input, offset, kernel, region, geometry, images, dtype)
        slopes_planes = grad[images].to(dtype)
        grad_rows = None if grad_input is None else _zero_rows(grad_input[images])
        loops.write_to(grad_rows, some(grad_offset, images), some(grad_kernel, images))
        for tile in loops.tiles():
            slopes = loops.take(slopes_planes, *tile)
            if grad_bias is not None:
                grad_bias += slopes.sum(0)
            if grad_matrix is not None:
                add_product(grad_matrix, slopes.t(), loops.gather(*tile).t())
            if not any(wanted[i] for i in (0, 2, 3)):
                continue
            columns = matmul(slopes, matrix.t())
            if wanted[2] or wanted[3]:
                loops.places(columns, *tile)
            if grad_rows is not None:
                loops.scatter(columns, *tile)
            del columns  # leaves its memory, warm, to the next tile
        if grad_input is not None and grad_rows is not None:
            as_planes(grad_rows, grad_input[images])
        del loops, grad_rows

    return (
        None if grad_input is None else grad_input.to(input.dtype),
        None if grad_matrix is None else as_weight(grad_matrix, weight),
        None if grad_offset is None else grad_offset.to(offset.dtype),
        None if grad_kernel is None else grad_kernel.to(kernel.dtype),
        None if grad_bias is None else grad_bias.to(weight.dtype),
    )


def _loops(
    input: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    images: slice,
    dtype: torch.dtype,
) -> Loops:
    x, moves, scales = (planes[images].to(dtype) for planes in (input, offset, kernel))
    return Loops(x, moves, scales, some(region, images), geometry)


def _zero_rows(planes: Tensor) -> Tensor:
    """Zeros (B, H, W, C) in the memory of planes (B, C, H, W) if their layout is that of rows."""
    pixels = planes.permute(0, 2, 3, 1)
    return pixels.zero_() if pixels.is_contiguous() else pixels.new_zeros(pixels.shape)
