"""What the comparisons of whole methods share: equal data, masks and budgets, and work in pieces.

Every row is trained by the library's engine on the same stream of samples, which goes on from phase to phase of a
recipe, and is measured on one frozen manifest. What is done stays done; whatever is stopped goes on with the same
command to the same bits. `table1_small.py` and `comparators_retrofitted.py` say what the rows are.
"""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from field_options import Budget, Options, vgg_name
from torch import Tensor, nn

from kdinpaint._core.command_line import command_line
from kdinpaint._core.files import write_text
from kdinpaint.ablation.measuring import EvaluationPairs, score
from kdinpaint.benchmark.timing import interleave
from kdinpaint.data import (
    MaskFolder,
    MaskGenerator,
    PairManifest,
    PhotoFolder,
    ResidentBatches,
    ResidentData,
    common_folder,
    list_images,
)
from kdinpaint.models import AutoEncoder, model_cost
from kdinpaint.training import DataConfig, OptimConfig, RuntimeConfig, TeacherObjective
from kdinpaint.training.claim import claim_folder, fingerprint
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.environment import environment
from kdinpaint.training.objectives import Objective

RESULTS = Path(__file__).parent / "results"
TIME_IS_UP = 3  # exit status: the same command goes on
DIGITS = {"psnr": 3, "hole_psnr": 3, "ssim": 4}


class Deadline:
    """Asks the engine to stop after the present step, as Ctrl-C does, once the time is up."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.end = None if minutes is None else clock() + 60 * minutes

    def __call__(self, stage: Stage) -> None:
        """After a step."""
        if self.end is not None and self.clock() >= self.end:
            signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True)
class Onward:
    """The stream of samples from a step on."""

    stream: ResidentBatches
    done: int

    def batches(self, first: int, last: int, batch: int) -> Iterator[dict[str, Tensor]]:
        """See `BatchSource`."""
        return self.stream.batches(self.done + first, self.done + last, batch)


class Bench:
    """Data, pairs and device of a comparison, and the folder that its rows go to."""

    def __init__(self, options: Options, script: str, deadline: Deadline) -> None:
        self.options, self.script, self.deadline = options, script, deadline
        self.folder = options.work / script / options.name
        photos, held_out = list_images(options.photos), list_images(options.held_out)
        files = {"photos_sha256": fingerprint(photos), "held_out_sha256": fingerprint(held_out)}
        if options.masks is not None:
            files["masks_sha256"] = fingerprint(list_images(options.masks))
        claim_folder(self.folder, {**options.settled(), "vgg": vgg_name(options), **files})
        self.photos, self.held_out = len(photos), len(held_out)
        path = self.folder / "manifest.json"
        if not path.exists():
            masks = MaskGenerator() if options.masks is None else MaskFolder(options.masks, polarity="hole")
            windows = max(1, -(-6 * options.per_bin // len(held_out)))
            PairManifest.build(
                held_out, size=options.size, masks=masks, per_bin=options.per_bin, seed=0, windows_per_photo=windows
            ).save(path)
        self.manifest = PairManifest.load(path)
        path = self.folder / "data.pt"
        if not path.exists():
            opened = PhotoFolder(photos, min_size=options.size, cache_bytes=0)
            ResidentData.make(
                opened, MaskGenerator(), size=options.size, min_window=0.5, pool=options.pool, seed=0
            ).save(path)
        self.runtime = RuntimeConfig(device=options.device, checkpoint_every=options.checkpoint_every, log_every=50)
        self.accelerator = make_accelerator(self.runtime, options.mixed_precision, self.folder / "tensorboard")
        self.data = ResidentData.load(path).to(self.accelerator.device)
        self.root = root = common_folder(held_out)
        self.pairs = EvaluationPairs.load(self.manifest, root, channels=3, device=self.accelerator.device)

    def stream(self, seed: int) -> ResidentBatches:
        """The samples of a seed, the same for every row."""
        return ResidentBatches(self.data, size=self.options.size, seed=seed)


class Runner:
    """Trains the phases of one row, one after the other; stands where `train_comparator` wants a `Run`."""

    def __init__(self, bench: Bench, folder: Path, seed: int) -> None:
        self.bench, self.folder, self.seed, self.options = bench, folder, seed, bench.options
        self.data = DataConfig(size=bench.options.size)
        self.done, self.seconds = 0, 0.0

    def train(self, name: str, objective: Objective, optim: OptimConfig) -> nn.Module:
        """As `Run.train`."""
        label = f"{self.folder.name} {name}"
        bench = self.bench
        stage = Stage(
            label, objective, optim, bench.runtime, self.folder / name, bench.accelerator, on_step=bench.deadline
        )
        net = stage.run(Onward(bench.stream(self.seed), self.done))
        self.done += optim.steps
        self.seconds += stage.seconds
        return net

    def teacher(self, net: AutoEncoder, steps: int) -> AutoEncoder:
        """Train a teacher."""
        return self.train("teacher", TeacherObjective(net), self.options.optim(steps))

    def split(self, steps: int) -> tuple[int, int]:
        """The steps of a teacher and those that are left."""
        teacher = max(1, round(self.options.teacher_share * steps))
        return teacher, max(1, steps - teacher)


class Stopwatch(Runner):
    """Instead of training every phase, finds out how long one of its steps takes."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        super().__init__(bench, folder, 0)
        self.found: list[float] = []

    def train(self, name: str, objective: Objective, optim: OptimConfig) -> nn.Module:
        """As `Run.train`, for a few steps."""
        count, device = self.options.timing_steps, self.bench.accelerator.device
        times: dict[int, float] = {}

        def look(stage: Stage) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[stage.step] = time.perf_counter()

        optim, bench = replace(optim, steps=2 * count), self.bench
        folder = self.folder / f"{len(self.found)}-{time.time_ns()}"
        stage = Stage(name, objective, optim, bench.runtime, folder, bench.accelerator, on_step=look, quiet=True)
        net = stage.run(bench.stream(0))
        self.found.append((times[2 * count] - times[count]) / count)
        return net


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: Of the row.
        train: Trains it with a runner in a number of steps.
        shares: Of the budget, those of the phases, in the order in which `train` comes to them.
        reference: The row whose time for the budget of steps is the budget of time.
    """

    name: str
    train: Callable[[Runner, int], nn.Module]
    shares: Sequence[float]
    reference: str

    @property
    def slug(self) -> str:
        """Name of a folder."""
        return re.sub(r"\W+", "-", self.name)


def speeds(bench: Bench, methods: Sequence[Method]) -> dict[str, float]:
    """Seconds of a step of every method, averaged over its phases by their shares; measured once for a comparison."""
    path = bench.folder / "speed.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    for method in methods:
        if method.name not in found:
            watch = Stopwatch(bench, bench.folder / "speed" / method.slug)
            torch.manual_seed(0)
            method.train(watch, max(len(method.shares), 10))
            found[method.name] = sum(s * t for s, t in zip(method.shares, watch.found, strict=True))
            write_text(path, json.dumps(found) + "\n")
            shutil.rmtree(bench.folder / "speed")
    return found


def steps_of(bench: Bench, methods: Sequence[Method], budget: Budget) -> dict[str, int]:
    """The optimiser steps that a budget means for every method."""
    options = bench.options
    if budget == "steps":
        return {method.name: options.steps for method in methods}
    taken = speeds(bench, methods)
    found = {}
    for method in methods:
        seconds = options.steps * taken[method.reference] if options.seconds is None else options.seconds
        found[method.name] = max(len(method.shares), round(seconds / taken[method.name]))
    return found


@torch.inference_mode()
def milliseconds(net: nn.Module, image: Tensor, mask: Tensor, rounds: int = 10) -> float:
    """Median time of one image."""
    return interleave({"net": lambda: net(image, mask)}, rounds=rounds, device=image.device)["net"].median


def row_folder(bench: Bench, method: Method, seed: int, steps: int) -> Path:
    """Where a row is."""
    return bench.folder / "rows" / f"{method.slug}-{seed}-{steps}"


def row(bench: Bench, method: Method, seed: int, steps: int) -> dict[str, Any]:
    """Train and measure one row with one seed, or what is left of that."""
    folder = row_folder(bench, method, seed, steps)
    path = folder / "row.json"
    if not path.exists():
        torch.manual_seed(seed)
        runner = Runner(bench, folder, seed)
        net = method.train(runner, steps).eval()
        image = bench.pairs.image[:1]
        mask, quarter = torch.zeros_like(image[:, :1]), bench.options.size // 4
        mask[..., quarter:-quarter, quarter:-quarter] = 1
        cost, table = model_cost(net, image, mask), score(net, bench.pairs)
        content = {
            **table.summary(),
            "records": {name: [round(r[name], digits) for r in table.records] for name, digits in DIGITS.items()},
            "steps": runner.done,
            "train_seconds": round(runner.seconds, 2),
            "images_per_second": round(runner.done * bench.options.batch / runner.seconds, 2),
            "parameters": cost.parameters,
            "gmac": round(cost.gmac, 4),
            "milliseconds": round(milliseconds(net, image, mask), 3),
            "device": str(environment().get("gpu", "cpu")) if image.is_cuda else "cpu",
        }
        write_text(path, json.dumps(content) + "\n")
    return json.loads(path.read_text())


def compare(bench: Bench, methods: Sequence[Method]) -> int:
    """Train and measure all rows, or as many as the time allows, and write what is complete; an exit status."""
    budgets: dict[str, Any] = {}
    status = 0
    try:
        for budget in bench.options.budget:
            steps = steps_of(bench, methods, budget)
            for seed in bench.options.seeds:
                found = {method.name: row(bench, method, seed, steps[method.name]) for method in methods}
                part = budgets.setdefault(budget, {"steps": steps, "seeds": [], "results": {}})
                part["seeds"].append(seed)
                for name, one in found.items():
                    part["results"].setdefault(name, {})[str(seed)] = one
    except KeyboardInterrupt:
        print("Stopped with everything on disk; the same command goes on.")
        status = TIME_IS_UP
    if budgets:
        write(bench, budgets)
    return status


def write(bench: Bench, budgets: dict[str, Any]) -> None:
    """The result file."""
    options = bench.options
    pieces = ("work", "minutes", "checkpoint_every")
    config = {k: v for k, v in asdict(options).items() if k not in ("photos", "held_out", "masks", "device", *pieces)}
    images = [entry.image for entry in bench.manifest.entries]
    content = {
        "command": command_line(f"python benchmarks/{bench.script}.py", options, leave_out=pieces),
        "config": {**config, "vgg": vgg_name(options)},
        "photos": bench.photos,
        "held_out": bench.held_out,
        "manifest": bench.manifest.hash,
        "environment": environment(),
        "ratio": [round(r, 6) for r in bench.pairs.ratio],
        "image": [sorted(set(images)).index(image) for image in images],
        "speed": speeds(bench, []),
        "budgets": budgets,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{bench.script}_{options.name}.json"
    write_text(path, json.dumps(content, default=str) + "\n")
    print(f"Written: {path.name}")
