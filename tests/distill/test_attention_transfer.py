"""AttentionTransferLoss: the formula by loops, who gets gradients, t, and learning t."""

from typing import ClassVar

import pytest
import torch
from harness import SEEDS, ModuleContract, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from reference_ops import covered
from torch.nn import functional as F

from kdinpaint import AttentionTransferLoss, MetaLearner
from kdinpaint._core.errors import ConfigError, ShapeError


def rows(batch=2, height=3, width=4, keys=5, seed=0, dtype=torch.float64):
    return torch.randn(batch, height, width, keys, generator=seeded(seed), dtype=torch.float64).softmax(-1).to(dtype)


class Joined(AttentionTransferLoss):
    """The loss with the feature as a positional argument, as the harness gives it."""

    def forward(self, student, teacher, mask, feature):
        return super().forward(student, teacher, mask, feature=feature)


class TestAttentionTransferLoss(ModuleContract):
    per_sample = False
    errors: ClassVar = {
        "channels": (ConfigError, "pass its channels, or importance='uniform'", lambda _: AttentionTransferLoss()),
        "importance": (ConfigError, "importance is 'x'", lambda _: AttentionTransferLoss(4, importance="x")),
        "feature": (
            ShapeError,
            "pass feature=",
            lambda _: AttentionTransferLoss(4)(rows(), rows(), torch.ones(2, 1, 3, 4)),
        ),
        "feature size": (
            ShapeError,
            "of the same positions",
            lambda _: AttentionTransferLoss(4)(rows(), rows(), torch.ones(2, 1, 3, 4), feature=torch.ones(2, 4, 3, 3)),
        ),
        "keys": (
            ShapeError,
            "same attention at the same resolution",
            lambda _: AttentionTransferLoss(importance="uniform")(rows(), rows(keys=6), torch.ones(2, 1, 3, 4)),
        ),
        "mask": (
            ShapeError,
            "expected one mask",
            lambda _: AttentionTransferLoss(importance="uniform")(rows(), rows(), torch.ones(3, 1, 3, 4)),
        ),
    }

    def build(self, **factory):
        return Joined(3, **factory)

    def inputs(self, batch=2, height=3, width=4, dtype=torch.float32, seed=0):
        feature = torch.randn(batch, 3, height, width, generator=seeded(seed + 2), dtype=torch.float64).to(dtype)
        return (
            rows(batch, height, width, seed=seed, dtype=dtype),
            rows(batch, height, width, seed=seed + 1, dtype=dtype),
            random_mask(batch, 2 * height, 2 * width, seed),
            feature,
        )

    def sizes(self, batch, height, width):
        return [()]

    def wanted(self, student, teacher, mask, feature):
        return [student]

    def trains(self, name):
        return False

    def function(self, module, student, teacher, mask, feature):
        return module.combine(module.importance(teacher, feature), module.distances(student, teacher, mask)).detach()

    def oracle(self, subject, student, teacher, mask, feature):
        hole = covered(mask, student.shape[1:3])
        t = 2 / (1 + (-F.conv2d(feature, subject.predictor.weight, subject.predictor.bias, padding=1)).exp())
        total = 0.0
        for b in range(len(student)):
            inside = [(y, x) for y in range(student.shape[1]) for x in range(student.shape[2]) if hole[b, 0, y, x]]
            for y, x in inside:
                total += t[b, 0, y, x] * ((student[b, y, x] - teacher[b, y, x]) ** 2).sum() / len(inside)
        return (total / len(student)).detach()


@given(SEEDS)
def test_is_zero_at_equality_and_for_empty_holes(seed):
    loss = AttentionTransferLoss(importance="uniform")
    one, two = rows(seed=seed).requires_grad_(), rows(seed=seed + 1)
    assert loss(one, one, torch.ones(2, 1, 3, 4)).item() == 0
    value = loss(one, two, torch.zeros(2, 1, 3, 4))
    value.backward()
    assert value.item() == 0
    assert not one.grad.any()


def test_uniform_is_what_a_fresh_predictor_gives():
    student, teacher, mask, feature = TestAttentionTransferLoss().inputs()
    fresh = AttentionTransferLoss(3)(student, teacher, mask, feature=feature)
    assert_equal(AttentionTransferLoss(importance="uniform")(student, teacher, mask), fresh.detach())


@pytest.mark.parametrize("joint", [False, True])
def test_no_gradient_reaches_teacher_or_predictor_unless_joint(joint):
    loss = randomise(AttentionTransferLoss(3, joint=joint))
    student, teacher, mask, feature = TestAttentionTransferLoss().inputs()
    for tensor in (student, teacher, feature):
        tensor.requires_grad_()
    loss(student, teacher, mask, feature=feature).backward()
    assert student.grad.any()
    assert teacher.grad is None
    assert feature.grad is None
    assert all((p.grad is not None) == joint for p in loss.parameters())


def test_meta_learning_raises_t_where_the_teacher_serves_the_task():
    # Two positions, one feature channel that tells them apart; the task wants the teacher's row at the first only.
    loss = AttentionTransferLoss(1)
    meta = MetaLearner(loss.meta_parameters(), every=1, lr=0.1)
    scores = torch.zeros(1, 1, 2, 3, requires_grad=True)
    feature = torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)
    teacher = torch.tensor([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1]]).view(1, 1, 2, 3)
    wanted = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]).view(1, 1, 2, 3)
    mask = torch.ones(1, 1, 1, 2)
    for _ in range(5):
        assert meta.step(
            parameters=[scores],
            distances=lambda: loss.distances(scores.softmax(-1), teacher, mask),
            importance=loss.importance(teacher, feature),
            task=lambda: (scores.softmax(-1) - wanted).square().sum(),
        )
    t = loss.importance(teacher, feature)[0][0]
    assert t[0] > 1 > t[1]


def test_small_shares_of_float16_are_squared_in_float32():
    # With 4096 keys a share is about 2e-4, and float16 knows no square below 6e-8.
    student, teacher = (torch.full((1, 1, 1, 4096), share).half() for share in (1e-4, 2e-4))
    loss, mask = AttentionTransferLoss(importance="uniform"), torch.ones(1, 1, 1, 1)
    assert loss(student, teacher, mask).item() == pytest.approx(4096 * 1e-8, rel=0.01)
