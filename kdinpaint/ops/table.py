"""Which rows of the input every sample of an adaptive convolution reads, with which weights, and the derivatives."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdinpaint.ops.frame import Frame, pixels_last
from kdinpaint.ops.geometry import Geometry, even

__all__ = ["Positions", "Table", "sampling_table"]


@dataclass(frozen=True)
class Positions:
    """Some output positions of a convolution: a block of whole lines, or a list.

    Attributes:
        index: Picks them from a tensor (B, H_out, W_out, ...).
        image: Image of each, broadcast against the two below.
        line: Vertical coordinate.
        column: Horizontal coordinate.
    """

    index: tuple[Any, ...]
    image: Tensor
    line: Tensor
    column: Tensor

    @classmethod
    def block(cls, images: range, lines: range, width: int, device: torch.device) -> "Positions":
        """Whole lines of some images."""

        def along(values: range) -> Tensor:
            return torch.arange(values.start, values.stop, device=device)

        index = (slice(images.start, images.stop), slice(lines.start, lines.stop))
        return cls(index, along(images)[:, None, None], along(lines)[:, None], along(range(width)))

    @classmethod
    def listed(cls, flat: Tensor, height: int, width: int) -> "Positions":
        """Positions by their number among all B * height * width."""
        image, line, column = flat // (height * width), flat // width % height, flat % width
        return cls((image, line, column), image, line, column)

    @classmethod
    def all(cls, like: Tensor, region: Tensor | None) -> "Positions":
        """All positions of a tensor (B, K, H_out, W_out), or those where a region (B, 1, H_out, W_out) is not 0."""
        batch, _, height, width = like.shape
        if region is None:
            return cls.block(range(batch), range(height), width, like.device)
        return cls.listed(_inside(region), height, width)

    @classmethod
    def blocks(cls, like: Tensor, region: Tensor | None, size: int) -> Iterator["Positions"]:
        """The same, about `size` at a time: whole images, whole lines of one, or a piece of the list."""
        batch, _, height, width = like.shape
        if region is not None:
            for flat in torch.split(_inside(region), max(1, size)):
                yield cls.listed(flat, height, width)
            return
        images, lines = max(1, size // (height * width)), even(height, max(1, size // width))
        for image in range(0, batch, images):
            for line in range(0, height, lines):
                some = range(image, min(batch, image + images)), range(line, min(height, line + lines))
                yield cls.block(*some, width, like.device)

    def take(self, planes: Tensor) -> Tensor:
        """These positions of (B, K, H_out, W_out), as (..., K)."""
        if isinstance(self.index[0], slice):
            return pixels_last(planes[self.index[0], :, self.index[1]])
        return planes.permute(0, 2, 3, 1)[self.index]

    def put(self, planes: Tensor, values: Tensor) -> None:
        """Write values, in the order and shape of `take` or flat, to these positions of (B, K, H_out, W_out)."""
        pixels = planes.permute(0, 2, 3, 1)
        shape = (self.image + self.line + self.column).shape
        pixels[self.index] = values.reshape(*shape, planes.shape[1]).to(planes.dtype)


def _inside(region: Tensor) -> Tensor:
    return region.reshape(-1).nonzero()[:, 0]


class Table(NamedTuple):
    """N samples, ordered by position, then tap.

    Attributes:
        first: (N,) int32 where it suffices, the framed row of the upper left corner.
        weight: (N, 4), of the four corners: V times the bilinear weights.
        down: (N,), fraction of a pixel below the corner.
        right: (N,), fraction of a pixel to its right.
        scale: (N,), V.
    """

    first: Tensor
    weight: Tensor
    down: Tensor
    right: Tensor
    scale: Tensor

    def gradients(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients for the offsets (N, 2) and for V (N,) from that for `weight` (N, 4); differentiable."""
        upper_left, upper_right, lower_left, lower_right = weight.unbind(1)
        above, below = upper_right - upper_left, lower_right - lower_left
        upper, lower = upper_left + self.right * above, lower_left + self.right * below
        vertical = lower - upper
        horizontal = above + self.down * (below - above)
        return self.scale[:, None] * torch.stack([vertical, horizontal], 1), upper + self.down * vertical


def sampling_table(offset: Tensor, kernel: Tensor, frame: Frame, geometry: Geometry, positions: Positions) -> Table:
    """The samples of some output positions; differentiable in `offset` and `kernel`.

    Outside the image the input counts as zero, as in `torch.nn.functional.conv2d` with zero padding and in
    `torchvision.ops.deform_conv2d`. At integer coordinates, where bilinear interpolation has a kink, the
    derivative is that of the cell to the lower right (floor), as in torchvision. A sample whose offset is
    NaN is NaN.

    Args:
        offset: (B, 2 T, H_out, W_out), pixels, (dy, dx) per tap; T is the number of taps.
        kernel: V, (B, T, H_out, W_out).
        frame: Layout of the input.
        geometry: Of the convolution.
        positions: Which output positions.
    """
    (_, kernel_width), stride, padding, dilation = geometry
    dtype = torch.promote_types(offset.dtype, torch.float32)
    tap = torch.arange(geometry.taps, device=offset.device)
    base_y = (positions.line * stride[0] - padding[0])[..., None] + tap // kernel_width * dilation[0]
    base_x = (positions.column * stride[1] - padding[1])[..., None] + tap % kernel_width * dilation[1]
    moves, scale = positions.take(offset).to(dtype), positions.take(kernel).to(dtype)
    y = (moves[..., 0::2] + base_y.to(dtype)).clamp(-2, frame.height)
    x = (moves[..., 1::2] + base_x.to(dtype)).clamp(-2, frame.width)

    y_floor, x_floor = y.detach().floor(), x.detach().floor()
    down, right = y - y_floor, x - x_floor
    lower = down * scale
    upper = scale - lower
    upper_right, lower_right = upper * right, lower * right
    weight = torch.stack([upper - upper_right, upper_right, lower - lower_right, lower_right], -1)

    if frame.image >= 2**24:  # beyond the integers of float32
        y_floor, x_floor = y_floor.double(), x_floor.double()
    place = torch.nan_to_num(torch.add(x_floor, y_floor, alpha=frame.step))
    index_dtype = torch.int32 if frame.count < 2**31 else torch.int64
    start = (positions.image * frame.image + frame.origin)[..., None].to(index_dtype)
    first = place.to(index_dtype) + start
    return Table(first.reshape(-1), weight.reshape(-1, 4), *(t.reshape(-1) for t in (down, right, scale)))
