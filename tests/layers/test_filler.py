"""FillerBlock: nothing when fresh, nothing outside the hole ever, the formula inside."""

from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_layers import filler
from reference_ops import adaptive_conv2d_loop

from kdinpaint import FillerBlock, adaptive_conv2d
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops import fused, resize_mask, tiled

MODES = {
    "parallel": {"in_channels": 2, "out_channels": 4},
    "serial": {"in_channels": 4, "out_channels": 4, "stride": 1, "mode": "serial"},
    "plain": {"in_channels": 2, "out_channels": 4, "conv": "plain"},
    "kernel": {"in_channels": 2, "out_channels": 4, "conv": "kernel"},
    "offsets": {"in_channels": 2, "out_channels": 4, "conv": "offsets"},
    "dilated": {"in_channels": 2, "out_channels": 4, "conv": "dilated"},
    "gated": {"in_channels": 2, "out_channels": 4, "conv": "gated"},
    "conditioned": {"in_channels": 2, "out_channels": 4, "cond_mask": True, "max_offset": 3.0},
    "stride 4": {"in_channels": 2, "out_channels": 4, "stride": 4, "modulation": "linear"},
}


class FillerContract(ModuleContract):
    def function(self, module, x, mask):
        return filler(module, x, mask, lambda *t: adaptive_conv2d(*t, padding=1))

    def oracle(self, subject, x, mask):
        return filler(subject, x, mask, lambda *t: adaptive_conv2d_loop(*t, (1, 1), (1, 1), (1, 1)))


class TestFillerBlock(FillerContract):
    smallest = 2
    errors: ClassVar = {
        "serial channels": (
            ConfigError,
            "reads and writes the same",
            lambda _: FillerBlock(2, 4, stride=1, mode="serial"),
        ),
        "serial stride": (ConfigError, "at stride 2.*mode='parallel'", lambda _: FillerBlock(4, 4, mode="serial")),
        "stride": (ConfigError, "stride is 3; expected 1 or an even number", lambda _: FillerBlock(2, 4, stride=3)),
        "conv": (ConfigError, "conv is 'median'", lambda _: FillerBlock(2, 4, conv="median")),
        "mode": (ConfigError, "mode is 'both'", lambda _: FillerBlock(2, 4, mode="both")),
        "modulation": (ConfigError, "modulation is 'x'", lambda _: FillerBlock(2, 4, modulation="x")),
        "channels": (
            ShapeError,
            "x has 3 channels",
            lambda t: t.build()(torch.ones(1, 3, 4, 4), torch.ones(1, 1, 4, 4)),
        ),
        "mask": (ShapeError, "1 = hole", lambda t: t.build()(torch.ones(1, 2, 4, 4), torch.ones(4, 4))),
        "batch": (
            ShapeError,
            "mask holds 3 masks",
            lambda t: t.build()(torch.ones(2, 2, 4, 4), torch.ones(3, 1, 4, 4)),
        ),
        "mask too small": (
            ShapeError,
            "only be reduced",
            lambda t: t.build()(torch.ones(1, 2, 8, 8), torch.ones(1, 1, 3, 4)),
        ),
    }

    def build(self, **factory):
        return FillerBlock(2, 4, **factory)

    def inputs(self, batch=2, height=6, width=8, dtype=torch.float32, seed=0):
        x = torch.randn(batch, 2, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype)
        return x, random_mask(batch, height, width, seed, share=0.2)

    def sizes(self, batch, height, width):
        return [(batch, 4, height // 2, width // 2)]


class TestFillerBlockSerial(FillerContract):
    without: ClassVar = {"error": "those of the parallel form: one class, listed above"}

    def build(self, **factory):
        return FillerBlock(4, 4, stride=1, mode="serial", **factory)

    def inputs(self, batch=2, height=3, width=4, dtype=torch.float32, seed=0):
        x = torch.randn(batch, 4, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype)
        return x, random_mask(batch, 2 * height, 2 * width, seed, share=0.2)

    def sizes(self, batch, height, width):
        return [(batch, 4, height, width)]


def feature(options, batch, height, width, seed=0):
    return torch.randn(batch, options["in_channels"], height, width, generator=seeded(seed))


@pytest.mark.parametrize("name", MODES)
def test_fresh_is_exactly_zero(name):
    block = FillerBlock(**MODES[name])
    assert not block(feature(MODES[name], 2, 8, 12), torch.ones(2, 1, 8, 12)).any()


@pytest.mark.parametrize("name", MODES)
@given(st.integers(4, 14), st.integers(4, 14), st.floats(0, 1), SEEDS, st.sampled_from([torch.bool, torch.float32]))
def test_exactly_zero_outside_the_hole_in_any_state(name, height, width, share, seed, kind):
    block = randomise(FillerBlock(**MODES[name]), scale=1.0, seed=seed)
    x = feature(MODES[name], 2, height, width, seed)
    mask = torch.rand(2, 1, height, width, generator=seeded(seed)) < share
    out = block(x, mask.to(kind))
    hole = resize_mask(mask, out.shape[-2:]).expand_as(out)
    assert not out[~hole].any()
    assert bool((out[hole] != 0).all())
    assert not block(x, torch.zeros_like(mask)).any()
    x[0, :, 0, 0] = float("nan")
    assert not block(x, mask.to(kind))[~hole].isnan().any()


@pytest.mark.parametrize("name", MODES)
def test_gradients_reach_every_parameter_and_vanish_without_a_hole(name):
    block = randomise(FillerBlock(**MODES[name]))
    x = feature(MODES[name], 2, 8, 12)
    mask = torch.zeros(2, 1, 8, 12)
    mask[..., 2:6, 3:9] = 1
    block(x, mask).square().sum().backward()
    assert all(bool(p.grad.any()) for p in block.parameters())
    block.zero_grad()
    (block(x, torch.zeros_like(mask)) ** 2).sum().backward()
    assert all(not p.grad.any() for p in block.parameters())


def test_small_holes_cost_less(monkeypatch):
    block, x, gathered = FillerBlock(2, 4), torch.randn(1, 2, 16, 16), []
    original = fused.choose_backend
    monkeypatch.setattr(fused, "choose_backend", lambda *a: original(*a[:4], "torch"))
    gather = tiled.gather
    monkeypatch.setattr(tiled, "gather", lambda index, *rest: gathered.append(len(index)) or gather(index, *rest))
    for rows in (0, 8, 16):
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., :rows, :] = 1
        gathered.clear()
        block(x, mask)
        # The first adaptive convolution is dense, for the second reads where it likes; that one is not.
        assert sum(gathered) == 9 * 8 * 8 + 9 * 8 * rows // 2


def test_gradients_reach_a_fresh_block():
    block = FillerBlock(2, 4)
    block(torch.randn(1, 2, 8, 8), torch.ones(1, 1, 8, 8)).sum().backward()
    assert bool(block.exit.weight.grad.any())


def test_mask_may_come_at_any_resolution_above():
    block = randomise(FillerBlock(2, 4))
    x, mask = torch.randn(1, 2, 8, 8), random_mask(1, 4, 4)
    fine = mask.repeat_interleave(8, -1).repeat_interleave(8, -2)
    torch.testing.assert_close(block(x, mask), block(x, fine), rtol=0, atol=0)


def test_condition_changes_the_result():
    plain, seeing = FillerBlock(2, 4), FillerBlock(2, 4, cond_mask=True)
    assert plain.conv1.condition_channels == 0
    assert seeing.conv1.condition_channels == 1
    randomise(seeing)
    x = torch.randn(1, 2, 8, 8)
    small, large = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    small[..., :2, :2] = 1
    assert not torch.equal(seeing(x, small)[..., 0, 0], seeing(x, large)[..., 0, 0])


def test_width_inside():
    assert FillerBlock(2, 9).conv1.in_channels == 4
    assert FillerBlock(2, 1).conv1.in_channels == 1
    assert FillerBlock(2, 9, hidden_channels=7).conv1.in_channels == 7


def test_what_each_convolution_generates():
    convs = {name: FillerBlock(2, 4, conv=name).conv1 for name in ("adaptive", "kernel", "offsets")}
    generators = {name: (conv.kernel_conv is not None, conv.offset_conv is not None) for name, conv in convs.items()}
    assert generators == {"adaptive": (True, True), "kernel": (True, False), "offsets": (False, True)}
    assert [FillerBlock(2, 4, conv="dilated").conv1.dilation, FillerBlock(2, 4, conv="dilated").conv2.dilation] == [
        (2, 2),
        (4, 4),
    ]


def test_everywhere_is_the_hole_block_under_a_hole_of_all():
    block, x = randomise(FillerBlock(2, 4)), torch.randn(1, 2, 8, 8)
    other = FillerBlock(2, 4, region="everywhere")
    other.load_state_dict(block.state_dict())
    assert_equal(other(x, torch.zeros(1, 1, 8, 8)), block(x, torch.ones(1, 1, 8, 8)))
    with pytest.raises(ConfigError, match="region is 'rim'"):
        FillerBlock(2, 4, region="rim")
