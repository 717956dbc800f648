"""Adaptive convolution (Eq. 4): a convolution whose kernel and sampling positions differ per pixel."""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torch.autograd import forward_ad

from kdinpaint._core.checks import check_choice, check_feature, describe
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops.fused import adaptive_conv, choose_backend
from kdinpaint.ops.geometry import Geometry, IntPair
from kdinpaint.ops.reference import adaptive_conv2d_reference

__all__ = ["Backend", "BackendChoice", "adaptive_conv2d", "adaptive_conv2d_backend"]

Backend = Literal["auto", "triton", "cpp", "torch", "torchvision", "reference"]


def adaptive_conv2d(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    *,
    region: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor:
    r"""Convolve with a per-pixel kernel and per-pixel sampling positions.

    Eq. 4 of the paper, for output position $j$ and output channel $c$:

    $$y_{j,c} = \sum_{k=1}^{K^2} V_{j,k}\,\langle W_c[j_k],\; x[j + j_k + \Delta_{j,k}]\rangle$$

    Positions between pixels are read bilinearly, positions outside the image are zero. With $V = 1$ and
    $\Delta = 0$ it is `torch.nn.functional.conv2d`; in general it equals
    `torchvision.ops.deform_conv2d(input, offset, weight, mask=kernel)` to rounding. Unlike torchvision's it
    can be differentiated any number of times, and computed for a part of the positions only. First gradients keep
    nothing but the arguments; under ``create_graph=True`` the backward pass is made of differentiable operations
    and holds the K^2 C_in columns of every position.

    Under autocast, `input` and `weight` are cast to the autocast dtype; positions are always computed in the
    dtype of `offset`, so keep that float32.

    Args:
        input: (B, C_in, H, W).
        weight: W, (C_out, C_in, K, K), shared by all pixels; rectangular kernels work.
        offset: Delta, (B, 2 K^2, H_out, W_out), pixels, as (dy, dx) per tap.
        kernel: V, (B, K^2, H_out, W_out), shared by all channels.
        bias: (C_out,).
        stride: As in `torch.nn.functional.conv2d`.
        padding: As in `torch.nn.functional.conv2d`.
        dilation: As in `torch.nn.functional.conv2d`.
        region: (B, 1, H_out, W_out), float or bool. Where it is 0 the output is exactly 0 and no gradient
            flows; the work is proportional to the cells where it is not.
        backend: "triton": one fused kernel, on CUDA devices. "cpp": one of C++, on Linux CPUs; the first call
            compiles it, in some seconds, if there is a C++ compiler. "torch": plain PyTorch around matrix products
            in tiles, on any device. "auto": the first of these three that can run, see
            `adaptive_conv2d_backend`. "torchvision": its operator, once differentiable. "reference": a readable
            loop over the taps, which "auto" takes for forward-mode derivatives, too.

    Returns:
        (B, C_out, H_out, W_out).

    Raises:
        ShapeError: Shapes do not fit each other.
        ConfigError: Unknown backend, one that cannot run here, or one without forward-mode derivatives where they are
            wanted; stride, padding or dilation out of range.

    Example:
        >>> import torch
        >>> from kdinpaint import adaptive_conv2d
        >>> x, weight = torch.randn(1, 4, 8, 8), torch.randn(6, 4, 3, 3)
        >>> offset, kernel = torch.zeros(1, 18, 8, 8), torch.ones(1, 9, 8, 8)
        >>> y = adaptive_conv2d(x, weight, offset, kernel, padding=1)
        >>> torch.allclose(y, torch.nn.functional.conv2d(x, weight, padding=1), atol=1e-5)
        True
    """
    if not isinstance(weight, Tensor) or weight.dim() != 4:
        raise ShapeError(f"weight is {describe(weight)}; expected (C_out, C_in, K, K).")
    geometry = Geometry.make((weight.shape[-2], weight.shape[-1]), stride, padding, dilation)
    _check(input, weight, offset, kernel, bias, geometry, region, backend)

    device = input.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        input, weight = input.to(dtype), weight.to(dtype)
    if bias is not None:
        bias = bias.to(input.dtype)
    if _has_tangent(input, weight, offset, kernel, bias):
        if backend not in ("auto", "reference"):
            raise ConfigError(
                f"backend={backend!r} has no forward-mode derivative and would lose it without a word; use 'auto' or "
                f"'reference'."
            )
        backend = "reference"
    if backend not in ("torchvision", "reference"):
        return adaptive_conv(input, weight, offset, kernel, bias, region, *geometry[1:], backend)
    with torch.autocast(device, enabled=False):
        output = _composite(input, weight, offset, kernel, bias, geometry, backend)
    return output if region is None else torch.where(region != 0, output, 0.0)


def _has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation is under way."""
    if torch.compiler.is_compiling() or forward_ad._current_level < 0:
        return False
    duals = [forward_ad.unpack_dual(t) for t in tensors if t is not None]  # type: ignore[no-untyped-call]
    return any(dual.tangent is not None for dual in duals)


class BackendChoice(NamedTuple):
    """What computes a call of `adaptive_conv2d`.

    Attributes:
        name: "triton", "cpp" or "torch".
        reason: If "torch", why not the faster one of its device: "cpp" on a CPU, else "triton".
    """

    name: str
    reason: str | None


def adaptive_conv2d_backend(input: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor) -> BackendChoice:
    """Which backend "auto" takes for these arguments of `adaptive_conv2d`, and why not a faster one.

    Args:
        input: As for `adaptive_conv2d`, after any cast by autocast.
        weight: Likewise.
        offset: Likewise.
        kernel: Likewise.

    Example:
        >>> import torch
        >>> from kdinpaint.ops import adaptive_conv2d_backend
        >>> x, weight = torch.randn(1, 4, 8, 8), torch.randn(6, 4, 1, 1)
        >>> choice = adaptive_conv2d_backend(x, weight, torch.zeros(1, 2, 8, 8), torch.ones(1, 1, 8, 8))
        >>> choice.name in ("cpp", "torch")
        True
    """
    return BackendChoice(*choose_backend(input, weight, offset, kernel))


def _composite(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    backend: Backend,
) -> Tensor:
    wide = torch.promote_types(input.dtype, offset.dtype)
    x, w, o, v = (t.to(wide) for t in (input, weight, offset, kernel))
    b = None if bias is None else bias.to(wide)
    if backend == "torchvision":
        from torchvision.ops import deform_conv2d  # importing torchvision takes a second that few need

        output = deform_conv2d(x, o, w, b, *geometry[1:], v)
    else:
        output = adaptive_conv2d_reference(x, w, o, v, b, geometry)
    return output.to(input.dtype)


def _check(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    region: Tensor | None,
    backend: str,
) -> None:
    if torch.compiler.is_compiling():
        return
    check_choice(backend, get_args(Backend), "backend")
    check_feature(input, "input", channels=weight.shape[1])
    size = geometry.output_size((input.shape[-2], input.shape[-1]))
    taps = geometry.taps
    expected = {"offset": (input.shape[0], 2 * taps, *size), "kernel": (input.shape[0], taps, *size)}
    if region is not None:
        expected["region"] = (input.shape[0], 1, *size)
    given = {"offset": offset, "kernel": kernel, "region": region}
    for name, shape in expected.items():
        value = given[name]
        if not isinstance(value, Tensor) or tuple(value.shape) != shape:
            raise ShapeError(
                f"{name} is {describe(value)}; expected shape {shape} for input {tuple(input.shape)} and "
                f"weight {tuple(weight.shape)}."
            )
    if bias is not None and tuple(bias.shape) != (weight.shape[0],):
        raise ShapeError(f"bias is {describe(bias)}; expected shape ({weight.shape[0]},).")
    devices = {str(t.device) for t in (input, weight, offset, kernel, bias, region) if t is not None}
    if len(devices) > 1:
        raise ShapeError(f"arguments are on {', '.join(sorted(devices))}; expected one device.")
