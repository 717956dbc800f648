"""Masked means that survive empty holes and low precision; weighted sums."""

from typing import ClassVar

import pytest
import torch
from harness import Contract, random_mask, seeded
from reference_ops import masked_mean_loop

from kdinpaint._core.errors import ShapeError
from kdinpaint.ops import masked_channel_mean, weighted_channel_sum


class TestMaskedChannelMean(Contract):
    errors: ClassVar = {
        "values": (ShapeError, "values is .*expected", lambda _: masked_channel_mean(torch.ones(3, 4), torch.ones(1))),
        "mask": (
            ShapeError,
            "expected equal sizes",
            lambda t: masked_channel_mean(t.inputs()[0], torch.ones(2, 1, 5, 8)),
        ),
        "batch": (ShapeError, "share one", lambda t: masked_channel_mean(t.inputs()[0], torch.ones(1, 1, 6, 8))),
    }

    def make(self, dtype=torch.float32):
        return masked_channel_mean

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        values = torch.randn(batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype)
        return values, random_mask(batch, height, width, seed)

    def sizes(self, batch, height, width):
        return [(batch, 3)]

    def oracle(self, subject, values, mask):
        return masked_mean_loop(values, mask)

    @pytest.mark.parametrize("kind", [torch.bool, torch.float32, torch.uint8])
    def test_empty_hole_gives_zero_with_zero_gradient(self, kind):
        values, mask = self.inputs()
        mask[0] = False
        values.requires_grad_()
        mean = masked_channel_mean(values, mask.to(kind))
        mean.sum().backward()
        assert not mean[0].any()
        assert not values.grad[0].any()
        assert bool(torch.isfinite(mean).all())
        assert bool(torch.isfinite(values.grad).all())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_large_holes_in_low_precision(self, dtype):
        # 66,049 cells: more than float16 can count to.
        mean = masked_channel_mean(torch.full((1, 1, 257, 257), 3.0, dtype=dtype), torch.ones(1, 1, 257, 257))
        assert mean.dtype == torch.float32
        assert mean.item() == 3


class TestWeightedChannelSum(Contract):
    per_sample = False
    errors: ClassVar = {
        "shapes": (
            ShapeError,
            r"expected equal shapes \(B, C\)",
            lambda _: weighted_channel_sum(torch.ones(2, 3), torch.ones(2, 4)),
        ),
        "dimensions": (ShapeError, r"\(B, C\)", lambda _: weighted_channel_sum(torch.ones(3), torch.ones(3))),
    }

    def make(self, dtype=torch.float32):
        return weighted_channel_sum

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        weights, distances = torch.randn(2, batch, height, generator=seeded(seed), dtype=torch.float64).to(dtype)
        return weights.clone(), distances.clone()

    def sizes(self, batch, height, width):
        return [()]

    def oracle(self, subject, weights, distances):
        rows = zip(weights.tolist(), distances.tolist(), strict=True)
        total = sum(w * d for row, other in rows for w, d in zip(row, other, strict=True))
        return torch.tensor(total / len(weights), dtype=torch.float64)
