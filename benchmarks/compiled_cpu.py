"""Would a compiled operator be worth a compiler on the CPU? The same algorithm, once with its loops in C++.

python benchmarks/compiled_cpu.py          writes benchmarks/results/compiled_cpu.json; needs g++

Matrix products are the same in both; offsets of 2 pixels, 3 x 3 taps, float32. The library ships the plain form:
benchmarks/NOTES.md says why.
"""

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kdinpaint.benchmark.timing import interleave, speedup
from kdinpaint.ops import tiled
from kdinpaint.ops.frame import frame_planes, unframe_planes
from kdinpaint.ops.geometry import Geometry
from kdinpaint.training.environment import environment

HERE = Path(__file__).parent
SHAPES = [(2, 64, 128), (2, 64, 64), (2, 128, 32)]
TILE = 1024
GEOMETRY = Geometry.make(3, 1, 1)


class Shape(ctypes.Structure):
    """As in compiled_cpu.cpp."""

    _fields_ = [(name, ctypes.c_int) for name in ("height", "width", "channels", "taps", "kernel", "padding")]


class Compiled:
    """Forward and backward with C++ loops around oneDNN products, image by image, tile by tile."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def _call(self, name: str, x: Tensor, *arguments: Tensor | int) -> None:
        shape = Shape(x.shape[2], x.shape[3], x.shape[1], 9, 3, 1)
        values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
        getattr(self.library, name)(ctypes.byref(shape), *values)

    def _images(self, x: Tensor):
        count = x[0, 0].numel()
        tiles = [(first, min(first + TILE, count)) for first in range(0, count, TILE)]
        for image in range(x.shape[0]):
            yield image, *frame_planes(x[image : image + 1], x.dtype), tiles

    def forward(self, x: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor) -> Tensor:
        """The output, channels-last."""
        matrix = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        out, columns = x.new_empty(x.shape[0], *x.shape[2:], len(weight)), x.new_empty(TILE, matrix.shape[1])
        for image, _, rows, tiles in self._images(x):
            pixels = out[image].view(-1, len(weight))
            for first, last in tiles:
                self._call("gather", x, rows, offset[image], kernel[image], columns, first, last)
                pixels[first:last] = tiled._matmul(columns[: last - first], matrix)
        return out.permute(0, 3, 1, 2)

    def backward(self, grad: Tensor, x: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor) -> tuple[Tensor, ...]:
        """Gradients for x, weight, offset and kernel."""
        matrix = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
        transposed, columns = matrix.t().contiguous(), x.new_empty(TILE, matrix.shape[1])
        grad_x, grad_offset, grad_kernel = (torch.empty_like(t) for t in (x, offset, kernel))
        grad_matrix = torch.zeros_like(matrix)
        for image, frame, rows, tiles in self._images(x):
            grad_rows = torch.zeros_like(rows)
            slopes = grad[image].permute(1, 2, 0).reshape(-1, len(weight))
            places = (offset[image], kernel[image])
            for first, last in tiles:
                self._call("gather", x, rows, *places, columns, first, last)
                grad_matrix += tiled._matmul(slopes[first:last].t(), columns[: last - first].t())
                found = tiled._matmul(slopes[first:last], transposed)
                self._call("places", x, rows, *places, found, grad_offset[image], grad_kernel[image], first, last)
                self._call("scatter", x, grad_rows, *places, found, first, last, torch.get_num_threads())
            unframe_planes(grad_rows, frame, grad_x[image : image + 1])
        square = grad_matrix.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        return grad_x, square.contiguous(), grad_offset, grad_kernel


def measure(compiled: Compiled, batch: int, channels: int, size: int) -> dict[str, object]:
    x, grad = torch.randn(2, batch, channels, size, size).unbind(0)
    grad = grad.to(memory_format=torch.channels_last)
    weight, offset = torch.randn(channels, channels, 3, 3), 2 * torch.randn(batch, 18, size, size)
    tensors = (x, weight, offset, torch.rand(batch, 9, size, size))

    def plain_backward() -> tuple[Tensor | None, ...]:
        return tiled.backward(grad, *tensors, None, GEOMETRY, (True, True, True, True, False))[:4]

    steps: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "forward": (lambda: tiled.forward(*tensors, None, None, GEOMETRY), lambda: compiled.forward(*tensors)),
        "backward": (plain_backward, lambda: compiled.backward(grad, *tensors)),
    }
    result: dict[str, object] = {"shape": [batch, channels, size, size]}
    for name, (plain, other) in steps.items():
        torch.testing.assert_close(other(), plain(), rtol=1e-3, atol=1e-3)
        times = interleave({"plain": plain, "compiled": other}, rounds=15, device=torch.device("cpu"))
        result[name] = {
            **{which: timing.summary() for which, timing in times.items()},
            "speedup": list(speedup(times["compiled"], times["plain"])),
        }
    return result


@torch.inference_mode()
def main() -> int:
    if shutil.which("g++") is None:
        print("this experiment needs g++", file=sys.stderr)
        return 2
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/loops.so"
        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["g++", *flags, str(HERE / "compiled_cpu.cpp"), "-o", library], check=True)
        cases = [measure(Compiled(ctypes.CDLL(library)), *shape) for shape in SHAPES]
    content = {"command": "python benchmarks/compiled_cpu.py", "environment": environment(), "cases": cases}
    (HERE / "results" / "compiled_cpu.json").write_text(json.dumps(content, indent=1) + "\n")
    for case in cases:
        print(case["shape"], *(f"{step} x{case[step]['speedup'][0]:.2f}" for step in ("forward", "backward")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
