"""The functions of loops.cpp on tensors. All of a call are of one dtype, float32 or float64."""

import ctypes
from collections.abc import Iterator

import torch
from torch import Tensor

from kdinpaint.ops.cpp import build
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.pieces import tile_size

__all__ = ["DTYPES", "Loops", "as_planes", "as_rows"]

DTYPES = (torch.float32, torch.float64)
_SAMPLE_BYTES = {torch.float32: 28, torch.float64: 40}


class _Strides(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("image", "plane", "line", "column")]


class _Structure(ctypes.Structure):
    """A structure of loops.cpp, and the tensors that its pointers point to."""

    def see(self, name: str, tensor: Tensor | None) -> None:
        """Point to a tensor, which lives on until another takes its place."""
        if tensor is None:
            return
        setattr(self, f"_{name}", tensor)
        setattr(self, name, tensor.data_ptr())

    def see_planes(self, name: str, tensor: Tensor | None) -> None:
        """Point to planes (B, K, H, W) of any layout."""
        self.see(name, tensor)
        if tensor is not None:
            setattr(self, f"{name}_at", _Strides(*tensor.stride()))


def _integers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_int64) for name in names]


def _pointers(*names: str) -> list[tuple[str, type]]:
    return [(name, ctypes.c_void_p) for name in names]


class _Work(_Structure):
    _fields_ = [
        *_integers("height", "width", "channels", "out_height", "out_width"),
        *((name, ctypes.c_int64 * 2) for name in ("kernel_size", "stride", "padding", "dilation")),
        *_integers("threads"),
        *_pointers("list", "rows", "zeros", "offset", "scale"),
        *((f"{name}_at", _Strides) for name in ("offset", "scale")),
        *_pointers("grad_rows", "grad_offset", "grad_scale"),
        *((f"{name}_at", _Strides) for name in ("grad_offset", "grad_scale")),
        *_pointers("samples", "columns"),
    ]


class _Layout(_Structure):
    _fields_ = [
        *_integers("height", "width", "channels", "threads"),
        *_pointers("list", "rows", "planes"),
        ("planes_at", _Strides),
    ]


def _call(name: str, dtype: torch.dtype, structure: _Structure, first: int, count: int) -> None:
    function = getattr(build.library(), f"{name}_{str(dtype).removeprefix('torch.')}")
    function(ctypes.byref(structure), ctypes.c_int64(first), ctypes.c_int64(count))


def _layout(planes: Tensor, rows: Tensor, positions: Tensor | None = None) -> _Layout:
    layout = _Layout(planes.shape[2], planes.shape[3], planes.shape[1], torch.get_num_threads())
    layout.see("list", positions)
    layout.see("rows", rows)
    layout.see_planes("planes", planes)
    return layout


def as_rows(planes: Tensor) -> Tensor:
    """(B, C, H, W) as contiguous (B, H, W, C): a view where the layout allows it."""
    pixels = planes.permute(0, 2, 3, 1)
    if pixels.is_contiguous():
        return pixels
    rows = pixels.new_empty(pixels.shape)
    _call("take", planes.dtype, _layout(planes, rows), 0, pixels[..., 0].numel())
    return rows


def as_planes(rows: Tensor, planes: Tensor) -> None:
    """Copy contiguous (B, H, W, C) to (B, C, H, W), unless it is the same memory."""
    if rows.data_ptr() != planes.data_ptr():
        _call("put", planes.dtype, _layout(planes, rows), 0, rows[..., 0].numel())


class Loops:
    """The loops over the output positions of some images, a tile at a time.

    Args:
        input: (B, C_in, H, W).
        offset: (B, 2*K*K, H_out, W_out).
        kernel: (B, K*K, H_out, W_out).
        region: (B, 1, H_out, W_out), or None for all positions.
        geometry: Of the convolution.

    Attributes:
        positions: Those of the region, flat, or None for all.
    """

    def __init__(
        self, input: Tensor, offset: Tensor, kernel: Tensor, region: Tensor | None, geometry: Geometry
    ) -> None:
        channels, (height, width) = input.shape[1], kernel.shape[-2:]
        self.positions = None if region is None else region.reshape(-1).nonzero()[:, 0]
        self.count = kernel[:, 0].numel() if self.positions is None else len(self.positions)
        self.rows = as_rows(input)
        self.width = geometry.taps * channels
        self.size = tile_size(self.count, self.width)
        self.work = _Work(*input.shape[2:], channels, height, width, *geometry, torch.get_num_threads())
        samples = torch.empty(self.size * geometry.taps * _SAMPLE_BYTES[input.dtype], dtype=torch.uint8)
        given = {"list": self.positions, "rows": self.rows, "zeros": input.new_zeros(channels), "samples": samples}
        for name, tensor in given.items():
            self.work.see(name, tensor)
        self.work.see_planes("offset", offset)
        self.work.see_planes("scale", kernel)

    def tiles(self) -> Iterator[tuple[int, int]]:
        """The first position of every tile, and how many it has; their samples are located."""
        for first in range(0, self.count, self.size):
            count = min(self.size, self.count - first)
            self._run("locate", first, count)
            yield first, count

    def gather(self, first: int, count: int) -> Tensor:
        """The columns (count, K*K*C_in) of a tile."""
        columns = self.rows.new_empty(count, self.width)
        self._run("gather", first, count, columns)
        return columns

    def take(self, planes: Tensor, first: int, count: int) -> Tensor:
        """The positions of a tile from planes (B, C_out, H_out, W_out), as rows (count, C_out)."""
        rows = planes.new_empty(count, planes.shape[1])
        _call("take", planes.dtype, _layout(planes, rows, self.positions), first, count)
        return rows

    def write_to(self, grad_rows: Tensor | None, grad_offset: Tensor | None, grad_kernel: Tensor | None) -> None:
        """Where gradients go: of the input's pixels (B, H, W, C_in), of the offset and of the kernel."""
        self.work.see("grad_rows", grad_rows)
        self.work.see_planes("grad_offset", grad_offset)
        self.work.see_planes("grad_scale", grad_kernel)

    def places(self, columns: Tensor, first: int, count: int) -> None:
        """Write the gradients of offset and kernel, from those of the columns of a tile."""
        self._run("places", first, count, columns)

    def scatter(self, columns: Tensor, first: int, count: int) -> None:
        """Add to the gradients of the input's pixels, from those of the columns of a tile."""
        self._run("scatter", first, count, columns)

    def _run(self, name: str, first: int, count: int, columns: Tensor | None = None) -> None:
        if columns is not None:
            self.work.columns = columns.data_ptr()  # for this call alone: they are large, and their owner lets them go
        _call(name, self.rows.dtype, self.work, first, count)
