"""Timing that survives a busy machine: variants take turns, ratios are formed within one run."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

__all__ = ["Ratio", "Timing", "interleave", "speedup"]

_SAMPLE_MS = 5.0  # calls are repeated until a sample takes about this long
_LONG_MS = 100.0  # calls of this length need no untimed call before them
_REST_S = 0.05  # thread pools of other libraries spin for some milliseconds after their work, on the same cores


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one variant, one value a round.

    Attributes:
        samples: In the order of the rounds.
    """

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return float(np.median(self.samples))

    def summary(self) -> dict[str, float | list[float]]:
        """Median, best and quartiles, JSON-ready."""
        quartiles = [round(float(value), 4) for value in np.quantile(self.samples, (0.25, 0.75))]
        return {"median": round(self.median, 4), "best": round(min(self.samples), 4), "quartiles": quartiles}


class Ratio(NamedTuple):
    """How many times as fast, with the 95 % interval over the rounds."""

    value: float
    low: float
    high: float


def speedup(of: Timing, over: Timing, *, draws: int = 2000) -> Ratio:
    """How many times as fast `of` is as `over`: the ratio of their medians.

    The interval is a bootstrap over rounds, both drawn together because they were taken together.

    Args:
        of: The variant in question.
        over: What it is compared with, of the same rounds.
        draws: Of the bootstrap.
    """
    own, other = np.asarray(of.samples), np.asarray(over.samples)
    rounds = np.random.default_rng(0).integers(0, own.size, (draws, own.size))
    ratios = np.median(other[rounds], axis=1) / np.median(own[rounds], axis=1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return Ratio(over.median / of.median, float(low), float(high))


def interleave(
    variants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Timing]:
    """Time variants in turn, so that a slow moment of the machine hits all of them.

    Every round takes each variant once and starts with another one. A short call is repeated within its sample,
    after a rest, in which the threads of the variant before go to sleep, and one untimed call, after which caches
    hold what this variant needs.

    Args:
        variants: What to call, by name.
        rounds: Samples of each.
        device: Where they compute. On a GPU, time is taken by its own clock.
        progress: Called with a line of text before each round.

    Returns:
        By name.
    """
    names = list(variants)
    repeats = {}
    for name, call in variants.items():
        progress(f"warming up {name}")
        call()
        repeats[name] = max(1, min(1000, round(_SAMPLE_MS / max(_elapsed(call, 1, device), 1e-3))))
    samples: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        turn = number % max(len(names), 1)
        for name in names[turn:] + names[:turn]:
            call = variants[name]
            time.sleep(_REST_S)
            if not samples[name] or samples[name][-1] < _LONG_MS:
                call()
            samples[name].append(_elapsed(call, repeats[name], device))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _elapsed(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Milliseconds a call."""
    if device.type == "cuda":
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize(device)
        first.record()
        for _ in range(repeats):
            call()
        last.record()
        torch.cuda.synchronize(device)
        return float(first.elapsed_time(last)) / repeats
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1000 * (time.perf_counter() - began) / repeats
