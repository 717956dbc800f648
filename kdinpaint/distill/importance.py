"""The importance predictor: which channels of a feature are worth imitating (rho of Eq. 1, phi of Eq. 2)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint._core.checks import check_choice, check_feature, check_mask
from kdinpaint._core.errors import ConfigError, ShapeError
from kdinpaint.ops.masks import resize_mask
from kdinpaint.ops.reduce import masked_channel_mean

__all__ = ["ImportancePool", "TransferImportancePredictor"]

ImportancePool = Literal["all", "hole"]


class TransferImportancePredictor(nn.Module):
    r"""Weights over the channels of a feature: pooling, one linear layer, softmax.

    $\rho: \mathbb{R}^{C \times H \times W} \to \mathbb{R}^C$ with $\rho \ge 0$, $\sum_c \rho_c = 1$, after Jang
    et al. 2019, "Learning What and Where to Transfer". The input is detached: the predictor judges a feature
    and never shapes it. A fresh predictor gives every channel 1/C.

    A predictor trained together with the loss it weights collapses onto the channel that is easiest to match;
    train it with `kdinpaint.MetaLearner`. The floor keeps every channel in play.

    Args:
        channels: C.
        floor: e in rho = (1 - e) softmax + e / C, in [0, 1].
        temperature: Of the softmax, above 0.
        pool: Average over the whole map ("all") or over the hole ("hole", needs a mask).
        device: Of the parameters.
        dtype: Of the parameters.

    Shape:
        (B, C, H, W) -> (B, C)

    Raises:
        ConfigError: floor, temperature or pool out of range.

    Example:
        >>> import torch
        >>> from kdinpaint import TransferImportancePredictor
        >>> TransferImportancePredictor(4)(torch.randn(1, 4, 8, 8)).tolist()
        [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(
        self,
        channels: int,
        *,
        floor: float = 0.1,
        temperature: float = 1.0,
        pool: ImportancePool = "all",
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_choice(pool, ("all", "hole"), "pool")
        if not 0 <= floor <= 1 or temperature <= 0:
            raise ConfigError(
                f"floor is {floor} and temperature {temperature}; expected 0 <= floor <= 1 and temperature > 0."
            )
        self.channels = channels
        self.floor = floor
        self.temperature = temperature
        self.pool: ImportancePool = pool
        self.linear = nn.Linear(channels, channels, device=device, dtype=dtype)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, feature: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights for one feature map.

        Args:
            feature: (B, C, H, W).
            mask: (B, 1, H_m, W_m), 1 = hole, from the feature's resolution upwards; only pool="hole" uses it.

        Raises:
            ShapeError: Shapes do not fit, or pool="hole" without a mask.
        """
        check_feature(feature, "feature", channels=self.channels)
        feature = feature.detach()
        if self.pool == "hole":
            if mask is None:
                raise ShapeError("mask is None; a predictor with pool='hole' needs one.")
            check_mask(mask)
            pooled = masked_channel_mean(feature, resize_mask(mask, (feature.shape[-2], feature.shape[-1])))
        else:
            pooled = feature.mean((-2, -1))
        pooled = pooled.to(self.linear.weight.dtype)
        share = F.softmax(self.linear(pooled) / self.temperature, dim=1)
        return (1 - self.floor) * share + self.floor / self.channels
