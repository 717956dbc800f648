"""Adaptive convolution (Eq. 4): a convolution whose kernel and sampling positions differ per pixel."""

from typing import Literal

import torch
from torch import Tensor

from kdinpaint._core.checks import check_choice, check_feature, describe
from kdinpaint._core.errors import ShapeError
from kdinpaint.ops.geometry import Geometry, IntPair
from kdinpaint.ops.reference import adaptive_conv2d_reference
from kdinpaint.ops.sampling import gather_rows, sampling_table

__all__ = ["Backend", "adaptive_conv2d"]

Backend = Literal["auto", "reference", "torch", "torchvision"]


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
    can be differentiated any number of times, and computed for a part of the positions only.

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
            flows; eagerly, the work is proportional to the cells where it is not. (While compiling, the
            whole map is computed and then cut, because shapes may not depend on data.)
        backend: "torch" (default for "auto"): sampling table, weighted gather, matrix product.
            "torchvision": its operator, once differentiable. "reference": a readable loop over the taps.

    Returns:
        (B, C_out, H_out, W_out).

    Raises:
        ShapeError: Shapes do not fit each other.
        ConfigError: Unknown backend; stride, padding or dilation out of range.

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
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(device, enabled=False):
            return _dispatch(input, weight, offset, kernel, bias, geometry, region, backend)
    return _dispatch(input, weight, offset, kernel, bias, geometry, region, backend)


def _dispatch(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    region: Tensor | None,
    backend: Backend,
) -> Tensor:
    if backend in ("auto", "torch"):
        subset = None if region is None or torch.compiler.is_compiling() else region != 0
        output = _table_conv(input, weight, offset, kernel, bias, geometry, subset)
        if region is None or subset is not None:
            return output
    else:
        wide = torch.promote_types(input.dtype, offset.dtype)
        x, w, o, v = (t.to(wide) for t in (input, weight, offset, kernel))
        b = None if bias is None else bias.to(wide)
        if backend == "torchvision":
            from torchvision.ops import deform_conv2d  # importing torchvision takes a second that few need

            output = deform_conv2d(x, o, w, b, geometry.stride, geometry.padding, geometry.dilation, v)
        else:
            output = adaptive_conv2d_reference(x, w, o, v, b, geometry)
        output = output.to(input.dtype)
    return output if region is None else torch.where(region != 0, output, 0.0)


def _table_conv(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    subset: Tensor | None,
) -> Tensor:
    batch, channels, height, width = input.shape
    out_channels = weight.shape[0]
    out_height, out_width = kernel.shape[-2:]
    positions = None if subset is None else subset.reshape(-1).nonzero()[:, 0]

    index, sample_weight = sampling_table(
        offset, kernel.to(offset.dtype), input_size=(height, width), geometry=geometry, positions=positions
    )
    rows = input.permute(0, 2, 3, 1).reshape(-1, channels)
    columns = gather_rows(index, sample_weight.to(input.dtype), rows)
    columns = columns.reshape(-1, geometry.taps * channels)
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, out_channels)
    output = columns @ matrix if bias is None else torch.addmm(bias, columns, matrix)
    if positions is not None:
        full = output.new_zeros(batch * out_height * out_width, out_channels)
        output = full.index_copy(0, positions, output)
    return output.view(batch, out_height, out_width, out_channels).permute(0, 3, 1, 2)


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
    check_choice(backend, ("auto", "reference", "torch", "torchvision"), "backend")
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
