"""Small students for the tests of taps, teachers and Distiller."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint.retrofitting import Level

LEVELS = (Level("level1", 4, 6, 2, (16, 16)), Level("level2", 6, 8, 4, (8, 8)))


class Student(nn.Module):
    """Two levels and a skip; takes image with hole and mask as four channels."""

    def __init__(self, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.level1 = nn.Sequential(
            nn.Conv2d(4, 6, 4, 2, 1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.LeakyReLU(0.2)
        )
        self.level2 = nn.Sequential(nn.Conv2d(6, 8, 4, 2, 1), nn.Dropout(dropout), nn.LeakyReLU(0.2))
        self.out = nn.Conv2d(14, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.level1(x)
        deep = F.interpolate(self.level2(shallow), size=tuple(shallow.shape[-2:]))
        return F.interpolate(self.out(torch.cat([shallow, deep], 1)), size=tuple(x.shape[-2:]))


def batch(size: int = 32, count: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Input, truth and mask."""
    truth = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(count, 1, size, size)
    mask[..., size // 4 : size // 2, size // 4 : 3 * size // 4] = 1
    return torch.cat([truth * (1 - mask), mask], 1), truth, mask
