"""SelfDistillLoss: Eq. 2, aligners, which feature is the teacher and which gets gradients."""

from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import covered
from torch.nn import functional as F

from kdinpaint import SelfDistillLoss
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops import masked_channel_mean, resize_mask, weighted_channel_sum

CHANNELS = [2, 3, 2]


def levels(batch=2, height=8, width=12, dtype=torch.float32, seed=0):
    generator, features = seeded(seed), []
    for number, count in enumerate(CHANNELS):
        size = (height >> number, width >> number)
        features.append(torch.randn(batch, count, *size, generator=generator, dtype=torch.float64).to(dtype))
    return features


def equation_2(loss, features, mask, *, normalise):
    """sum_l sum_c phi_c(x_{l+1}) ||(f_l(x_l) - x_{l+1})_c M_{l+1}||^2, f_l a convolution k4 s2 p1."""
    total = 0.0
    for number, (x, target) in enumerate(pairwise(features)):
        aligned = F.conv2d(x, loss.aligners[number].weight, loss.aligners[number].bias, stride=2, padding=1)
        score = loss.predictors[number].linear(target.mean((2, 3)))
        phi = (0.9 * score.softmax(1) + 0.1 / score.shape[1]).detach()
        hole = covered(mask, target.shape[-2:])
        for b in range(x.shape[0]):
            cells = float(hole[b].sum()) if normalise else 1.0
            for c in range(target.shape[1]):
                gap = [(aligned[b, c, i, j] - target[b, c, i, j]) ** 2 for i, j in hole[b, 0].nonzero().tolist()]
                total = total + phi[b, c] * sum(gap, torch.zeros(())) / max(cells, 1.0) / x.shape[0]
    return total / (len(features) - 1) if normalise else total


class TestSelfDistillLoss(ModuleContract):
    per_sample = False
    smallest = 4
    errors: ClassVar = {
        "one level": (ConfigError, "got 1 levels and 0 strides; expected at least two", lambda _: SelfDistillLoss([4])),
        "strides": (ConfigError, "got 3 levels and 1 strides", lambda _: SelfDistillLoss(CHANNELS, strides=[2])),
        "odd stride": (ConfigError, "stride is 3", lambda _: SelfDistillLoss([2, 2], strides=[3])),
        "level weights": (
            ConfigError,
            "2 pairs of levels and 3",
            lambda _: SelfDistillLoss(CHANNELS, level_weights=[1, 1, 1]),
        ),
        "levels": (ShapeError, "got 2 levels; this loss was built for 3", lambda t: t.broken(features=levels()[:2])),
        "channels": (
            ShapeError,
            r"features\[1\] has 2 channels.*expected 3",
            lambda t: t.broken(features=[levels()[i] for i in (0, 2, 2)]),
        ),
        "last channels": (
            ShapeError,
            "level 1 has 3 channels.*expected 2",
            lambda t: t.broken(features=[levels()[i] for i in (0, 1, 1)]),
        ),
        "sizes": (
            ShapeError,
            "level 0: student is",
            lambda t: t.broken(features=[levels(height=16)[0], *levels()[1:]]),
        ),
        "mask": (ShapeError, "1 = hole", lambda t: t.broken(mask=torch.ones(8, 12))),
        "mask batch": (ShapeError, "mask holds 1 masks", lambda t: t.broken(mask=torch.ones(1, 1, 8, 12))),
    }

    def broken(self, **change):
        return self.build()(**{"features": levels(), "mask": torch.ones(2, 1, 8, 12), **change})

    def build(self, **factory):
        return SelfDistillLoss(CHANNELS, **factory)

    def inputs(self, batch=2, height=8, width=12, dtype=torch.float32, seed=0):
        return levels(batch, height, width, dtype, seed), random_mask(batch, 2 * height, 2 * width, seed, share=0.1)

    def sizes(self, batch, height, width):
        return [()]

    def wanted(self, features, mask):
        return [features[0]]  # the deeper ones are targets, too, and detached as such

    def trains(self, name):
        return name.startswith("aligners")

    def function(self, module, features, mask):
        terms = []
        for x, target, align, predictor in zip(
            features[:-1], features[1:], module.aligners, module.predictors, strict=True
        ):
            distance = masked_channel_mean((align(x) - target) ** 2, resize_mask(mask, target.shape[-2:]))
            terms.append(weighted_channel_sum(predictor(target).detach(), distance))
        return sum(terms) / len(terms)

    def oracle(self, subject, features, mask):
        return equation_2(subject, features, mask, normalise=True)


def test_sum_is_equation_2_to_the_letter():
    loss = randomise(SelfDistillLoss(CHANNELS, reduction="sum", dtype=torch.float64))
    features, mask = TestSelfDistillLoss().inputs(dtype=torch.float64)
    torch.testing.assert_close(loss(features, mask), equation_2(loss, features, mask, normalise=False))


@given(SEEDS, st.sampled_from(["mean", "sum"]), st.sampled_from([0.0, 0.5, 1.0]))
def test_is_finite_and_not_negative_for_any_mask(seed, reduction, share):
    loss = randomise(SelfDistillLoss(CHANNELS, reduction=reduction, scale="teacher_std"), seed=seed)
    features = [f.requires_grad_() for f in levels(seed=seed)]
    mask = torch.rand(2, 1, 8, 12, generator=seeded(seed)) < share
    value = loss(features, mask)
    value.backward()
    assert value.item() >= 0
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in (*loss.parameters(), *features))
    if share == 0:
        assert value.item() == 0
        assert not any(p.grad.any() for p in (*loss.aligners.parameters(), *features[:-1]))


def test_is_zero_where_the_aligner_gives_the_deeper_feature():
    loss = SelfDistillLoss([2, 3])
    shallow = levels()[0]
    deep = loss.aligners[0](shallow).detach()
    assert loss([shallow, deep], torch.ones(2, 1, 8, 12)).item() == 0


@pytest.mark.parametrize("detach", [True, False])
def test_deeper_feature_is_the_teacher(detach):
    loss = randomise(SelfDistillLoss([2, 3], detach_target=detach))
    shallow, deep = (f.requires_grad_() for f in levels()[:2])
    loss([shallow, deep], torch.ones(2, 1, 8, 12)).backward()
    assert bool(shallow.grad.any())
    assert (deep.grad is not None) == (not detach)
    assert all(bool(p.grad.any()) for p in loss.aligners.parameters())
    assert all(p.grad is None for p in loss.predictors.parameters())


def test_joint_trains_the_predictors():
    loss = randomise(SelfDistillLoss(CHANNELS, joint=True))
    loss(*TestSelfDistillLoss().inputs()).backward()
    assert all(bool(p.grad.any()) for p in loss.predictors.parameters())


def test_targets_can_be_held_fixed():
    loss = SelfDistillLoss(CHANNELS)
    features, others, mask = levels(), levels(seed=5), torch.ones(2, 1, 8, 12)
    fixed = loss.targets(features)
    assert [t.data_ptr() for t in fixed] == [f.data_ptr() for f in features[1:]]
    held = loss.distances(others, mask, targets=fixed)
    mixed = [
        masked_channel_mean((a(x) - t) ** 2, torch.ones(2, 1, *t.shape[-2:]))
        for a, x, t in zip(loss.aligners, others, fixed, strict=False)
    ]
    torch.testing.assert_close(held, mixed)
    torch.testing.assert_close(loss.distances(others, mask), loss.distances(others, mask, targets=others[1:]))


@pytest.mark.parametrize(
    ("strides", "sizes"), [([1, 2], [(8, 12), (8, 12), (4, 6)]), ([4, 1], [(8, 12), (2, 3), (2, 3)])]
)
def test_strides(strides, sizes):
    loss = SelfDistillLoss(CHANNELS, strides=strides)
    features = [torch.randn(2, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]
    distances = loss.distances(features, torch.ones(2, 1, 8, 12))
    assert [tuple(d.shape) for d in distances] == [(2, 3), (2, 2)]


def test_importance_and_scale_come_from_the_deeper_feature():
    loss = randomise(SelfDistillLoss([2, 3], scale="teacher_std"))
    features, mask = levels()[:2], torch.ones(2, 1, 8, 12)
    loss(features, mask)
    torch.testing.assert_close(loss.scales[0].var, features[1].var((0, 2, 3), correction=0))
    assert_equal(loss.importance(loss.targets(features), mask), [loss.predictors[0](features[1])])
