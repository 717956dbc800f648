"""Which cells of a feature map a distillation loss looks at, and how closely."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kdinpaint.ops.masks import erode

__all__ = ["Region", "block_mean", "cell_weights"]

Region = Literal["hole", "all", "known"]


def cell_weights(hole: Tensor, *, region: Region = "hole", rim: float | None = None) -> Tensor:
    """The weight of every cell in the mean over a feature map.

    Args:
        hole: (B, 1, H, W), 1 = hole, at the resolution of the feature.
        region: "hole", "known", or "all" cells.
        rim: Decay length in cells. The weight of a hole cell is exp(-(n - 1) / rim), n being the number of steps
            to the nearest known cell (diagonal steps count as one): what lies deep inside a large hole cannot be
            known from outside. Beyond five decay lengths the weight falls no further.

    Returns:
        (B, 1, H, W), in [0, 1]. Where all is hole and `rim` is given, hardly anything is asked: all cells have the
        smallest weight.
    """
    if region == "known":
        return 1 - hole.float()
    weight = hole if rim is None else _decay(hole.float(), rim)
    return torch.where(hole != 0, weight.float(), 1.0) if region == "all" else weight


def _decay(hole: Tensor, rim: float) -> Tensor:
    inside, weight = hole, hole
    for ring in range(1, math.ceil(5 * rim) + 1):
        inside = erode(inside)
        weight = torch.where(inside != 0, math.exp(-ring / rim), weight)
    return weight


def block_mean(values: Tensor, weight: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """Weighted means over blocks of cells, and the weights of the blocks.

    Args:
        values: (B, C, H, W).
        weight: (B, 1, H, W), >= 0.
        factor: Side of the blocks in cells; blocks at the border may be smaller.

    Returns:
        (B, C, H', W') and (B, 1, H', W'); blocks without weight are 0. The weight of a block is the sum over its cells,
        so that a mean over blocks weighs every cell as before.
    """
    weight = weight.to(values.dtype)

    def total(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, factor, ceil_mode=True, divisor_override=1)

    mass = total(weight)
    return total(values * weight) / torch.where(mass > 0, mass, 1.0), mass
