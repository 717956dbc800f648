"""How images are laid out as rows of channels, with a frame of zeros around every image, and the way there and back."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kdinpaint.ops.geometry import even

__all__ = ["Frame", "frame_planes", "pixels_last", "unframe_planes"]

STRIP = 1 << 16
"""Elements that are transposed at a time: 256 KiB of float32, which stay in the cache between two copies."""


@dataclass(frozen=True)
class Frame:
    """How a batch of images is laid out as rows of channels, with zeros around every image.

    Two columns of zeros precede every line of pixels and follow it as the next line's; two lines of zeros
    precede every image. A position clamped to [-2, H] x [-2, W] therefore has its four neighbours here, and
    outside the image both a sample and its derivative come out as 0.

    Attributes:
        batch: B.
        height: H.
        width: W.
    """

    batch: int
    height: int
    width: int

    @property
    def step(self) -> int:
        """Rows from one pixel to the one below it."""
        return self.width + 2

    @property
    def image(self) -> int:
        """Rows from one image to the next."""
        return (self.height + 2) * self.step

    @property
    def count(self) -> int:
        """Rows in all."""
        return self.batch * self.image + 2 * self.step + 2

    @property
    def origin(self) -> int:
        """Row of position (0, 0) of the first image."""
        return 2 * self.step + 2

    def pixels(self, rows: Tensor) -> Tensor:
        """The pixels among framed rows (count, C), as a view (B, H, W, C)."""
        return self._lines(rows)[:, : self.height, 2:]

    def rows(self, pixels: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Framed rows (count, C) of pixels (B, H, W, C), in a dtype if one is given; differentiable."""
        rows = self.empty(pixels.new_empty(0, dtype=dtype), pixels.shape[-1])
        self._lines(rows)[:, : self.height, :2].zero_()
        self.pixels(rows).copy_(pixels)
        return rows

    def empty(self, like: Tensor, channels: int) -> Tensor:
        """Framed rows (count, channels) whose lines of pixels, and the two zeros before each, are to be written."""
        rows = like.new_empty(self.count, channels)
        start = 2 * self.step
        for zeros in (rows[:start], rows[start + self.batch * self.image :], self._lines(rows)[:, self.height :]):
            zeros.zero_()
        return rows

    def strips(self, channels: int) -> Iterator[tuple[int, slice, slice]]:
        """Some lines of an image at a time: the image, its lines, and their rows, the zeros before each included."""
        size = even(self.height, max(1, STRIP // (channels * self.step)))
        for image in range(self.batch):
            for top in range(0, self.height, size):
                bottom = min(self.height, top + size)
                first = (image * (self.height + 2) + 2 + top) * self.step
                yield image, slice(top, bottom), slice(first, first + (bottom - top) * self.step)

    def _lines(self, rows: Tensor) -> Tensor:
        """The lines of all images, with the two of zeros after each image's, as a view (B, H + 2, W + 2, C)."""
        lines = rows[2 * self.step : 2 * self.step + self.batch * self.image]
        return lines.view(self.batch, self.height + 2, self.step, -1)


def frame_planes(planes: Tensor, dtype: torch.dtype) -> tuple[Frame, Tensor]:
    """The frame of (B, C, H, W), and its framed rows (count, C) in a dtype; no gradient."""
    batch, channels, height, width = planes.shape
    frame, pixels = Frame(batch, height, width), planes.permute(0, 2, 3, 1)
    if pixels.is_contiguous() or not planes.is_cpu:
        return frame, frame.rows(pixels, dtype)
    rows = frame.empty(planes.new_empty(0, dtype=dtype), channels)
    # Packed matrices: PyTorch transposes those four times as fast as it permutes four axes on the CPU.
    for image, lines, part in frame.strips(channels):
        strip = rows.new_empty(channels, lines.stop - lines.start, frame.step)
        strip[..., :2] = 0
        strip[..., 2:] = planes[image, :, lines]
        rows[part].copy_(strip.flatten(1).t())
    return frame, rows


def unframe_planes(rows: Tensor, frame: Frame, planes: Tensor) -> None:
    """Copy the pixels among framed rows (count, C) to (B, C, H, W)."""
    if not planes.is_contiguous() or not planes.is_cpu:
        planes.permute(0, 2, 3, 1).copy_(frame.pixels(rows))
        return
    channels = planes.shape[1]
    for image, lines, part in frame.strips(channels):
        strip = rows[part].t().contiguous().view(channels, -1, frame.step)
        planes[image, :, lines] = strip[..., 2:]


def pixels_last(planes: Tensor) -> Tensor:
    """(B, K, H, W) as contiguous (B, H, W, K)."""
    pixels = planes.permute(0, 2, 3, 1)
    if pixels.is_contiguous() or not planes.is_cpu or (torch.is_grad_enabled() and planes.requires_grad):
        return pixels.contiguous()
    result = pixels.new_empty(pixels.shape)
    for image, plane in zip(result, planes, strict=True):  # packed matrices, as above
        image.flatten(0, 1).copy_(plane.flatten(1).contiguous().t())
    return result
