"""How many images a second the loader gives, by workers: what keeps a device busy, or does not.

python benchmarks/loading.py             writes benchmarks/results/loading_cpu.json; on an idle machine
python benchmarks/loading.py --smoke     tiny, prints only

`throughput.py` measures the same beside its training steps on a GPU, and a training that the loader feeds.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import Tensor

from kdinpaint._core.command_line import command_line
from kdinpaint.data import MaskGenerator, PhotoFolder, ResidentBatches, ResidentData, TrainingSamples
from kdinpaint.training import OptimConfig, RuntimeConfig
from kdinpaint.training.batches import Samples, step_batches
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results"
WORKERS = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    size: int = 256
    """Side of the JPEG files and of the samples, pixels."""
    batch: int = 6
    steps: int = 100
    """Batches that are timed."""
    smoke: bool = False
    """A dry run, which writes nothing."""


class Repeated:
    """One batch, again and again, on the device."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def batches(self, first: int, last: int, batch: int) -> Iterator[dict[str, Tensor]]:
        """See `BatchSource`."""
        for _ in range(first, last):
            yield self.batch


def write_photos(folder: Path, count: int, size: int) -> None:
    """JPEG files of smooth noise, as large as photographs of their size are."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)


def samples_from(folder: Path, size: int, *, count: int = 200) -> TrainingSamples:
    """Photographs of a data set that memory does not hold; written into the folder first."""
    write_photos(folder / "photos", count, size)
    photos = PhotoFolder(folder / "photos", min_size=size, cache_bytes=0)
    return TrainingSamples(photos, MaskGenerator(), size=size, seed=0, length=10**7, min_window=1.0)


def load_rate(samples: Samples, device: torch.device, *, batch: int, steps: int, workers: int = 0) -> float:
    """Images a second of the loader alone."""
    runtime, optim = RuntimeConfig(workers=workers), OptimConfig(steps=10**5, batch=batch)
    batches = iter(step_batches(samples, 0, optim, runtime, device=device, rank=0, count=1))
    for _ in range(5 + workers * runtime.prefetch):
        next(batches)
    began = time.perf_counter()
    for _ in range(steps):
        next(batches)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return steps * batch / (time.perf_counter() - began)


def rates(
    samples: TrainingSamples,
    device: torch.device,
    *,
    batch: int,
    steps: int,
    workers: Sequence[int] = WORKERS,
    pool: int = 512,
) -> dict[str, float]:
    """Images a second by the number of workers, as far as there are cores, and of data that the device holds."""
    counts = [n for n in workers if n <= (os.cpu_count() or 1)]
    found = {
        f"{n} worker{'s' * (n != 1)}": load_rate(samples, device, batch=batch, steps=steps, workers=n) for n in counts
    }
    data = ResidentData.make(samples.photos, MaskGenerator(), size=samples.size, min_window=1.0, pool=pool, seed=0)
    resident = ResidentBatches(data.to(device), size=samples.size, seed=0, min_window=1.0)
    return {**found, "resident": load_rate(resident, device, batch=batch, steps=steps)}


def main(options: Options) -> None:
    if options.smoke:
        options = replace(options, size=32, batch=2, steps=2)
    with tempfile.TemporaryDirectory() as scratch:
        samples = samples_from(Path(scratch), options.size, count=8 if options.smoke else 200)
        found = rates(samples, torch.device("cpu"), batch=options.batch, steps=options.steps)
    print(json.dumps(found, indent=1))
    if options.smoke:
        return
    content = {
        "command": command_line("python benchmarks/loading.py", options),
        "environment": environment(),
        "cores": os.cpu_count(),
        "options": {"size": options.size, "batch": options.batch, "steps": options.steps},
        "loading": found,
    }
    (RESULTS / "loading_cpu.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
