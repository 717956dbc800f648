"""The special layers of PC, GC, EC and PIC against loops, by hand, and scikit-image."""

import math

import pytest
import torch
from harness import random_mask, randomise, seeded
from torch import nn
from torch.nn import functional as F

from kdinpaint.errors import ConfigError, ShapeError
from kdinpaint.models.comparators import (
    GatedConv2d,
    PartialConv2d,
    canny_edges,
    contextual_attention,
    settle_spectral_norm,
)
from kdinpaint.models.comparators.base import spectral_norm
from kdinpaint.models.comparators.pic_blocks import SelfAttention


def partial_convolution_by_loop(layer, x, known):
    """Every window by itself; known is given for every channel."""
    kernel, stride, padding = layer.window
    weight = layer.conv.weight
    size = [(n + 2 * padding - kernel) // stride + 1 for n in x.shape[-2:]]
    y, hole = x.new_zeros(x.shape[0], weight.shape[0], *size), x.new_ones(x.shape[0], 1, *size)
    for b in range(x.shape[0]):
        for i in range(size[0]):
            for j in range(size[1]):
                total, count = x.new_zeros(weight.shape[0]), 0
                for dy in range(kernel):
                    for dx in range(kernel):
                        r, c = i * stride + dy - padding, j * stride + dx - padding
                        if not (0 <= r < x.shape[2] and 0 <= c < x.shape[3]):
                            continue
                        for channel in range(x.shape[1]):
                            if known[b, channel, r, c]:
                                total += weight[:, channel, dy, dx] * x[b, channel, r, c]
                                count += 1
                if count:
                    y[b, :, i, j] = total * (x.shape[1] * kernel * kernel) / count
                    if layer.bias is not None:
                        y[b, :, i, j] += layer.bias
                    hole[b, 0, i, j] = 0
    return y, hole


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, True), (3, 2, False), (5, 2, True)])
def test_partial_convolution_against_a_loop(kernel, stride, bias, per_channel):
    layer = randomise(PartialConv2d(2, 3, kernel, stride, bias=bias, dtype=torch.float64))
    x = torch.randn(2, 2, 8, 9, generator=seeded(0), dtype=torch.float64)
    hole = random_mask(4 if per_channel else 2, 8, 9, share=0.96 if kernel == 5 else 0.85).double()
    hole = hole.view(2, 2, 8, 9) if per_channel else hole
    y, updated = layer(x, hole)
    expected = partial_convolution_by_loop(layer, x, (1 - hole).expand_as(x))
    torch.testing.assert_close(y, expected[0])
    assert torch.equal(updated, expected[1])
    assert 0 < updated.mean() < 1, "the case shows both kinds of windows"


def test_partial_convolution_by_hand():
    layer = PartialConv2d(1, 1, 3)
    nn.init.ones_(layer.conv.weight)
    nn.init.constant_(layer.bias, 0.5)
    hole = torch.ones(1, 1, 5, 5)
    hole[..., 2, 2] = 0
    y, updated = layer(torch.full((1, 1, 5, 5), 2.0), hole)
    # One known cell of nine: 2 * 9 / 1 + 0.5 around it, nothing elsewhere, not even the bias.
    inside = torch.zeros(5, 5, dtype=torch.bool)
    inside[1:4, 1:4] = True
    assert torch.equal(y[0, 0], torch.where(inside, 18.5, 0.0))
    assert torch.equal(updated[0, 0], (~inside).float())


def test_what_lies_in_the_hole_reaches_nothing():
    layer, hole = PartialConv2d(2, 3, 3), random_mask(1, 6, 6).float()
    x = torch.rand(1, 2, 6, 6)
    assert torch.equal(layer(x, hole)[0], layer(torch.where(hole != 0, 99.0, x), hole)[0])


def test_partial_convolution_refuses_other_masks():
    with pytest.raises(ShapeError, match=r"hole is a float32 tensor of shape \(1, 3, 4, 4\)"):
        PartialConv2d(2, 3, 3)(torch.rand(1, 2, 4, 4), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("activation", ["elu", "relu"])
def test_gated_convolution_by_its_parts(activation):
    layer = randomise(GatedConv2d(3, 4, 3, 2, activation=activation, dtype=torch.float64))
    x = torch.randn(2, 3, 8, 8, generator=seeded(0), dtype=torch.float64)
    # At stride 2 and an even size, one row and one column of zeros follow: nothing precedes.
    y = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, layer.conv.bias, 2)
    feature, gate = y[:, :4], y[:, 4:]
    feature = torch.where(feature > 0, feature, feature.exp() - 1 if activation == "elu" else 0)
    torch.testing.assert_close(layer(x), feature / (1 + (-gate).exp()))
    with pytest.raises(ConfigError, match="activation is 'gelu'"):
        GatedConv2d(3, 4, 3, activation="gelu")


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(5, 1, 1), (3, 1, 16), (3, 2, 1), (5, 2, 1)])
def test_gated_convolution_keeps_or_halves(kernel, stride, dilation):
    out = GatedConv2d(1, 2, kernel, stride, dilation)(torch.rand(1, 1, 10, 13))
    assert out.shape == (1, 2, math.ceil(10 / stride), math.ceil(13 / stride))


def attention_by_loop(feature, hole, scale):
    """Contextual attention of one sample, place by place and patch by patch."""
    channels, height, width = feature.shape
    rows, columns = height // 2, width // 2
    half, hole_half = feature[:, ::2, ::2], hole[0, ::2, ::2]

    def window(x, r, c, size, start):
        out = x.new_zeros(x.shape[0], size, size)
        for i in range(size):
            for j in range(size):
                y, z = r + i + start, c + j + start
                if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                    out[:, i, j] = x[:, y, z]
        return out

    places = [(r, c) for r in range(rows) for c in range(columns)]
    small = {p: window(half, *p, 3, -1) for p in places}
    known = {p: window(hole_half[None], *p, 3, -1).sum() == 0 for p in places}
    raw = {
        (p, q): (small[p] * small[q]).sum() / max(small[p].square().sum().sqrt(), torch.tensor(1e-4))
        for p in places
        for q in places
    }

    def fused(scores, step):
        result = {}
        for p, q in scores:
            total = 0
            for move in (-1, 0, 1):
                moved = tuple(step(x, move) for x in (p, q))
                total = total + (scores[moved] if None not in moved else 0)
            result[p, q] = total
        return result

    def along_rows(place, move):
        n = place[0] * columns + place[1] + move
        return divmod(n, columns) if 0 <= n < rows * columns else None

    def along_columns(place, move):
        n = place[1] * rows + place[0] + move
        return divmod(n, rows)[::-1] if 0 <= n < rows * columns else None

    scores = fused(fused(raw, along_rows), along_columns)
    out = feature.new_zeros(channels, height + 4, width + 4)
    for q in places:
        weights = torch.stack([scale * scores[p, q] * known[p] for p in places]).softmax(0)
        for weight, p in zip(weights, places, strict=True):
            if known[p]:
                patch = window(feature, 2 * p[0], 2 * p[1], 4, -1)
                out[:, 2 * q[0] + 1 : 2 * q[0] + 5, 2 * q[1] + 1 : 2 * q[1] + 5] += weight * patch
    return out[:, 2 : 2 + height, 2 : 2 + width] / 4


def test_contextual_attention_against_a_loop():
    feature = torch.randn(2, 2, 8, 10, generator=seeded(0), dtype=torch.float64)
    hole = torch.zeros(2, 1, 8, 10)
    hole[0, :, 2:5, 4:7] = 1  # each sample has a hole of its own
    hole[1, :, 6:, :2] = 1
    out = contextual_attention(feature, hole, scale=3.0)
    expected = torch.stack([attention_by_loop(f, h, 3.0) for f, h in zip(feature, hole, strict=True)])
    torch.testing.assert_close(out, expected)


def test_contextual_attention_takes_nothing_from_the_hole():
    feature, hole = torch.rand(1, 3, 16, 16), torch.zeros(1, 1, 16, 16)
    hole[..., 6:10, 6:10] = 1
    feature.requires_grad_()
    # Values of a patch can only be copied from cells that lie outside the hole.
    marked = torch.where(hole != 0, 1000.0, feature)
    assert contextual_attention(marked, hole).max() < 2
    with pytest.raises(ShapeError, match="expected even sides"):
        contextual_attention(torch.rand(1, 3, 5, 6), torch.zeros(1, 1, 5, 6))


def test_contextual_attention_is_finite_without_known_patches():
    feature = torch.zeros(1, 2, 8, 8, requires_grad=True)
    out = contextual_attention(feature, torch.ones(1, 1, 8, 8))
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert feature.grad.isfinite().all()


@pytest.mark.parametrize("sigma", [1.0, 2.0])
@pytest.mark.parametrize("masked", [False, True])
def test_canny_is_that_of_scikit_image(sigma, masked):
    feature = pytest.importorskip("skimage.feature", reason="the oracle is scikit-image")
    grey = F.interpolate(torch.rand(2, 1, 9, 11, generator=seeded(3), dtype=torch.float64), (60, 75), mode="bicubic")
    grey, mask = grey.clamp(0, 1), torch.zeros(2, 1, 60, 75)
    mask[..., 20:35, 30:60] = 1
    edges = canny_edges(grey, mask if masked else None, sigma=sigma)
    for g, m, e in zip(grey[:, 0], mask[:, 0], edges[:, 0], strict=True):
        expected = feature.canny(g.numpy(), sigma=sigma, mask=(m == 0).numpy() if masked else None)
        assert expected.any()
        assert (e.bool().numpy() == expected).all()


def test_canny_under_autocast_finds_the_same_edges():
    grey = F.interpolate(torch.rand(2, 1, 12, 12, generator=seeded(3)), scale_factor=8, mode="bilinear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = canny_edges(grey)
    assert torch.equal(found, canny_edges(grey))
    assert found.sum() > 100


def test_canny_does_not_see_the_hole():
    grey, mask = torch.rand(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 10:20, 10:20] = 1
    assert torch.equal(canny_edges(grey, mask), canny_edges(torch.where(mask != 0, torch.nan, grey), mask))


def test_attention_of_two_kinds_against_a_loop():
    attention = randomise(SelfAttention(4, 3)).double()
    attention.mix = nn.Identity()
    x, encoded = (torch.randn(1, n, 3, 4, generator=seeded(n), dtype=torch.float64) for n in (4, 3))
    known = 1 - random_mask(1, 3, 4).double()
    query = attention.query(x)[0].flatten(1)
    short, long = x.clone(), known * encoded
    for place in range(12):
        scores = torch.stack([query[:, place] @ query[:, other] for other in range(12)]).softmax(0)
        r, c = divmod(place, 4)
        short[0, :, r, c] += attention.gamma * sum(scores[o] * x[0, :, o // 4, o % 4] for o in range(12))
        flow = sum(scores[o] * encoded[0, :, o // 4, o % 4] for o in range(12))
        long[0, :, r, c] += attention.alpha * (1 - known[0, 0, r, c]) * flow
    torch.testing.assert_close(attention(x, encoded, known), torch.cat([short, long], 1))


def test_spectral_norms_settle_on_the_largest_singular_value():
    layer = spectral_norm(nn.Conv2d(3, 8, 3)).eval()
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(torch.randn(8, 3, 3, 3, generator=seeded(5)))
    settle_spectral_norm(layer, 100)
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
    assert not layer.training
    plain = nn.Conv2d(1, 1, 1)
    before = plain.weight.clone()
    settle_spectral_norm(plain)
    assert torch.equal(plain.weight, before)
