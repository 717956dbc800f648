"""Check, tune and time the Triton kernels on an NVIDIA GPU, in one run of under ten minutes.

python benchmarks/gpu_check.py               correctness, tuning, timing
python benchmarks/gpu_check.py --no-tune     with the blocks there are
python benchmarks/gpu_check.py --dry-run     tiny shapes in Triton's interpreter: only whether the script runs

Writes benchmarks/results/gpu_check.json after every row, so that an interrupted run leaves what it has, and the
blocks that were fastest to kdinpaint/ops/triton/tuned.json.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if "--dry-run" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import triton
from torch import Tensor
from torchvision.ops import deform_conv2d

from kdinpaint.ops import adaptive_conv2d
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.reference import adaptive_conv2d_reference
from kdinpaint.ops.triton import columns, configs
from kdinpaint.ops.triton import launch as fused
from kdinpaint.ops.triton.configs import Config
from kdinpaint.training.environment import environment

DRY = "--dry-run" in sys.argv
DEVICE = torch.device("cpu" if DRY else "cuda")
RESULT = Path(__file__).parent / "results" / ("gpu_check_dry_run.json" if DRY else "gpu_check.json")
BATCH = 1 if DRY else 6
SHAPES = [(4, 6)] if DRY else [(64, 128), (128, 64), (256, 32)]  # channels, in and out; height and width
SPREADS = (1.0,) if DRY else (0.0, 1.0, 4.0, 16.0)
GEOMETRY = Geometry.make(3, 1, 1)
NAMES = ("value", "input", "weight", "offset", "kernel", "bias")
TOLERANCE = {
    ("float32", "ieee"): 1e-5,
    ("float32", "tf32x3"): 1e-5,
    ("float32", "tf32"): 2e-3,
    ("float16", "direct"): 3e-3,
    ("bfloat16", "direct"): 2e-2,
}
# Positions, channels, output channels (0: all), warps, stages.
CANDIDATES: dict[str, list[tuple[int, int, int, int, int]]] = {
    "forward": [
        (64, 32, 0, 4, 1), (64, 32, 0, 8, 1), (64, 64, 0, 4, 1), (64, 64, 0, 8, 1), (128, 32, 0, 8, 1),
        (64, 64, 0, 4, 3), (64, 32, 128, 8, 1), (64, 32, 128, 4, 1), (32, 32, 0, 4, 1),
    ],
    "data": [
        (64, 32, 0, 4, 1), (64, 32, 0, 8, 1), (64, 64, 0, 8, 1), (64, 16, 0, 4, 1), (64, 32, 64, 8, 1),
        (64, 16, 64, 4, 1), (128, 32, 0, 8, 1),
    ],
    "weight": [(64, 64, 0, 4, 1), (64, 64, 0, 8, 1), (64, 64, 128, 8, 1), (64, 128, 128, 8, 1), (128, 64, 128, 8, 1)],
}  # fmt: skip
PROGRAMS = (132, 264, 528)
WANTED = {"data": (True, False, True, True), "weight": (False, True, False, False)}


class Report:
    """The result file and the clock."""

    def __init__(self, budget: float) -> None:
        self.start, self.budget = time.monotonic(), budget
        self.content: dict[str, Any] = {
            "command": "python benchmarks/gpu_check.py",
            "environment": {**environment(), "triton": triton.__version__},
            "checks": [],
            "tuning": [],
            "timing": [],
        }

    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.budget - (time.monotonic() - self.start)

    def add(self, part: str, row: dict[str, Any]) -> None:
        """Append a row, print it and write the file."""
        self.content[part].append(row)
        self.content["seconds"] = round(time.monotonic() - self.start, 1)
        RESULT.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")
        print(part, json.dumps(row), flush=True)


@contextmanager
def chosen(step: str, config: Config | None) -> Iterator[None]:
    """Use these blocks for one kernel."""
    kept = fused.choose
    if config is not None:
        fused.choose = lambda which, *rest: config if which == step else kept(which, *rest)
    try:
        yield
    finally:
        fused.choose = kept


@contextmanager
def form(name: str) -> Iterator[None]:
    """Run "fused" or "columns" whatever the rule says."""
    kept = columns.preferred
    columns.preferred = lambda _: name == "columns"
    try:
        yield
    finally:
        columns.preferred = kept


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Multiply float32 as "tf32" or, by default, as three such products."""
    matmul = torch.backends.cuda.matmul
    kept = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if name == "tf32" else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = kept


def problem(batch: int, channels: int, outputs: int, size: tuple[int, int], spread: float, dtype: torch.dtype) -> Any:
    """Random (input, weight, offset, V, bias, grad), channels-last like the layers that call the operator."""
    generator = torch.Generator(DEVICE).manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE)

    height, width = size
    image, grad = draw(batch, channels, height, width), draw(batch, outputs, height, width)
    image, grad = (t.to(dtype).to(memory_format=torch.channels_last) for t in (image, grad))
    weight = (draw(outputs, channels, 3, 3) / (3 * channels**0.5)).to(dtype)
    offset, scale = spread * draw(batch, 18, height, width), torch.sigmoid(draw(batch, 9, height, width))
    return image, weight, offset, scale, draw(outputs).to(dtype), grad


def holes(batch: int, size: tuple[int, int], share: float) -> Tensor:
    """A region of one rectangle an image, of about this share."""
    region = torch.zeros(batch, 1, *size, dtype=torch.bool, device=DEVICE)
    height, width = (max(1, round(n * share**0.5)) for n in size)
    region[..., size[0] // 4 : size[0] // 4 + height, size[1] // 5 : size[1] // 5 + width] = True
    return region


def against_float64(tensors: Any, region: Tensor | None) -> list[Tensor]:
    *leaves, grad = (t.double() for t in tensors)
    leaves = [t.requires_grad_() for t in leaves]
    value = adaptive_conv2d_reference(*leaves, GEOMETRY)
    value = value if region is None else torch.where(region, value, 0.0)
    return [value.detach(), *torch.autograd.grad(value, leaves, grad)]


def direct(tensors: Any, region: Tensor | None) -> list[Tensor | None]:
    """Forward and backward without autograd around them."""
    image, weight, offset, scale, bias, grad = tensors
    value = fused.forward(image, weight, offset, scale, bias, region, GEOMETRY)
    return [value, *fused.backward(grad, image, weight, offset, scale, region, GEOMETRY, (True,) * 5)]


def errors(found: list[Tensor | None], expected: list[Tensor]) -> dict[str, float]:
    return {
        name: ((got.double() - want).norm() / want.norm().clamp_min(1e-30)).item()
        for name, got, want in zip(NAMES, found, expected, strict=True)
        if got is not None
    }


def check(report: Report) -> bool:
    """Every path against float64; True if all are within tolerance."""
    good = True
    shapes = [(1, 3, 5, (5, 7))] if DRY else [(2, 64, 64, (33, 40)), (3, 48, 80, (17, 29)), (1, 256, 256, (16, 16))]
    for batch, channels, outputs, size in shapes:
        ways = [
            (torch.float32, "tf32x3"),
            (torch.float32, "tf32"),
            (torch.bfloat16, "direct"),
            (torch.float16, "direct"),
        ]
        for dtype, way in ways:
            tensors = problem(batch, channels, outputs, size, 2.0, dtype)
            for region in (None, holes(batch, size, 0.3)):
                expected = against_float64(tensors, region)
                for name, deterministic in (("fused", False), ("columns", False), ("fused", True)):
                    torch.use_deterministic_algorithms(deterministic)
                    with precision(way), form(name):
                        found = errors(direct(tensors, region), expected)
                    torch.use_deterministic_algorithms(False)
                    kind = str(dtype).removeprefix("torch.")
                    passed = all(error <= TOLERANCE[kind, way] for error in found.values())
                    good &= passed
                    row = {"form": name, "deterministic": deterministic, "channels": [channels, outputs]}
                    row |= {"dtype": kind, "precision": way, "region": region is not None, "passed": passed}
                    report.add("checks", row | {"errors": {k: float(f"{v:.2e}") for k, v in found.items()}})
    return good


def measure(run: Callable[[], Any], *, seconds: float = 0.15) -> dict[str, float]:
    """Milliseconds, median and least, and the peak memory beyond what was there, in MiB."""
    run()
    if DRY:
        return {"ms": 0.0, "least": 0.0, "peak_mib": 0.0}
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    times: list[float] = []
    stop = time.monotonic() + seconds
    while len(times) < 10 or (time.monotonic() < stop and len(times) < 300):
        marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(10)]
        for begin, end in marks:
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        times += [begin.elapsed_time(end) for begin, end in marks]
    return {"ms": round(statistics.median(times), 4), "least": round(min(times), 4), "peak_mib": round(peak, 1)}


def replayed(run: Callable[[], Any]) -> dict[str, Any]:
    """The same as a CUDA graph: without what launching costs, and a proof that nothing waits for the host."""
    if DRY:
        return {}
    try:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return {"graph_ms": measure(graph.replay)["ms"]}
    except RuntimeError as problem:
        torch.cuda.synchronize()
        return {"graph_error": str(problem).splitlines()[0]}


def candidates(step: str, channels: int, dtype: torch.dtype, positions: int) -> list[Config]:
    """The default first."""
    block = min(1 << (channels - 1).bit_length(), 256)
    least = configs.default(step, channels, channels, dtype, positions)
    found = [least]
    for pixels, inner, outer, warps, stages in CANDIDATES[step][: 1 if DRY else None]:
        config = Config(pixels, min(inner, max(block, 16)), min(outer or 256, max(block, 16)), warps, stages)
        if config not in found:
            found.append(config)
    return found


def tune(report: Report) -> None:
    """Try candidates for every kernel and shape; keep the fastest whose result agrees with the default's."""
    kept: dict[str, Any] = json.loads(configs.TUNED.read_text("utf-8")) if configs.TUNED.is_file() else {}
    name = "dry run" if DRY else torch.cuda.get_device_name()
    for dtype in (torch.bfloat16, torch.float32):
        for channels, size in SHAPES:
            tensors = problem(BATCH, channels, channels, (size, size), 2.0, dtype)
            for step in ("forward", "data", "weight"):
                best = tuned_step(report, step, tensors, candidates(step, channels, dtype, BATCH * size**2))
                for kind in (dtype, torch.float16) if dtype == torch.bfloat16 else (dtype,):
                    key = configs.key(step, channels, channels, kind, BATCH * size**2)
                    kept.setdefault(name, {})[key] = list(best)
            if not DRY:
                configs.TUNED.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    configs.forget()


def tuned_step(report: Report, step: str, tensors: Any, tries: list[Config]) -> Config:
    """The fastest of some configurations; tries[0] where time is short or nothing else works."""
    image, weight, offset, scale, bias, grad = tensors
    expected: list[Tensor] = []

    def run() -> list[Tensor]:
        if step == "forward":
            return [fused.fused_forward(image, weight, offset, scale, bias, None, GEOMETRY)]
        found = fused.fused_backward(grad, image, weight, offset, scale, None, GEOMETRY, WANTED[step])
        return [t for t in found if t is not None]

    def attempt(config: Config) -> float:
        row: dict[str, Any] = {"step": step, "channels": image.shape[1], "config": list(config)}
        row["dtype"] = str(image.dtype).removeprefix("torch.")
        if expected and report.left() < 0.45 * report.budget:
            return float("inf")
        try:
            with chosen(step, config):
                found = run()
                expected.extend(found if not expected else [])
                pairs = zip(found, expected, strict=True)
                worst = max(((a - b).float().norm() / b.float().norm().clamp_min(1e-30)).item() for a, b in pairs)
                row |= {"difference": float(f"{worst:.1e}"), "ms": measure(run, seconds=0.05)["least"]}
        except Exception as problem:  # too much shared memory, or a compiler that gives up: not a candidate
            row["failed"] = f"{type(problem).__name__}: {problem}".splitlines()[0][:160]
        report.add("tuning", row)
        return row["ms"] if row.get("difference", 1.0) < 2e-2 and "ms" in row else float("inf")

    best = min(tries, key=attempt)
    if step == "weight":
        best = min([best, *(best._replace(programs=count) for count in PROGRAMS)], key=attempt)
    return best


def steps(call: Callable[..., Tensor], tensors: Any, autocast: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Forward alone, and forward with backward to everything, of one implementation."""
    *leaves, grad = tensors
    leaves = [t.detach().clone().requires_grad_() for t in leaves]

    def forward() -> Tensor:
        with torch.no_grad(), torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=autocast):
            return call(*leaves)

    def both() -> Any:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=autocast):
            value = call(*leaves)
        return torch.autograd.grad(value, leaves, grad.to(value.dtype))

    return forward, both


def implementations(region: Tensor | None) -> dict[str, Callable[..., Tensor]]:
    def ours(*t: Tensor) -> Tensor:
        return adaptive_conv2d(*t, padding=1, region=region, backend="triton")

    def torchvision(x: Tensor, weight: Tensor, offset: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return deform_conv2d(x, offset, weight, bias, padding=1, mask=scale)

    return {"triton": ours, "columns": ours, "torchvision": torchvision}


def bench(report: Report) -> None:
    """Every shape, spread and precision; torchvision and the column form beside ours, the region beside the map."""
    ways = (("bfloat16 autocast", True, "tf32x3"), ("float32 tf32x3", False, "tf32x3"), ("float32 tf32", False, "tf32"))
    for spread in sorted(SPREADS, key=lambda s: s != 1.0):  # the most telling first, should time run out
        for channels, size in SHAPES:
            tensors = problem(BATCH, channels, channels, (size, size), spread, torch.float32)
            for label, autocast, way in ways:
                for share in (None, 0.25):
                    region = None if share is None else holes(BATCH, (size, size), share)
                    for name, call in implementations(region).items():
                        if name != "triton" and share is not None:
                            continue
                        if report.left() < 15:
                            report.add("timing", {"stopped": "out of time"})
                            return
                        row = {"what": name, "channels": channels, "size": size, "batch": BATCH, "spread": spread}
                        row |= {"way": label, "region": share}
                        with precision(way), form("columns" if name == "columns" else "fused"):
                            forward, both = steps(call, tensors, autocast)
                            row["forward"] = measure(forward)
                            row["forward_backward"] = measure(both)
                            if name == "triton":
                                row["forward"] |= replayed(forward)
                                row["forward_backward"] |= replayed(both)
                        report.add("timing", row)


def summary(report: Report) -> None:
    """How many times faster than torchvision, the column form and the whole map, forward and with backward."""
    rows = [row for row in report.content["timing"] if "what" in row and row["forward"]["ms"] > 0]
    for row in (row for row in rows if row["what"] == "triton"):
        parts = [f"{row['way']}, {row['channels']} channels, spread {row['spread']}, region {row['region']}:"]
        for base in rows:
            if base["region"] is None and all(base[k] == row[k] for k in ("channels", "spread", "way")):
                ratios = (base[k]["ms"] / row[k]["ms"] for k in ("forward", "forward_backward"))
                parts.append(" ".join([base["what"], *(f"{ratio:.2f}x" for ratio in ratios)]))
        print("  ".join(parts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes in the interpreter, no timing")
    parser.add_argument("--no-tune", action="store_true", help="use the blocks there are")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds")
    options = parser.parse_args()
    if not DRY and not torch.cuda.is_available():
        print("There is no NVIDIA GPU here. Run this on a machine with one, or with --dry-run.", file=sys.stderr)
        return 2
    report = Report(options.budget)
    good = check(report)
    if not options.no_tune:
        tune(report)
    bench(report)
    summary(report)
    failed = sum(not row["passed"] for row in report.content["checks"])
    print(f"{len(report.content['checks'])} checks, {failed} failed; {report.content['seconds']} s")
    if DRY:
        RESULT.unlink()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
