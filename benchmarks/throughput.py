"""How many images a second training takes and loading gives: what the page "What the paper's runs cost" is made from.

python benchmarks/throughput.py --device cuda    training steps of the paper's setting; some minutes
python benchmarks/throughput.py --device cpu     loading alone
python benchmarks/throughput.py --smoke          tiny, prints only

Writes benchmarks/results/throughput_gpu.json, or loading_cpu.json. A training step is everything: forward, backward,
optimiser, averaged weights, a meta step every ten. It is timed with a batch that lies on the device, and once more with
the loader feeding it; the ratio says whether the loader keeps the device busy.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from kdinpaint import create_model
from kdinpaint.data import MaskGenerator, PhotoFolder, ResidentBatches, ResidentData, TrainingSamples
from kdinpaint.training import DistillConfig, LossConfig, OptimConfig, RuntimeConfig, StudentObjective, TeacherObjective
from kdinpaint.training.batches import Samples, step_batches
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results"
SKIPPED = 20  # steps before the clock starts: compilation, memory, caches

# Name: precision, and fields of RuntimeConfig.
SETTINGS: dict[str, tuple[str, dict[str, bool]]] = {
    "float32": ("no", {}),
    "float32, channels last": ("no", {"channels_last": True}),
    "bf16": ("bf16", {}),
    "bf16, channels last": ("bf16", {"channels_last": True}),
    "fp16, channels last": ("fp16", {"channels_last": True}),
    "bf16, channels last, compiled": ("bf16", {"channels_last": True, "compile": True}),
}


class Repeated:
    """One batch, again and again, on the device."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.batch = batch

    def batches(self, first: int, last: int, batch: int) -> Iterator[dict[str, Tensor]]:
        """See `BatchSource`."""
        for _ in range(first, last):
            yield self.batch


class Clock:
    """An `on_step` that times all steps but the first ones, the device waited for at both ends."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def __call__(self, stage: Stage) -> None:
        """Look at the clock."""
        if stage.step in (SKIPPED, stage.config.steps):
            if stage.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            self.began, self.ended = self.ended, time.perf_counter()


def write_photos(folder: Path, count: int, size: int) -> None:
    """JPEG files of smooth noise, as large as photographs of their size are."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)


def samples_from(folder: Path, options: argparse.Namespace) -> TrainingSamples:
    photos = PhotoFolder(folder, min_size=options.size, cache_bytes=0)  # a data set that memory does not hold
    return TrainingSamples(photos, MaskGenerator(), size=options.size, seed=0, length=10**7, min_window=1.0)


def train_rate(
    options: argparse.Namespace, role: str, name: str, samples: Samples, folder: Path, workers: int = 0
) -> dict[str, float]:
    """Images a second and peak memory of a stage."""
    precision, fields = SETTINGS[name]
    device = "cpu" if options.device == "cpu" else "auto"
    runtime = RuntimeConfig(
        device=device, workers=workers, log_every=10**9, checkpoint_every=10**9, trackers=(), **fields
    )
    AcceleratorState._reset_state(True)  # one process, one precision after the other
    accelerator = make_accelerator(runtime, precision, folder)
    torch.manual_seed(0)
    teacher = create_model(f"autoencoder_{options.model}")
    distill = replace(DistillConfig(self_ramp=0.0), **({"cross": 0.0, "self_distill": 0.0} if role == "plain" else {}))
    suffix = "_plain" if role == "plain" else ""
    objective = (
        TeacherObjective(teacher)
        if role == "teacher"
        else StudentObjective(
            create_model(f"kdinpaint_{options.model}{suffix}"),
            teacher if distill.active else None,
            loss=LossConfig(),
            distill=distill,
        )
    )
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    optim, clock = OptimConfig(steps=SKIPPED + options.steps, batch=options.batch, lr=1e-4), Clock()
    with tempfile.TemporaryDirectory() as scratch:
        Stage(role, objective, optim, runtime, Path(scratch), accelerator, on_step=clock, quiet=True).run(samples)
    seconds = (clock.ended - clock.began) / options.steps
    peak = torch.cuda.max_memory_allocated() / 2**30 if options.device == "cuda" else float("nan")
    return {"images_a_second": options.batch / seconds, "milliseconds": 1000 * seconds, "peak_gib": peak}


def load_rate(options: argparse.Namespace, samples: Samples, workers: int) -> float:
    """Images a second of the loader alone."""
    runtime, optim = RuntimeConfig(workers=workers), OptimConfig(steps=10**5, batch=options.batch)
    batches = iter(step_batches(samples, 0, optim, runtime, device=torch.device(options.device), rank=0, count=1))
    for _ in range(5 + workers * runtime.prefetch):
        next(batches)
    began = time.perf_counter()
    for _ in range(options.steps):
        next(batches)
    if options.device == "cuda":
        torch.cuda.synchronize()
    return options.steps * options.batch / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cpu")
    parser.add_argument("--model", default="base")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=6)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    global SKIPPED
    if options.smoke:
        options.model, options.size, options.batch, options.steps, SKIPPED = "tiny", 32, 2, 2, 1
    torch.backends.cudnn.benchmark = True
    given = " ".join(f"--{name} {getattr(options, name)}" for name in ("device", "model", "size", "batch", "steps"))
    content: dict[str, Any] = {
        "command": f"python benchmarks/throughput.py {given}",
        "environment": environment(),
        "cores": os.cpu_count(),
        "options": {name: value for name, value in vars(options).items() if name != "smoke"},
        "loading": {},
        "training": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "photos"
        write_photos(folder, 8 if options.smoke else 200, options.size)
        samples = samples_from(folder, options)
        for workers in [n for n in (0, 1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]:
            content["loading"][f"{workers} workers"] = load_rate(options, samples, workers)
        pool = 16 if options.smoke else 512
        data = ResidentData.make(
            samples.photos, MaskGenerator(), size=options.size, min_window=1.0, pool=pool, seed=0
        ).to(options.device)
        resident = ResidentBatches(data, size=options.size, seed=0, min_window=1.0)
        content["loading"]["resident"] = load_rate(options, resident, 0)
        print(json.dumps(content["loading"], indent=1), flush=True)
        if options.device == "cuda" or options.smoke:
            batch = {name: value.to(options.device) for name, value in resident.batch(0, options.batch).items()}
            names = ["float32"] if options.smoke else list(SETTINGS)
            for name in names:
                source = Repeated(batch)
                found = {role: train_rate(options, role, name, source, folder) for role in ("teacher", "plain", "ours")}
                workers = 0 if options.smoke else min(8, os.cpu_count() or 1)
                found["ours, fed by the loader"] = train_rate(options, "ours", name, samples, folder, workers)
                content["training"][name] = found
                print(name, json.dumps(found), flush=True)
    if not options.smoke:
        name = "throughput_gpu" if options.device == "cuda" else "loading_cpu"
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
