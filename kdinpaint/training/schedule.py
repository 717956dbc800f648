"""The learning rate over a stage."""

import math

__all__ = ["lr_factor"]


def lr_factor(schedule: str, share: float) -> float:
    """Factor on the learning rate after a share of the steps: 1, or with "cosine" from 1 to a tenth."""
    if schedule == "constant":
        return 1.0
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(min(share, 1.0) * math.pi))
