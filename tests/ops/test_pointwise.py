"""1x1 convolution of a region: dense times region, with exact zeros."""

import pytest
import torch
from harness import SEEDS, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint.ops.pointwise import pointwise_conv2d


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0], ids=["empty", "part", "full"])
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.booleans(), SEEDS)
def test_is_dense_times_region(share, batch, height, width, bias, seed):
    def draw(*shape):
        return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).requires_grad_()

    leaves = [draw(batch, 3, height, width), draw(4, 3, 1, 1), *([draw(4)] if bias else [])]
    arguments = leaves if bias else [*leaves, None]
    region = torch.rand(batch, 1, height, width, generator=seeded(seed + 1)) < share
    slope = torch.randn(batch, 4, height, width, generator=seeded(seed + 2), dtype=torch.float64)
    value = pointwise_conv2d(*arguments, region)
    dense = F.conv2d(*arguments) * region
    torch.testing.assert_close(value, dense)
    assert not value[(~region).expand_as(value)].any()
    for got, want in zip(
        torch.autograd.grad(value, leaves, slope), torch.autograd.grad(dense, leaves, slope), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_compiles_whole():
    torch.compiler.reset()
    x, weight, region = torch.randn(2, 3, 4, 5), torch.randn(4, 3, 1, 1), torch.rand(2, 1, 4, 5) < 0.5
    compiled = torch.compile(pointwise_conv2d, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, None, region), pointwise_conv2d(x, weight, None, region))
