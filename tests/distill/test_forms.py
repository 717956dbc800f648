"""The forms of cross distillation: distances, regions, rim weights, low-passed targets, learned levels, the aligner."""

import math

import pytest
import torch
from harness import SEEDS, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from kdinpaint import CrossDistillLoss, SelfDistillLoss
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.distill.cells import block_mean, cell_weights

FORMS = [
    {"distance": "smooth_l1"},
    {"distance": "cosine"},
    {"distance": "cosine", "scale": "teacher_std"},
    {"distance": "heteroscedastic"},
    {"region": "all"},
    {"region": "known"},
    {"rim": 1.5},
    {"low_pass": 2},
    {"low_pass": 3, "rim": 0.5, "distance": "smooth_l1", "reduction": "sum"},
    {"aligner": "teacher", "level_weights": "learned"},
    {"aligner": "student"},
]


def pair(seed=0, batch=2, channels=3, height=6, width=8, dtype=torch.float64):
    shape, generator = (batch, channels, height, width), seeded(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2)]


@pytest.mark.parametrize("form", FORMS, ids=str)
@given(share=st.sampled_from([0.0, 0.3, 1.0]), seed=SEEDS)
def test_every_form_is_finite_not_negative_and_zero_at_equality(form, share, seed):
    loss = CrossDistillLoss([3], dtype=torch.float64, **form)
    student, teacher = pair(seed)
    student.requires_grad_()
    mask = torch.rand(2, 1, 12, 16, generator=seeded(seed)) < share
    value = loss([student], [teacher], mask)
    (gradient,) = torch.autograd.grad(value, [student])
    assert value.item() >= 0
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())
    assert loss([teacher], [teacher], mask).item() == 0


def test_smooth_l1_and_cosine_by_their_definitions():
    student, teacher = pair()
    everywhere = torch.ones(2, 1, 6, 8)
    smooth = CrossDistillLoss([3], importance="uniform", distance="smooth_l1")([student], [teacher], everywhere)
    torch.testing.assert_close(smooth, F.smooth_l1_loss(student, teacher))
    cosine = CrossDistillLoss([3], importance="uniform", distance="cosine")([student], [teacher], everywhere)
    torch.testing.assert_close(cosine, (1 - F.cosine_similarity(student, teacher, dim=1)).mean())


def test_heteroscedastic_is_the_likelihood_with_the_best_variance():
    loss = CrossDistillLoss([3], importance="uniform", distance="heteroscedastic")
    teacher = torch.zeros(64, 3, 4, 4)
    noise = torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1)
    mask = torch.ones(64, 1, 4, 4)
    for step in range(3):
        loss([noise * torch.randn(64, 3, 4, 4, generator=seeded(step))], [teacher], mask)
    torch.testing.assert_close(loss.residuals[0].var.sqrt(), noise.flatten(), rtol=0.1, atol=0)
    # Each channel then costs about 1: unpredictable ones weigh no more than others.
    found = loss.importance([teacher], mask)[0] * loss.distances([noise.expand(64, 3, 4, 4)], [teacher], mask)[0]
    torch.testing.assert_close(found, torch.full_like(found, 1 / 3), rtol=0.2, atol=0)
    before = loss.residuals[0].var.clone()
    loss.eval()([teacher + 100], [teacher], mask)
    assert_equal(loss.residuals[0].var, before)


def test_samples_without_hole_do_not_lower_the_variance():
    loss = CrossDistillLoss([1], distance="heteroscedastic")
    mask = torch.zeros(4, 1, 2, 2)
    mask[0] = 1
    loss([torch.full((4, 1, 2, 2), 3.0)], [torch.zeros(4, 1, 2, 2)], mask)
    assert loss.residuals[0].var.item() == pytest.approx(9.0)


@pytest.mark.parametrize("region", ["hole", "all", "known"])
def test_only_the_region_counts(region):
    loss = CrossDistillLoss([3], region=region)
    student, teacher = pair()
    mask = random_mask(2, 6, 8)
    before = loss([student], [teacher], mask)
    outside = {"hole": ~mask, "known": mask, "all": torch.zeros_like(mask)}[region]
    student[outside.expand_as(student)] = 1e6
    assert_equal(loss([student], [teacher], mask), before)


def test_all_is_the_mean_of_hole_and_known_by_area():
    student, teacher = pair()
    mask = torch.zeros(2, 1, 6, 8)
    mask[..., :3, :4] = 1
    hole, known, both = (CrossDistillLoss([3], region=r)([student], [teacher], mask) for r in ("hole", "known", "all"))
    torch.testing.assert_close(both, hole / 4 + known * 3 / 4)


def rings(mask):
    """Steps to the nearest known cell, diagonal ones included, by looking at all pairs of cells."""
    steps = torch.full(mask.shape, math.inf)
    known = (~mask[0, 0]).nonzero()
    for y, x in mask[0, 0].nonzero().tolist():
        if len(known):
            steps[0, 0, y, x] = (known - torch.tensor([y, x])).abs().amax(1).min()
    return steps


@given(st.floats(0.3, 0.9), st.floats(0.4, 3.0), SEEDS)
def test_rim_decays_with_the_distance_to_known_cells(share, rim, seed):
    mask = torch.rand(1, 1, 9, 11, generator=seeded(seed)) < share
    steps = rings(mask).clamp_max(math.ceil(5 * rim) + 1)
    expected = torch.where(mask, torch.exp(-(steps - 1) / rim), 0.0)
    torch.testing.assert_close(cell_weights(mask, rim=rim), expected)
    torch.testing.assert_close(cell_weights(mask, region="all", rim=rim), torch.where(mask, expected, 1.0))


def test_a_full_hole_is_asked_for_hardly_anything():
    student, teacher = pair()
    full = torch.ones(2, 1, 6, 8)
    ratio = CrossDistillLoss([3], rim=1.0)([student], [teacher], full) / CrossDistillLoss([3])(
        [student], [teacher], full
    )
    assert 0 < ratio < 0.4


@given(st.integers(1, 4), SEEDS)
def test_block_means_keep_the_weighted_mean(factor, seed):
    values, _ = pair(seed, height=5, width=7)
    weight = torch.rand(2, 1, 5, 7, generator=seeded(seed), dtype=torch.float64) * random_mask(2, 5, 7, seed)
    means, mass = block_mean(values, weight, factor)
    torch.testing.assert_close((means * mass).sum((2, 3)), (values * weight).sum((2, 3)))
    first = values[:, :, :factor, :factor] * weight[:, :, :factor, :factor]
    total = weight[:, :, :factor, :factor].sum((2, 3))
    torch.testing.assert_close(means[:, :, 0, 0], first.sum((2, 3)) / torch.where(total > 0, total, 1.0))


def test_low_pass_ignores_what_averages_out():
    student, teacher = pair()
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(3, 4)
    mask = torch.ones(2, 1, 6, 8)
    loss = CrossDistillLoss([3], low_pass=2)
    torch.testing.assert_close(loss([student + 5 * board], [teacher], mask), loss([student], [teacher], mask))
    # Cells outside the hole do not enter the means.
    mask[..., ::2] = 0
    before = loss([student], [teacher], mask)
    student[..., ::2] = 77
    assert_equal(loss([student], [teacher], mask), before)


@pytest.mark.parametrize("kind", ["cross", "self"])
@pytest.mark.parametrize("importance", ["learned", "uniform"])
def test_learned_levels_weigh_the_levels(kind, importance):
    channels = [3, 3, 3] if kind == "self" else [3, 3]
    cls = SelfDistillLoss if kind == "self" else CrossDistillLoss
    features = [pair(seed=i, height=8 >> i, width=8 >> i, dtype=torch.float32)[0] for i in range(3)]
    mask = torch.ones(2, 1, 8, 8)

    def inputs(loss):
        return (features, mask) if kind == "self" else (features[:2], [f + 1 for f in features[:2]], mask)

    torch.manual_seed(0)
    loss = cls(channels, importance=importance, level_weights="learned")
    torch.manual_seed(0)
    plain = cls(channels, importance=importance)
    assert_equal(loss(*inputs(loss)).detach(), plain(*inputs(plain)).detach())
    with torch.no_grad():
        loss.level_logits.copy_(torch.tensor([-50.0, 0.0]))
    torch.manual_seed(0)
    second = cls(channels, importance=importance, level_weights=[0, 1])
    torch.testing.assert_close(loss(*inputs(loss)), second(*inputs(second)))
    loss(*inputs(loss)).backward() if kind == "self" else None
    assert loss.level_logits.grad is None
    assert any(p is loss.level_logits for p in loss.meta_parameters())


def test_fresh_aligner_is_the_identity_and_only_the_meta_learner_may_train_it():
    student, teacher = pair(dtype=torch.float32)
    mask = random_mask(2, 6, 8)
    loss = CrossDistillLoss([3], aligner="teacher")
    student.requires_grad_()
    value = loss([student], [teacher], mask)
    assert_equal(value.detach(), CrossDistillLoss([3])([student], [teacher], mask).detach())
    randomise(loss.aligners)
    assert loss([student], [teacher], mask).item() != value.item()
    loss([student], [teacher], mask).backward()
    assert all(p.grad is None for p in loss.aligner_parameters())
    sum(d.sum() for d in loss.distances([student], [teacher], mask)).backward()
    assert all(p.grad is not None for p in loss.aligner_parameters())


def test_student_side_aligner_trains_along_and_forgives_another_code():
    _, teacher = pair(dtype=torch.float32)
    mask, code = random_mask(2, 6, 8), torch.tensor([[0.0, -2.0, 0.0], [0.0, 0.0, 0.5], [1.0, 0.0, 0.0]])
    student = torch.einsum("kc,bchw->bkhw", code, teacher) + 1
    loss = CrossDistillLoss([3], aligner="student")
    fresh = loss([student], [teacher], mask)
    assert_equal(fresh.detach(), CrossDistillLoss([3])([student], [teacher], mask).detach())
    assert loss.aligner_parameters() == []
    fresh.backward()
    assert all(p.grad is not None for p in loss.readouts.parameters())
    with torch.no_grad():
        loss.readouts[0].weight.copy_(code.inverse()[..., None, None])
        loss.readouts[0].bias.copy_(-code.inverse().sum(1))
    assert loss([student], [teacher], mask).item() < 1e-10
    assert sum(d.sum() for d in loss.distances([student], [teacher], mask)).item() < 1e-8
    with pytest.raises(ShapeError, match="level 0"):
        loss([student[:, :2]], [teacher], mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distance": "l3"}, "distance is 'l3'"),
        ({"region": "rim"}, "region is 'rim'"),
        ({"rim": 0.0}, "rim 0.0"),
        ({"low_pass": 0}, "low_pass is 0"),
        ({"aligner": "both"}, "aligner is 'both'"),
        ({"level_weights": "free"}, "level_weights is 'free'"),
    ],
)
def test_documented_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        CrossDistillLoss([3], **options)
