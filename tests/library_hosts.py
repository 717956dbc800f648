"""Hosts from other libraries, small and without weights; a test that asks for a missing library is skipped."""

from typing import Any

import pytest
from torch import Tensor, nn
from torch.nn import functional as F


class UNet(nn.Module):
    """A timm encoder and the simplest decoder."""

    def __init__(self, name: str, *, nhwc: bool = False, **options: Any) -> None:
        super().__init__()
        import timm

        self.encoder = timm.create_model(name, pretrained=False, features_only=True, in_chans=4, **options)
        self.nhwc = nhwc
        self.heads = nn.ModuleList(nn.Conv2d(c, 3, 1) for c in self.encoder.feature_info.channels())

    def forward(self, x: Tensor) -> Tensor:
        out = x[:, :3]
        for feature, head in zip(self.encoder(x), self.heads, strict=True):
            feature = feature.permute(0, 3, 1, 2) if self.nhwc else feature
            out = out + F.interpolate(head(feature), size=x.shape[-2:])
        return out


def torchvision_net(name: str) -> nn.Module:
    from torchvision.models import segmentation

    net = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3)
    old = net.backbone["0"][0] if "mobilenet" in name else net.backbone.conv1
    new = nn.Conv2d(4, old.out_channels, old.kernel_size, old.stride, old.padding, bias=False)
    if "mobilenet" in name:
        net.backbone["0"][0] = new
    else:
        net.backbone.conv1 = new
    return net


def smp_net(name: str, encoder: str = "resnet18") -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch")
    return getattr(smp, name)(encoder, encoder_weights=None, in_channels=4, classes=3)


def vae() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.AutoencoderKL(
        in_channels=4,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        sample_size=32,
    )


def diffusion_unet() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    return diffusers.UNet2DModel(
        sample_size=32,
        in_channels=4,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
        layers_per_block=1,
    )


def tensor_of(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    return output["out"] if "out" in output else output.sample  # noqa: SIM401 - not every one has both
