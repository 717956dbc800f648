"""Peak memory of a call beyond what was held before it."""

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

__all__ = ["Memory", "peak_memory", "quiet"]


class Memory(NamedTuple):
    """Bytes of tensors during a call.

    Attributes:
        peak: The most there was beyond what existed before, results included.
        results: What the call returned.
    """

    peak: int
    results: int


def peak_memory(call: Callable[[], Tensor | Sequence[Tensor]], device: torch.device) -> Memory:
    """The most memory that tensors take during a call.

    On the CPU every allocation of PyTorch's allocator is seen, also those inside operators of other libraries that
    allocate through it, such as torchvision's. Buffers that a BLAS keeps for itself are not. On a GPU it is
    the caching allocator's own maximum.

    Args:
        call: What to measure; call it once before if it prepares something on first use.
        device: Where it computes.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        kept = call()
        torch.cuda.synchronize(device)
        return Memory(int(torch.cuda.max_memory_allocated(device)) - before, _size(kept))
    with quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as record:
        kept = call()  # not freed before the end
    return Memory(_highest(record), _size(kept))


def _size(results: Tensor | Sequence[Tensor]) -> int:
    tensors = [results] if isinstance(results, Tensor) else results
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def _highest(record: Any) -> int:  # noqa: ANN401 - the profiler's results are untyped
    changes = [
        (event.start_ns(), event.nbytes())
        for event in record.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    held = highest = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        highest = max(highest, held)
    return highest


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep native code from writing to stderr: the profiler announces itself there, past every setting."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
