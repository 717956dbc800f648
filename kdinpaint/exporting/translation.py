"""Adaptive convolution in ONNX: one standard DeformConv node."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kdinpaint._core.optional import require

__all__ = ["MIN_OPSET", "translations"]

MIN_OPSET = 19
"""DeformConv became part of ONNX with this operator set."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export` needs to know of the operators of kdinpaint."""
    return {torch.ops.kdinpaint.adaptive_conv.default: _adaptive_conv}


# Values of a graph under construction have no public type; positional, because the exporter passes them so.
def _adaptive_conv(
    input: Any,  # noqa: ANN401
    weight: Any,  # noqa: ANN401
    offset: Any,  # noqa: ANN401
    kernel: Any,  # noqa: ANN401
    bias: Any,  # noqa: ANN401
    region: Any,  # noqa: ANN401
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    backend: str,
) -> Any:  # noqa: ANN401
    """DeformConv takes one number format: that of the positions, because they are never rounded to a shorter one."""
    op = require("onnxscript", extra="export").opset19
    formats = require("onnx", extra="export").TensorProto
    short = offset.dtype == formats.BFLOAT16  # DeformConv knows it from opset 22 on
    wide = formats.FLOAT if short else offset.dtype

    def widen(value: Any) -> Any:  # noqa: ANN401
        return value if value is None or value.dtype == wide else op.Cast(value, to=wide)

    output = op.DeformConv(
        widen(input),
        widen(weight),
        widen(offset),
        widen(bias),
        widen(kernel),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=1,
        offset_group=1,
    )
    if input.dtype != wide:
        output = op.Cast(output, to=input.dtype)
    if region is None:
        return output
    return op.Where(op.Cast(region, to=formats.BOOL), output, op.CastLike(0.0, output))
