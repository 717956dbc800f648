"""The sampling table of adaptive convolution and the three primitives that evaluate it.

Eq. 4 of the paper reads, for every output position j and tap k, one bilinear sample of the input scaled by
V[j, k]. All of it fits one table: sample n = (j, k) is the weighted sum of four rows of the input,
``sum_i weight[n, i] * rows[index[n, i]]``, where rows is the channels-last input (B*H*W, C).

Three primitives on the table are closed under differentiation, so gradients of every order exist and no
second set of formulas does:

==========================  ==========================================  =====================================
primitive                   value                                       gradient
==========================  ==========================================  =====================================
gather_rows(weight, rows)   out[n] = sum_i weight[n,i] rows[index[n,i]] {dot_rows, scatter_rows}
scatter_rows(weight, out)   rows[r] = sum over index[n,i]=r of          {dot_rows, gather_rows}
                            weight[n,i] out[n]
dot_rows(rows, out)         weight[n,i] = <rows[index[n,i]], out[n]>    {scatter_rows, gather_rows}
==========================  ==========================================  =====================================

They are registered as custom operators, which `torch.compile`, `torch.export` and autograd see as atoms.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint.ops.geometry import Geometry

__all__ = ["dot_rows", "gather_rows", "sampling_table", "scatter_rows"]


def sampling_table(
    offset: Tensor,
    kernel: Tensor,
    *,
    input_size: tuple[int, int],
    geometry: Geometry,
    positions: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Which rows of the channels-last input every sample reads, and with which weights.

    Outside the image the input counts as zero, as in `torch.nn.functional.conv2d` with zero padding and in
    `torchvision.ops.deform_conv2d`. At integer coordinates, where bilinear interpolation has a kink, the
    derivative is that of the cell to the lower right (floor), as in torchvision. A sample whose offset is
    NaN is NaN.

    Args:
        offset: (B, 2*kh*kw, Ho, Wo), pixels, (dy, dx) per tap.
        kernel: V, (B, kh*kw, Ho, Wo).
        input_size: (H, W) of the input.
        geometry: Of the convolution.
        positions: Flat indices into the B*Ho*Wo output positions, (P,) int64; all of them by default.

    Returns:
        index (P*kh*kw, 4), int32 where it suffices, and weight (P*kh*kw, 4) of the dtype of `kernel`.
        Samples are ordered by position, then tap.
    """
    height, width = input_size
    batch, _, out_height, out_width = kernel.shape
    kernel_size, stride, padding, dilation = geometry
    taps = geometry.taps
    device, dtype = kernel.device, kernel.dtype

    moved = offset.permute(0, 2, 3, 1).reshape(-1, taps, 2)
    scale = kernel.permute(0, 2, 3, 1).reshape(-1, taps)
    if positions is None:
        flat = torch.arange(batch * out_height * out_width, device=device)
    else:
        flat = positions
        moved, scale = moved[flat], scale[flat]

    tap = torch.arange(taps, device=device)
    base_y = (flat // out_width % out_height * stride[0] - padding[0])[:, None] + (tap // kernel_size[1] * dilation[0])
    base_x = (flat % out_width * stride[1] - padding[1])[:, None] + tap % kernel_size[1] * dilation[1]
    # Below -1 and from H (W) on every sample is zero: clamping there keeps the integers small. Not at -1 itself,
    # where an unmoved tap of the first row lies and the derivative towards the image, which clamp would cut, is due.
    y = (base_y.to(dtype) + moved[..., 0]).clamp(-2, height)
    x = (base_x.to(dtype) + moved[..., 1]).clamp(-2, width)

    y_floor, x_floor = y.detach().floor(), x.detach().floor()
    down, right = y - y_floor, x - x_floor
    y0, x0 = (torch.nan_to_num(v).to(torch.int64) for v in (y_floor, x_floor))

    first_row = (flat // (out_height * out_width) * (height * width))[:, None]
    index, weight = [], []
    for row, row_weight in ((y0, 1 - down), (y0 + 1, down)):
        row_inside = (row >= 0) & (row < height)
        row_start = first_row + row.clamp(0, height - 1) * width
        row_scale = row_weight * scale
        for column, column_weight in ((x0, 1 - right), (x0 + 1, right)):
            inside = row_inside & (column >= 0) & (column < width)
            index.append(row_start + column.clamp(0, width - 1))
            weight.append(row_scale * column_weight * inside)
    index_dtype = torch.int32 if batch * height * width < 2**31 else torch.int64
    return torch.stack(index, -1).reshape(-1, 4).to(index_dtype), torch.stack(weight, -1).reshape(-1, 4)


@torch.library.custom_op("kdinpaint::gather_rows", mutates_args=())
def gather_rows(index: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """Weighted gather: out[n] = sum_i weight[n, i] * rows[index[n, i]].

    Args:
        index: (N, 4), rows to read.
        weight: (N, 4), of the dtype of `rows`.
        rows: (R, C).

    Returns:
        (N, C).
    """
    if index.shape[0] == 0:
        return rows.new_zeros(0, rows.shape[1])
    return F.embedding_bag(index, rows, per_sample_weights=weight, mode="sum")


@torch.library.custom_op("kdinpaint::scatter_rows", mutates_args=())
def scatter_rows(index: Tensor, weight: Tensor, samples: Tensor, count: int) -> Tensor:
    """Weighted scatter, the transpose of `gather_rows`: rows[index[n, i]] += weight[n, i] * samples[n].

    Contributions are sorted by destination and summed per row, so the result is deterministic and needs no
    atomics.

    Args:
        index: (N, 4), rows to write.
        weight: (N, 4), of the dtype of `samples`.
        samples: (N, C).
        count: R, the number of rows.

    Returns:
        (R, C).
    """
    if index.shape[0] == 0:
        return samples.new_zeros(count, samples.shape[1])
    destination, order = index.reshape(-1).sort(stable=True)
    first = torch.searchsorted(
        destination,
        torch.arange(count, device=index.device, dtype=index.dtype),
        out_int32=index.dtype == torch.int32,
    )
    return F.embedding_bag(
        (order // 4).to(index.dtype),
        samples,
        first,
        per_sample_weights=weight.reshape(-1)[order],
        mode="sum",
    )


@torch.library.custom_op("kdinpaint::dot_rows", mutates_args=())
def dot_rows(index: Tensor, rows: Tensor, samples: Tensor) -> Tensor:
    """Gathered inner products: weight[n, i] = <rows[index[n, i]], samples[n]>.

    Args:
        index: (N, 4), rows to read.
        rows: (R, C).
        samples: (N, C).

    Returns:
        (N, 4), of the dtype of `rows`.
    """
    if index.shape[0] == 0:
        return rows.new_zeros(0, 4)
    if index.is_cpu:
        bag = torch.arange(index.shape[0], device=index.device, dtype=index.dtype)
        # The only vectorised gather-dot for the CPU in PyTorch; checked against the line below in the tests.
        return torch.ops.aten._embedding_bag_per_sample_weights_backward(
            samples, rows, index.reshape(-1), bag * 4, bag.repeat_interleave(4), 0, -1
        ).view(-1, 4)
    return torch.stack([(rows[index[:, i]] * samples).sum(1) for i in range(4)], 1)


@gather_rows.register_fake
def _(index: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    return rows.new_empty(index.shape[0], rows.shape[1])


@scatter_rows.register_fake
def _(index: Tensor, weight: Tensor, samples: Tensor, count: int) -> Tensor:
    return samples.new_empty(count, samples.shape[1])


@dot_rows.register_fake
def _(index: Tensor, rows: Tensor, samples: Tensor) -> Tensor:
    return rows.new_empty(index.shape[0], 4)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    index, weight, rows = ctx.saved_tensors
    grad = grad.contiguous()
    return (
        None,
        dot_rows(index, rows, grad) if ctx.needs_input_grad[1] else None,
        scatter_rows(index, weight, grad, rows.shape[0]) if ctx.needs_input_grad[2] else None,
    )


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    index, weight, samples = ctx.saved_tensors
    grad = grad.contiguous()
    return (
        None,
        dot_rows(index, grad, samples) if ctx.needs_input_grad[1] else None,
        gather_rows(index, weight, grad) if ctx.needs_input_grad[2] else None,
        None,
    )


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    index, rows, samples = ctx.saved_tensors
    grad = grad.contiguous()
    return (
        None,
        scatter_rows(index, grad, samples, rows.shape[0]) if ctx.needs_input_grad[1] else None,
        gather_rows(index, grad, rows) if ctx.needs_input_grad[2] else None,
    )


gather_rows.register_autograd(_gather_backward, setup_context=_save)
scatter_rows.register_autograd(_scatter_backward, setup_context=_save)
dot_rows.register_autograd(_dot_backward, setup_context=_save)
