"""Two processes on this machine, for tests of what only several processes together can get wrong."""

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

needs_gloo = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this build of PyTorch has no gloo",
)


def in_two_processes(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What a function of a module returns for ranks 0 and 1, each in a process of one group."""
    torch.multiprocessing.spawn(_process, (work, folder), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def _process(rank: int, work: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    store, patience = f"file://{folder}/store", datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=patience)
    torch.save(work(rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()
