"""What a model costs: parameters and multiply-accumulates."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from kdinpaint._core.modes import evaluating

__all__ = ["ModelCost", "model_cost"]


@register_flop_formula(torch.ops.kdinpaint.adaptive_conv, get_raw=True)
def _adaptive_conv_flops(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    kernel: Tensor,
    bias: Tensor | None,
    region: Tensor | None,
    *_: Any,  # noqa: ANN401
    **__: Any,  # noqa: ANN401
) -> int:
    positions = kernel[:, 0].numel() if region is None else int(torch.count_nonzero(region))
    gather = 4 * kernel.shape[1] * input.shape[1]
    return int(2 * positions * (gather + weight.numel()))


@dataclass(frozen=True)
class ModelCost:
    """Cost of one forward pass.

    Attributes:
        parameters: Number of parameters.
        gmac: Billions of multiply-accumulates of convolutions, matrix products and weighted gathers.
    """

    parameters: int
    gmac: float


def model_cost(model: nn.Module, *inputs: Tensor) -> ModelCost:
    """Count parameters, and multiply-accumulates of one forward pass on the given inputs.

    Example:
        >>> import torch
        >>> from kdinpaint.models import model_cost
        >>> model_cost(torch.nn.Conv2d(1, 1, 3, bias=False), torch.rand(1, 1, 3, 3))
        ModelCost(parameters=9, gmac=9e-09)
    """
    with evaluating(model), FlopCounterMode(display=False) as counter:
        model(*inputs)
    return ModelCost(sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2e9)
