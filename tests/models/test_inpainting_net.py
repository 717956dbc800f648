"""InpaintingNet: any size, blind under the hole, plain without its additions, equal to the network by hand."""

from typing import ClassVar

import pytest
import reference_layers as by_hand
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint import InpaintingNet
from kdinpaint._core.errors import ConfigError, ShapeError

SMALL = {"channels": (4, 6), "head_channels": 4, "dilations": (1, 2)}
IMAGE, MASK = torch.rand(2, 3, 9, 13), random_mask(2, 9, 13)


class TestInpaintingNet(ModuleContract):
    errors: ClassVar = {
        "no levels": (ConfigError, r"channels is \(\); expected the width", lambda _: InpaintingNet(channels=())),
        "empty level": (ConfigError, "each at least 1", lambda _: InpaintingNet(channels=(0, 4))),
        "filler": (ConfigError, "filler is 'both'", lambda _: InpaintingNet(filler="both")),
        "filler_conv": (ConfigError, "conv is 'median'", lambda _: InpaintingNet(filler_conv="median")),
        "attention": (ConfigError, "fusion is 'x'", lambda _: InpaintingNet(attention="x")),
        "channels": (ShapeError, "image has 1 channels.*expected 3", lambda t: t.build()(IMAGE[:, :1], MASK)),
        "image": (ShapeError, "image is .*expected", lambda t: t.build()(IMAGE[0], MASK)),
        "mask": (ShapeError, "1 = hole", lambda t: t.build()(IMAGE, MASK[:, 0])),
        "mask size": (ShapeError, "expected equal sizes", lambda t: t.build()(IMAGE, MASK[..., 1:])),
        "mask batch": (ShapeError, "mask holds 1 masks", lambda t: t.build()(IMAGE, MASK[:1])),
    }

    def build(self, **factory):
        return InpaintingNet(**SMALL, **factory)

    def inputs(self, batch=2, height=9, width=13, dtype=torch.float32, seed=0):
        image = torch.rand(batch, 3, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype)
        return image, random_mask(batch, height, width, seed)

    def sizes(self, batch, height, width):
        return [(batch, 3, height, width)]

    def function(self, module, image, mask):
        x, hole = module.prepare(image, mask)
        return module.decoder(module.encoder(x, hole), x, hole)[..., : image.shape[-2], : image.shape[-1]]

    @pytest.mark.slow
    def test_compiled(self):
        super().test_compiled()

    def oracle(self, subject, image, mask):
        x = torch.cat([image * ~mask + 1.0 * mask, mask.to(image.dtype)], 1)
        bottom, right = -image.shape[-2] % 4, -image.shape[-1] % 4
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        out = by_hand.decoder(subject.decoder, by_hand.encoder(subject.encoder, x, x[:, -1:]), x)
        return out[..., : image.shape[-2], : image.shape[-1]]


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 21), st.integers(1, 21), SEEDS)
def test_any_size_depth_and_channel_count(channels, depth, height, width, seed):
    net = InpaintingNet(channels, (4, 5, 6)[:depth], head_channels=4, dilations=(1,))
    image, mask = torch.rand(1, channels, height, width, generator=seeded(seed)), random_mask(1, height, width, seed)
    out, features = net(image, mask, return_features=True)
    assert out.shape == image.shape
    assert 0 <= out.min().item() <= out.max().item() <= 1
    sizes = [(-(-height // net.stride), -(-width // net.stride)) for _ in range(depth)]
    expected = [
        (1, c, h << (depth - 1 - n), w << (depth - 1 - n))
        for n, ((h, w), c) in enumerate(zip(sizes, net.channels, strict=True))
    ]
    assert [tuple(f.shape) for f in features] == expected
    assert_equal(net.encode(image, mask), features)


@pytest.mark.parametrize("filler", ["parallel", "serial", "none"])
@given(seed=SEEDS, kind=st.sampled_from([torch.bool, torch.float32]))
def test_values_under_the_hole_do_not_matter(filler, seed, kind):
    net = randomise(InpaintingNet(**SMALL, filler=filler))
    image, mask = torch.rand(2, 3, 9, 13, generator=seeded(seed)), random_mask(2, 9, 13, seed)
    expected = net(image, mask.to(kind))
    for value in (0.0, 1e30, float("nan"), float("inf")):
        assert_equal(net(image.masked_fill(mask, value), mask.to(kind)), expected)


def test_fill_is_painted_into_the_hole():
    x, hole = InpaintingNet(**SMALL, fill=0.25).prepare(IMAGE, MASK)
    assert x.shape == (2, 4, 12, 16)
    assert_equal(hole, x[:, 3:])
    seen, known = x[:, :3, :9, :13], ~MASK.expand_as(IMAGE)
    assert bool((seen[~known] == 0.25).all())
    assert torch.equal(seen[known], IMAGE[known])


@given(st.integers(1, 12), st.integers(1, 12), SEEDS)
def test_padding_is_repetition_of_the_rim(height, width, seed):
    net = randomise(InpaintingNet(**SMALL))
    image, mask = torch.rand(1, 3, height, width, generator=seeded(seed)), random_mask(1, height, width, seed)
    rows = torch.arange(-(-height // 4) * 4).clamp(max=height - 1)
    columns = torch.arange(-(-width // 4) * 4).clamp(max=width - 1)
    whole = net(image[..., rows, :][..., columns], mask[..., rows, :][..., columns])
    assert_equal(net(image, mask), whole[..., :height, :width])


def test_plain_variant_is_the_same_net_without_the_additions():
    full, plain = InpaintingNet(**SMALL), InpaintingNet(**SMALL, filler="none", attention=None)
    assert not len(plain.encoder.fillers)
    assert plain.decoder.attention is None
    assert set(plain.state_dict()) < set(full.state_dict())
    added = {name.split(".")[1] for name in set(full.state_dict()) - set(plain.state_dict())}
    assert added == {"fillers", "attention"}
    plain.load_state_dict({k: v for k, v in full.state_dict().items() if k in plain.state_dict()})


@pytest.mark.parametrize("filler", ["parallel", "serial"])
@pytest.mark.parametrize("conv", ["adaptive", "plain"])
def test_fresh_fillers_change_nothing_bit_for_bit(filler, conv):
    full, none = InpaintingNet(**SMALL, filler=filler, filler_conv=conv), InpaintingNet(**SMALL, filler="none")
    none.load_state_dict({k: v for k, v in full.state_dict().items() if "fillers" not in k})
    assert_equal(full(IMAGE, MASK), none(IMAGE, MASK))


def test_known_cells_of_the_first_level_are_the_plain_ones():
    # Eq. 3: the filler never touches known cells. Deeper ones see what it filled.
    net = randomise(InpaintingNet(**SMALL))
    plain = InpaintingNet(**SMALL, filler="none")
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if "fillers" not in k})
    mask = torch.zeros(2, 1, 9, 13)
    mask[..., 2:5, 3:8] = 1
    first, other = net.encode(IMAGE, mask)[0], plain.encode(IMAGE, mask)[0]
    hole = F.max_pool2d(F.pad(mask, (0, 3, 0, 3)), 2).expand_as(first) != 0
    assert torch.equal(first[~hole], other[~hole])
    assert bool((first[hole] != other[hole]).all())


@pytest.mark.parametrize(
    "options",
    [
        {"skips": False},
        {"filler": "serial", "attention": "concat"},
        {"filler_conv": "plain", "attention": "sum", "blocks": 2},
        {"cond_mask": True, "max_offset": 2.0, "known_keys": True},
        {"filler": "none", "attention": None},
        {"blocks": 0, "dilations": ()},
        {"channels": (5,), "attention": "attention"},
    ],
    ids=str,
)
def test_options_run_and_train_every_parameter(options):
    net = randomise(InpaintingNet(**{**SMALL, **options}))
    out = net(IMAGE, MASK)
    assert out.shape == IMAGE.shape
    out.square().sum().backward()
    # Equal shifts of all attention scores change nothing, so the key's bias has no gradient but rounding.
    assert [
        n for n, p in net.named_parameters() if not n.endswith("key.bias") and not (p.grad is not None and p.grad.any())
    ] == []


def test_low_precision():
    net = randomise(InpaintingNet(**SMALL), scale=0.1)
    expected = net(IMAGE, MASK)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(IMAGE, MASK)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.02)
    out = net.bfloat16()(IMAGE.bfloat16(), MASK)
    torch.testing.assert_close(out.float(), expected, rtol=0, atol=0.05)


def test_attention_is_tapped_when_asked_for_and_changes_nothing():
    net = randomise(InpaintingNet(channels=(4, 6)), scale=0.1)
    image, mask = torch.rand(2, 3, 16, 24), torch.ones(2, 1, 16, 24)
    out, features, looked = net(image, mask, return_features=True, return_attention=True)
    plain, same = net(image, mask, return_features=True)
    assert_equal((out, features), (plain, same))
    assert looked.rows.shape == (2, 8, 12, 96)
    assert looked.feature.shape == (2, 4, 8, 12)
    torch.testing.assert_close(looked.rows.sum(-1), torch.ones(2, 8, 12))
    assert_equal(net.decoder.attention.attention(looked.feature)[0], looked.rows.flatten(1, 2))
    with pytest.raises(ConfigError, match="no attention to return"):
        InpaintingNet(channels=(4,), attention=None)(image, mask, return_features=True, return_attention=True)
