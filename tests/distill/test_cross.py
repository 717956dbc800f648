"""CrossDistillLoss: Eq. 1 to the letter, its normalised form, who gets gradients, empty holes, scales."""

from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from reference_ops import covered

from kdinpaint import CrossDistillLoss
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops import masked_channel_mean, resize_mask, weighted_channel_sum

CHANNELS = [3, 2]


def levels(batch=2, height=4, width=6, dtype=torch.float32, seed=0, channels=CHANNELS):
    """Features of a small encoder: each level half the size of the one before."""
    generator, features = seeded(seed), []
    for number, count in enumerate(channels):
        size = (max(height >> number, 1), max(width >> number, 1))
        features.append(torch.randn(batch, count, *size, generator=generator, dtype=torch.float64).to(dtype))
    return features


def equation_1(students, teachers, mask, weights, *, normalise):
    """sum_l sum_c rho_c ||(x_l - x*_l)_c M_l||^2 by loops over samples, channels, rows and columns."""
    total = 0.0
    for x, target, rho in zip(students, teachers, weights, strict=True):
        hole = covered(mask, x.shape[-2:])
        batch, channels, rows, columns = x.shape
        for b in range(batch):
            cells = float(hole[b].sum()) if normalise else 1.0
            for c in range(channels):
                distance = 0.0
                for i in range(rows):
                    for j in range(columns):
                        distance += float(hole[b, 0, i, j]) * (x[b, c, i, j] - target[b, c, i, j]) ** 2
                total += rho[b, c] * distance / max(cells, 1.0) / batch
    return total / len(students) if normalise else total


def reference_weights(loss, teachers):
    """rho by its definition: average over positions, one linear layer, softmax, floor 0.1."""
    weights = []
    for predictor, feature in zip(loss.predictors, teachers, strict=True):
        score = predictor.linear(feature.flatten(2).mean(2))
        weights.append((0.9 * score.exp() / score.exp().sum(1, keepdim=True) + 0.1 / feature.shape[1]).detach())
    return weights


class TestCrossDistillLoss(ModuleContract):
    per_sample = False
    smallest = 2
    errors: ClassVar = {
        "no levels": (ConfigError, "got 0 pairs.*at least one", lambda _: CrossDistillLoss([])),
        "level weights": (
            ConfigError,
            "2 pairs of levels and 1 level_weights",
            lambda _: CrossDistillLoss([2, 3], level_weights=[1]),
        ),
        "importance": (ConfigError, "importance is 'l2'", lambda _: CrossDistillLoss([2], importance="l2")),
        "scale": (ConfigError, "scale is 'max'", lambda _: CrossDistillLoss([2], scale="max")),
        "reduction": (ConfigError, "reduction is 'none'", lambda _: CrossDistillLoss([2], reduction="none")),
        "floor": (ConfigError, "floor is 2", lambda _: CrossDistillLoss([2], floor=2)),
        "levels": (
            ShapeError,
            r"got 1 levels; this loss was built for 2, with channels \(3, 2\)",
            lambda t: t.broken(teacher=levels()[:1]),
        ),
        "channels": (
            ShapeError,
            "level 0 has 5 channels.*expected 3",
            lambda t: t.broken(teacher=levels(channels=[5, 2])),
        ),
        "student levels": (ShapeError, "student has 1 levels and teacher 2", lambda t: t.broken(student=levels()[:1])),
        "student shape": (
            ShapeError,
            "level 0: student is .*same resolution",
            lambda t: t.broken(student=levels(height=8)),
        ),
        "mask": (ShapeError, "1 = hole", lambda t: t.broken(mask=torch.ones(4, 6))),
        "mask batch": (
            ShapeError,
            "mask holds 1 masks and the batch 2",
            lambda t: t.broken(mask=torch.ones(1, 1, 4, 6)),
        ),
        "mask size": (ShapeError, "can only be reduced", lambda t: t.broken(mask=torch.ones(2, 1, 2, 3))),
    }

    def broken(self, **change):
        given = {"student": levels(), "teacher": levels(), "mask": torch.ones(2, 1, 4, 6)}
        return self.build()(**{**given, **change})

    def build(self, **factory):
        return CrossDistillLoss(CHANNELS, **factory)

    def inputs(self, batch=2, height=4, width=6, dtype=torch.float32, seed=0):
        student = levels(batch, height, width, dtype, seed)
        teacher = levels(batch, height, width, dtype, seed + 1)
        return student, teacher, random_mask(batch, 2 * height, 2 * width, seed, share=0.2)

    def sizes(self, batch, height, width):
        return [()]

    def wanted(self, student, teacher, mask):
        return list(student)

    def trains(self, name):
        return False

    def function(self, module, student, teacher, mask):
        terms = []
        for x, target, predictor in zip(student, teacher, module.predictors, strict=True):
            distance = masked_channel_mean((x - target) ** 2, resize_mask(mask, x.shape[-2:]))
            terms.append(weighted_channel_sum(predictor(target), distance))
        return sum(terms).detach() / len(terms)

    def oracle(self, subject, student, teacher, mask):
        return equation_1(student, teacher, mask, reference_weights(subject, teacher), normalise=True)


def test_sum_is_equation_1_to_the_letter():
    loss = randomise(CrossDistillLoss(CHANNELS, reduction="sum", dtype=torch.float64))
    student, teacher, mask = TestCrossDistillLoss().inputs(dtype=torch.float64)
    expected = equation_1(student, teacher, mask, reference_weights(loss, teacher), normalise=False)
    torch.testing.assert_close(loss(student, teacher, mask), expected)


@given(SEEDS, st.integers(2, 5), st.integers(2, 5))
def test_mean_does_not_depend_on_resolution(seed, height, width):
    # Random predictors on means over positions are unchanged as well.
    loss = randomise(CrossDistillLoss([3], dtype=torch.float64))
    student, teacher = (levels(2, height, width, torch.float64, seed + i, [3]) for i in (0, 1))
    mask = random_mask(2, height, width, seed)
    doubled = [t.repeat_interleave(2, -1).repeat_interleave(2, -2) for t in (student[0], teacher[0], mask)]
    torch.testing.assert_close(loss([doubled[0]], [doubled[1]], doubled[2]), loss(student, teacher, mask))


@given(
    SEEDS,
    st.sampled_from(["mean", "sum"]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from([torch.bool, torch.float32]),
)
def test_is_finite_and_not_negative_for_any_mask(seed, reduction, share, kind):
    loss = randomise(CrossDistillLoss(CHANNELS, reduction=reduction, scale="teacher_std"), seed=seed)
    student, teacher, _ = TestCrossDistillLoss().inputs(seed=seed)
    student = [s.requires_grad_() for s in student]
    mask = (torch.rand(2, 1, 8, 12, generator=seeded(seed)) < share).to(kind)
    value = loss(student, teacher, mask)
    gradients = torch.autograd.grad(value, student)
    assert value.item() >= 0
    assert bool(torch.isfinite(value))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    if share == 0:
        assert value.item() == 0
        assert not any(bool(g.any()) for g in gradients)
    assert loss(teacher, teacher, mask).item() == 0


def test_only_the_hole_counts():
    loss = CrossDistillLoss([3])
    student, teacher = (levels(seed=i, channels=[3]) for i in (0, 1))
    mask = random_mask(2, 4, 6)
    before = loss(student, teacher, mask)
    student[0][(~mask).expand_as(student[0])] = 1e6
    assert_equal(loss(student, teacher, mask), before)


@pytest.mark.parametrize("joint", [False, True])
def test_no_gradient_reaches_teacher_or_predictors_unless_joint(joint):
    loss = randomise(CrossDistillLoss(CHANNELS, joint=joint))
    student, teacher, mask = TestCrossDistillLoss().inputs()
    for feature in (*student, *teacher):
        feature.requires_grad_()
    loss(student, teacher, mask).backward()
    assert all(bool(s.grad.any()) for s in student)
    assert all(t.grad is None for t in teacher)
    assert all((p.grad is not None and bool(p.grad.any())) == joint for p in loss.predictors.parameters())


def test_uniform_importance_is_what_fresh_predictors_give():
    student, teacher, mask = TestCrossDistillLoss().inputs()
    uniform = CrossDistillLoss(CHANNELS, importance="uniform")
    assert not list(uniform.parameters())
    torch.testing.assert_close(uniform(student, teacher, mask), CrossDistillLoss(CHANNELS)(student, teacher, mask))


def test_level_weights():
    student, teacher, mask = TestCrossDistillLoss().inputs()
    for reduction, share in (("mean", 2), ("sum", 1)):
        first, second, both = (
            CrossDistillLoss(CHANNELS, level_weights=w, reduction=reduction) for w in ([1, 0], [0, 1], [2, 3])
        )
        expected = 2 * first(student, teacher, mask) + 3 * second(student, teacher, mask)
        torch.testing.assert_close(both(student, teacher, mask), expected)
        assert both.pair_weights() == [2 / share, 3 / share]


def test_parts_combine_to_the_whole():
    loss = randomise(CrossDistillLoss(CHANNELS))
    student, teacher, mask = TestCrossDistillLoss().inputs()
    distances, weights = loss.distances(student, teacher, mask), loss.importance(teacher, mask)
    assert [tuple(d.shape) for d in distances] == [(2, 3), (2, 2)]
    assert_equal(loss.combine(weights, distances).detach(), loss(student, teacher, mask))


@pytest.mark.parametrize("mode", ["max", "nearest", "area"])
def test_mask_resize_is_passed_on(mode):
    loss = CrossDistillLoss([3], mask_resize=mode)
    student, teacher = (levels(seed=i, channels=[3]) for i in (0, 1))
    mask = random_mask(2, 8, 12, share=0.5)
    expected = masked_channel_mean((student[0] - teacher[0]) ** 2, resize_mask(mask, (4, 6), mode=mode))
    torch.testing.assert_close(loss.distances(student, teacher, mask)[0], expected)


def test_pool_is_passed_on():
    loss = randomise(CrossDistillLoss([3], pool="hole"))
    feature, mask = levels(channels=[3]), random_mask(2, 4, 6)
    before = loss.importance(feature, mask)
    feature[0][(~mask).expand_as(feature[0])] = 50.0
    assert_equal(loss.importance(feature, mask), before)


# Scales ----------------------------------------------------------------------------------------------------


def observed(factors, dtype=torch.float32):
    loss = CrossDistillLoss([3], scale="teacher_std", dtype=dtype).to(dtype)
    student, teacher = (levels(4, 8, 8, dtype, seed=i, channels=[3])[0] * factors for i in (0, 1))
    loss.observe([teacher])
    return loss.eval()([student], [teacher], torch.ones(4, 1, 8, 8)).item()


def test_scale_makes_the_loss_independent_of_the_teachers_scale():
    plain = observed(torch.ones(3, 1, 1))
    assert observed(torch.full((3, 1, 1), 7.0)) == pytest.approx(plain, rel=1e-5)
    # One loud channel: the bound on quiet ones is relative to the average, hence the tolerance.
    assert observed(torch.tensor([2.0, 1.0, 1.0]).view(3, 1, 1)) == pytest.approx(plain, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scale_works_in_every_dtype(dtype):
    assert observed(torch.ones(3, 1, 1, dtype=dtype), dtype) == pytest.approx(observed(torch.ones(3, 1, 1)), rel=0.02)


def test_scale_is_a_running_variance_of_the_teacher_in_training_only():
    loss = CrossDistillLoss([3], scale="teacher_std")
    one, two = (levels(seed=i, channels=[3]) for i in (0, 1))
    mask = torch.ones(2, 1, 4, 6)
    first, second = (f[0].var((0, 2, 3), correction=0) for f in (one, two))
    loss.eval()(one, one, mask)
    assert loss.scales[0].var.tolist() == [1, 1, 1]
    loss.train()(two, one, mask)
    torch.testing.assert_close(loss.scales[0].var, first)
    loss(one, two, mask)
    torch.testing.assert_close(loss.scales[0].var, 0.99 * first + 0.01 * second)
    assert loss.scales[0].updates.item() == 2
    assert {"scales.0.var", "scales.0.updates"} <= set(loss.state_dict())


def test_quiet_channels_are_amplified_tenfold_at_most():
    loss = CrossDistillLoss([3], scale="teacher_std")
    feature = levels(4, 8, 8, channels=[3])
    feature[0][:, 0] = 0
    loss.observe(feature)
    inverse = loss.scales[0].inverse()
    assert inverse[0].item() == pytest.approx(10 / loss.scales[0].var.mean().sqrt().item(), rel=1e-4)
    silent = CrossDistillLoss([3], scale="teacher_std")
    silent.observe([torch.zeros(2, 3, 4, 4)])
    assert bool(torch.isfinite(silent.scales[0].inverse()).all())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_large_holes_in_float16(reduction):
    # 66,049 hole cells: more than float16 can count to.
    loss = CrossDistillLoss([2], reduction=reduction)
    student = torch.full((1, 2, 257, 257), 2.0, dtype=torch.float16)
    value = loss([student], [torch.zeros_like(student)], torch.ones(1, 1, 257, 257))
    assert value.item() == pytest.approx(4.0 if reduction == "mean" else 4.0 * 257**2)
