"""Turns, summaries and ratios; no assertion on how long anything takes."""

import pytest
import torch

from kdinpaint.benchmark.timing import Timing, interleave, speedup

CPU = torch.device("cpu")


def test_variants_take_turns_and_none_is_always_first() -> None:
    calls: list[str] = []
    timings = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=4, device=CPU)
    order = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert "".join(order).endswith("abcbcacababc"), "three at warm-up, then every round starts one further"
    assert {name: len(t.samples) for name, t in timings.items()} == {"a": 4, "b": 4, "c": 4}
    assert all(sample > 0 for t in timings.values() for sample in t.samples)


def test_progress_names_every_round() -> None:
    said: list[str] = []
    interleave({"one": lambda: None}, rounds=2, device=CPU, progress=said.append)
    assert said == ["warming up one", "round 1 of 2", "round 2 of 2"]


def test_an_error_in_a_variant_is_not_swallowed() -> None:
    def fails() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        interleave({"one": fails}, rounds=2, device=CPU)


def test_summary() -> None:
    assert Timing((3.0, 1.0, 2.0, 5.0, 4.0)).summary() == {"median": 3.0, "best": 1.0, "quartiles": [2.0, 4.0]}


def test_speedup_is_the_ratio_of_medians_with_an_interval_around_it() -> None:
    slow, fast = Timing((40.0, 44.0, 36.0, 41.0, 39.0)), Timing((10.0, 11.0, 9.0, 10.2, 9.9))
    ratio = speedup(fast, slow)
    assert ratio.value == pytest.approx(4.0)
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.low > 3
    assert ratio.high < 5
    assert speedup(fast, slow) == ratio, "the bootstrap is seeded"


def test_a_slow_moment_that_hits_both_leaves_the_interval_narrow() -> None:
    noise = (1.0, 1.0, 7.0, 1.0, 5.0, 1.0)
    ratio = speedup(Timing(noise), Timing(tuple(3 * n for n in noise)))
    assert ratio == pytest.approx((3.0, 3.0, 3.0))
