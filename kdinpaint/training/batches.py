"""A step's batch, wherever samples come from: what this process works on, on its device."""

from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from kdinpaint._core.errors import KDInpaintError
from kdinpaint.training.config import OptimConfig, RuntimeConfig
from kdinpaint.training.interrupt import deaf_children

__all__ = ["BatchSource", "Samples", "Share", "split_batch", "step_batches", "whole_batch"]

Batch = dict[str, Tensor]


@runtime_checkable
class BatchSource(Protocol):
    """Makes whole batches, each a function of its step: `kdinpaint.data.ResidentBatches`, for one."""

    def batches(self, first: int, last: int, batch: int) -> Iterator[Batch]:
        """Batches of `batch` images for steps first to last - 1, on the device."""


Samples = Dataset[Batch] | BatchSource


class Share(Sampler[int]):
    """Numbers of the samples that a process sees: of every batch of the run, one run of equal length.

    The position in the data is a number of steps, so resuming is exact, with any number of processes.

    Args:
        first: Step to begin with.
        last: Step before which to end.
        batch: Samples a step, of all processes.
        rank: Of this process.
        count: Processes.
    """

    def __init__(self, first: int, last: int, batch: int, rank: int = 0, count: int = 1) -> None:
        self.first, self.last, self.batch, self.rank, self.size = first, last, batch, rank, batch // count

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first, self.last):
            begin = step * self.batch + self.rank * self.size
            yield from range(begin, begin + self.size)

    def __len__(self) -> int:
        return (self.last - self.first) * self.size


def step_batches(
    samples: Samples, first: int, config: OptimConfig, runtime: RuntimeConfig, *, device: torch.device, rank: int,
    count: int,
) -> Iterable[Batch]:  # fmt: skip
    """The batches of steps `first` to the last, each process's share of them.

    Args:
        samples: Sample i is what the run sees in place i; or a source of whole batches.
        first: Step.
        config: Steps and size of a batch.
        runtime: Workers.
        device: Where batches are wanted; copies from pinned memory overlap with computation.
        rank: Of this process.
        count: Processes.

    Raises:
        ConfigError: A batch cannot be shared out in equal parts.
        KDInpaintError: The data set has too few samples.
    """
    config.check_batch(count)
    size = config.batch // count
    if isinstance(samples, BatchSource):
        for batch in samples.batches(first, config.steps, config.batch):
            yield {name: value[rank * size : (rank + 1) * size] for name, value in batch.items()}
        return
    end = config.steps * config.batch
    if len(cast(Sized, samples)) < end:
        raise KDInpaintError(f"the stage needs {end} samples and the data set has {len(cast(Sized, samples))}.")
    loader = DataLoader(
        samples,
        batch_size=size,
        sampler=Share(first, config.steps, config.batch, rank, count),
        num_workers=runtime.workers,
        prefetch_factor=runtime.prefetch if runtime.workers else None,
        pin_memory=device.type == "cuda",
    )
    with deaf_children():
        batches = iter(loader)
    for batch in batches:
        yield {name: value.to(device, non_blocking=True) for name, value in batch.items()}


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch in parts of equal size."""
    if parts == 1:
        return [batch]
    size = len(next(iter(batch.values()))) // parts
    return [{name: value[i * size : (i + 1) * size] for name, value in batch.items()} for i in range(parts)]


def whole_batch(samples: Samples, step: int, size: int) -> Batch:
    """The batch of one step again, of all processes together, on the CPU."""
    if isinstance(samples, BatchSource):
        batch = next(iter(samples.batches(step, step + 1, size)))
    else:
        batch = default_collate([samples[index] for index in range(step * size, (step + 1) * size)])
    return {name: value.cpu() for name, value in batch.items()}
