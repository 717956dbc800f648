"""Models with something to export, and inputs for them."""

import torch
from harness import random_mask, seeded
from torch import Tensor, nn


def lively(module: nn.Module, *, scale: float = 0.05) -> nn.Module:
    """What is zero when fresh, generators and exits, gets small numbers; the rest stays initialised."""
    generator = seeded(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def features(channels: int, batch: int, height: int, width: int) -> tuple[Tensor]:
    return (torch.rand(batch, channels, height, width, generator=seeded(batch)),)


def masked(channels: int, batch: int, height: int, width: int, *, up: int = 1) -> tuple[Tensor, Tensor]:
    mask = random_mask(batch, height * up, width * up, share=0.1)
    return features(channels, batch, height, width)[0], mask.float()
