"""How the work of adaptive convolution on a CPU is cut: groups of images, blocks of positions, tiles of columns."""

import functools
from collections.abc import Iterator
from typing import overload

import torch
from torch import Tensor

from kdinpaint.ops.geometry import even

__all__ = ["block_size", "groups", "keep_memory", "some", "tile_size"]

BLOCK = 1 << 15
"""Samples of a block: 3640 positions of a 3 x 3 kernel."""
TILE = 1 << 19
"""Elements of the columns of a tile: 2 MiB of float32."""


def groups(kernel: Tensor, region: Tensor | None) -> Iterator[slice]:
    """Images that are worked on together: one, or several small ones, or with small regions, that make a block."""
    batch, taps, height, width = kernel.shape
    several = BLOCK // (taps * height * width)
    if region is not None:
        cells = int(torch.count_nonzero(region)) // max(1, batch)
        several = min(BLOCK // (taps * max(1, cells)), 4 * several)
    several = max(1, several)
    for start in range(0, batch, several):
        yield slice(start, min(batch, start + several))


def block_size(taps: int) -> int:
    """Positions of a block."""
    return BLOCK // taps


def tile_size(count: int, columns: int) -> int:
    """Positions of a tile, about the same for every tile of a block of `count`."""
    return even(max(1, count), max(1, TILE // columns))


@overload
def some(planes: Tensor, images: slice) -> Tensor: ...
@overload
def some(planes: Tensor | None, images: slice) -> Tensor | None: ...
def some(planes: Tensor | None, images: slice) -> Tensor | None:
    """Some images, perhaps all, of a tensor that there may be."""
    return planes if planes is None or images == slice(0, len(planes)) else planes[images]


@functools.cache
def keep_memory() -> None:
    """Have the C library reuse the memory of tiles instead of handing it back to the system after each.

    glibc keeps freed blocks up to the size of the largest that was ever freed, 32 MiB at most. Without one of that
    size every tile is paid for in page faults: a quarter of the forward pass at (2, 64, 64, 64).
    """
    torch.empty(31 << 20, dtype=torch.uint8)
