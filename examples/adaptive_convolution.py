"""What an adaptive convolution can do that a convolution cannot: follow structure that moves.

Each image is a field of smooth noise, each target the same field shifted by a number of pixels that differs from place
to place and can be read off a second input channel. A 3x3 convolution reaches one pixel far; an adaptive one of the
same kernel learns to look where the shift points.

python examples/adaptive_convolution.py            a minute on a CPU
python examples/adaptive_convolution.py --smoke    a few seconds
"""

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdinpaint import AdaptiveConv2d


def smooth_noise(batch: int, size: int, cells: int, generator: torch.Generator) -> Tensor:
    """Random fields, (batch, 1, size, size), of structures size / cells wide."""
    coarse = torch.randn(batch, 1, cells, cells, generator=generator)
    return F.interpolate(coarse, size=size, mode="bicubic")


def shifted_pairs(batch: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Input (field and shift, in units of 4 pixels) and target (field read at x + shift)."""
    field = smooth_noise(batch, size, 16, generator)
    shift = smooth_noise(batch, size, 3, generator).clamp(-1, 1)
    line = (2 * torch.arange(size) + 1) / size - 1
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    grid = torch.stack([columns.expand(batch, -1, -1) + shift[:, 0] * 8 / size, rows.expand(batch, -1, -1)], -1)
    return torch.cat([field, shift], 1), F.grid_sample(field, grid, align_corners=False, padding_mode="border")


def train(layer: nn.Module, steps: int, size: int) -> float:
    """Mean squared error on fresh pairs after training on fresh pairs."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    for _ in range(steps):
        inputs, target = shifted_pairs(8, size, generator)
        loss = F.mse_loss(layer(inputs), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        inputs, target = shifted_pairs(64, size, generator)
        return float(F.mse_loss(layer(inputs), target))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps only")
    smoke = parser.parse_args().smoke
    steps, size = (5, 16) if smoke else (600, 48)
    for name, kind in (("convolution", nn.Conv2d), ("adaptive convolution", AdaptiveConv2d)):
        torch.manual_seed(0)
        print(f"{name:21} mean squared error {train(kind(2, 1, 3, padding=1), steps, size):.4f}")


if __name__ == "__main__":
    main()
