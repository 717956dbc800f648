"""Eq. 4 as it is written: the slow, readable form that every fast form is checked against."""

import torch
from torch import Tensor

from kdinpaint.ops.geometry import Geometry

__all__ = ["adaptive_conv2d_reference"]


def _bilinear(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Sample (B, C, H, W) at positions (B, Ho, Wo), in pixels; zero outside. Returns (B, C, Ho, Wo)."""
    batch, _, height, width = image.shape
    which = torch.arange(batch, device=image.device)[:, None, None]
    y0, x0 = y.detach().floor(), x.detach().floor()
    total: Tensor | float = 0.0
    for row, row_weight in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
        for column, column_weight in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            rows, columns = (torch.where(inside, v, torch.zeros_like(v)).long() for v in (row, column))
            value = image[which, :, rows, columns].permute(0, 3, 1, 2)
            total = total + torch.where(inside, row_weight * column_weight, 0.0)[:, None] * value
    return torch.as_tensor(total)


def adaptive_conv2d_reference(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Loop over the taps of Eq. 4; arguments and result as in `adaptive_conv2d`."""
    (_, kernel_width), stride, padding, dilation = geometry
    out_height, out_width = kernel.shape[-2:]
    row = torch.arange(out_height, device=input.device)[:, None] * stride[0] - padding[0]
    column = torch.arange(out_width, device=input.device)[None, :] * stride[1] - padding[1]
    output = input.new_zeros(input.shape[0], weight.shape[0], out_height, out_width)
    for tap in range(geometry.taps):
        i, j = divmod(tap, kernel_width)
        y = row + i * dilation[0] + offset[:, 2 * tap]
        x = column + j * dilation[1] + offset[:, 2 * tap + 1]
        sample = _bilinear(input, y, x) * kernel[:, tap, None]
        output = output + torch.einsum("oc,bchw->bohw", weight[:, :, i, j], sample)
    return output if bias is None else output + bias[:, None, None]
