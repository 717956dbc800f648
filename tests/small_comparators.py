"""Comparators, data and objectives small enough for tests."""

import torch
from harness import seeded
from torch.nn import functional as F

from kdinpaint.training import EdgeConnectObjective, GatedConvObjective, PartialConvObjective, PluralisticObjective

WIDTHS = {
    "pc": {"channels": (8, 8, 8)},
    "gc": {"width": 4},
    "ec": {"width": 4, "blocks": 1},
    "pic": {"channels": (4, 8, 8), "latent": 4, "inference": 1},
}


def batch(size=64):
    image = F.interpolate(torch.rand(2, 3, 8, 8, generator=seeded(0)), (size, size), mode="bicubic").clamp(0, 1) / 2
    mask = torch.zeros(2, 1, size, size)
    mask[0, :, 8:24, 8:24] = 1
    mask[1, :, 20:50, 30:40] = 1
    return {"image": image, "mask": mask}


class FewChannels(torch.nn.Module):
    """Stands for VGG where its size would only cost time: as many levels, differentiable, not trained."""

    def __init__(self, levels):
        super().__init__()
        self.levels = levels

    def forward(self, image):
        wide = torch.cat([image, image.square(), image.roll(1, 2)], 1)
        return [F.avg_pool2d(wide, 2 ** (level % 3)) for level in range(self.levels)]


def small_objective(net, recipe, phase, *, vgg=None):
    """As `comparator_objective`, with narrow discriminators and no VGG."""
    if recipe.model == "pc":
        return PartialConvObjective(net, recipe, phase, vgg=FewChannels(3))
    if recipe.model == "gc":
        return GatedConvObjective(net, recipe, phase, width=4)
    if recipe.model == "ec":
        return EdgeConnectObjective(net, recipe, phase, vgg=FewChannels(9), width=4)
    return PluralisticObjective(net, recipe, phase, channels=(4, 8, 8))
