"""What an adaptive convolution is measured on: random inputs, hole regions, and the right answer in float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from kdinpaint._core.errors import ConfigError
from kdinpaint.ops.adaptive_conv import adaptive_conv2d

__all__ = ["Answer", "Case", "DType", "Inputs", "make_inputs", "make_region", "parse_shape", "reference", "worst_error"]

DType = Literal["float32", "bfloat16"]

Answer = tuple[Tensor, ...]
"""The output, then the gradients of x, weight, bias and, for an adaptive convolution, offset and kernel."""


@dataclass(frozen=True)
class Case:
    """One problem: a K = 3 convolution at stride 1 that keeps the size.

    Attributes:
        shape: (B, C, H, W) of the input.
        out_channels: Channels of the output.
        spread: Standard deviation of the offsets, pixels.
        dtype: "bfloat16" computes under autocast: x and the output are bfloat16, parameters and offsets float32.
        device: Where to compute.
    """

    shape: tuple[int, int, int, int]
    out_channels: int
    spread: float
    dtype: DType
    device: torch.device

    def __str__(self) -> str:
        return f"{self.dtype}, {'x'.join(map(str, self.shape))} to {self.out_channels}, offsets {self.spread:g} px"


def parse_shape(text: str) -> tuple[tuple[int, int, int, int], int]:
    """Shape and output channels from "B,C,H,W" or "B,C,H,W,C_out".

    Raises:
        ConfigError: Something else was given.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (4, 5) or min(numbers) < 1:
        raise ConfigError(f"shape is {text!r}; expected B,C,H,W or B,C,H,W,C_OUT, for example 2,64,128,128.")
    batch, channels, height, width, *rest = numbers
    return (batch, channels, height, width), rest[0] if rest else channels


@dataclass(frozen=True)
class Inputs:
    """Tensors of a case, all but `gradient` with gradients on.

    Attributes:
        x: (B, C, H, W).
        weight: (C_out, C, 3, 3).
        bias: (C_out,).
        offset: (B, 18, H, W). Fractions of a pixel are odd multiples of 1/128: exact in float32, and never at the
            kink of bilinear interpolation, where a derivative depends on rounding. With spread 0 all are 0.
        kernel: (B, 9, H, W), in (0, 2).
        gradient: (B, C_out, H, W), of the output.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor
    offset: Tensor
    kernel: Tensor
    gradient: Tensor

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """What gradients are taken of."""
        return self.x, self.weight, self.bias, self.offset, self.kernel


def make_inputs(case: Case, *, seed: int = 0) -> Inputs:
    """Random inputs, the same for a seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    batch, channels, height, width = case.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    fan_in = 9 * channels
    offset = normal(batch, 18, height, width) * case.spread
    if case.spread:
        offset = (torch.floor(offset * 64) + 0.5) / 64
    tensors = {
        "x": normal(*case.shape).to(getattr(torch, case.dtype)),
        "weight": normal(case.out_channels, channels, 3, 3) / math.sqrt(fan_in),
        "bias": normal(case.out_channels),
        "offset": offset,
        "kernel": 2 * torch.sigmoid(normal(batch, 9, height, width)),
        "gradient": normal(batch, case.out_channels, height, width).to(getattr(torch, case.dtype)),
    }
    return Inputs(**{name: t.to(case.device).requires_grad_(name != "gradient") for name, t in tensors.items()})


def make_region(case: Case, ratio: float, *, seed: int = 0) -> Tensor:
    """One box an image, of about the given share of the cells, at a random place: (B, 1, H, W), 1 = hole.

    Raises:
        ConfigError: The ratio is not in (0, 1].
    """
    if not 0 < ratio <= 1:
        raise ConfigError(f"region is {ratio}; expected a share of the cells, more than 0 and at most 1.")
    batch, _, height, width = case.shape
    tall = min(height, max(1, round(height * math.sqrt(ratio))))
    wide = min(width, max(1, round(height * width * ratio / tall)))
    generator = torch.Generator().manual_seed(seed)
    region = torch.zeros(batch, 1, height, width)
    for image in region:
        top = int(torch.randint(height - tall + 1, (), generator=generator))
        left = int(torch.randint(width - wide + 1, (), generator=generator))
        image[:, top : top + tall, left : left + wide] = 1
    return region.to(case.device)


def reference(inputs: Inputs, region: Tensor | None = None) -> Answer:
    """Output and gradients of the readable implementation in float64 on the CPU, for the very same input values."""
    leaves = [t.detach().double().cpu().requires_grad_() for t in inputs.leaves]
    x, weight, bias, offset, kernel = leaves
    where = None if region is None else region.cpu()
    output = adaptive_conv2d(x, weight, offset, kernel, bias, padding=1, region=where, backend="reference")
    gradients = torch.autograd.grad(output, leaves, inputs.gradient.double().cpu())
    return output.detach(), *gradients


def worst_error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative norm of a difference; NaN if anything is."""
    errors = []
    for a, b in zip(found, expected, strict=True):
        difference = (a.detach().double().cpu() - b).norm()
        scale = b.norm()
        errors.append(float(difference / scale if scale else difference))
    return math.nan if any(math.isnan(e) for e in errors) else max(errors)
