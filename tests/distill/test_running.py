"""RunningStd: what is not finite or says nothing is left out, parts make the whole, buffers stay float32."""

import math

import pytest
import torch
from harness import assert_equal, seeded

from kdinpaint import CrossDistillLoss, SelfDistillLoss
from kdinpaint.distill.running import RunningStd, observed_together


def running(channels=2, momentum=0.01):
    return RunningStd(channels, momentum, None)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed))


def variance(feature):
    return feature.double().var((0, 2, 3), correction=0).float()


# Numbers that are not finite ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_cells_that_are_not_finite_are_left_out(value):
    std, feature = running(), noise(2, 2, 4, 4)
    feature[:, 1, 1:] = feature[:, 1, :1]
    expected = variance(feature)
    feature[:, 1, 1:] = value
    std.update(feature)
    torch.testing.assert_close(std.var, expected)
    assert std.updates.item() == 1


def test_an_update_without_a_finite_number_does_not_count():
    std, feature = running(), noise(2, 2, 4, 4)
    std.update(torch.full_like(feature, math.inf))
    std.update_mean(torch.full((2, 2), math.nan))
    assert std.updates.item() == 0
    assert std.var.tolist() == [1, 1]
    std.update(feature)
    torch.testing.assert_close(std.var, variance(feature))
    lost = feature.clone()
    lost[:, 0] = math.nan
    before = std.var.clone()
    std.update(10 * lost)
    assert std.var[0] == before[0]
    torch.testing.assert_close(std.var[1], before[1] * (0.99 + 0.01 * 100))


def test_a_channel_that_is_lost_at_first_is_replaced_when_it_is_there():
    std, feature = running(), 100 * noise(2, 2, 4, 4)
    lost = feature.clone()
    lost[:, 0] = math.inf
    std.update(lost)
    torch.testing.assert_close(std.var, torch.stack([torch.ones(()), variance(feature)[1]]))
    std.update(feature)
    torch.testing.assert_close(std.var, variance(feature))


def test_losses_recover_from_a_cell_that_is_infinite():
    mask = torch.ones(2, 1, 8, 8)
    good = [noise(2, 4, 8, 8), noise(2, 4, 4, 4)]
    bad = [good[0].clone(), good[1].clone()]
    bad[1][0, 0, 0, 0] = math.inf
    own = SelfDistillLoss([4, 4], scale="teacher_std")
    own(bad, mask)
    assert math.isfinite(own(good, mask).item())
    cross = CrossDistillLoss([4], distance="heteroscedastic")
    cross([bad[1]], [good[1]], mask)
    assert math.isfinite(cross([good[1] + 1], [good[1]], mask).item())


# Batches that say nothing -------------------------------------------------------------------------------------


def test_a_batch_without_holes_is_no_variance():
    loss = CrossDistillLoss([4], importance="uniform", distance="heteroscedastic")
    student, teacher = noise(1, 4, 4, 4), noise(1, 4, 4, 4, seed=1)
    hole = torch.ones(1, 1, 4, 4)
    loss([student], [teacher], torch.zeros_like(hole))
    assert loss.residuals[0].updates.item() == 0
    plain = (student - teacher).square().mean() / 1.01  # of the fresh variance and its floor
    torch.testing.assert_close(loss([student], [teacher], hole), plain)
    assert loss.residuals[0].updates.item() == 1


def test_a_dead_channel_of_a_hole_counts_as_zero():
    std = running()
    std.update_mean(torch.tensor([[4.0, 0.0], [0.0, 0.0], [0.0, 2.0]]))
    assert std.var.tolist() == [2, 1]
    assert std.updates.item() == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_a_single_number_is_no_variance(parts):
    std = running()
    for number in range(parts):
        with observed_together(std, last=number == parts - 1):
            std.update(noise(1, 2, 1, 1, seed=number))
    both = torch.cat([noise(1, 2, 1, 1, seed=number) for number in range(parts)])
    torch.testing.assert_close(std.var, variance(both) if parts == 2 else torch.ones(2))
    assert std.updates.item() == parts - 1


def test_parts_make_the_variance_of_the_whole():
    whole, parts, feature = running(), running(), 5 + noise(6, 2, 4, 4)
    feature[0, 0, 0] = math.inf
    whole.update(feature)
    for number, part in enumerate(feature.split([1, 2, 3])):
        with observed_together(parts, last=number == 2):
            parts.update(part)
        assert parts.updates.item() == (number == 2)
    torch.testing.assert_close(parts.var, whole.var)


# The first step -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cross", "self"])
def test_first_loss_has_the_scale_of_all_others(kind):
    features = [100 * noise(4, 3, 16, 16), 100 * noise(4, 3, 8, 8, seed=1)]
    mask = torch.ones(4, 1, 16, 16)
    if kind == "cross":
        loss, given = CrossDistillLoss([3], scale="teacher_std"), ([features[0].flip(0)], [features[0]], mask)
    else:
        loss, given = SelfDistillLoss([3, 3], scale="teacher_std"), (features, mask)
    first, second = (loss(*given).item() for _ in range(2))
    assert first == pytest.approx(second, rel=0.1)
    assert second < 3


def test_parts_of_the_first_batch_have_the_loss_of_the_whole():
    student, teacher = noise(4, 3, 8, 8), 100 * noise(4, 3, 8, 8, seed=1)
    teacher[1] *= 3
    mask = torch.ones(4, 1, 8, 8)
    whole, parts = (CrossDistillLoss([3], scale="teacher_std") for _ in range(2))
    for _ in range(2):
        expected, found = whole([student], [teacher], mask), []
        for number, share in enumerate((slice(0, 2), slice(2, 4))):
            with observed_together(parts, last=number == 1):
                found.append(parts([student[share]], [teacher[share]], mask[share]))
        torch.testing.assert_close(sum(found) / 2, expected)
    assert parts.scales[0].updates.item() == 2


def test_a_first_sample_that_does_not_vary_is_not_blown_up():
    for student, teacher in ((noise(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)), (noise(1, 3, 1, 1), torch.ones(1, 3, 1, 1))):
        loss = CrossDistillLoss([3], scale="teacher_std")
        found = loss([student], [teacher], torch.ones(len(student), 1, 4, 4))
        torch.testing.assert_close(found, (student - teacher).square().mean() / 1.01)


# Precision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_buffers_stay_float32(dtype):
    loss = CrossDistillLoss([2], scale="teacher_std", distance="heteroscedastic")
    plain, feature = running(), noise(4, 2, 8, 8).to(dtype)
    with torch.no_grad():
        loss.scales[0].var.copy_(torch.tensor([1e-7, 1e6]))
    loss.to(dtype)
    assert loss.predictors[0].linear.weight.dtype == dtype
    assert {b.dtype for b in loss.buffers()} == {torch.float32}
    torch.testing.assert_close(loss.scales[0].var, torch.tensor([1e-7, 1e6]), rtol=0, atol=0)
    assert loss.to("meta").scales[0].var.is_meta
    for factor in (1, 1.2):  # an update of 0.4 %, which bfloat16 would round away
        plain.update(feature * factor)
    first, second = variance(feature), variance(feature * 1.2)
    torch.testing.assert_close(plain.to(dtype).var, 0.99 * first + 0.01 * second)


def test_variance_of_a_float16_loss_follows_the_features():
    loss = CrossDistillLoss([2], scale="teacher_std", distance="heteroscedastic").half()
    teacher = (20 * noise(2, 2, 8, 8)).half()
    mask = torch.ones(2, 1, 8, 8)
    for step in range(3):
        assert math.isfinite(loss([teacher + 0.001 * step], [teacher], mask).item())
    assert_equal(loss.scales[0].var > 100, torch.tensor([True, True]))


@pytest.mark.parametrize("distance", ["mse", "smooth_l1", "cosine"])
def test_differences_are_squared_in_float32(distance):
    loss = CrossDistillLoss([2], importance="uniform", distance=distance)
    student, hole = torch.full((1, 2, 4, 4), 300.0), torch.ones(1, 1, 4, 4)
    exact = loss([student], [-student], hole)
    torch.testing.assert_close(loss([student.half()], [-student.half()], hole), exact)
    assert loss.double()([student.double()], [-student.double()], hole).dtype == torch.float64


def test_aligned_features_are_compared_in_float32():
    deep = torch.full((1, 2, 2, 2), 300.0).half()
    found = SelfDistillLoss([2, 2]).half()([torch.zeros(1, 2, 4, 4).half(), deep], torch.ones(1, 1, 4, 4))
    assert found.item() == pytest.approx(300**2, rel=0.01)
