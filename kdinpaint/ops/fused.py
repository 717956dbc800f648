"""`adaptive_conv2d` as one custom operator with its own gradients, of every order.

The operator hides everything that depends on data, the cells of a region above all, so `torch.compile` and
`torch.export` see one node. Its backward pass is a second operator, which computes only what is asked for and is
not differentiable; where a graph of the backward pass is wanted (``create_graph=True``), the gradients are built
from the primitives of `kdinpaint.ops.sampling` instead, which are.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kdinpaint._core.errors import ConfigError
from kdinpaint.ops import cpp, tiled, triton
from kdinpaint.ops.frame import Frame
from kdinpaint.ops.geometry import Geometry
from kdinpaint.ops.products import as_matrix
from kdinpaint.ops.sampling import dot_rows, gather_rows, scatter_rows
from kdinpaint.ops.table import Positions, sampling_table

__all__ = ["adaptive_conv", "choose_backend"]

_ARGUMENTS = (
    "Tensor input, Tensor weight, Tensor offset, Tensor kernel, {bias}Tensor? region, "
    "int[2] stride, int[2] padding, int[2] dilation, {wanted}str backend"
)
torch.library.define("kdinpaint::adaptive_conv", f"({_ARGUMENTS.format(bias='Tensor? bias, ', wanted='')}) -> Tensor")
torch.library.define(
    "kdinpaint::adaptive_conv_backward",
    f"(Tensor grad, {_ARGUMENTS.format(bias='', wanted='bool[5] wanted, ')}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
adaptive_conv = torch.ops.kdinpaint.adaptive_conv

# Every one has forward, backward and unsupported; what none of them takes is done by `tiled`, on any device.
_FASTER = {"triton": triton, "cpp": cpp}


def choose_backend(
    input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor, backend: str = "auto"
) -> tuple[str, str | None]:
    """Which of "triton", "cpp" and "torch" computes a call, and why none that is faster on its device.

    Raises:
        ConfigError: "triton" or "cpp" is demanded and cannot run.
    """
    if backend == "torch":
        return "torch", None
    reasons = {}
    for name, module in _FASTER.items():
        if backend not in ("auto", name):
            continue
        reasons[name] = module.unsupported(input, weight, offset, kernel)
        if reasons[name] is None:
            return name, None
    if backend != "auto":
        raise ConfigError(f"backend={backend!r} cannot run here: {reasons[backend]}. Use backend='auto'.")
    return "torch", reasons["cpp" if input.is_cpu else "triton"]


def _module(input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor, backend: str) -> ModuleType:
    return _FASTER.get(choose_backend(input, weight, offset, kernel, backend)[0], tiled)


@torch.library.impl("kdinpaint::adaptive_conv", "default")
def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    region: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Tensor:
    geometry = _geometry(weight, stride, padding, dilation)
    with torch.autocast(input.device.type, enabled=False):
        module = _module(input, weight, offset, kernel, backend)
        output: Tensor = module.forward(input, weight, offset, kernel, bias, region, geometry)
        return output


@torch.library.register_fake("kdinpaint::adaptive_conv")  # type: ignore[untyped-decorator]
def _(input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401
    batch, _, height, width = kernel.shape
    return input.new_empty(batch, height, width, weight.shape[0]).permute(0, 3, 1, 2)


@torch.library.impl("kdinpaint::adaptive_conv_backward", "default")
def _backward(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    geometry = _geometry(weight, stride, padding, dilation)
    with torch.autocast(input.device.type, enabled=False):
        module = _module(input, weight, offset, kernel, backend)
        found = module.backward(grad, input, weight, offset, kernel, region, geometry, tuple(wanted))
        return tuple(grad.new_empty(0) if gradient is None else gradient for gradient in found)


@torch.library.register_fake("kdinpaint::adaptive_conv_backward")  # type: ignore[untyped-decorator]
def _(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    wanted: Sequence[bool],
    backend: str,
) -> tuple[Tensor, ...]:
    inputs = (input, weight, offset, kernel, weight.new_empty(weight.shape[0]))
    return tuple(torch.empty_like(t) if w else grad.new_empty(0) for t, w in zip(inputs, wanted, strict=True))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ANN401
    input, weight, offset, kernel, _, region, *ctx.geometry, ctx.backend = inputs
    ctx.save_for_backward(input, weight, offset, kernel, region)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
    input, weight, offset, kernel, region = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[:5])
    found: Sequence[Tensor] = ()
    if torch.is_grad_enabled():
        found = _differentiable(grad, input, weight, offset, kernel, region, _geometry(weight, *ctx.geometry))
    elif any(wanted):
        found = torch.ops.kdinpaint.adaptive_conv_backward(
            grad, input, weight, offset, kernel, region, *ctx.geometry, wanted, ctx.backend
        )
    grads = [gradient if wish else None for gradient, wish in zip(found, wanted, strict=True)] if found else [None] * 5
    return (*grads, *[None] * 5)


torch.library.register_autograd("kdinpaint::adaptive_conv", _autograd, setup_context=_setup)


def _differentiable(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    region: Tensor | None,
    geometry: Geometry,
) -> tuple[Tensor, ...]:
    """All gradients as a graph of differentiable operations, with the columns of the whole map in memory."""
    out_channels, channels, *kernel_size = weight.shape
    frame = Frame(input.shape[0], *input.shape[-2:])
    positions = Positions.all(kernel, region)
    table = sampling_table(offset, kernel, frame, geometry, positions)
    rows, corner_weight = frame.rows(input.permute(0, 2, 3, 1)), table.weight.to(input.dtype)
    matrix = as_matrix(weight)
    slope = positions.take(grad).reshape(-1, out_channels)

    columns = gather_rows(table.first, corner_weight, rows, frame.step).reshape(-1, matrix.shape[1])
    samples = (slope @ matrix).reshape(-1, channels)
    grad_rows = scatter_rows(table.first, corner_weight, samples, frame.step, frame.count)
    grad_weight = (slope.t() @ columns).reshape(out_channels, *kernel_size, channels).permute(0, 3, 1, 2)
    moved, scaled = table.gradients(dot_rows(table.first, rows, samples, frame.step).to(table.scale.dtype))
    planes = [
        torch.zeros_like(like)
        .permute(0, 2, 3, 1)
        .index_put(_as_tensors(positions), value.reshape(-1, like.shape[1]).to(like.dtype))
        .permute(0, 3, 1, 2)
        for like, value in ((offset, moved), (kernel, scaled))
    ]
    return frame.pixels(grad_rows).permute(0, 3, 1, 2), grad_weight, *planes, slope.sum(0)


def _as_tensors(positions: Positions) -> tuple[Tensor, ...]:
    shape = (positions.image + positions.line + positions.column).shape
    return tuple(part.expand(shape).reshape(-1) for part in (positions.image, positions.line, positions.column))


def _geometry(weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> Geometry:
    return Geometry(
        (weight.shape[-2], weight.shape[-1]),
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
    )
