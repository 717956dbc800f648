"""The sampling table of adaptive convolution and the three primitives that evaluate it.

Eq. 4 of the paper reads, for every output position j and tap k, one bilinear sample of the input scaled by
V[j, k]. All of it fits one table. The input is laid out as rows of channels with a frame of zeros around every
image (`kdinpaint.ops.frame`), so a sample needs no test of what lies inside: sample n = (j, k) is the weighted sum of
four rows, the one at ``first[n]``, its right neighbour, and the two below them, ``width`` rows further on.

Three primitives on the table are closed under differentiation, so gradients of every order exist and no
second set of formulas does. With ``at(n, i) = first[n] + (0, 1, width, width + 1)[i]``:

==============  ==================================================  ==========================
primitive       value                                               gradient
==============  ==================================================  ==========================
`gather_rows`   out[n] = sum_i weight[n, i] rows[at(n, i)]          {dot_rows, scatter_rows}
`scatter_rows`  rows[r] = sum over at(n, i) = r of                  {dot_rows, gather_rows}
                weight[n, i] out[n]
`dot_rows`      weight[n, i] = <rows[at(n, i)], out[n]>             {scatter_rows, gather_rows}
==============  ==================================================  ==========================

They are registered as custom operators, which `torch.compile`, `torch.export` and autograd see as atoms.
"""

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

__all__ = ["dot_rows", "gather_rows", "scatter_rows"]

# From this many integers on PyTorch sorts by radix on the CPU, ten times as fast as below.
RADIX = 32768


def corners(first: Tensor, width: int) -> Tensor:
    """The rows (N, 4) that samples read, from the first of each."""
    return first[:, None] + torch.tensor([0, 1, width, width + 1], dtype=first.dtype, device=first.device)


def gather(index: Tensor, weight: Tensor, rows: Tensor) -> Tensor:
    """`gather_rows` without registration, with all four rows of every sample given (N, 4)."""
    if index.shape[0] == 0:
        return rows.new_zeros(0, rows.shape[1])
    starts = torch.arange(0, index.numel(), 4, dtype=index.dtype, device=index.device)
    return _weighted_sums(rows, index.view(-1), starts, weight.reshape(-1))


def _weighted_sums(rows: Tensor, index: Tensor, starts: Tensor, weight: Tensor, *, closed: bool = False) -> Tensor:
    """Sums of weighted rows over the bags of an index; `closed` tells that `starts` ends with the index's length."""
    # torch.nn.functional.embedding_bag checks its arguments at a cost that counts here.
    return torch.embedding_bag(rows, index, starts, False, 0, False, weight, closed)[0]


def dot(index: Tensor, rows: Tensor, samples: Tensor) -> Tensor:
    """`dot_rows` without registration, with all four rows of every sample given (N, 4)."""
    count = index.shape[0]
    if count == 0:
        return rows.new_zeros(0, 4)
    if not index.is_cpu or rows.dtype not in (torch.float32, torch.float64):
        return torch.stack([(rows[index[:, i]] * samples).sum(1) for i in range(4)], 1)
    # A product of dense matrices at the entries of a sparse one: the only gather-dot in PyTorch that is vectorised
    # within a row and calls no library for each. It is checked against the line above in the tests.
    _accept_sparse()
    ends = torch.arange(0, 4 * count + 1, 4, dtype=index.dtype)
    entries = torch.sparse_csr_tensor(
        ends, index.view(-1), rows.new_zeros(4 * count), (count, rows.shape[0]), check_invariants=False
    )
    return torch.sparse.sampled_addmm(entries, samples, rows.t(), beta=0.0).values().view(-1, 4)


@functools.cache
def _accept_sparse() -> None:
    """Spend PyTorch's one warning that its sparse tensors are young; the one operation used here is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1))


def sort(values: Tensor) -> tuple[Tensor, Tensor]:
    """Integers below the largest of their dtype in order, (N,), and where each stood."""
    count = values.shape[0]
    if values.is_cpu and RADIX // 10 < count < RADIX:
        values = torch.cat([values, values.new_full((RADIX - count,), torch.iinfo(values.dtype).max)])
    ordered, order = values.sort(stable=True)
    return ordered[:count], order[:count]


class Scatter:
    """A weighted scatter of N samples, `size` of them at a time: sorted once, without atomics, deterministic.

    Within a tile, samples are ordered by their first row. Each of the four corners is then a sum over segments, the
    same segments for all four, and all work lies in the range of rows that the tile meets.

    Args:
        first: (N,), the first row each sample writes; N at least 1.
        weight: (N, 4).
        frame: Rows from one line to the next, and rows in all.
        size: Samples of a tile.
    """

    def __init__(self, first: Tensor, weight: Tensor, frame: tuple[int, int], size: int) -> None:
        self.width, total = frame
        self.size, self.count = size, first.shape[0]
        tiles = -(-self.count // size)
        if tiles * total >= torch.iinfo(first.dtype).max:
            first = first.long()
        tile = torch.arange(tiles, device=first.device, dtype=first.dtype).repeat_interleave(size)[: self.count]
        ordered, order = sort(first + tile * total)
        self.first = ordered - tile * total
        self.weight = weight[order].t().contiguous()
        self.order = order.to(first.dtype) - tile * size
        ends = torch.arange(1, tiles + 1, device=first.device).mul_(size).clamp_(max=self.count) - 1
        self.low, self.high = self.first[::size].tolist(), self.first[ends].tolist()

    def add(self, rows: Tensor, samples: Tensor, tile: int) -> None:
        """Add the samples (size, C) of a tile to rows (R, C), in place."""
        part = slice(tile * self.size, (tile + 1) * self.size)
        low, high = self.low[tile], self.high[tile]
        starts = torch._convert_indices_from_coo_to_csr(
            self.first[part] - low, high - low + 1, out_int32=self.first.dtype == torch.int32
        )
        order, weight = self.order[part], self.weight[:, part]
        for corner, shift in enumerate((0, 1, self.width, self.width + 1)):
            rows[low + shift : high + shift + 1] += _weighted_sums(samples, order, starts, weight[corner], closed=True)


@torch.library.custom_op("kdinpaint::gather_rows", mutates_args=())
def gather_rows(first: Tensor, weight: Tensor, rows: Tensor, width: int) -> Tensor:
    """Weighted gather: out[n] = sum_i weight[n, i] * rows[at(n, i)].

    Args:
        first: (N,), the first row each sample reads.
        weight: (N, 4), of the dtype of `rows`.
        rows: (R, C), with R > max(first) + width + 1.
        width: Rows from one line to the next.

    Returns:
        (N, C).
    """
    return gather(corners(first, width), weight, rows)


@torch.library.custom_op("kdinpaint::scatter_rows", mutates_args=())
def scatter_rows(first: Tensor, weight: Tensor, samples: Tensor, width: int, count: int) -> Tensor:
    """Weighted scatter, the transpose of `gather_rows`: rows[at(n, i)] += weight[n, i] * samples[n].

    Args:
        first: (N,), the first row each sample writes.
        weight: (N, 4), of the dtype of `samples`.
        samples: (N, C).
        width: Rows from one line to the next.
        count: R, the number of rows.

    Returns:
        (R, C).
    """
    rows = samples.new_zeros(count, samples.shape[1])
    if first.shape[0]:
        Scatter(first, weight, (width, count), first.shape[0]).add(rows, samples, 0)
    return rows


@torch.library.custom_op("kdinpaint::dot_rows", mutates_args=())
def dot_rows(first: Tensor, rows: Tensor, samples: Tensor, width: int) -> Tensor:
    """Gathered inner products: weight[n, i] = <rows[at(n, i)], samples[n]>.

    Args:
        first: (N,), the first row each sample reads.
        rows: (R, C).
        samples: (N, C).
        width: Rows from one line to the next.

    Returns:
        (N, 4), of the dtype of `rows`.
    """
    return dot(corners(first, width), rows, samples)


@gather_rows.register_fake
def _(first: Tensor, weight: Tensor, rows: Tensor, width: int) -> Tensor:
    return rows.new_empty(first.shape[0], rows.shape[1])


@scatter_rows.register_fake
def _(first: Tensor, weight: Tensor, samples: Tensor, width: int, count: int) -> Tensor:
    return samples.new_empty(count, samples.shape[1])


@dot_rows.register_fake
def _(first: Tensor, rows: Tensor, samples: Tensor, width: int) -> Tensor:
    return rows.new_empty(first.shape[0], 4)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))
    ctx.width = next(value for value in inputs if isinstance(value, int))


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    first, weight, rows = ctx.saved_tensors
    grad = grad.contiguous()
    return (
        None,
        dot_rows(first, rows, grad, ctx.width) if ctx.needs_input_grad[1] else None,
        scatter_rows(first, weight, grad, ctx.width, rows.shape[0]) if ctx.needs_input_grad[2] else None,
        None,
    )


def _scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    first, weight, samples = ctx.saved_tensors
    grad = grad.contiguous()
    return (
        None,
        dot_rows(first, grad, samples, ctx.width) if ctx.needs_input_grad[1] else None,
        gather_rows(first, weight, grad, ctx.width) if ctx.needs_input_grad[2] else None,
        None,
        None,
    )


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    first, rows, samples = ctx.saved_tensors
    grad = grad.contiguous()
    return (
        None,
        scatter_rows(first, grad, samples, ctx.width, rows.shape[0]) if ctx.needs_input_grad[1] else None,
        gather_rows(first, grad, rows, ctx.width) if ctx.needs_input_grad[2] else None,
        None,
    )


gather_rows.register_autograd(_gather_backward, setup_context=_save)
scatter_rows.register_autograd(_scatter_backward, setup_context=_save)
dot_rows.register_autograd(_dot_backward, setup_context=_save)
