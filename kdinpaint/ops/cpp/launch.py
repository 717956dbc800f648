"""The C++ backend of `adaptive_conv2d`."""

import torch
from torch import Tensor

from kdinpaint.ops.cpp import build
from kdinpaint.ops.cpp.work import DTYPES, Work, are_rows, as_rows, to_planes
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.pieces import groups, keep_memory, some
from kdinpaint.ops.products import working_dtype

__all__ = ["backward", "forward", "unsupported"]

Gradients = tuple[Tensor | None, ...]


def unsupported(input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor) -> str | None:
    """Why this backend cannot run on these arguments, or None if it can; compiles it on the first call.

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
    allocate = torch.empty if region is None else torch.zeros
    output = allocate(kernel.shape[0], *kernel.shape[-2:], weight.shape[0], dtype=dtype)
    factors, bias = weight.to(dtype).contiguous(), None if bias is None else bias.to(dtype).contiguous()
    packed = None
    for images in groups(kernel, region):
        work = _work(input, factors, offset, kernel, region, geometry, images)
        packed = work.packed_forward() if packed is None else packed
        work.forward(packed, bias, output[images])
    return output.permute(0, 3, 1, 2).to(input.dtype)


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
    allocate = torch.empty_like if region is None else torch.zeros_like
    in_place = torch.zeros_like(input, dtype=dtype) if wanted[0] and are_rows(input) else None
    grad_input = in_place
    grad_offset = allocate(offset, dtype=dtype) if wanted[2] else None
    grad_kernel = allocate(kernel, dtype=dtype) if wanted[3] else None
    grad_bias = torch.zeros(weight.shape[0], dtype=dtype) if wanted[4] else None
    factors = weight.to(dtype).contiguous()
    packed = grad_packed = grad_weight = grad_rows = None
    needs_weight = wanted[0] or wanted[2] or wanted[3]
    for images in groups(kernel, region):
        work = _work(input, factors, offset, kernel, region, geometry, images)
        if needs_weight and packed is None:
            packed = work.packed_backward()
        if wanted[1] and grad_packed is None:
            grad_packed = work.zero_packed()
        if wanted[0]:
            grad_rows = work.zero_rows() if in_place is None else as_rows(in_place[images])
        places = some(grad_offset, images), some(grad_kernel, images)
        work.backward(packed, some(grad, images).to(dtype), grad_rows, grad_packed, *places, grad_bias)
        if grad_rows is not None and in_place is None:
            if grad_input is None:  # not before: the input's rows have left their memory by now
                grad_input = torch.empty_like(input, dtype=dtype)
            to_planes(grad_rows, grad_input[images])
        grad_rows = None  # leaves its memory to the next images
    if grad_packed is not None:
        grad_weight = work.unpacked(grad_packed)
        if not weight.is_contiguous():
            grad_weight = torch.empty_like(weight).copy_(grad_weight)
    return (
        None if grad_input is None else grad_input.to(input.dtype),
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_offset is None else grad_offset.to(offset.dtype),
        None if grad_kernel is None else grad_kernel.to(kernel.dtype),
        None if grad_bias is None else grad_bias.to(weight.dtype),
    )


def _work(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
    images: slice,
) -> Work:
    x, moves, scales = (some(planes, images).to(weight.dtype) for planes in (input, offset, kernel))
    return Work(x, weight, moves, scales, some(region, images), geometry)
