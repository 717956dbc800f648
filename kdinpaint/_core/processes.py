"""Arithmetic over the processes of a distributed run; in a single process all of it does nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["averaged", "distributed", "process_count", "summed"]


def distributed() -> bool:
    """Whether this process is one of a group."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_count() -> int:
    """Processes in the group; 1 without one."""
    return torch.distributed.get_world_size() if distributed() else 1


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
        for i, part in zip(indices, flat.split([tensors[i].numel() for i in indices]), strict=True):
            result[i] = part.view(tensors[i].shape)
    return result


def averaged(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Means over all processes, None where there is None, which must be in the same places everywhere."""
    count = process_count()
    if count == 1:
        return list(tensors)
    means = iter(summed([t for t in tensors if t is not None]))
    return [None if t is None else next(means) / count for t in tensors]
