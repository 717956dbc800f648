"""Everything that computes an adaptive convolution, behind one shape: a forward call and a training call."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint.benchmark import runtimes
from kdinpaint.benchmark.cases import Answer, Case, Inputs
from kdinpaint.ops.adaptive_conv import Backend, adaptive_conv2d, adaptive_conv2d_backend
from kdinpaint.ops.geometry import Geometry

__all__ = ["COLUMNS", "CONV2D", "TORCHVISION", "Contender", "contenders"]

TORCHVISION = "torchvision"
CONV2D = "conv2d"
COLUMNS = "im2col + cuBLAS"


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Attributes:
        name: Unique within a case.
        forward: The output, without gradients being recorded.
        training: Output and gradients; None where there is no backward pass.
        backend: Of `adaptive_conv2d`, for our own.
        runs: The backend that "auto" chose.
        region: The share of the cells that is computed, or None for all of them.
        precision: In which it computes, if not that of the case.
        note: What a reader of its numbers must know.
        plain: It is an ordinary convolution, not an adaptive one.
        counted: Its memory can be measured.
    """

    name: str
    forward: Callable[[], Tensor]
    training: Callable[[], Answer] | None = None
    backend: str | None = None
    runs: str | None = None
    region: float | None = None
    precision: str | None = None
    note: str = ""
    plain: bool = False
    counted: bool = True


def contenders(
    case: Case, inputs: Inputs, *, backends: Sequence[str], regions: dict[float, Tensor], rivals: bool = True
) -> tuple[list[Contender], dict[str, str]]:
    """All contenders of a case, and by name those that cannot take part, with the reason.

    Args:
        case: The problem.
        inputs: Its tensors.
        backends: Of `adaptive_conv2d`; "auto" takes part as "kdinpaint".
        regions: Hole regions that our own are also measured on, by ratio.
        rivals: Let others than our own take part.
    """
    found = [
        _ours(case, inputs, backend, ratio, region)
        for backend in backends
        for ratio, region in [(None, None), *regions.items()]
    ]
    if not rivals:
        return found, {}
    found += [_torchvision(case, inputs), _conv2d(case, inputs)]
    if case.device.type == "cuda":
        found.append(_columns(case, inputs))
    absent: dict[str, str] = {}
    if case.device.type == "cpu":
        for name, build in (("onnxruntime", runtimes.onnxruntime), ("openvino", runtimes.openvino)):
            forward = build(inputs)
            if forward is None:
                absent[name] = "not installed"
            else:
                note = "forward only" + ("" if case.dtype == "float32" else "; computes in float32")
                found.append(Contender(name, forward, precision="float32", note=note, counted=False))
    return found, absent


def _ours(case: Case, inputs: Inputs, backend: str, ratio: float | None, region: Tensor | None) -> Contender:
    x, weight, bias, offset, kernel = inputs.leaves

    def call() -> Tensor:
        with _autocast(case):
            return adaptive_conv2d(
                x, weight, offset, kernel, bias, padding=1, region=region, backend=cast(Backend, backend)
            )

    name = "kdinpaint" if backend == "auto" else f"kdinpaint {backend}"
    runs = adaptive_conv2d_backend(x, weight.to(x.dtype), offset, kernel).name if backend == "auto" else backend
    name = name if ratio is None else f"{name}, hole {ratio:.0%}"
    return _differentiable(name, call, inputs, backend=backend, runs=runs, region=ratio)


def _torchvision(case: Case, inputs: Inputs) -> Contender:
    from torchvision.ops import deform_conv2d  # importing torchvision takes a second that few need

    note, precision = "", None
    if case.dtype != "float32":
        note, precision = "computes in float32 under autocast", "float32"
    if case.dtype != "float32" and case.device.type == "cpu":
        # Under autocast on the CPU it raises: it gets what it needs before the clock starts.
        note = "computes in float32; refuses autocast on the CPU"
        inputs = replace(inputs, x=inputs.x.detach().float().requires_grad_(), gradient=inputs.gradient.float())
        case = replace(case, dtype="float32")
    x, weight, bias, offset, kernel = inputs.leaves

    def call() -> Tensor:
        with _autocast(case):
            return cast(Tensor, deform_conv2d(x, offset, weight, bias, padding=1, mask=kernel))

    return _differentiable(TORCHVISION, call, inputs, note=note, precision=precision)


def _conv2d(case: Case, inputs: Inputs) -> Contender:
    def call() -> Tensor:
        with _autocast(case):
            return F.conv2d(inputs.x, inputs.weight, inputs.bias, padding=1)

    return _differentiable(CONV2D, call, inputs, plain=True, note="an ordinary convolution of the same shape")


def _columns(case: Case, inputs: Inputs) -> Contender:
    """Our own yardstick: the columns written by one kernel and multiplied by the vendor's library."""
    from kdinpaint.ops.triton import columns

    x, weight, bias, offset, kernel = (t.detach() for t in inputs.leaves)
    geometry = Geometry.make(3, padding=1)

    def forward() -> Tensor:
        return columns.forward(x, weight.to(x.dtype), offset, kernel, bias.to(x.dtype), None, geometry)

    def training() -> Answer:
        output, grad = forward(), inputs.gradient
        wanted = (True, True, True, True)
        found = columns.backward(grad, x, weight.to(x.dtype), offset, kernel, None, geometry, wanted)
        dx, dweight, doffset, dkernel = (gradient for gradient in found if gradient is not None)
        return output, dx, dweight, grad.sum((0, 2, 3)), doffset, dkernel

    return Contender(COLUMNS, forward, training, note="columns by Triton, product by cuBLAS")


def _differentiable(name: str, call: Callable[[], Tensor], inputs: Inputs, **details: Any) -> Contender:  # noqa: ANN401
    leaves = inputs.leaves[:3] if details.get("plain") else inputs.leaves

    def forward() -> Tensor:
        with torch.no_grad():
            return call()

    def training() -> Answer:
        output = call()
        return output.detach(), *torch.autograd.grad(output, leaves, inputs.gradient)

    return Contender(name, forward, training, **details)


def _autocast(case: Case) -> torch.autocast:
    return torch.autocast(case.device.type, getattr(torch, case.dtype), enabled=case.dtype != "float32")
