"""Images as framed rows of channels, and back."""

import pytest
import torch
from harness import SEEDS, seeded
from hypothesis import given
from hypothesis import strategies as st

from kdinpaint.ops import frame as frames
from kdinpaint.ops.frame import Frame, frame_planes, pixels_last, unframe_planes

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), SEEDS)
def test_frame_puts_zeros_around_every_image(batch, height, width, seed):
    frame = Frame(batch, height, width)
    pixels = torch.randn(batch, height, width, 2, generator=seeded(seed))
    rows = frame.rows(pixels)
    assert torch.equal(frame.pixels(rows), pixels)
    assert torch.count_nonzero(rows) == torch.count_nonzero(pixels)
    for b in range(batch):
        for y in range(-2, height + 2):
            for x in range(-2, width + 2):
                row = rows[frame.origin + b * frame.image + y * frame.step + x]
                inside = 0 <= y < height and 0 <= x < width
                assert torch.equal(row, pixels[b, y, x] if inside else torch.zeros(2)), (b, y, x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strip", [1, 100, 1 << 16], ids=["a line", "some lines", "an image"])
def test_planes_to_rows_and_back(layout, dtype, strip, monkeypatch):
    monkeypatch.setattr(frames, "STRIP", strip)
    planes = torch.randn(2, 3, 7, 5).to(memory_format=layout)
    frame, rows = frame_planes(planes, dtype)
    assert rows.dtype == dtype
    assert torch.equal(rows, frame.rows(planes.permute(0, 2, 3, 1), dtype))
    again = torch.empty_like(planes)
    unframe_planes(rows, frame, again)
    assert torch.equal(again, planes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pixels_last(layout):
    planes = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    pixels = pixels_last(planes)
    assert pixels.is_contiguous()
    assert torch.equal(pixels, planes.permute(0, 2, 3, 1))
