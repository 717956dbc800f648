"""1x1 convolution of some positions only."""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["pointwise_conv2d"]


def pointwise_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, region: Tensor) -> Tensor:
    """1x1 convolution where a region is not 0, and exactly 0 elsewhere, in values and gradients.

    On the CPU the work is proportional to the region. Elsewhere, and while a graph is compiled, the whole map is
    computed and then cut: a list of positions would make the host wait for the device, or the graph depend on data.

    Args:
        input: (B, C_in, H, W).
        weight: (C_out, C_in, 1, 1).
        bias: (C_out,).
        region: (B, 1, H, W), float or bool.

    Returns:
        (B, C_out, H, W).
    """
    if torch.compiler.is_compiling() or not input.is_cpu:
        return torch.where(region != 0, F.conv2d(input, weight, bias), 0.0)
    batch, channels, height, width = input.shape
    inside = region.reshape(-1).nonzero()[:, 0]
    rows = input.permute(0, 2, 3, 1).reshape(-1, channels)[inside]
    found = F.linear(rows, weight.flatten(1), bias)
    output = found.new_zeros(batch * height * width, found.shape[1]).index_copy(0, inside, found)
    return output.view(batch, height, width, -1).permute(0, 3, 1, 2)
