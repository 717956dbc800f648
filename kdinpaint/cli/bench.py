"""`kdinpaint bench NAME`: measure this machine. Each benchmark is a configuration and a function."""

import dataclasses
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import tyro

from kdinpaint._core.checks import check_choice
from kdinpaint._core.command_line import command_line
from kdinpaint._core.errors import ConfigError, KDInpaintError
from kdinpaint._core.files import make_folder, write_text
from kdinpaint.benchmark import runtimes
from kdinpaint.benchmark.adaptive_conv import measure_case
from kdinpaint.benchmark.cases import Case, DType, parse_shape
from kdinpaint.cli.bench_report import case_table, costs_table, distillation_table, share_table
from kdinpaint.ops.adaptive_conv import Backend
from kdinpaint.training.environment import environment

__all__ = ["AdaptiveConvConfig", "TrainingStepConfig", "command", "run_adaptive_conv", "run_training_step"]


@dataclass(frozen=True)
class AdaptiveConvConfig:
    """Adaptive convolution against torchvision, a plain convolution and, on the CPU, onnxruntime and OpenVINO.

    Everything is checked against a float64 reference first; what is wrong is not timed. Contenders take turns, so that
    ratios hold on a machine that has other work; milliseconds need an idle one.
    """

    shapes: tuple[str, ...] = ("2,64,128,128", "2,64,64,64", "2,128,32,32")
    """Inputs as B,C,H,W, or B,C,H,W,C_OUT where the output has other channels."""
    dtypes: tuple[DType, ...] = ("float32", "bfloat16")
    """bfloat16 is under autocast."""
    spreads: tuple[float, ...] = (2.0,)
    """Standard deviations of the offsets, pixels."""
    regions: tuple[float, ...] = (0.25, 0.1)
    """Hole ratios that are measured beside the whole map."""
    backends: tuple[str, ...] = ("auto",)
    """Of adaptive_conv2d."""
    rounds: int = 15
    """Samples of each contender."""
    tf32: bool = False
    """Let float32 matrix products on a GPU use TF32, all contenders'."""
    threads: int | None = None
    """CPU threads; PyTorch's choice by default."""
    device: str | None = None
    """cpu or cuda; a GPU is used if there is one."""
    out: Path | None = None
    """Also write everything to this JSON file."""


@dataclass(frozen=True)
class TrainingStepConfig:
    """A training step: the filler blocks' share by hole ratio, the price of distillation, the largest costs."""

    model: str = "kdinpaint_base"
    """A student with filler blocks."""
    size: int = 128
    """Side of the images, pixels."""
    batch: int = 2
    """Images a step."""
    ratios: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    """Hole ratios for the filler blocks' share."""
    hole: float = 0.25
    """Hole ratio for everything else."""
    spread: float = 2.0
    """Standard deviation of the offsets, pixels."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision."""
    channels_last: bool = False
    """Networks and batches in channels-last memory format."""
    rounds: int = 15
    """Samples of each variant."""
    threads: int | None = None
    """CPU threads; PyTorch's choice by default."""
    device: str | None = None
    """cpu or cuda; a GPU is used if there is one."""
    out: Path | None = None
    """Also write everything to this JSON file."""


Config = (
    Annotated[AdaptiveConvConfig, tyro.conf.subcommand(name="adaptive-conv")]
    | Annotated[TrainingStepConfig, tyro.conf.subcommand(name="training-step")]
)


def command(config: Annotated[Config, tyro.conf.arg(name="")]) -> None:
    """Measure this machine: adaptive convolution, or a training step."""
    try:
        if isinstance(config, AdaptiveConvConfig):
            run_adaptive_conv(config)
        else:
            run_training_step(config)
    except KeyboardInterrupt:
        print("\nStopped. No file was written; what is above was measured in full.", file=sys.stderr)
        sys.exit(130)


def run_adaptive_conv(config: AdaptiveConvConfig) -> dict[str, Any]:
    """Do the work, printing each case as it is done; returns what the JSON file holds.

    Raises:
        KDInpaintError: A contender was wrong; the file is written all the same, without times of it.
    """
    for backend in config.backends:
        check_choice(backend, get_args(Backend), "backend")
    shapes = [parse_shape(text) for text in config.shapes]
    with _session("adaptive-conv", config) as (device, content, progress):
        content["environment"].update(runtimes.versions())
        content["cases"] = []
        for dtype in config.dtypes:
            for shape, out_channels in shapes:
                for spread in config.spreads:
                    case = measure_case(
                        Case(shape, out_channels, spread, dtype, device),
                        backends=config.backends,
                        regions=config.regions,
                        rounds=config.rounds,
                        progress=progress,
                    )
                    progress("")
                    content["cases"].append(case)
                    print(case_table(case), flush=True)
    wrong = [
        f"{one['name']} ({one['refused']})"
        for case in content["cases"]
        for one in case["contenders"]
        if "refused" in one
    ]
    if wrong:
        raise KDInpaintError(f"not timed, because wrong: {'; '.join(wrong)}.")
    return content


def run_training_step(config: TrainingStepConfig) -> dict[str, Any]:
    """Do the work, printing each part as it is done; returns what the JSON file holds."""
    from kdinpaint.cli.training_step import TrainingStep  # brings accelerate, which adaptive-conv does not need

    with _session("training-step", config) as (device, content, progress):
        step = TrainingStep(
            config.model,
            size=config.size,
            batch=config.batch,
            spread=config.spread,
            precision=config.precision,
            device=device.type,
            channels_last=config.channels_last,
        )
        content["filler"] = step.filler_share(config.ratios, rounds=config.rounds, progress=progress)
        progress("")
        print(share_table(content["filler"]), flush=True)
        content["distillation"] = step.distillation(config.hole, rounds=config.rounds, progress=progress)
        progress("")
        print(distillation_table(content["distillation"]), flush=True)
        progress("profiling")
        content["largest_costs"] = step.largest_costs(config.hole)
        progress("")
        print(costs_table(content["largest_costs"]), flush=True)
    return content


@contextmanager
def _session(
    name: str, config: AdaptiveConvConfig | TrainingStepConfig
) -> Iterator[tuple[torch.device, dict[str, Any], "_Progress"]]:
    """Device, content with everything but results, progress; writes the file if the block succeeds."""
    if config.rounds < 2:
        raise ConfigError(f"rounds is {config.rounds}; expected at least 2.")
    if config.threads is not None and config.threads < 1:
        raise ConfigError(f"threads is {config.threads}; expected at least 1.")
    if config.out is not None:
        make_folder(config.out.parent)  # a place that cannot be written to is better known before than after
    device = _device(config.device)
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    progress = _Progress()
    try:
        torch.set_num_threads(config.threads or threads)
        if device.type == "cuda" and isinstance(config, AdaptiveConvConfig) and config.tf32:
            torch.set_float32_matmul_precision("high")
        options = {k: v for k, v in dataclasses.asdict(config).items() if k != "out"}
        content: dict[str, Any] = {
            "command": command_line(f"kdinpaint bench {name}", config, leave_out=("out",)),
            "options": options,
            "device": device.type,
            "environment": environment(),
        }
        print(", ".join(f"{key} {value}" for key, value in content["environment"].items()))
        yield device, content, progress
    finally:
        progress("")
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(products)
    if config.out is not None:
        write_text(config.out, json.dumps(content, indent=1) + "\n")
        print(f"\nResults: {config.out}")


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device is {name!r}; expected cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {name!r}; expected cpu or cuda.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r} and PyTorch sees no GPU; use --device cpu.")
    return device


class _Progress:
    """One line on stderr that is written over, if anybody watches."""

    def __init__(self) -> None:
        self.on = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self.on:
            sys.stderr.write(f"\r\x1b[K{text[:110]}")
            sys.stderr.flush()
