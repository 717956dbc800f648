"""Teacher forcing: whose hole cells are replaced, and by what."""

from typing import ClassVar

import pytest
import torch
from harness import Contract, random_mask, seeded
from torch import Tensor
from torch.nn import functional as F

from kdinpaint.distill import teacher_forcing
from kdinpaint.errors import ShapeError


def holes(count: int, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(count, 1, size, size, generator=generator) < torch.rand(count, 1, 1, 1, generator=generator)
    ).float()


def levels(count: int) -> list[Tensor]:
    return [torch.rand(count, 3, 16, 16), torch.rand(count, 5, 8, 8)]


def test_hole_cells_are_the_teachers_and_known_cells_stay() -> None:
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 3:7, 4:6] = 1
    mine, theirs = levels(2), levels(2)
    fine, coarse = teacher_forcing(mine, theirs, mask)
    inside = mask.bool().expand_as(fine)
    assert fine[inside].equal(theirs[0][inside])
    assert fine[~inside].equal(mine[0][~inside])
    cells = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    cells[..., 1:4, 2:3] = True  # whatever holds a pixel of the hole
    assert coarse.equal(torch.where(cells, theirs[1], mine[1]))


class TestTeacherForcing(Contract):
    errors: ClassVar = {
        "levels": (
            ShapeError,
            "features has 2 levels and targets 1; expected as many",
            lambda _: teacher_forcing(levels(2), levels(2)[:1], holes(2)),
        ),
        "shapes": (
            ShapeError,
            r"level 1: features is \(2, 5, 8, 8\) and targets \(2, 4, 8, 8\); expected equal shapes",
            lambda _: teacher_forcing(levels(2), [levels(2)[0], torch.rand(2, 4, 8, 8)], holes(2)),
        ),
    }

    def make(self, dtype=torch.float32):
        return teacher_forcing

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        generator = seeded(seed)
        mine, theirs = (
            [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in self.sizes(*of)]
            for of in 2 * [(batch, height, width)]
        )
        return mine, theirs, random_mask(batch, height, width)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width), (batch, 4, -(-height // 2), -(-width // 2))]

    def oracle(self, subject, mine, theirs, mask):
        found = []
        for own, other in zip(mine, theirs, strict=True):
            inside = F.adaptive_max_pool2d(mask.double(), own.shape[-2:])
            found.append(own.double() * (1 - inside) + other.double() * inside)
        return found


@pytest.mark.parametrize("share", [0.0, 0.25, 0.75, 1.0])
def test_share_of_the_samples(share: float) -> None:
    mask = holes(400)
    mine, theirs = [torch.zeros(400, 1, 16, 16)], [torch.ones(400, 1, 16, 16)]
    forced = teacher_forcing(mine, theirs, mask, share=share)[0].flatten(1).amax(1)
    assert forced.mean().item() == pytest.approx(share, abs=0.08)


def test_the_choice_is_the_samples_own() -> None:
    mask, mine, theirs = holes(8), levels(8), levels(8)
    whole = teacher_forcing(mine, theirs, mask, share=0.5)
    for number in range(8):
        part = slice(number, number + 1)
        alone = teacher_forcing([f[part] for f in mine], [f[part] for f in theirs], mask[part], share=0.5)
        assert all(a.equal(b[part]) for a, b in zip(alone, whole, strict=True))
    more = teacher_forcing(mine, theirs, mask, share=0.6)
    for half, further, theirs_too in zip(whole, more, theirs, strict=True):
        replaced = half == theirs_too
        assert further[replaced].equal(theirs_too[replaced]), "who is forced at a share is forced at any above"


def test_holes_of_one_area_are_chosen_one_by_one() -> None:
    mask = torch.zeros(400, 1, 64, 64)
    corners = torch.randint(0, 32, (400, 2), generator=seeded(3)).tolist()
    for sample, (top, left) in zip(mask, corners, strict=True):
        sample[:, top : top + 32, left : left + 32] = 1
    forced = teacher_forcing([torch.zeros(400, 1, 8, 8)], [torch.ones(400, 1, 8, 8)], mask, share=0.5)[0]
    assert forced.flatten(1).amax(1).mean().item() == pytest.approx(0.5, abs=0.08)
