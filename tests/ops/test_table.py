"""The sampling table: which rows, which weights, which positions."""

import pytest
import torch
from harness import SEEDS, random_mask, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import grad

from kdinpaint.ops.frame import Frame
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.table import Positions, sampling_table

FRAME, GEOMETRY = Frame(2, 4, 5), Geometry.make(2)


def table(offset, kernel, positions=None):
    positions = positions or Positions.all(kernel, None)
    return sampling_table(offset, kernel, FRAME, GEOMETRY, positions)


def test_unmoved_taps_read_single_pixels():
    found = table(torch.zeros(2, 8, 3, 4), torch.ones(2, 4, 3, 4))
    assert found.first.dtype == torch.int32
    numbers = torch.arange(1, 41).view(2, 4, 5, 1)
    read = FRAME.rows(numbers)[found.first.long(), 0].view(2, 3, 4, 2, 2)
    batch, row, column, i, j = torch.meshgrid(*(torch.arange(n) for n in read.shape), indexing="ij")
    assert torch.equal(read, 1 + batch * 20 + (row + i) * 5 + column + j)
    assert torch.equal(found.weight, torch.tensor([1.0, 0.0, 0.0, 0.0]).expand_as(found.weight))


@given(SEEDS, st.sampled_from([0.0, 1.0, 50.0, 1e6, float("inf"), float("nan")]))
def test_samples_stay_inside_their_own_image(seed, reach):
    offset = reach * torch.randn(2, 8, 3, 4, generator=seeded(seed))
    found = table(offset, torch.ones(2, 4, 3, 4))
    assert bool((found.first >= 0).all())
    assert bool((found.first + FRAME.step + 1 < FRAME.count).all())
    owner = torch.zeros(2, 4, 5, 2)
    owner[0, ..., 0] = owner[1, ..., 1] = 1
    rows = FRAME.rows(owner)
    for shift in (0, 1, FRAME.step, FRAME.step + 1):
        read = rows[(found.first + shift).long()].view(2, -1, 2)
        assert not read[0, :, 1].any()
        assert not read[1, :, 0].any()
    if reach < 1e6:
        assert bool((found.weight >= 0).all())
        torch.testing.assert_close(found.weight.sum(1), torch.ones(len(found.weight)))


@pytest.mark.parametrize("size", [1, 5, 7, 12, 24, 1000])
@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
def test_blocks_together_are_all_positions(part, size):
    offset, kernel = torch.randn(2, 8, 3, 4), torch.randn(2, 4, 3, 4)
    region = random_mask(2, 3, 4) if part else None
    whole = table(offset, kernel, Positions.all(kernel, region))
    pieces = [table(offset, kernel, some) for some in Positions.blocks(kernel, region, size)]
    for name in whole._fields:
        assert torch.equal(torch.cat([getattr(piece, name) for piece in pieces]), getattr(whole, name)), name


@pytest.mark.parametrize("part", [False, True], ids=["dense", "region"])
def test_put_is_the_inverse_of_take(part):
    planes = torch.randn(3, 5, 4, 6)
    region = random_mask(3, 4, 6) if part else None
    again = torch.zeros_like(planes)
    for some in Positions.blocks(planes, region, 7):
        taken = some.take(planes)
        assert torch.equal(taken, planes.permute(0, 2, 3, 1)[some.index])
        some.put(again, taken)
    assert torch.equal(again, planes if region is None else planes * region)


@given(SEEDS)
def test_gradients_are_those_of_autograd(seed):
    offset = torch.randn(2, 8, 3, 4, generator=seeded(seed), dtype=torch.float64).requires_grad_()
    kernel = torch.randn(2, 4, 3, 4, generator=seeded(seed + 1), dtype=torch.float64).requires_grad_()
    found = table(offset, kernel)
    slope = torch.randn(found.weight.shape, generator=seeded(seed + 2), dtype=torch.float64)
    moved, scaled = grad(found.weight, (offset, kernel), slope)
    ours_moved, ours_scaled = found.gradients(slope)
    moved, scaled = (t.permute(0, 2, 3, 1) for t in (moved, scaled))
    inside = moved.reshape(-1, 2) != 0  # beyond the clamp autograd knows a zero that here lies in the slopes
    torch.testing.assert_close(ours_moved[inside], moved.reshape(-1, 2)[inside])
    torch.testing.assert_close(ours_scaled.view_as(scaled), scaled)
