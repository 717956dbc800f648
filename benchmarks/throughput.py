"""Images a second of a training step: PIC, PC, GC, EC, teacher, plain, ours, and ours with torchvision's operator.

python benchmarks/throughput.py --device cuda    the paper's setting: 256 px, batches of 6, six precisions
python benchmarks/throughput.py --device cpu     64 px, batches of 4, float32; minutes
python benchmarks/throughput.py --smoke          tiny, prints only

A step is everything that the engine does: forward, backward, discriminators, clipping, optimiser, averaged weights, and
for ours an update of the predictors every ten. Phases of a recipe count by their shares of its steps. Contenders take
turns within one run, so that ratios hold beside other work. On a GPU the loader is measured, too: alone, and feeding
ours. Writes benchmarks/results/throughput_gpu.json or throughput_cpu.json after every precision.
"""

import gc
import json
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from accelerate.state import AcceleratorState
from loading import Repeated, rates, samples_from
from throughput_contenders import CONTENDERS, OURS, TORCHVISION, VGG, Part, Setting, contender, ours

from kdinpaint._core.command_line import command_line
from kdinpaint.benchmark.profiling import largest_costs
from kdinpaint.benchmark.timing import Timing, interleave, speedup
from kdinpaint.data import MaskGenerator, TrainingSamples
from kdinpaint.training import OptimConfig, RuntimeConfig
from kdinpaint.training.batches import Samples
from kdinpaint.training.engine import Stage, make_accelerator
from kdinpaint.training.environment import environment

RESULTS = Path(__file__).parent / "results"

# Name: precision, and fields of RuntimeConfig.
PRECISIONS: dict[str, tuple[str, dict[str, bool]]] = {
    "float32": ("no", {}),
    "float32, channels last": ("no", {"channels_last": True}),
    "bf16": ("bf16", {}),
    "bf16, channels last": ("bf16", {"channels_last": True}),
    "fp16, channels last": ("fp16", {"channels_last": True}),
    "bf16, channels last, compiled": ("bf16", {"channels_last": True, "compile": True}),
}


@dataclass(frozen=True)
class Options:
    """What is measured. A field that is None depends on the device."""

    device: Literal["cuda", "cpu"] = "cpu"
    model: str = "base"
    """Size of teacher, plain and ours; the others have their published widths."""
    size: int | None = None
    """Side of the images, pixels: 256 on a GPU, 64 on the CPU."""
    batch: int | None = None
    """Images a step: 6 on a GPU, 4 on the CPU."""
    rounds: int | None = None
    """Samples of every contender: 10 on a GPU, 5 on the CPU."""
    steps: int | None = None
    """Steps a sample: 10 on a GPU, which works them off in one go, 1 on the CPU."""
    methods: tuple[str, ...] = CONTENDERS
    """Who takes part; a result is written if all do."""
    precisions: tuple[str, ...] | None = None
    """All six on a GPU, float32 on the CPU."""
    hole: float = 0.3
    """Hole ratio; that of training masks is 0.3 on average."""
    threads: int | None = None
    """Of PyTorch, on the CPU."""
    smoke: bool = False
    """A dry run with narrow networks, which writes nothing."""

    def settled(self) -> "Options":
        """The same with everything that depends on the device."""
        if OURS not in self.methods:
            raise SystemExit(f"methods are {', '.join(self.methods)}; expected {OURS!r} among them: it is the measure.")
        cuda = self.device == "cuda"
        usual = (256, 6, 10, 10, tuple(PRECISIONS)) if cuda else (64, 4, 5, 1, ("float32",))
        if self.smoke:
            usual = (32, 2, 2, 1, ("float32",))
        names = ("size", "batch", "rounds", "steps", "precisions")
        given = {name: getattr(self, name) or value for name, value in zip(names, usual, strict=True)}
        return replace(self, model="tiny" if self.smoke else self.model, **given)


class Clock:
    """An `on_step` that times all steps but the first `skipped`, the device waited for at both ends."""

    def __init__(self, skipped: int) -> None:
        self.skipped = skipped
        self.began = self.ended = 0.0

    def __call__(self, stage: Stage) -> None:
        """Look at the clock."""
        if stage.step in (self.skipped, stage.config.steps):
            if stage.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            self.began, self.ended = self.ended, time.perf_counter()


def batch_of(options: Options, device: torch.device) -> dict[str, torch.Tensor]:
    """Noise with holes of the ratio that is asked for."""
    rng, masks = np.random.default_rng(0), MaskGenerator()
    mask = torch.stack([masks.draw((options.size, options.size), rng, options.hole) for _ in range(options.batch)])
    image = torch.rand(options.batch, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    return {"image": image.to(device), "mask": mask.to(device)}


def setting_of(options: Options, precision: str) -> Setting:
    """One precision; the one before is forgotten."""
    kind, fields = PRECISIONS[precision]
    gc.collect()
    runtime = RuntimeConfig(device="cpu" if options.device == "cpu" else "auto", trackers=(), **fields)
    AcceleratorState._reset_state(True)
    accelerator = make_accelerator(runtime, kind, Path(tempfile.gettempdir()))
    return Setting(options.model, batch_of(options, accelerator.device), runtime, accelerator, options.smoke)


def build(options: Options, setting: Setting) -> tuple[dict[str, list[Part]], dict[str, str]]:
    """All contenders, and by name why one cannot take part in this setting."""
    found: dict[str, list[Part]] = {}
    absent: dict[str, str] = {}
    for name in options.methods:
        print(f"preparing {name}", flush=True)
        try:
            found[name] = contender(name, setting)
        except (RuntimeError, TypeError, NotImplementedError) as error:  # an operator, or the compiler, refuses
            if name == OURS:
                raise
            absent[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found, absent


def measure(options: Options, precision: str, samples: TrainingSamples | None = None) -> dict[str, Any]:
    """Every contender in one precision; JSON-ready."""
    setting = setting_of(options, precision)
    device, count = setting.accelerator.device, options.steps
    parts, absent = build(options, setting)
    calls = {f"{name}: {p.name}": p.steps(setting.batch, count) for name, kinds in parts.items() for p in kinds}
    timings = interleave(calls, rounds=options.rounds, device=device, progress=lambda text: print(text, flush=True))
    found: dict[str, Any] = {"contenders": summaries(parts, timings, options), "absent": absent, "largest_costs": {}}
    for name in (OURS, TORCHVISION):
        if name in parts:
            found["largest_costs"][name] = largest_costs(
                parts[name][0].steps(setting.batch, 1), device, steps=1 if options.smoke else 3
            )
    if samples is not None:
        workers = min(8, os.cpu_count() or 1)
        found["fed"] = {
            "workers": workers,
            "by one batch": fed_rate(Repeated(dict(setting.batch)), setting, 0),
            "by the loader": fed_rate(samples, setting, workers),
        }
    return found


def summaries(
    parts: Mapping[str, list[Part]], timings: Mapping[str, Timing], options: Options
) -> dict[str, dict[str, Any]]:
    """Of every contender: milliseconds of its average step, images a second, and how many steps of ours it takes."""
    steps = {}
    for name, kinds in parts.items():
        rounds = zip(*(timings[f"{name}: {part.name}"].samples for part in kinds), strict=True)
        shares = [part.share / options.steps for part in kinds]
        steps[name] = Timing(tuple(sum(s * ms for s, ms in zip(shares, one, strict=True)) for one in rounds))
    found = {}
    for name, kinds in parts.items():
        found[name] = {
            "images_a_second": 1000 * options.batch / steps[name].median,
            "milliseconds": steps[name].summary(),
            "times_ours": list(speedup(steps[OURS], steps[name])),
            "parts": {
                part.name: {
                    "share": part.share,
                    "milliseconds": timings[f"{name}: {part.name}"].median / options.steps,
                }
                for part in kinds
            },
        }
        if all(part.peak is not None for part in kinds):
            found[name]["peak_gib"] = max(part.peak for part in kinds) / 2**30
    return found


def fed_rate(samples: Samples, setting: Setting, workers: int, *, skipped: int = 20, steps: int = 100) -> float:
    """Images a second of a training of ours with what feeds it."""
    batch = len(setting.batch["image"])
    runtime = replace(setting.runtime, workers=workers, log_every=10**9, checkpoint_every=10**9)
    optim, clock = OptimConfig(steps=skipped + steps, batch=batch, lr=1e-4), Clock(skipped)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        Stage(OURS, ours(setting), optim, runtime, folder, setting.accelerator, clock, quiet=True).run(samples)
    return batch * steps / (clock.ended - clock.began)


def main(asked: Options) -> dict[str, Any]:
    options = asked.settled()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = True
    content: dict[str, Any] = {
        "command": command_line("python benchmarks/throughput.py", asked),
        "environment": environment(),
        "cores": os.cpu_count(),
        "options": {name: value for name, value in asdict(options).items() if name != "smoke"},
        "vgg": VGG,
        "training": {},
    }
    with tempfile.TemporaryDirectory() as scratch:
        samples = None
        if options.device == "cuda":
            samples = samples_from(Path(scratch), options.size)
            content["loading"] = rates(samples, torch.device("cuda"), batch=options.batch, steps=100)
        for precision in options.precisions:
            found = measure(options, precision, samples)
            content["training"][precision] = found
            print(precision, json.dumps(found, indent=1), flush=True)
            if options.methods == CONTENDERS and not options.smoke:
                name = "throughput_gpu" if options.device == "cuda" else "throughput_cpu"
                (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return content


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
