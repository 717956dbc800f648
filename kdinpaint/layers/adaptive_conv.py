"""AdaptiveConv2d: `adaptive_conv2d` with kernel and offsets generated from its own input."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice, check_feature
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops.adaptive_conv import Backend, adaptive_conv2d
from kdinpaint.ops.geometry import Geometry, IntPair

__all__ = ["AdaptiveConv2d", "Modulation"]

Modulation = Literal["sigmoid", "linear", "softmax", "none"]


class AdaptiveConv2d(nn.Module):
    r"""Adaptive convolution, Eq. 4: a drop-in for `torch.nn.Conv2d` whose kernel and reach differ per pixel.

    Two convolutions of the same geometry, zero when fresh, generate $V$ and $\Delta$ from the input; a fresh
    module therefore equals `torch.nn.Conv2d` with the same weight. See `kdinpaint.adaptive_conv2d` for the
    operation itself.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: K, an int or (vertical, horizontal).
        stride: As in `torch.nn.Conv2d`.
        padding: As in `torch.nn.Conv2d`.
        dilation: As in `torch.nn.Conv2d`.
        bias: Learn a bias.
        modulation: How V comes from the generator's output g: "sigmoid" 2 sigmoid(g), bounded and positive;
            "linear" 1 + g; "softmax" K^2 softmax(g), whose sum is fixed; "none" V = 1.
        max_offset: Largest offset in pixels (through tanh); no limit by default, as in Eq. 4.
        offsets: False fixes the offsets at 0 and leaves V alone (an ablation).
        condition_channels: Channels of an extra input that only the generators see, for example 1 for a mask.
        backend: As in `kdinpaint.adaptive_conv2d`.
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, C_in, H, W) -> (B, C_out, H_out, W_out), sizes as for `torch.nn.Conv2d`.

    Raises:
        ConfigError: Unknown modulation or a negative `max_offset`.

    Example:
        >>> import torch
        >>> from kdinpaint import AdaptiveConv2d
        >>> AdaptiveConv2d(8, 16, 3, padding=1)(torch.randn(1, 8, 32, 32)).shape
        torch.Size([1, 16, 32, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: IntPair = 0,
        dilation: IntPair = 1,
        bias: bool = True,
        *,
        modulation: Modulation = "sigmoid",
        max_offset: float | None = None,
        offsets: bool = True,
        condition_channels: int = 0,
        backend: Backend = "auto",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(modulation, ("sigmoid", "linear", "softmax", "none"), "modulation")
        if max_offset is not None and max_offset <= 0:
            raise ConfigError(f"max_offset is {max_offset}; expected a positive number of pixels, or None.")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.geometry = Geometry.make(kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride, self.padding, self.dilation = self.geometry  # as on torch.nn.Conv2d
        self.modulation: Modulation = modulation
        self.max_offset = max_offset
        self.condition_channels = condition_channels
        self.backend: Backend = backend

        self.weight = nn.Parameter(
            torch.empty(out_channels, in_channels, *self.geometry.kernel_size, device=device, dtype=dtype)
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype)) if bias else None

        def generator(outputs: int) -> nn.Conv2d:
            return nn.Conv2d(
                in_channels + condition_channels,
                outputs,
                *self.geometry,
                device=device,
                dtype=dtype,
            )

        self.offset_conv = generator(2 * self.geometry.taps) if offsets else None
        self.kernel_conv = None if modulation == "none" else generator(self.geometry.taps)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise weight and bias as `torch.nn.Conv2d` does, and the generators to zero."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)
        for conv in (self.offset_conv, self.kernel_conv):
            if conv is not None:
                nn.init.zeros_(conv.weight)
                nn.init.zeros_(conv.bias)  # type: ignore[arg-type]

    def generate(self, x: Tensor, condition: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Offsets (B, 2K^2, H_out, W_out), in pixels, and kernel V (B, K^2, H_out, W_out) for an input."""
        seen = x if condition is None else torch.cat([x, condition.to(x.dtype)], 1)
        taps = self.geometry.taps
        if self.offset_conv is None:
            size = self.geometry.output_size((x.shape[-2], x.shape[-1]))
            wide = torch.promote_types(x.dtype, torch.float32)
            offset = torch.zeros(x.shape[0], 2 * taps, *size, device=x.device, dtype=wide)
        else:
            offset = self.offset_conv(seen).float() if x.dtype != torch.float64 else self.offset_conv(seen)
        if self.max_offset is not None:
            offset = self.max_offset * torch.tanh(offset / self.max_offset)
        if self.kernel_conv is None:
            return offset, torch.ones_like(offset[:, :taps])
        raw = self.kernel_conv(seen).to(offset.dtype)
        if self.modulation == "sigmoid":
            return offset, 2 * torch.sigmoid(raw)
        if self.modulation == "linear":
            return offset, 1 + raw
        return offset, taps * F.softmax(raw, dim=1)

    def forward(self, x: Tensor, region: Tensor | None = None, condition: Tensor | None = None) -> Tensor:
        """Apply the convolution.

        Args:
            x: (B, C_in, H, W).
            region: (B, 1, H_out, W_out); the output is computed there only and exactly 0 elsewhere.
            condition: (B, condition_channels, H, W), if the module was built with any.

        Raises:
            ShapeError: A shape does not fit the module.
        """
        self._check(x, condition)
        offset, kernel = self.generate(x, condition)
        return adaptive_conv2d(
            x,
            self.weight,
            offset,
            kernel,
            self.bias,
            *self.geometry[1:],
            region=region,
            backend=self.backend,
        )

    def _check(self, x: Tensor, condition: Tensor | None) -> None:
        check_feature(x, "x", channels=self.in_channels)
        if torch.compiler.is_compiling():
            return
        self.geometry.output_size((x.shape[-2], x.shape[-1]))
        expected = (x.shape[0], self.condition_channels, *x.shape[-2:]) if self.condition_channels else None
        given = None if condition is None else tuple(condition.shape)
        if given != expected:
            raise ShapeError(
                f"condition has shape {given}; expected {expected}, as the module was built with "
                f"condition_channels={self.condition_channels} and x is {tuple(x.shape)}."
            )

    def extra_repr(self) -> str:
        """Constructor arguments that differ from the defaults."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        for name, default in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))):
            value = getattr(self, name)
            if value != default:
                text += f", {name}={value}"
        return text + f", modulation={self.modulation!r}"
