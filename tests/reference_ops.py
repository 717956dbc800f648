"""Plain loops that say what the operators mean, slowly. Written from the equations, not from the package."""

import math

import torch
from torch import Tensor


def read(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear value of all channels of (C, H, W) at one position in pixels; zero outside."""
    top, left = math.floor(y.item()), math.floor(x.item())
    total = image.new_zeros(image.shape[0])
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                down = (1 - (y - top)) if row == top else (y - top)
                right = (1 - (x - left)) if column == left else (x - left)
                total = total + down * right * image[:, row, column]
    return total


def adaptive_conv2d_loop(
    image: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:
    """Eq. 4, one output position, one tap at a time; autograd goes through."""
    rows, columns = weight.shape[-2:]
    samples = []
    for b in range(image.shape[0]):
        for i in range(kernel.shape[2]):
            for j in range(kernel.shape[3]):
                value = image.new_zeros(weight.shape[0]) if bias is None else bias
                for k in range(rows * columns):
                    y = i * stride[0] - padding[0] + k // columns * dilation[0] + offset[b, 2 * k, i, j]
                    x = j * stride[1] - padding[1] + k % columns * dilation[1] + offset[b, 2 * k + 1, i, j]
                    value = value + kernel[b, k, i, j] * (
                        weight[:, :, k // columns, k % columns] @ read(image[b], y, x)
                    )
                samples.append(value)
    out = torch.stack(samples).reshape(image.shape[0], kernel.shape[2], kernel.shape[3], -1)
    return out.permute(0, 3, 1, 2)


def corner_rows(first: Tensor, width: int) -> Tensor:
    """(N, 4), the rows that a sample reads: one, its right neighbour, and the two below."""
    return torch.stack([first, first + 1, first + width, first + width + 1], 1).long()


def gather_rows_loop(first: Tensor, weight: Tensor, rows: Tensor, width: int) -> Tensor:
    """out[n] = sum_i weight[n, i] rows[at[n, i]]."""
    at = corner_rows(first, width)
    out = [sum((weight[n, i] * rows[at[n, i]] for i in range(4)), rows.new_zeros(())) for n in range(len(at))]
    return torch.stack(out) if out else rows.new_zeros(0, rows.shape[1])


def scatter_rows_loop(first: Tensor, weight: Tensor, samples: Tensor, width: int, count: int) -> Tensor:
    """rows[at[n, i]] += weight[n, i] samples[n]."""
    rows, at = samples.new_zeros(count, samples.shape[1]), corner_rows(first, width)
    for i in range(4):
        rows = rows.index_add(0, at[:, i], weight[:, i, None] * samples)
    return rows


def dot_rows_loop(first: Tensor, rows: Tensor, samples: Tensor, width: int) -> Tensor:
    """weight[n, i] = <rows[at[n, i]], samples[n]>."""
    at = corner_rows(first, width)
    return torch.stack([(rows[at[:, i]] * samples).sum(1) for i in range(4)], 1)


def masked_mean_loop(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each channel over the cells of the mask; 0 without any."""
    out = values.new_zeros(values.shape[:2])
    for b in range(values.shape[0]):
        for c in range(values.shape[1]):
            chosen = [values[b, c, i, j] for i, j in (mask[b, 0] != 0).nonzero().tolist()]
            out[b, c] = sum(chosen, values.new_zeros(())) / max(len(chosen), 1)
    return out


def covered(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask at a level, hole wherever any pixel that the cell overlaps is: cell i spans [i H/h, (i+1) H/h)."""
    height, width = mask.shape[-2:]
    out = mask.new_zeros(*mask.shape[:2], *size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
            columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
            out[..., i, j] = mask[..., rows, columns].flatten(2).amax(-1)
    return out
