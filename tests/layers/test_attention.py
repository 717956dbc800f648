"""GlobalLocalAttention: rows sum to one, the loop formula, known keys, the gate, pooling of keys."""

import math
from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint import GlobalLocalAttention
from kdinpaint._core.errors import ConfigError, ShapeError

FUSIONS = ["fuse", "sum", "concat", "attention", "local"]
X = torch.randn(2, 4, 3, 5)


def attend(block, x):
    """r_ij = softmax_j(Q_i K_j / sqrt d), sum_j r_ij V_j, position by position."""
    query, key, value = (
        c.weight[:, :, 0, 0] @ x.flatten(2) + c.bias[:, None] for c in (block.query, block.key, block.value)
    )
    out = torch.zeros_like(value)
    for b in range(x.shape[0]):
        for i in range(value.shape[-1]):
            score = [query[b, :, i] @ key[b, :, j] / math.sqrt(len(query[b])) for j in range(value.shape[-1])]
            share = [s.exp() for s in score]
            out[b, :, i] = sum(s * value[b, :, j] for j, s in enumerate(share)) / sum(share)
    return out.view_as(x)


class TestGlobalLocalAttention(ModuleContract):
    errors: ClassVar = {
        "fusion": (ConfigError, "fusion is 'gate'; expected one of", lambda _: GlobalLocalAttention(4, fusion="gate")),
        "keys": (ConfigError, "max_keys is 0", lambda _: GlobalLocalAttention(4, max_keys=0)),
        "channels": (ShapeError, "x has 3 channels", lambda t: t.build()(torch.ones(1, 3, 4, 4))),
        "dimensions": (ShapeError, "x is .*expected", lambda t: t.build()(torch.ones(4, 4, 4))),
        "mask": (ShapeError, "1 = hole", lambda _: GlobalLocalAttention(4, known_keys=True)(X, torch.ones(3, 5))),
        "mask batch": (
            ShapeError,
            "3 masks",
            lambda _: GlobalLocalAttention(4, known_keys=True)(X, torch.ones(3, 1, 3, 5)),
        ),
        "mask size": (
            ShapeError,
            "only be reduced",
            lambda _: GlobalLocalAttention(4, known_keys=True)(X, torch.ones(2, 1, 2, 2)),
        ),
    }

    def build(self, **factory):
        return GlobalLocalAttention(4, **factory)

    def inputs(self, batch=2, height=3, width=4, dtype=torch.float32, seed=0):
        return (torch.randn(batch, 4, height, width, generator=seeded(seed), dtype=torch.float64).to(dtype),)

    def sizes(self, batch, height, width):
        return [(batch, 4, height, width)]

    def fused(self, block, x, far):
        gate = torch.sigmoid(F.conv2d(x, block.gate.weight, block.gate.bias, padding=1))
        return x + gate * far + (1 - gate) * block.local(x)

    def function(self, module, x):
        rows, values = module.attention(x)
        return self.fused(module, x, (rows @ values).transpose(1, 2).reshape(x.shape))

    def oracle(self, subject, x):
        return self.fused(subject, x, attend(subject, x))


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6), st.integers(1, 20), SEEDS)
def test_rows_are_distributions(batch, height, width, max_keys, seed):
    block = randomise(GlobalLocalAttention(4, max_keys=max_keys), scale=2.0, seed=seed)
    rows, values = block.attention(torch.randn(batch, 4, height, width, generator=seeded(seed)))
    keys = rows.shape[-1]
    assert rows.shape == (batch, height * width, keys)
    assert values.shape == (batch, keys, 4)
    assert keys <= max_keys
    assert keys == height * width or height * width > max_keys
    assert bool((rows >= 0).all())
    torch.testing.assert_close(rows.sum(-1), torch.ones(batch, height * width))


@given(st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_known_keys_never_attend_to_the_hole(height, width, seed):
    block = randomise(GlobalLocalAttention(4, fusion="attention", known_keys=True), seed=seed)
    x = torch.randn(2, 4, height, width, generator=seeded(seed))
    mask = random_mask(2, height, width, seed)
    if height * width > 1:  # a single cell that is a hole leaves nothing known
        rows, _ = block.attention(x, mask)
        hole = mask.flatten(2).expand_as(rows)
        assert not rows[hole].any()
        torch.testing.assert_close(rows.sum(-1), torch.ones(2, height * width))
        before = block(x, mask)
        x[mask.expand_as(x)] = 100.0
        known = ~mask.expand_as(x)
        torch.testing.assert_close(block(x, mask)[known], before[known])


def test_full_hole_and_no_mask_use_all_keys():
    block = randomise(GlobalLocalAttention(4, known_keys=True))
    free = randomise(GlobalLocalAttention(4))
    assert torch.equal(block(X, torch.ones(2, 1, 3, 5)), free(X))
    assert torch.equal(block(X), free(X))


def test_mask_of_a_finer_level_is_reduced():
    block = randomise(GlobalLocalAttention(4, known_keys=True))
    mask = random_mask(2, 3, 5)
    assert torch.equal(block(X, mask.repeat_interleave(4, -1).repeat_interleave(4, -2)), block(X, mask))


def test_fresh_gate_is_one_half():
    block = GlobalLocalAttention(4)
    rows, values = block.attention(X)
    far = (rows @ values).transpose(1, 2).reshape(X.shape)
    torch.testing.assert_close(block(X), X + 0.5 * far + 0.5 * block.local(X))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion(fusion):
    block = randomise(GlobalLocalAttention(4, fusion=fusion))
    far = attend(block, X) if fusion != "local" else None
    near = block.local(X) if fusion != "attention" else None
    expected = {
        "fuse": lambda: TestGlobalLocalAttention().fused(block, X, far),
        "sum": lambda: X + far + near,
        "concat": lambda: X + F.conv2d(torch.cat([far, near], 1), block.join.weight, block.join.bias),
        "attention": lambda: X + far,
        "local": lambda: X + near,
    }
    torch.testing.assert_close(block(X), expected[fusion]())


@pytest.mark.parametrize("fusion", FUSIONS)
def test_each_fusion_trains_all_it_has(fusion):
    block = randomise(GlobalLocalAttention(4, fusion=fusion))
    block(X).square().sum().backward()
    # Equal shifts of all scores change nothing, so the key's bias has no gradient but rounding.
    assert all(bool(p.grad.any()) for name, p in block.named_parameters() if name != "key.bias")


def test_local_fusion_has_no_attention():
    with pytest.raises(RuntimeError, match="no attention branch"):
        GlobalLocalAttention(4, fusion="local").attention(X)


def test_scores_are_scaled_by_the_width_of_the_keys():
    block, bare = GlobalLocalAttention(4, key_channels=9), GlobalLocalAttention(4, key_channels=9, scaled=False)
    bare.load_state_dict(block.state_dict())
    with torch.no_grad():
        for conv in (bare.query,):
            conv.weight.div_(3)
            conv.bias.div_(3)
    torch.testing.assert_close(bare.attention(X)[0], block.attention(X)[0])
    assert GlobalLocalAttention(16).query.out_channels == 4


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30))
def test_pooled_keys_keep_the_shape_and_average_fairly(height, width, max_keys):
    # A constant map stays constant under pooling, also in the cut-off last cells.
    block = randomise(GlobalLocalAttention(4, fusion="attention", max_keys=max_keys))
    x = torch.ones(1, 4, height, width)
    out = block(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, x + block.value(x))
