"""The plain blocks: formula, geometry of the step between levels."""

from typing import ClassVar

import pytest
import torch
from harness import Contract, ModuleContract, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError
from kdinpaint.layers import ResidualBlock, downsampling_conv
from kdinpaint.layers.blocks import GatedConv2d


class TestResidualBlock(ModuleContract):
    without: ClassVar = {"error": "documents none", "module_equals_function": "the oracle below is that test"}

    def build(self, **factory):
        return ResidualBlock(3, dilation=2, **factory)

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def oracle(self, subject, x):
        inner = torch.where(x > 0, x, 0.2 * x)
        inner = F.conv2d(inner, subject.conv1.weight, subject.conv1.bias, padding=2, dilation=2)
        inner = torch.where(inner > 0, inner, 0.2 * inner)
        return x + F.conv2d(inner, subject.conv2.weight, subject.conv2.bias, padding=2, dilation=2)


class TestDownsamplingConv(Contract):
    smallest = 2
    without: ClassVar = {"compiled": "the result is a torch.nn.Conv2d", "on_gpu": "the result is a torch.nn.Conv2d"}
    errors: ClassVar = {
        "odd": (ConfigError, "stride is 3; expected 1 or an even number", lambda _: downsampling_conv(2, 3, stride=3)),
        "zero": (ConfigError, "stride is 0", lambda _: downsampling_conv(2, 3, stride=0)),
        "negative": (ConfigError, "stride is -2", lambda _: downsampling_conv(2, 3, stride=-2)),
    }

    def make(self, dtype=torch.float32):
        return downsampling_conv(2, 3, dtype=dtype)

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 2, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3, height // 2, width // 2)]

    def oracle(self, subject, x):
        patches = F.unfold(x, 4, padding=1, stride=2)
        out = subject.weight.flatten(1) @ patches + subject.bias[:, None]
        return out.view(x.shape[0], 3, x.shape[2] // 2, x.shape[3] // 2)


@given(st.sampled_from([1, 2, 4, 6]), st.integers(1, 4), st.integers(1, 4))
def test_step_is_centred_on_the_cells_that_pooling_joins(stride, rows, columns):
    # Reading the coordinate itself with equal weights gives the centre of each output's field.
    conv = downsampling_conv(1, 1, stride=stride, bias=False, dtype=torch.float64)
    torch.nn.init.constant_(conv.weight, 1 / conv.weight.numel())
    height, width = stride * (rows + 2), stride * (columns + 2)
    ramp = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
    out = conv(ramp[None, None])
    assert out.shape[-2:] == (rows + 2, columns + 2)
    centres = ramp.view(1, 1, rows + 2, stride, width).mean(3)[..., ::stride]
    torch.testing.assert_close(out[..., 1:-1, 1:-1], centres[..., 1:-1, 1:-1])


@pytest.mark.parametrize("bias", [True, False])
def test_factory_arguments(bias):
    conv = downsampling_conv(2, 3, bias=bias, device=torch.device("meta"), dtype=torch.float64)
    assert conv.weight.is_meta
    assert conv.weight.dtype == torch.float64
    assert (conv.bias is not None) == bias


class TestGatedConv2d(ModuleContract):
    without: ClassVar = {"error": "documents none", "module_equals_function": "the oracle below is that test"}

    def build(self, **factory):
        return GatedConv2d(3, **factory)

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def oracle(self, subject, x):
        value = F.conv2d(x, subject.weight[:3], subject.bias[:3], padding=1)
        return value / (1 + (-F.conv2d(x, subject.weight[3:], subject.bias[3:], padding=1)).exp())
