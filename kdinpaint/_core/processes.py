"""Arithmetic over the processes of a distributed run; in a single process all of it does nothing."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["averaged", "distributed", "gathered_in_turn", "mean", "process_count", "process_rank", "summed"]

T = TypeVar("T")


def distributed() -> bool:
    """Whether this process is one of a group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_count() -> int:
    """Processes in the group; 1 without one."""
    return torch.distributed.get_world_size() if distributed() else 1


def process_rank() -> int:
    """Number of this process in the group; 0 without one."""
    return torch.distributed.get_rank() if distributed() else 0


def gathered_in_turn(items: list[T]) -> list[T]:
    """Items of all processes, the first of each, then the second of each, and so on, in every process.

    Args:
        items: Plain values. Those of process r are items r, r + n, r + 2 n, ... of the whole list, for n processes.
    """
    if process_count() == 1:
        return items
    lists: list[Any] = [None] * process_count()
    torch.distributed.all_gather_object(lists, items)
    return [one[place] for place in range(max(map(len, lists))) for one in lists if place < len(one)]


def summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums over all processes, new tensors; all processes call this with tensors of the same shapes."""
    if process_count() == 1:
        return list(tensors)
    # One message for all of them: small ones cost a round trip each.
    kinds: dict[torch.dtype, list[int]] = {}
    for index, tensor in enumerate(tensors):
        kinds.setdefault(tensor.dtype, []).append(index)
    result = list(tensors)
    for indices in kinds.values():
        flat = torch.cat([tensors[i].detach().flatten() for i in indices])
        torch.distributed.all_reduce(flat)
        for i, part in zip(indices, torch.split(flat, [tensors[i].numel() for i in indices]), strict=True):
            result[i] = part.view(tensors[i].shape)
    return result


def mean(tensor: Tensor) -> Tensor:
    """Mean over all processes."""
    return summed([tensor])[0] / process_count() if process_count() > 1 else tensor


def averaged(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Means over all processes, None where there is None, which must be in the same places everywhere."""
    count = process_count()
    if count == 1:
        return list(tensors)
    means = iter(summed([t for t in tensors if t is not None]))
    return [None if t is None else next(means) / count for t in tensors]
