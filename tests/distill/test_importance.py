"""TransferImportancePredictor: a distribution over channels, uniform when fresh, that never shapes its input."""

from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint import TransferImportancePredictor
from kdinpaint._core.errors import ConfigError, ShapeError

X = torch.randn(2, 3, 4, 5)


class TestTransferImportancePredictor(ModuleContract):
    errors: ClassVar = {
        "pool": (ConfigError, "pool is 'max'", lambda _: TransferImportancePredictor(3, pool="max")),
        "floor": (ConfigError, "floor is 1.5", lambda _: TransferImportancePredictor(3, floor=1.5)),
        "negative floor": (
            ConfigError,
            "expected 0 <= floor <= 1",
            lambda _: TransferImportancePredictor(3, floor=-0.1),
        ),
        "temperature": (ConfigError, "temperature 0", lambda _: TransferImportancePredictor(3, temperature=0)),
        "channels": (ShapeError, "feature has 2 channels.*expected 3", lambda t: t.build()(torch.ones(1, 2, 4, 4))),
        "no mask": (ShapeError, "pool='hole' needs one", lambda _: TransferImportancePredictor(3, pool="hole")(X)),
        "mask": (ShapeError, "1 = hole", lambda _: TransferImportancePredictor(3, pool="hole")(X, torch.ones(4, 5))),
        "batch": (
            ShapeError,
            "3 masks",
            lambda _: TransferImportancePredictor(3, pool="hole")(X, torch.ones(3, 1, 4, 5)),
        ),
    }

    def build(self, **factory):
        return TransferImportancePredictor(3, **factory)

    def inputs(self, batch=2, height=4, width=5, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3)]

    def wanted(self, feature):
        return []

    def function(self, module, feature):
        score = F.linear(feature.mean((2, 3)), module.linear.weight, module.linear.bias)
        return 0.9 * score.softmax(1) + 0.1 / 3

    def oracle(self, subject, feature):
        rows = []
        for sample in feature:
            pooled = [float(channel.sum()) / channel.numel() for channel in sample]
            score = [
                b + sum(w * v for w, v in zip(row, pooled, strict=True))
                for row, b in zip(subject.linear.weight.tolist(), subject.linear.bias.tolist(), strict=True)
            ]
            share = torch.tensor(score, dtype=torch.float64).exp()
            rows.append(0.9 * share / share.sum() + 0.1 / 3)
        return torch.stack(rows)


@given(st.integers(1, 9), SEEDS, st.sampled_from(["all", "hole"]))
def test_fresh_is_uniform(channels, seed, pool):
    predictor = TransferImportancePredictor(channels, pool=pool)
    weights = predictor(torch.randn(2, channels, 4, 4, generator=seeded(seed)), torch.ones(2, 1, 4, 4))
    torch.testing.assert_close(weights, torch.full((2, channels), 1 / channels))


@given(st.integers(1, 9), st.floats(0, 1), st.floats(0.05, 20), st.floats(0, 1e4), SEEDS)
def test_sums_to_one_and_keeps_the_floor(channels, floor, temperature, scale, seed):
    predictor = TransferImportancePredictor(channels, floor=floor, temperature=temperature)
    randomise(predictor, scale=scale, seed=seed)
    weights = predictor(torch.randn(3, channels, 4, 4, generator=seeded(seed)))
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert weights.min().item() >= floor / channels * (1 - 1e-6) - 1e-12


def test_temperature_flattens():
    cold, warm = (randomise(TransferImportancePredictor(3, temperature=t), scale=3.0) for t in (0.5, 5.0))
    assert cold(X).max().item() > warm(X).max().item() > 1 / 3


def test_input_is_detached_and_parameters_are_not():
    predictor = randomise(TransferImportancePredictor(3))
    feature = X.clone().requires_grad_()
    predictor(feature)[:, 0].sum().backward()
    assert feature.grad is None
    assert all(bool(p.grad.any()) for p in predictor.parameters())


@given(SEEDS)
def test_hole_pool_ignores_known_cells(seed):
    predictor = randomise(TransferImportancePredictor(3, pool="hole"))
    feature = torch.randn(2, 3, 4, 5, generator=seeded(seed))
    mask = random_mask(2, 4, 5, seed)
    before = predictor(feature, mask)
    hole = mask.expand_as(feature)
    changed = torch.where(hole, feature, 100.0)
    assert_equal(predictor(changed, mask), before)
    assert_equal(predictor(changed, mask.repeat_interleave(2, -1).repeat_interleave(2, -2)), before)
    assert not torch.equal(predictor(torch.where(hole, feature + 1, feature), mask), before)
    assert bool(torch.isfinite(predictor(feature, torch.zeros_like(mask))).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_of_another_dtype(dtype):
    predictor = randomise(TransferImportancePredictor(3))
    weights = predictor(X.to(dtype))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, predictor(X), rtol=0.02, atol=0.01)
