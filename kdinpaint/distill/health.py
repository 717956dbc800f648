"""Is the learned importance alive? Numbers to log beside a distillation loss."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["effective_channels", "importance_correlation", "importance_health"]


def effective_channels(weights: Tensor) -> Tensor:
    """exp(entropy) of the channel weights: C when uniform, 1 when one channel has it all.

    Args:
        weights: (B, C), >= 0; only their shares count, not their size.

    Returns:
        A scalar in [1, C], the mean over the batch.
    """
    wide = weights.to(torch.promote_types(weights.dtype, torch.float32))
    shares = wide / wide.sum(1, keepdim=True).clamp_min(1e-30)
    return torch.special.entr(shares).sum(1).exp().mean()


def importance_correlation(weights: Tensor, distances: Tensor) -> Tensor:
    """Pearson correlation over channels between weight and distance, averaged over the batch.

    Strongly negative means that weight goes to the channels that are matched already: the road to collapse.

    Args:
        weights: (B, C).
        distances: (B, C).

    Returns:
        A scalar in [-1, 1]; 0 where either is constant.
    """
    w = weights - weights.mean(1, keepdim=True)
    d = distances - distances.mean(1, keepdim=True)
    spread = w.norm(dim=1) * d.norm(dim=1)
    # Rounding leaves a spread of about 1e-8 in weights that are all equal.
    known = (w.norm(dim=1) > 1e-6 * weights.norm(dim=1)) & (spread > 0)
    return torch.where(known, (w * d).sum(1) / torch.where(known, spread, 1.0), 0.0).mean()


@torch.no_grad()
def importance_health(weights: Sequence[Tensor], distances: Sequence[Tensor]) -> dict[str, float]:
    """Effective channels (as a share of C) and correlation with distance, averaged over levels.

    Args:
        weights: One (B, C) a level, >= 0; their size does not matter, only their shares.
        distances: One (B, C) a level.

    Returns:
        {"effective_share": in (0, 1], "correlation": in [-1, 1]}.
    """
    share = torch.stack([effective_channels(w) / w.shape[1] for w in weights]).mean()
    correlation = torch.stack([importance_correlation(w, d) for w, d in zip(weights, distances, strict=True)]).mean()
    return {"effective_share": float(share), "correlation": float(correlation)}
