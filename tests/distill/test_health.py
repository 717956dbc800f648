"""Health of learned importance, against numbers worked out by hand."""

import math
from typing import ClassVar

import pytest
import torch
from harness import SEEDS, Contract, seeded
from hypothesis import given
from hypothesis import strategies as st

from kdinpaint import TransferImportancePredictor
from kdinpaint.distill import effective_channels, importance_correlation, importance_health


class TestEffectiveChannels(Contract):
    per_sample = False
    without: ClassVar = {"error": "documents none"}

    def make(self, dtype=torch.float32):
        return effective_channels

    def inputs(self, batch=2, height=5, width=1, dtype=torch.float32, seed=0):
        return (torch.randn(batch, height, generator=seeded(seed), dtype=torch.float64).to(dtype).softmax(1),)

    def sizes(self, batch, height, width):
        return [()]

    def oracle(self, subject, weights):
        entropy = [-sum(w * math.log(w) for w in row) for row in weights.tolist()]
        return torch.tensor(sum(map(math.exp, entropy)) / len(entropy), dtype=torch.float64)

    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            ([[0.25] * 4], 4.0),
            ([[1.0, 0, 0]], 1.0),
            ([[0.5, 0.5, 0, 0]], 2.0),
            ([[1.0, 0], [0.5, 0.5]], 1.5),
            ([[7.0, 7.0, 7.0]], 3.0),  # only shares count: losses with learned level weights have other sums
            ([[1e-9, 0.0]], 1.0),
        ],
    )
    def test_by_hand(self, weights, expected):
        assert effective_channels(torch.tensor(weights)).item() == pytest.approx(expected)


class TestImportanceCorrelation(Contract):
    per_sample = False
    smallest = 3
    without: ClassVar = {"error": "documents none"}

    def make(self, dtype=torch.float32):
        return importance_correlation

    def inputs(self, batch=2, height=5, width=1, dtype=torch.float32, seed=0):
        drawn = torch.randn(2, batch, height, generator=seeded(seed), dtype=torch.float64).to(dtype)
        return drawn[0].softmax(1), drawn[1].square()

    def sizes(self, batch, height, width):
        return [()]

    def oracle(self, subject, weights, distances):
        pairs = zip(weights, distances, strict=True)
        return torch.stack([torch.corrcoef(torch.stack([w, d]))[0, 1] for w, d in pairs]).mean()

    @pytest.mark.parametrize(
        ("weights", "distances", "expected"),
        [
            ([[0.1, 0.2, 0.7]], [[1.0, 2.0, 7.0]], 1.0),
            ([[0.7, 0.2, 0.1]], [[-7.0, -2.0, -1.0]], -1.0),
            ([[0.2, 0.8], [0.2, 0.8]], [[1.0, 2.0], [2.0, 1.0]], 0.0),
            ([[0.25] * 4], [[1.0, 2.0, 3.0, 4.0]], 0.0),
            ([[0.1, 0.9]], [[3.0, 3.0]], 0.0),
            ([[1 / 3] * 3], [[1e-9, 1.0, 5.0]], 0.0),
        ],
    )
    def test_by_hand(self, weights, distances, expected):
        value = importance_correlation(torch.tensor(weights), torch.tensor(distances))
        assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("channels", range(2, 66, 7))
def test_fresh_predictors_have_no_correlation(channels):
    # Equal weights differ by rounding, and that must not be taken for a pattern.
    weights = TransferImportancePredictor(channels)(torch.randn(3, channels, 4, 4))
    weights = weights + 1e-8 * torch.randn(weights.shape)
    assert importance_correlation(weights, torch.rand(3, channels)).item() == 0


def test_health_by_hand():
    weights = [torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([[0.2, 0.8]], requires_grad=True)]
    distances = [torch.tensor([[1.0, 1.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0]])]
    health = importance_health(weights, distances)
    entropy = -0.2 * math.log(0.2) - 0.8 * math.log(0.8)
    assert health["effective_share"] == pytest.approx((2 / 4 + math.exp(entropy) / 2) / 2)
    assert health["correlation"] == pytest.approx((1 - 1) / 2)
    assert all(isinstance(value, float) for value in health.values())


@given(st.integers(1, 6), st.integers(1, 12), SEEDS)
def test_bounds(batch, channels, seed):
    weights = (5 * torch.randn(batch, channels, generator=seeded(seed))).softmax(1)
    distances = torch.rand(batch, channels, generator=seeded(seed + 1))
    assert 1 - 1e-4 <= effective_channels(weights).item() <= channels + 1e-4
    assert -1 - 1e-5 <= importance_correlation(weights, distances).item() <= 1 + 1e-5
