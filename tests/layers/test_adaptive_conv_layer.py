"""AdaptiveConv2d: a fresh one is nn.Conv2d; what generates offsets and kernel; where gradients go."""

from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import adaptive_conv2d_loop
from torch import nn
from torch.nn import functional as F

from kdinpaint import AdaptiveConv2d, adaptive_conv2d
from kdinpaint._core.errors import ConfigError, ShapeError

X = torch.randn(1, 2, 6, 8)


def generated(conv, x, dtype=torch.float64):
    """Offsets and V by the equations: both generators are convolutions of the same geometry; V = 2 sigmoid."""
    offset = F.conv2d(x, conv.offset_conv.weight, conv.offset_conv.bias, conv.stride, conv.padding, conv.dilation)
    raw = F.conv2d(x, conv.kernel_conv.weight, conv.kernel_conv.bias, conv.stride, conv.padding, conv.dilation)
    return offset, 2 / (1 + torch.exp(-raw))


class TestAdaptiveConv2d(ModuleContract):
    errors: ClassVar = {
        "modulation": (
            ConfigError,
            "modulation is 'relu'; expected one of",
            lambda _: AdaptiveConv2d(2, 3, 3, modulation="relu"),
        ),
        "max_offset": (ConfigError, "max_offset is -1", lambda _: AdaptiveConv2d(2, 3, 3, max_offset=-1)),
        "channels": (ShapeError, "x has 5 channels.*expected 2", lambda t: t.build()(torch.ones(1, 5, 6, 8))),
        "dimensions": (ShapeError, "x is .*expected a floating-point", lambda t: t.build()(torch.ones(2, 6, 8))),
        "region": (ShapeError, r"region is .*\(1, 1, 6, 8\)", lambda t: t.build()(X, torch.ones(1, 1, 3, 4))),
        "too small": (ShapeError, "no output position", lambda _: AdaptiveConv2d(2, 3, 9)(X)),
        "condition missing": (
            ShapeError,
            r"condition has shape None; expected \(1, 1, 6, 8\)",
            lambda t: t.conditioned()(X),
        ),
        "condition given": (ShapeError, "expected None", lambda t: t.build()(X, None, torch.ones(1, 1, 6, 8))),
        "condition size": (
            ShapeError,
            r"expected \(1, 1, 6, 8\)",
            lambda t: t.conditioned()(X, None, torch.ones(1, 1, 3, 4)),
        ),
    }

    def build(self, **factory):
        return AdaptiveConv2d(2, 3, 3, 1, 1, **factory)

    def conditioned(self):
        return AdaptiveConv2d(2, 3, 3, padding=1, condition_channels=1)

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 2, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def function(self, module, x):
        return adaptive_conv2d(x, module.weight, *module.generate(x), module.bias, padding=1)

    def oracle(self, subject, x):
        offset, kernel = generated(subject, x)
        return adaptive_conv2d_loop(x, subject.weight, offset, kernel, subject.bias, (1, 1), (1, 1), (1, 1))


@given(
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    modulation=st.sampled_from(["sigmoid", "linear", "softmax", "none"]),
    max_offset=st.sampled_from([None, 2.0]),
    seed=SEEDS,
)
def test_fresh_equals_conv2d_of_the_same_weight(
    channels, kernel, stride, padding, dilation, bias, modulation, max_offset, seed
):
    arguments = (*channels, kernel, stride, padding, dilation)
    ours = AdaptiveConv2d(*arguments, bias=bias, modulation=modulation, max_offset=max_offset)
    plain = nn.Conv2d(*arguments, bias=bias)
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if k in ("weight", "bias")})
    x = torch.randn(2, channels[0], 9, 11, generator=seeded(seed))
    torch.testing.assert_close(ours(x), plain(x), rtol=1e-5, atol=1e-5)


def test_initial_weights_are_distributed_as_those_of_conv2d():
    ours, plain = AdaptiveConv2d(64, 64, 3), nn.Conv2d(64, 64, 3)
    assert ours.weight.abs().max().item() == pytest.approx(plain.weight.abs().max().item(), rel=0.01)
    assert ours.bias.abs().max().item() <= plain.weight[0].numel() ** -0.5


TAPS = torch.linspace(-2, 2, 9)


@pytest.mark.parametrize(
    ("modulation", "expected"),
    [
        ("sigmoid", 2 / (1 + torch.exp(-TAPS))),
        ("linear", 1 + TAPS),
        ("softmax", 9 * torch.exp(TAPS) / torch.exp(TAPS).sum()),
    ],
)
def test_modulations(modulation, expected):
    conv = AdaptiveConv2d(2, 3, 3, padding=1, modulation=modulation)
    with torch.no_grad():
        conv.kernel_conv.bias.copy_(TAPS)
    _, kernel = conv.generate(X)
    torch.testing.assert_close(kernel, expected.view(1, 9, 1, 1).expand(1, 9, 6, 8))


def test_no_modulation_has_no_kernel_generator():
    conv = AdaptiveConv2d(2, 3, 3, padding=1, modulation="none")
    assert conv.kernel_conv is None
    assert not [name for name, _ in conv.named_parameters() if "kernel" in name]
    assert bool((conv.generate(X)[1] == 1).all())


@given(SEEDS, st.floats(0.1, 10), st.floats(0.001, 1000))
def test_max_offset_bounds_offsets_and_leaves_small_ones_alone(seed, limit, scale):
    conv = randomise(AdaptiveConv2d(2, 3, 3, padding=1, max_offset=limit), scale=scale, seed=seed)
    offset, _ = conv.generate(X)
    assert offset.abs().max().item() <= limit * (1 + 1e-6)
    free = conv.offset_conv(X)
    close = free.abs() < 0.01 * limit
    torch.testing.assert_close(offset[close], free[close], rtol=1e-3, atol=1e-6 * limit)


def test_condition_is_seen_by_the_generators_only():
    conv = AdaptiveConv2d(2, 3, 3, padding=1, condition_channels=1)
    assert conv.weight.shape == (3, 2, 3, 3)
    one, other = random_mask(1, 6, 8, 1), random_mask(1, 6, 8, 5)
    assert_equal(conv(X, None, one), conv(X, None, other))
    randomise(conv)
    assert not torch.equal(conv(X, None, one), conv(X, None, other))
    assert_equal(conv(X, None, one), conv(X, None, one.float()))


@pytest.mark.parametrize("fresh", [True, False])
def test_gradients_reach_weight_and_both_generators(fresh):
    conv = AdaptiveConv2d(2, 3, 3, padding=1)
    if not fresh:
        randomise(conv)
    conv(X).square().sum().backward()
    for name, parameter in conv.named_parameters():
        assert bool(parameter.grad.any()), name
        assert bool(torch.isfinite(parameter.grad).all()), name


def test_region_gives_the_dense_result_inside_and_zero_outside():
    conv = randomise(AdaptiveConv2d(2, 3, 3, padding=1))
    region = random_mask(1, 6, 8)
    part, whole = conv(X, region), conv(X)
    inside = region.expand_as(part)
    torch.testing.assert_close(part[inside], whole[inside])
    assert not part[~inside].any()


@pytest.mark.parametrize("backend", ["reference", "torchvision"])
def test_backend_is_passed_on(backend):
    conv, other = (AdaptiveConv2d(2, 3, (2, 3), 2, (0, 1), backend=b) for b in ("auto", backend))
    randomise(conv)
    other.load_state_dict(conv.state_dict())
    torch.testing.assert_close(other(X), conv(X))


def test_autocast_computes_offsets_in_float32():
    conv = randomise(AdaptiveConv2d(2, 3, 3, padding=1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        offset, kernel = conv.generate(X)
        out = conv(X)
    assert (offset.dtype, kernel.dtype, out.dtype) == (torch.float32, torch.float32, torch.bfloat16)
    torch.testing.assert_close(out.float(), conv(X), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_module(dtype):
    conv = randomise(AdaptiveConv2d(2, 3, 3, padding=1))
    expected = conv(X)
    out = conv.to(dtype)(X.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


def test_representation_names_what_is_not_default():
    assert repr(AdaptiveConv2d(2, 3, 3)).startswith("AdaptiveConv2d(\n  2, 3, kernel_size=(3, 3), modulation='sigmoid'")
    assert "stride=(2, 2), dilation=(1, 2), modulation='none'" in repr(
        AdaptiveConv2d(2, 3, 3, 2, dilation=(1, 2), modulation="none")
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_offsets_it_is_the_kernel_alone(dtype):
    alone = randomise(AdaptiveConv2d(3, 4, 3, padding=1, offsets=False, dtype=dtype))
    full = AdaptiveConv2d(3, 4, 3, padding=1, dtype=dtype)
    full.load_state_dict(alone.state_dict(), strict=False)  # its offsets are 0, as it is fresh
    x = torch.randn(2, 3, 6, 7, dtype=dtype)
    assert alone.offset_conv is None
    torch.testing.assert_close(alone(x), full(x), rtol=0, atol=0)
