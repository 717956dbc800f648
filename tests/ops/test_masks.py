"""Masks: the pyramid loses no hole pixel and is nested, composition is bit-exact, polarity and ratio."""

from typing import ClassVar

import pytest
import torch
from harness import SEEDS, Contract, assert_equal, random_mask, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import covered
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops import composite, hole_ratio, mask_pyramid, orient_mask, resize_mask

SIDES = st.integers(1, 40)
NO_GRADIENT = {
    "gradients": "masks are not differentiated",
    "second_gradients": "masks are not differentiated",
}
NOT_A_MASK = (ShapeError, r"expected \(B, 1, H, W\) with 1 = hole.*mask\[None, None\]")


class MaskContract(Contract):
    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (random_mask(batch, height, width, seed),)


class TestResizeMask(MaskContract):
    without = NO_GRADIENT
    errors: ClassVar = {
        "no mask": (*NOT_A_MASK, lambda _: resize_mask(torch.ones(4, 4), (2, 2))),
        "channels": (*NOT_A_MASK, lambda _: resize_mask(torch.ones(1, 3, 4, 4), (2, 2))),
        "larger": (ShapeError, "can only be reduced", lambda _: resize_mask(torch.ones(1, 1, 4, 4), (4, 5))),
        "empty": (ShapeError, "can only be reduced", lambda _: resize_mask(torch.ones(1, 1, 4, 4), (0, 2))),
        "mode": (ConfigError, "mode is 'any'", lambda _: resize_mask(torch.ones(1, 1, 4, 4), (2, 2), mode="any")),
    }

    def make(self, dtype=torch.float32):
        return lambda mask: resize_mask(mask, (-(-mask.shape[-2] // 2), -(-mask.shape[-1] // 2)))

    def sizes(self, batch, height, width):
        return [(batch, 1, -(-height // 2), -(-width // 2))]

    def oracle(self, subject, mask):
        return covered(mask, (3, 4))


class TestMaskPyramid(MaskContract):
    without = NO_GRADIENT
    smallest = 4
    errors: ClassVar = {
        "no mask": (*NOT_A_MASK, lambda _: mask_pyramid(torch.ones(4, 4), [(2, 2)])),
        "larger": (ShapeError, "can only be reduced", lambda _: mask_pyramid(torch.ones(1, 1, 4, 4), [(2, 2), (8, 8)])),
    }

    def make(self, dtype=torch.float32):
        return lambda mask: mask_pyramid(mask, [(4, 4), (2, 2)])

    def sizes(self, batch, height, width):
        return [(batch, 1, 4, 4), (batch, 1, 2, 2)]

    def inputs(self, batch=2, height=8, width=8, dtype=torch.float32, seed=0):
        return super().inputs(batch, height, width, dtype, seed)

    def oracle(self, subject, mask):
        return [covered(mask, (4, 4)), covered(mask, (2, 2))]


class TestHoleRatio(MaskContract):
    without = NO_GRADIENT
    errors: ClassVar = {"no mask": (*NOT_A_MASK, lambda _: hole_ratio(torch.ones(4, 4)))}

    def make(self, dtype=torch.float32):
        return hole_ratio

    def sizes(self, batch, height, width):
        return [(batch,)]

    def oracle(self, subject, mask):
        return torch.tensor([sum(sample.flatten().tolist()) / sample.numel() for sample in mask])


class TestOrientMask(MaskContract):
    without = NO_GRADIENT
    errors: ClassVar = {
        "polarity": (ConfigError, "polarity is 'white'; expected one of", lambda _: orient_mask(torch.ones(1), "white"))
    }

    def make(self, dtype=torch.float32):
        return lambda mask: orient_mask(mask, "known")

    def sizes(self, batch, height, width):
        return [(batch, 1, height, width)]

    def oracle(self, subject, mask):
        return torch.tensor([not value for value in mask.flatten().tolist()]).view(mask.shape)

    @pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
    def test_dtype_is_kept_and_twice_is_nothing(self, dtype):
        mask = random_mask(2, 3, 4).to(dtype)
        turned = orient_mask(mask, "known")
        assert turned.dtype == dtype
        assert_equal(orient_mask(turned, "known"), mask)
        assert_equal(turned != 0, mask == 0)
        assert orient_mask(mask, "hole") is mask


class TestComposite(Contract):
    errors: ClassVar = {
        "channels": (ShapeError, "image has 3 channels.*expected 2", lambda t: t.broken(image=torch.ones(1, 3, 4, 4))),
        "dimensions": (ShapeError, "prediction is .*expected", lambda t: t.broken(prediction=torch.ones(2, 4, 4))),
        "mask size": (ShapeError, "expected equal sizes", lambda t: t.broken(mask=torch.ones(1, 1, 4, 5))),
        "mask batch": (ShapeError, "holds 2 masks and the batch 1", lambda t: t.broken(mask=torch.ones(2, 1, 4, 4))),
        "no mask": (*NOT_A_MASK, lambda t: t.broken(mask=torch.ones(4, 4))),
    }

    def broken(self, **change):
        given = {"prediction": torch.ones(1, 2, 4, 4), "image": torch.ones(1, 2, 4, 4), "mask": torch.ones(1, 1, 4, 4)}
        return composite(**{**given, **change})

    def make(self, dtype=torch.float32):
        return composite

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        prediction, image = torch.randn(2, batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(
            dtype
        )
        return prediction.clone(), image.clone(), random_mask(batch, height, width, seed)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def oracle(self, subject, prediction, image, mask):
        weight = mask.double()
        return weight * prediction + (1 - weight) * image

    @given(SIDES, SIDES, SEEDS, st.sampled_from([torch.bool, torch.float32, torch.uint8]))
    def test_is_bit_exact_and_ignores_what_is_under_the_hole(self, height, width, seed, kind):
        prediction, image, mask = self.inputs(2, height, width, seed=seed)
        clean = image.clone()
        image[mask.expand_as(image)] = float("nan")
        prediction[~mask.expand_as(image)] = float("nan")
        merged = composite(prediction, image, mask.to(kind))
        known = ~mask.expand_as(image)
        assert torch.equal(merged[known], clean[known])
        assert torch.equal(merged[~known], prediction[~known])


def levels(height, width, steps, up):
    """Sizes of the levels of a network whose strides round sizes up, or down."""
    sizes = [(height, width)]
    for _ in range(steps):
        size = tuple(-(-n // 2) if up else n // 2 for n in sizes[-1])
        if min(size) < 1:
            break
        sizes.append(size)
    return sizes


@given(SIDES, SIDES, st.integers(0, 5), SEEDS, st.floats(0.01, 0.6))
def test_pyramid_that_rounds_up_covers_the_mask_and_is_nested(height, width, steps, seed, share):
    mask = random_mask(2, height, width, seed, share=share)
    sizes = levels(height, width, steps, up=True)
    pyramid = mask_pyramid(mask, sizes)
    for number, level in enumerate(pyramid):
        spread = level.repeat_interleave(2**number, -2).repeat_interleave(2**number, -1)[..., :height, :width]
        assert bool((spread | ~mask).all()), "a hole pixel lies in a known cell"
        if number:
            before, size = pyramid[number - 1], sizes[number]
            assert_equal(level, resize_mask(before, size))
            assert bool((level | (F.max_pool2d(before.float(), 2, ceil_mode=True) == 0)).all())
            if (3, 2) not in zip(sizes[number - 1], size, strict=True):
                assert_equal(level.float(), F.max_pool2d(before.float(), 2, ceil_mode=True))


@given(SIDES, SIDES, st.integers(0, 5), SEEDS, st.floats(0.01, 0.6))
def test_pyramid_that_rounds_down_covers_the_mask(height, width, steps, seed, share):
    mask = random_mask(2, height, width, seed, share=share)
    for number, level in enumerate(mask_pyramid(mask, levels(height, width, steps, up=False))):
        spread = level.repeat_interleave(2**number, -2).repeat_interleave(2**number, -1)
        inside = mask[..., : spread.shape[-2], : spread.shape[-1]]
        assert bool((spread | ~inside).all()), "a hole pixel lies in a known cell"


@pytest.mark.parametrize("up", [True, False], ids=["rounding up", "rounding down"])
def test_every_single_pixel_is_covered_at_every_level(up):
    for length in range(1, 41):
        alone = torch.eye(length)[:, None, :, None]  # one mask for each pixel of a column
        for number, size in enumerate(levels(length, 40, 5, up=up)):
            level = resize_mask(alone.expand(length, 1, length, 40), size)[..., 0].repeat_interleave(2**number, -1)
            cells = min(length, level.shape[-1])
            assert bool(level[:, 0].diagonal()[:cells].all()), f"{length} pixels, level {number}"


@given(st.integers(1, 20), st.integers(1, 20), st.floats(0, 1), st.floats(0, 1), SEEDS)
def test_rows_and_columns_are_reduced_independently(height, width, rows, columns, seed):
    mask = random_mask(2, height, width, seed)
    size = (1 + round(rows * (height - 1)), 1 + round(columns * (width - 1)))
    assert_equal(resize_mask(resize_mask(mask, (size[0], width)), size), resize_mask(mask, size))
    assert_equal(resize_mask(mask.mT, size[::-1]), resize_mask(mask, size).mT)


@given(SIDES, SIDES, st.floats(0, 1), st.floats(0, 1), SEEDS)
def test_no_hole_pixel_is_lost_at_any_size(height, width, rows, columns, seed):
    size = (1 + round(rows * (height - 1)), 1 + round(columns * (width - 1)))
    where = torch.randint(height * width, (1,), generator=seeded(seed))
    mask = torch.zeros(height * width).index_fill(0, where, 1.0).view(1, 1, height, width)
    level = resize_mask(mask, size)
    assert level.shape[-2:] == size
    assert bool(level.any())
    assert bool(((level == 0) | (level == 1)).all())
    assert not resize_mask(torch.zeros(1, 1, height, width), size).any()
    assert bool(resize_mask(torch.ones(1, 1, height, width), size).all())


def test_stroke_at_an_eighth():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 27:29, :] = 1
    assert resize_mask(mask, (8, 8)).sum() == 8
    assert resize_mask(mask, (8, 8), mode="nearest").sum() in (0, 8)
    assert resize_mask(mask, (8, 8), mode="area").sum() == 0


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), SEEDS)
def test_nearest_and_area_of_whole_blocks(rows, columns, factor, seed):
    mask = random_mask(2, rows * factor, columns * factor, seed)
    blocks = mask.view(2, 1, rows, factor, columns, factor).transpose(3, 4).flatten(4)
    assert_equal(resize_mask(mask, (rows, columns), mode="area"), blocks.float().mean(-1) > 0.5)
    nearest = blocks.view(2, 1, rows, columns, factor, factor)[..., factor // 2, factor // 2]
    assert_equal(resize_mask(mask, (rows, columns), mode="nearest"), nearest)


@pytest.mark.parametrize("mode", ["max", "nearest", "area"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16, torch.float64])
def test_resizing_keeps_the_dtype(dtype, mode):
    mask = random_mask(2, 9, 12)
    level = resize_mask(mask.to(dtype), (3, 4), mode=mode)
    assert level.dtype == dtype
    assert_equal(level != 0, resize_mask(mask, (3, 4), mode=mode))
