"""PC, GC, EC and PIC: layer tables, parameter counts and shapes as published; the call that all models share."""

import copy
import math

import pytest
import torch
from harness import random_mask, seeded
from torch import nn

from kdinpaint import AutoEncoder, Distiller, RetrofitPlan, create_model, retrofit, strip, unretrofit
from kdinpaint.errors import ConfigError, ShapeError
from kdinpaint.models import load_model, save_model
from kdinpaint.models.comparators import (
    Comparator,
    PartialConvNet,
    PatchDiscriminator,
    ResidualDiscriminator,
    SNPatchDiscriminator,
)

SMALL = {
    "pc": {"channels": (8, 8, 8, 8)},
    "gc": {"width": 4},
    "ec": {"width": 4, "blocks": 1},
    "pic": {"channels": (4, 8, 8), "latent": 4, "inference": 1},
}
NAMES = list(SMALL)


def small(name, **options):
    torch.manual_seed(0)
    return create_model(name, **SMALL[name], **options)


def batch(size=(64, 64), count=2):
    return torch.rand(count, 3, *size, generator=seeded(0)), random_mask(count, *size).float()


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def recorded(module, kinds, *inputs):
    """(input channels, output shape) of every module of some classes, in the order in which they run."""
    found, hooks = [], []
    for part in module.modules():
        if isinstance(part, kinds):
            hooks.append(
                part.register_forward_hook(
                    lambda m, args, out: found.append((args[0].shape[1], tuple(out.shape[1:]), m.kernel_size[0]))
                )
            )
    module(*inputs)
    for hook in hooks:
        hook.remove()
    return found


def on_meta(name, size=256):
    with torch.device("meta"):
        net = create_model(name)
        inputs = torch.rand(1, 3, size, size), torch.ones(1, 1, size, size)
        return net, recorded(net, nn.Conv2d, *inputs)


@pytest.mark.parametrize(("name", "size"), [("pc", 256), ("pc_512", 512)])
def test_pc_has_the_layers_of_its_table(name, size):
    net, layers = on_meta(name, size)
    wide = [512] * (4 if size == 256 else 5)
    assert len(net.encoder) == len(net.decoder) == (7 if size == 256 else 8)
    expected, side, before = [], size, 3
    for channels, kernel in zip([64, 128, 256, *wide], [7, 5, 5, *[3] * 5], strict=False):
        side //= 2
        expected.append((before, (channels, side, side), kernel))
        before = channels
    assert side == 2
    skips = [512] * (len(wide) - 1) + [256, 128, 64, 3]
    for skip, channels in zip(skips, [*[512] * (len(wide) - 1), 256, 128, 64, 3], strict=True):
        side *= 2
        expected.append((before + skip, (channels, side, side), 3))
        before = channels
    assert layers == expected
    normalised = [isinstance(stage.norm, nn.BatchNorm2d) for stage in [*net.encoder, *net.decoder]]
    assert normalised == [False, *[True] * (len(normalised) - 2), False]
    assert [stage.conv.bias is not None for stage in [*net.encoder, *net.decoder]] == [False] * (
        len(normalised) - 1
    ) + [True]
    weights = sum(i * o[0] * k * k for i, o, k in layers)
    assert parameters(net) == weights + 3 + 2 * sum(o[0] for _, o, _ in layers[1:-1])
    assert round(parameters(net) / 1e6, 1) == (25.8 if size == 256 else 32.9)


@pytest.mark.parametrize("size", [512, 256, 96, 64, 16])
def test_pc_has_as_many_levels_as_its_crops_have_room_for(size):
    channels = PartialConvNet.channels_for(size)
    assert channels[:3] == (64, 128, 256)
    assert set(channels[3:]) <= {512}
    assert size / 2 ** len(channels) in (2, 3)


def test_pc_has_three_levels_at_least():
    assert len(PartialConvNet.channels_for(8)) == len(PartialConvNet.channels_for(1)) == 3


def test_gc_has_the_layers_of_its_table_and_4_1_million_parameters():
    net, layers = on_meta("gc")
    assert round(parameters(net) / 1e6, 1) == 4.1
    down = [(24, 256, 5), (48, 128, 3), (48, 128, 3), (96, 64, 3), (96, 64, 3), (96, 64, 3)]
    reach, up = [(96, 64, 3)] * 4, [(96, 64, 3)] * 2 + [(48, 128, 3)] * 2 + [(24, 256, 3), (12, 256, 3), (3, 256, 3)]
    convolution = [(24, 256, 5), (24, 128, 3), (48, 128, 3), (48, 64, 3), (96, 64, 3), (96, 64, 3)]
    attention = [(24, 256, 5), (24, 128, 3), (48, 128, 3), (96, 64, 3), (96, 64, 3), (96, 64, 3)]
    # Gated convolutions have twice the channels that they give; sizes here are those after the padding was used up.
    given = [(c[0] if c[0] == 3 else c[0] // 2, c[1], k) for _, c, k in layers]
    expected = [*down, *reach, *up, *attention, *convolution, *reach, (96, 64, 3), (96, 64, 3), *up]
    # The order of the branches in a call does not matter.
    assert sorted(given[17:]) == sorted(expected[17:])
    assert given[:17] == expected[:17]
    entries = [before for before, c, k in layers if k == 5]
    assert entries == [5, 3, 3]
    dilations = [m.dilation[0] for m in net.modules() if isinstance(m, nn.Conv2d) and m.dilation[0] > 1]
    assert dilations == [2, 4, 8, 16] * 2
    relus = [name for name, m in net.named_modules() if isinstance(m, nn.ReLU)]
    assert relus == ["before_attention.5.act"]


def test_ec_has_the_layers_of_its_table_and_21_5_million_parameters():
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    with torch.device("meta"):
        net = create_model("ec")
        layers = recorded(net.edges, kinds, torch.rand(1, 3, 256, 256))
        layers += recorded(net.completion, kinds, torch.rand(1, 4, 256, 256))
    assert round(parameters(net) / 1e6, 1) == 21.5
    for offset, entry, out in ((0, 3, 1), (22, 4, 3)):
        expected = [(entry, (64, 256, 256), 7), (64, (128, 128, 128), 4), (128, (256, 64, 64), 4)]
        expected += [(256, (256, 64, 64), 3)] * 16
        expected += [(256, (128, 128, 128), 4), (128, (64, 256, 256), 4), (64, (out, 256, 256), 7)]
        assert layers[offset : offset + 22] == expected
    spectral = {n for n, m in net.named_modules() if nn.utils.parametrize.is_parametrized(m)}
    assert all(name.startswith("edges.") for name in spectral)
    assert len(spectral) == 21, "all but the last"
    assert not any(m.affine for m in net.modules() if isinstance(m, nn.InstanceNorm2d))


def test_the_fresh_edge_generator_is_spectrally_normalised():
    edges = create_model("ec", width=8, blocks=2).edges.eval()
    for layer in edges.modules():
        if nn.utils.parametrize.is_parametrized(layer):
            weight = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
            assert 0.99 < torch.linalg.matrix_norm(weight.flatten(1), 2) < 1.2


def test_pic_has_the_shapes_of_its_table():
    with torch.device("meta"):
        net = create_model("pic")
        image, hole = torch.rand(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
        features = net.encode(image)
        latent = net.infer(features[-1])
        images = net.decode(features, latent.sample(), hole)
    channels = [(32, 128), (64, 64), (128, 32), (128, 16), (128, 8)]
    assert [tuple(f.shape[1:3]) for f in features] == channels
    assert latent.mean.shape == latent.std.shape == (1, 128, 8, 8)
    assert [i.shape[-1] for i in images] == [32, 64, 128, 256]
    convolutions = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    free = [name for name, m in convolutions if not nn.utils.parametrize.is_parametrized(m)]
    assert free == ["attention.query"]
    assert net.attention.query.out_channels == 32
    assert len(net.prior) == 7
    ups = [(m.body[2].in_channels, m.body[2].out_channels) for m in net.decoder]
    assert ups == [(128, 128), (128, 128), (131, 128), (131, 64), (67, 32)]


@pytest.mark.parametrize(
    ("critic", "channels", "expected"),
    [
        (SNPatchDiscriminator, 4, [(64, 128), (128, 64), (256, 32), (256, 16), (256, 8), (256, 4)]),
        (PatchDiscriminator, 3, [(64, 128), (128, 64), (256, 32), (512, 31), (1, 30)]),
        (ResidualDiscriminator, 3, [(1, 8)]),
    ],
)
def test_discriminators(critic, channels, expected):
    with torch.device("meta"):
        net = critic(channels)
        features = net(torch.rand(2, channels, 256, 256))
    assert [tuple(f.shape[1:3]) for f in features] == expected
    convolutions = [m for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and not n.endswith("query")]
    assert all(nn.utils.parametrize.is_parametrized(m) for m in convolutions)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (37, 50)])
def test_call(name, size):
    net, (image, mask) = small(name).eval(), batch(size)
    with torch.no_grad():
        out = net(image, mask)
        assert out.shape == image.shape
        assert 0 <= out.min() <= out.max() <= 1
        # What is in the hole does not matter, not even NaN; neither does the type of the mask.
        assert torch.equal(net(torch.where(mask != 0, math.nan, image), mask.bool()), out)
        # Samples do not touch each other.
        torch.testing.assert_close(net(image[1:], mask[1:]), out[1:], rtol=1e-4, atol=1e-5)
    assert isinstance(net, Comparator)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_empty_and_full_holes_are_finite(name, share):
    net, image = small(name), torch.rand(2, 3, 32, 32)
    out = net(image, torch.full((2, 1, 32, 32), share))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_weights_travel(name, tmp_path):
    net, (image, mask) = small(name), batch((32, 32))
    net(image, mask)  # statistics and power iterations move
    net.eval()
    expected = net(image, mask)
    save_model(net, tmp_path)
    loaded = load_model(tmp_path)
    assert type(loaded) is type(net)
    state = net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    # Not bit for bit: spectral norms multiply vectors, which rounds by where they lie in memory.
    torch.testing.assert_close(loaded(image, mask), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(copy.deepcopy(net)(image, mask), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(name, channels):
    net = create_model(name, in_channels=channels, **SMALL[name])
    assert net(torch.rand(2, channels, 32, 32), torch.ones(2, 1, 32, 32)).shape == (2, channels, 32, 32)


def test_pic_draws_what_its_generator_says_and_predicts_the_mean():
    net, (image, mask) = small("pic").eval(), batch((32, 32))
    with torch.no_grad():
        draws = [net.sample(image, mask, generator=seeded(s)) for s in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.allclose(draws[0], draws[2])
        assert torch.equal(net(image, mask), net(image, mask))
        padded, hole = net.prepare(image, mask)
        features = net.encode(net.visible(padded, hole))
        mean = net.decode(features, net.infer(features[-1]).mean, hole)[-1]
        assert torch.equal(net(image, mask), (mean + 1) / 2)


def test_ec_paints_from_known_edges_outside_and_predicted_ones_inside():
    net, (image, mask) = small("ec").eval(), batch((32, 32))
    with torch.no_grad():
        known = net.known_edges(image, mask)
        found = torch.sigmoid(net.edge_logits(image, mask, known))
        assert torch.equal(net(image, mask), net.complete(image, mask, found * mask + known * (1 - mask)))
    assert not (known * mask).any()


def test_pc_keeps_its_frozen_normalisation_frozen():
    net, (image, mask) = small("pc"), batch()
    net.freeze_encoder_norm()
    net.train()
    norms = [stage.norm for stage in net.encoder if isinstance(stage.norm, nn.BatchNorm2d)]
    before = [n.running_mean.clone() for n in norms]
    net(image, mask).sum().backward()
    assert all(torch.equal(n.running_mean, b) for n, b in zip(norms, before, strict=True))
    assert all(p.grad is None for n in norms for p in n.parameters())
    assert all(stage.norm.training for stage in net.decoder)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: create_model("pc", channels=(8,)), ConfigError, "at least two levels"),
        (lambda: create_model("pic", channels=(8, 8)), ConfigError, "at least three levels"),
        (lambda: small("pic")(torch.rand(1, 3, 8, 8), torch.ones(1, 1, 8, 8)), ShapeError, "a side of more than 8"),
        (lambda: create_model("ec", sigma=0.0), ConfigError, "sigma is 0.0"),
        (lambda: small("gc")(torch.rand(1, 4, 8, 8), torch.ones(1, 1, 8, 8)), ShapeError, "image has 4 channels"),
        (lambda: small("gc")(torch.rand(1, 3, 8, 8), torch.ones(1, 3, 8, 8)), ShapeError, "mask is"),
    ],
)
def test_documented_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("name", ["pc", "gc", "ec", "pic"])
def test_retrofit_guides_and_leaves_again(name):
    net, (image, mask) = small(name).eval(), batch()
    keys = list(net.state_dict())
    before = net(image, mask)
    outputs = 0 if name == "pc" else None
    plan = RetrofitPlan(net.retrofit_levels, mask="arg:1", outputs=outputs, hidden_channels=4)
    report = retrofit(net, plan, example=(image, mask))
    assert len(report.levels) == len(net.retrofit_levels)
    assert torch.equal(net(image, mask), before), "fresh fillers change nothing"
    guide = Distiller(net, AutoEncoder.for_levels(report.levels), plan, self_distill=0.1)
    optimizer = torch.optim.Adam([*net.parameters(), *guide.trainable()], lr=1e-3)
    losses = []
    for _ in range(3):
        out, terms = guide(image, mask, image=image, mask=mask)
        loss = (out - image).abs().mean() + sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert not torch.equal(net(image, mask), before)
    trained = net(image, mask)
    strip(net)
    assert torch.equal(net(image, mask), trained)
    unretrofit(net)
    assert list(net.state_dict()) == keys
