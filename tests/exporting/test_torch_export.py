"""`torch.export` holds for every batch size, height and width."""

import pytest
import torch
from exporting_models import features, lively, masked
from harness import random_mask
from torch import Tensor, nn
from torch.export import Dim

from kdinpaint import AdaptiveConv2d, AutoEncoder, FillerBlock, GlobalLocalAttention, InpaintingNet
from kdinpaint.ops import resize_mask

SIZES = [(1, 16, 16), (3, 23, 41), (2, 64, 48), (1, 9, 11)]


def exported(module: nn.Module, *example: Tensor) -> nn.Module:
    axes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    return torch.export.export(module, example, dynamic_shapes=(axes,) * len(example)).module()


CASES = {
    "conv": (AdaptiveConv2d(4, 6, 3, padding=1), lambda *size: features(4, *size)),
    "conv, strided": (AdaptiveConv2d(4, 6, 3, stride=2, padding=1), lambda *size: features(4, *size)),
    "filler": (FillerBlock(4, 6), lambda *size: masked(4, *size)),
    "filler, larger mask": (FillerBlock(4, 6), lambda *size: masked(4, *size, up=2)),
    "filler, serial": (FillerBlock(4, 4, stride=1, mode="serial"), lambda *size: masked(4, *size)),
    "attention": (GlobalLocalAttention(8, max_keys=64), lambda *size: features(8, *size)),
    "attention to known keys": (
        GlobalLocalAttention(8, max_keys=64, known_keys=True),
        lambda *size: masked(8, *size, up=2),
    ),
    "autoencoder": (AutoEncoder(channels=(8, 16)), lambda *size: features(3, *size)),
    "plain network": (InpaintingNet(channels=(8, 16), filler="none", attention=None), lambda *size: masked(3, *size)),
    "network": (InpaintingNet(channels=(8, 16), cond_mask=True, known_keys=True), lambda *size: masked(3, *size)),
}


@pytest.mark.parametrize("example", [(2, 20, 24), (2, 21, 27)], ids=["even", "odd"])
@pytest.mark.parametrize("case", CASES)
def test_one_graph_for_all_sizes(case: str, example: tuple[int, int, int]) -> None:
    module, inputs = CASES[case]
    lively(module)
    graph = exported(module, *inputs(*example))
    for size in (example, *SIZES):
        torch.testing.assert_close(graph(*inputs(*size)), module(*inputs(*size)), rtol=1e-4, atol=1e-5)


class Resize(nn.Module):
    def forward(self, mask: Tensor, like: Tensor) -> Tensor:
        return resize_mask(mask, (like.shape[-2], like.shape[-1]))


def test_masks_are_resized_as_eagerly() -> None:
    graph = exported(Resize(), torch.ones(2, 1, 21, 30), torch.ones(2, 1, 5, 7))
    for height in range(2, 26):
        for target in range(2, height + 1):
            mask = random_mask(2, height, 27 - target, seed=height, share=0.1).float()
            like = torch.empty(2, 1, target, max(2, (27 - target) // 3))
            if like.shape[-1] <= mask.shape[-1]:
                assert torch.equal(graph(mask, like), Resize()(mask, like)), (mask.shape, like.shape)
