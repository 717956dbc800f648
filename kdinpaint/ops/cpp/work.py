"""The functions of adaptive_conv.cpp on tensors. All of a call are of one dtype, float32 or float64."""

import ctypes
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from kdinpaint.ops.cpp import build
from kdinpaint.ops.geometry import Geometry, even

__all__ = ["DTYPES", "Work", "are_rows", "as_rows", "to_planes"]

DTYPES = (torch.float32, torch.float64)
_SAMPLE_BYTES = {torch.float32: 28, torch.float64: 40}

PANEL = 48
"""Positions that a thread works on at a time, at most."""
SLICE = 384
"""Elements of a column that are worked on at a time, in whole taps."""
TILES, SMALLEST_TILE, LARGEST_TILE = 8, 384, 3072
"""Pieces of the backward pass, and positions of one; set by the problem alone, so that threads change no result."""


class _Strides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("image", "plane", "line", "column")]


class _Structure(ctypes.Structure):
    """A structure of work.h.

    Attributes:
        dtype: Of all its tensors.
        tensors: What its pointers point to, by name.
    """

    dtype: torch.dtype
    tensors: dict[str, Tensor | None]

    def see(self, **tensors: Tensor | None) -> None:
        """Point to tensors, which live on until others take their place."""
        self.tensors.update(tensors)
        for name, tensor in tensors.items():
            setattr(self, name, None if tensor is None else tensor.data_ptr())

    def see_planes(self, **tensors: Tensor | None) -> None:
        """Point to planes (B, C, H, W) of any layout."""
        self.see(**tensors)
        for name, tensor in tensors.items():
            if tensor is not None:
                setattr(self, f"{name}_at", _Strides(*tensor.stride()))

    def run(self, name: str) -> None:
        """Call a function of adaptive_conv.cpp."""
        _function(name, self.dtype)(ctypes.byref(self))


# Found once: a call of small maps is mostly Python's.
@functools.cache
def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    return getattr(build.library(), f"{name}_{_name(dtype)}")


@functools.cache
def _block(dtype: torch.dtype) -> int:
    """Columns that are multiplied together."""
    return int(ctypes.c_int64.in_dll(build.library(), f"block_{_name(dtype)}").value)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _integers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_int64) for name in names]


def _pointers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_void_p) for name in names]


def _placed(*names: str) -> list[tuple[str, type]]:
    return [(f"{name}_at", _Strides) for name in names]


class _Layout(_Structure):
    _fields_ = [
        *_integers("height", "width", "channels", "threads", "count"),
        *_pointers("rows", "planes"),
        *_placed("planes"),
    ]

    def __init__(self, planes: Tensor, rows: Tensor) -> None:
        height, width, channels = rows.shape[1:]
        super().__init__(height, width, channels, torch.get_num_threads(), rows[..., 0].numel())
        self.dtype, self.tensors = rows.dtype, {}
        self.see(rows=rows)
        self.see_planes(planes=planes)


def are_rows(planes: Tensor) -> bool:
    """Whether the memory of planes (B, C, H, W) is that of rows (B, H, W, C)."""
    return planes.permute(0, 2, 3, 1).is_contiguous()


def to_planes(rows: Tensor, planes: Tensor) -> None:
    """Copy contiguous (B, H, W, C) to (B, C, H, W)."""
    _Layout(planes, rows).run("to_planes")


def as_rows(planes: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C): a view where the layout allows it."""
    pixels = planes.permute(0, 2, 3, 1)
    if are_rows(planes):
        return pixels
    rows = pixels.new_empty(pixels.shape)
    _Layout(planes, rows).run("to_rows")
    return rows


class Work(_Structure):
    """Adaptive convolution of some images.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, K, K), contiguous.
        offset: (B, 2*K*K, H_out, W_out).
        kernel: (B, K*K, H_out, W_out).
        region: (B, 1, H_out, W_out), or None for all positions.
        geometry: Of the convolution.
    """

    _fields_ = [
        *_integers("height", "width", "channels", "out_height", "out_width", "out_channels"),
        *((name, ctypes.c_int64 * 2) for name in ("kernel_size", "stride", "padding", "dilation")),
        *_integers("threads", "panel", "tile", "slice", "count"),
        *_pointers("list", "rows", "zeros", "offset", "scale"),
        *_placed("offset", "scale"),
        *_pointers("weight", "packed", "bias", "output", "grad"),
        *_placed("grad"),
        *_pointers("grad_rows", "grad_packed", "grad_bias", "grad_offset", "grad_scale"),
        *_placed("grad_offset", "grad_scale"),
        *_pointers("samples", "columns", "sums"),
        *_integers("packed_width", "column_size", "sum_size"),
    ]

    def __init__(
        self,
        input: Tensor,
        weight: Tensor,
        offset: Tensor,
        kernel: Tensor,
        region: Tensor | None,
        geometry: Geometry,
    ) -> None:
        positions = None if region is None else region.reshape(-1).nonzero()[:, 0]
        count = kernel[:, 0].numel() if positions is None else len(positions)
        channels, threads = input.shape[1], torch.get_num_threads()
        taps = even(geometry.taps, max(1, SLICE // channels))
        tile = max(1, min(count, max(SMALLEST_TILE, min(LARGEST_TILE, count // TILES))))
        sizes = (*input.shape[2:], channels, *kernel.shape[2:], weight.shape[0])
        super().__init__(*sizes, *geometry, threads, 0, tile, taps, count)
        self.dtype, self.tensors, self.geometry = input.dtype, {}, geometry
        rows = as_rows(input)
        self.rows_shape = rows.shape
        self.see(list=positions, rows=rows, zeros=input.new_zeros(channels), weight=weight)
        self.see_planes(offset=offset, scale=kernel)
        self.packed_width = self._blocks(taps * channels) * _block(self.dtype)
        self.column_size, self.sum_size = self._row_size(taps * channels), self._row_size(self.out_channels)

    def packed_forward(self) -> Tensor:
        """The weight in the order in which `forward` reads it."""
        depth = self.geometry.taps * self.channels
        packed = self._new(self._blocks(self.out_channels), depth, _block(self.dtype))
        self.see(packed=packed)
        self.run("pack_forward")
        return packed

    def forward(self, packed: Tensor, bias: Tensor | None, output: Tensor) -> None:
        """Write the rows of the output (B, H_out, W_out, C_out), those of the region.

        Args:
            packed: From `packed_forward`, of any work with this weight.
            bias: (C_out,), contiguous.
            output: (B, H_out, W_out, C_out).
        """
        self.see(packed=packed, bias=bias, output=output)
        self._compute("forward", self.count)

    def packed_backward(self) -> Tensor:
        """The weight in the order in which `backward` reads it."""
        packed = self._new(*self._packed_shape)
        self.see(packed=packed)
        self.run("pack_backward")
        return packed

    def backward(
        self,
        packed: Tensor | None,
        grad: Tensor,
        grad_rows: Tensor | None,
        grad_packed: Tensor | None,
        grad_offset: Tensor | None,
        grad_kernel: Tensor | None,
        grad_bias: Tensor | None,
    ) -> None:
        """Write the gradients of offset and kernel, those of the region, and add to the others; for None, none.

        Args:
            packed: From `packed_backward`, of any work with this weight; None if neither the gradient of the input nor
                those of offset and kernel are wanted.
            grad: Of the output, (B, C_out, H_out, W_out).
            grad_rows: Of the input, (B, H, W, C_in).
            grad_packed: Of the weight, from `zero_packed`.
            grad_offset: As offset.
            grad_kernel: As kernel.
            grad_bias: (C_out,).
        """
        self.see_planes(grad=grad, grad_offset=grad_offset, grad_scale=grad_kernel)
        self.see(packed=packed, grad_rows=grad_rows, grad_packed=grad_packed, grad_bias=grad_bias)
        self._compute("backward", self.tile)

    def zero_rows(self) -> Tensor:
        """Zeros (B, H, W, C_in)."""
        return self._new(*self.rows_shape).zero_()

    def zero_packed(self) -> Tensor:
        """Zeros in the order in which the weight's gradient is summed."""
        return self._new(*self._packed_shape).zero_()

    def unpacked(self, grad_packed: Tensor) -> Tensor:
        """The weight's gradient (C_out, C_in, K, K)."""
        grad_weight = self._new(self.out_channels, self.channels, *self.geometry.kernel_size)
        self.see(grad_packed=grad_packed, weight=grad_weight)
        self.run("unpack")
        return grad_weight

    @property
    def _packed_shape(self) -> tuple[int, int, int]:
        return -(-self.geometry.taps // self.slice), self.out_channels, self.packed_width

    def _blocks(self, columns: int) -> int:
        return -(-columns // _block(self.dtype))

    def _row_size(self, columns: int) -> int:
        """Of rows in memory: an odd number of blocks, so that the rows of a block do not share cache sets."""
        return (self._blocks(columns) | 1) * _block(self.dtype)

    def _new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self.dtype)

    def _compute(self, name: str, together: int) -> None:
        """Call a function that goes through some positions together; what only it needs is let go of."""
        self.panel = even(max(1, -(-together // self.threads)), PANEL)  # every thread gets the same number of panels
        positions = self.threads * self.panel if name == "forward" else self.tile
        samples = torch.empty(positions * self.geometry.taps * _SAMPLE_BYTES[self.dtype], dtype=torch.uint8)
        columns, sums = self._new(positions, self.column_size), self._new(positions, self.sum_size)
        self.see(samples=samples, columns=columns, sums=sums)
        self.run(name)
        self.see(samples=None, columns=None, sums=None, rows=None, grad_rows=None)
