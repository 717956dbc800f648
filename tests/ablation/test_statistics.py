"""Intervals against scipy, contrasts against arithmetic."""

import numpy as np
import pytest
from ablation_results import result
from scipy import stats

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint.ablation import contrast, effects, interval, paired_difference

FACTORS = {f"{a}{b}{c}": {"a": a, "b": b, "c": c} for a in (0, 1) for b in (0, 1) for c in (0, 1)}
VALUES = [0.31, -0.12, 0.44, 0.27, 0.05, 0.38]


@pytest.mark.parametrize("count", [2, 3, 6])
def test_interval_is_that_of_scipy(count: int) -> None:
    wanted = stats.ttest_1samp(VALUES[:count], 0).confidence_interval(0.95)
    found = interval(VALUES[:count])
    assert found.mean == pytest.approx(np.mean(VALUES[:count]))
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))


def test_interval_of_known_numbers() -> None:
    """Mean 2, deviation 1, three values: half the width is 4.3027 / sqrt 3."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.low, found.high) == (pytest.approx(2 - 2.48414, abs=1e-4), pytest.approx(2 + 2.48414, abs=1e-4))
    assert not found.clear
    assert interval([1.0, 1.1, 1.2]).clear
    assert (interval([4.0]).mean, interval([4.0]).low, interval([4.0]).clear) == (4.0, None, False)
    with pytest.raises(DataError, match="no values"):
        interval([])


def test_groups_of_equal_size_are_as_good_as_their_means() -> None:
    """With as many values a group, the cluster-robust interval is the ordinary one over the groups' means."""
    wanted = interval([np.mean(VALUES[:2]), np.mean(VALUES[2:4]), np.mean(VALUES[4:])])
    found = interval(VALUES, ["x", "x", "y", "y", "z", "z"])
    assert (found.mean, found.low, found.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))
    assert interval(VALUES, ["x"] * 6).low is None, "one photograph says nothing about others"


def test_paired_difference_is_a_paired_t_test_over_seeds() -> None:
    content = result({"plain": {}, "ours": {}})
    ours, plain = (
        np.array([run["records"]["psnr"] for run in content["results"][name].values()]) for name in ("ours", "plain")
    )
    wanted = stats.ttest_rel(ours.mean(1), plain.mean(1)).confidence_interval(0.95)
    found = paired_difference(content, {"ours": 1, "plain": -1}, "psnr")
    assert (found.seeds.low, found.seeds.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    by_photo = (ours - plain).mean(0).reshape(3, 4).mean(0)
    wanted = stats.ttest_1samp(by_photo, 0).confidence_interval(0.95)
    assert (found.pairs.low, found.pairs.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    assert found.count == 3


def test_contrast_takes_seeds_that_are_complete_and_pairs_of_the_bin() -> None:
    content = result({"plain": {}, "ours": {}})
    del content["results"]["ours"]["1"]
    values, photos = contrast(content, {"ours": 1, "plain": -1}, "psnr", (0.1, 0.3))
    inside = [i for i, r in enumerate(content["ratio"]) if 0.1 < r <= 0.3]
    assert values.shape == (2, len(inside))
    assert photos == [content["image"][i] for i in inside]


def test_contrast_errors() -> None:
    content = result({"plain": {}, "ours": {}})
    with pytest.raises(ConfigError, match="did you mean plain"):
        contrast(content, {"plan": 1}, "psnr")
    with pytest.raises(ConfigError, match="did you mean"):
        contrast(content, {"plain": 1}, "psrn")
    with pytest.raises(DataError, match="hole ratio"):
        contrast(content, {"plain": 1}, "psnr", (0.9, 1.0))
    content["results"]["ours"] = {}
    with pytest.raises(DataError, match="no seed has all"):
        contrast(content, {"ours": 1, "plain": -1}, "psnr")


def test_effects_recover_a_model_with_an_interaction() -> None:
    """y = 20 + 1 a + 2 b + 0.5 ab: a's effect is 1.25 on average, and 0.5 more with b than without."""
    weights = effects([{"name": name, "factors": levels} for name, levels in FACTORS.items()])
    y = {name: 20 + f["a"] + 2 * f["b"] + 0.5 * f["a"] * f["b"] for name, f in FACTORS.items()}
    found = {name: sum(w * y[cell] for cell, w in row.items()) for name, row in weights.items()}
    assert found == pytest.approx({"a": 1.25, "b": 2.25, "c": 0, "a x b": 0.5, "a x c": 0, "b x c": 0})


def test_effects_need_every_combination() -> None:
    cells = [{"name": name, "factors": levels} for name, levels in FACTORS.items()]
    assert effects([{"name": "x", "factors": {}}]) == {}
    with pytest.raises(DataError, match="need 8 cells"):
        effects(cells[:-1])
