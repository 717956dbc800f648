"""Layers and networks written out by hand from their docstrings, on torch and torchvision alone."""

from collections.abc import Callable

import torch
from reference_ops import covered
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

Convolve = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def by_torchvision(x: Tensor, weight: Tensor, offset: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """Eq. 4 for a 3x3 kernel with padding 1."""
    return deform_conv2d(x, offset, weight, bias, padding=1, mask=kernel)


def adaptive(conv: nn.Module, x: Tensor, convolve: Convolve = by_torchvision) -> Tensor:
    """A 3x3 AdaptiveConv2d with modulation "sigmoid"."""
    offset = F.conv2d(x, conv.offset_conv.weight, conv.offset_conv.bias, padding=1)
    raw = F.conv2d(x, conv.kernel_conv.weight, conv.kernel_conv.bias, padding=1)
    return convolve(x, conv.weight, offset, 2 * torch.sigmoid(raw), conv.bias)


def filler(block: nn.Module, x: Tensor, mask: Tensor, convolve: Convolve = by_torchvision) -> Tensor:
    """A FillerBlock, computed everywhere and then cut to the hole."""
    entry = F.conv2d(x, block.entry.weight, block.entry.bias, block.stride, max(block.stride // 2, 1))
    hidden = F.leaky_relu(entry, 0.2)
    filled = adaptive(block.conv2, F.leaky_relu(adaptive(block.conv1, hidden, convolve), 0.2), convolve)
    out = F.conv2d(hidden + filled, block.exit.weight, block.exit.bias)
    return out * covered(mask, out.shape[-2:])


def residual(block: nn.Module, x: Tensor) -> Tensor:
    """x + conv3x3(act(conv3x3(act(x))))."""
    step = block.conv1.dilation[0]
    inner = F.conv2d(F.leaky_relu(x, 0.2), block.conv1.weight, block.conv1.bias, padding=step, dilation=step)
    return x + F.conv2d(F.leaky_relu(inner, 0.2), block.conv2.weight, block.conv2.bias, padding=step, dilation=step)


def global_local(block: nn.Module, x: Tensor) -> Tensor:
    """A GlobalLocalAttention with fusion "fuse": d + W y_G + (1 - W) y_L."""
    query, key, value = (F.conv2d(x, c.weight, c.bias).flatten(2) for c in (block.query, block.key, block.value))
    score = torch.einsum("bdi,bdj->bij", query, key) / query.shape[1] ** 0.5
    far = torch.einsum("bij,bcj->bci", score.softmax(2), value).reshape(x.shape)
    gate = torch.sigmoid(F.conv2d(x, block.gate.weight, block.gate.bias, padding=1))
    return x + gate * far + (1 - gate) * adaptive(block.local, x)


def encoder(module: nn.Module, x: Tensor, mask: Tensor) -> list[Tensor]:
    """E_m = f_feat(E_{m-1}) + f_fill(E_{m-1}) M_m for parallel fillers, or without any."""
    features = []
    for number, level in enumerate(module.levels):
        out = F.conv2d(x, level[0].weight, level[0].bias, stride=2, padding=1)
        for block in list(level)[1:]:
            out = residual(block, out)
        if len(module.fillers):
            out = out + filler(module.fillers[number], x, mask)
        features.append(out)
        x = out
    return features


def decoder(module: nn.Module, features: list[Tensor], x: Tensor | None) -> Tensor:
    """Context, then per level: double, join the skip, residual block; attention at the second deepest level."""
    out = features[-1]
    for block in module.context:
        out = residual(block, out)
    for number, (join, block) in enumerate(zip(module.joins, module.blocks, strict=True)):
        out = out.repeat_interleave(2, -1).repeat_interleave(2, -2)
        out = out if x is None else torch.cat([out, features[-2 - number]], 1)
        out = residual(block, F.conv2d(out, join.weight, join.bias, padding=1))
        if module.attention is not None and number == 0:
            out = global_local(module.attention, out)
    out = out.repeat_interleave(2, -1).repeat_interleave(2, -2)
    out = out if x is None else torch.cat([out, x], 1)
    first, last = module.head[0], module.head[2]
    out = F.leaky_relu(F.conv2d(out, first.weight, first.bias, padding=1), 0.2)
    return torch.sigmoid(F.conv2d(out, last.weight, last.bias, padding=1))
