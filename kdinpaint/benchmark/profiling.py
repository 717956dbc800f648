"""Where the time of a call goes, by operator."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from kdinpaint.benchmark.memory import quiet

__all__ = ["largest_costs"]


def largest_costs(
    call: Callable[[], object], device: torch.device, *, steps: int = 3, count: int = 3
) -> list[dict[str, Any]]:
    """The operators that take most of a call themselves, without what they call.

    Args:
        call: What to look at, warmed up.
        device: Where it computes. On a GPU, kernels' time counts, on a CPU that of operators.
        steps: Calls to look at.
        count: Operators to name.

    Returns:
        Largest first: name, share of the call's time and milliseconds a call; JSON-ready.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    with quiet(), profile(activities=activities, acc_events=True) as record:
        for _ in range(steps):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = {event.key: float(getattr(event, field)) for event in record.key_averages()}
    total = sum(times.values())
    largest = sorted(times.items(), key=lambda item: -item[1])[:count]
    return [{"operator": name, "share": time / total, "milliseconds": time / 1000 / steps} for name, time in largest]
