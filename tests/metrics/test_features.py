"""Measures of features, on features whose answer is known."""

import math

import pytest
import torch
from torch.nn import functional as F

from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.metrics import adaptive_statistics, area_under_curve, hole_gap, mask_probe_auc, readout_gap


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=seeded(seed))


@pytest.fixture
def mask() -> torch.Tensor:
    mask = torch.zeros(6, 1, 32, 32)
    for number in range(6):
        mask[number, :, 4 : 12 + 2 * number, 8:24] = 1
    return mask


def test_gap_is_0_at_equality_and_1_for_the_mean_of_each_channel(mask: torch.Tensor) -> None:
    teacher = random(6, 5, 16, 16)
    assert hole_gap(teacher, teacher, mask).item() == 0
    hole = F.max_pool2d(mask, 2).bool().expand_as(teacher)
    mean = torch.stack([teacher[:, c][hole[:, c]].mean() for c in range(5)])
    student = torch.where(hole, mean[:, None, None], teacher + 100.0)  # outside the hole nothing counts
    assert hole_gap(student, teacher, mask).item() == pytest.approx(1, abs=1e-6)


def test_gap_does_not_depend_on_scale_and_grows_with_the_square(mask: torch.Tensor) -> None:
    teacher, noise = random(6, 5, 16, 16), random(6, 5, 16, 16, seed=1)
    gap = hole_gap(teacher + noise, teacher, mask)
    torch.testing.assert_close(hole_gap(7 * (teacher + noise), 7 * teacher, mask), gap)
    torch.testing.assert_close(hole_gap(teacher + 3 * noise, teacher, mask), 9 * gap, rtol=1e-5, atol=0)


def test_gap_is_unknown_without_a_hole_or_without_variation(mask: torch.Tensor) -> None:
    teacher = random(6, 5, 16, 16)
    assert hole_gap(teacher, teacher, torch.zeros_like(mask)).isnan()
    assert hole_gap(teacher, torch.ones_like(teacher), mask).isnan()


def test_probe_sees_a_channel_that_is_the_mask_and_nothing_in_noise(mask: torch.Tensor) -> None:
    noise = random(6, 8, 32, 32)
    assert mask_probe_auc(noise, mask).item() == pytest.approx(0.5, abs=0.03)
    assert mask_probe_auc(torch.cat([noise, mask], 1), mask).item() == 1
    assert mask_probe_auc(torch.cat([noise, -3 * mask + 7], 1), mask).item() == 1
    assert mask_probe_auc(torch.ones_like(noise), mask).item() == 0.5


def test_probe_finds_a_known_separation(mask: torch.Tensor) -> None:
    """A unit shift of one Gaussian channel has an AUC of Phi(1 / sqrt 2)."""
    feature = random(6, 3, 32, 32)
    feature[:, :1] += mask
    expected = 0.5 * (1 + math.erf(0.5))
    assert mask_probe_auc(feature, mask).item() == pytest.approx(expected, abs=0.02)


def test_probe_is_held_out_by_image() -> None:
    """Offsets that tell only within an image where its hole is are no use on another image."""
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., :8] = 1
    feature = torch.cat([mask[:1], 1 - mask[1:]])
    assert mask_probe_auc(feature, mask).item() == 0


def test_readout_finds_what_is_known_in_any_code(mask: torch.Tensor) -> None:
    teacher, noise = random(6, 4, 32, 32), random(6, 5, 32, 32, seed=1)
    coded = torch.einsum("kc,bchw->bkhw", random(6, 4, seed=2), teacher) + 3
    assert readout_gap(torch.cat([noise, coded], 1), teacher, mask, ridge=1e-9).item() < 1e-6
    assert hole_gap(coded[:, :4], teacher, mask).item() > 1
    outside = torch.where(F.max_pool2d(mask, 1).bool(), noise[:, :4], teacher)  # what is known outside does not count
    assert readout_gap(outside, teacher, mask).item() == pytest.approx(1, abs=0.02)


def test_readout_of_noisy_knowledge_misses_the_share_of_the_noise(mask: torch.Tensor) -> None:
    """The best linear guess of t from t + s n, both of unit variance, misses s^2 / (1 + s^2) of it."""
    teacher = random(6, 3, 32, 32)
    student = teacher + 0.5 * random(6, 3, 32, 32, seed=1)
    assert readout_gap(student, teacher, mask).item() == pytest.approx(0.2, abs=0.01)
    half = torch.cat([teacher[:, :1], random(6, 1, 32, 32, seed=2)], 1)  # one of two channels
    known, missed = (teacher[:, c][mask[:, 0].bool()].var().item() for c in range(2))
    found = readout_gap(half, teacher[:, :2], mask, ridge=1e-9).item()
    assert found == pytest.approx(missed / (known + missed), abs=0.02)


def test_readout_is_held_out_by_image() -> None:
    """A code that changes from image to image cannot be read."""
    teacher = random(2, 1, 16, 16)
    student = torch.stack([teacher[0], -teacher[1]])
    assert readout_gap(student, teacher, torch.ones(2, 1, 16, 16)).item() == pytest.approx(4, abs=0.4)


def test_readout_is_unknown_where_there_is_nothing_to_fit_or_to_read(mask: torch.Tensor) -> None:
    teacher = random(6, 5, 16, 16)
    alternate = mask * (torch.arange(6) % 2)[:, None, None, None]
    for hole, target in ((mask * 0, teacher), (alternate, teacher), (mask, torch.ones_like(teacher))):
        assert readout_gap(teacher, target, hole).isnan()


def test_area_against_counting_pairs() -> None:
    scores = torch.randint(0, 5, (40,), generator=seeded())
    labels = torch.rand(40, generator=seeded(1)) < 0.4
    pairs = [(1.0 if p > n else 0.5 if p == n else 0.0) for p in scores[labels] for n in scores[~labels]]
    assert area_under_curve(scores.double(), labels).item() == pytest.approx(sum(pairs) / len(pairs))
    assert area_under_curve(scores.double(), torch.ones(40, dtype=torch.bool)).isnan()


def test_adaptive_statistics_look_at_the_hole_alone(mask: torch.Tensor) -> None:
    offset, kernel = torch.zeros(6, 18, 16, 16), torch.ones(6, 9, 16, 16)
    hole = F.max_pool2d(mask, 2)
    offset[:, 0::2] = 3 * hole + 50 * (1 - hole)
    offset[:, 1::2] = 4 * hole
    kernel[:, :3] += 3 * hole  # three of nine taps weigh 4, six weigh 1
    found = adaptive_statistics(offset, kernel, mask)
    assert found["offset"] == pytest.approx(5)
    assert found["offset_spread"] == pytest.approx(0, abs=1e-6)
    assert found["kernel_spread"] == pytest.approx(math.sqrt(2))


def test_offset_spread_of_taps_that_move_apart() -> None:
    offset = torch.zeros(1, 4, 4, 4)
    offset[:, 0], offset[:, 2] = 1, -1  # two taps, one up, one down
    found = adaptive_statistics(offset, torch.ones(1, 2, 4, 4), torch.ones(1, 1, 4, 4))
    assert (found["offset"], found["offset_spread"]) == (1, 1)


def test_errors_say_what_came() -> None:
    x, mask = torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    with pytest.raises(ShapeError, match="expected equal shapes"):
        hole_gap(x, x[:, :2], mask)
    with pytest.raises(ShapeError, match="only their channels"):
        readout_gap(x, x[..., :4], mask)
    with pytest.raises(ShapeError, match="2K"):
        adaptive_statistics(x, x, mask)
    with pytest.raises(ShapeError, match="shape \\(N,\\)"):
        area_under_curve(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ConfigError, match="folds is 3, for 2 images"):
        mask_probe_auc(x, mask, folds=3)
    for probe in (lambda ridge: mask_probe_auc(x, mask, ridge=ridge), lambda r: readout_gap(x, x, mask, ridge=r)):
        with pytest.raises(ConfigError, match="positive ridge"):
            probe(0)
