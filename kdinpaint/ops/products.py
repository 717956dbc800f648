"""Matrix products of adaptive convolution, and what the processor decides about them.

Rules, not trials at run time, so that results repeat.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["as_matrix", "as_weight", "matmul", "working_dtype"]


def as_matrix(weight: Tensor) -> Tensor:
    """(C_out, C_in, kh, kw) as (C_out, kh kw C_in)."""
    return weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)


def as_weight(matrix: Tensor, like: Tensor) -> Tensor:
    """(C_out, kh kw C_in) in the shape, dtype and layout of a weight (C_out, C_in, kh, kw)."""
    out_channels, channels, *kernel_size = like.shape
    square = matrix.view(out_channels, *kernel_size, channels).permute(0, 3, 1, 2)
    return torch.empty_like(like).copy_(square)


def matmul(x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product of x (P, K) and matrix (N, K) transposed, plus bias (N,)."""
    if x.is_cpu and x.dtype in (torch.float32, torch.bfloat16) and _has_fast_onednn():
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
        return product
    return F.linear(x, matrix, bias)


def working_dtype(input: Tensor) -> torch.dtype:
    """Of samples and products: the input's, or float32 where a processor has no 16-bit products.

    oneDNN refuses them there and other libraries do them a number at a time, a hundredfold slower than in float32.
    """
    if not input.is_cpu or input.dtype not in (torch.bfloat16, torch.float16):
        return input.dtype
    return input.dtype if _has_products(input.dtype) else torch.float32


@functools.cache
def _has_products(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of a 16-bit dtype in hardware."""
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return supported is not None and bool(supported())


@functools.cache
def _has_fast_onednn() -> bool:
    """Whether oneDNN's matrix product beats the library behind `torch.mm`.

    It takes half the time on an AMD processor with AVX-512 and up to 1.1 times as long on one with AVX2
    (benchmarks/NOTES.md); others have not been measured.
    """
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
