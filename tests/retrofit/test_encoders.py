"""Retrofit of networks from other libraries: encoders of five families in a U-Net, segmentation and diffusion nets."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import assert_equal, random_mask, seeded
from library_hosts import UNet, diffusion_unet, smp_net, tensor_of, torchvision_net, vae
from torch import nn

from kdinpaint import RetrofitPlan, inspect, retrofit, strip, unretrofit
from kdinpaint.retrofitting import FilledStage

SIZE = 64
X = torch.cat([torch.rand(2, 3, SIZE, SIZE, generator=seeded(3)), random_mask(2, SIZE, SIZE).float()], 1)


SMALL: dict[str, Any] = {"hidden_channels": 4}
HOSTS: dict[str, tuple[Callable[[], nn.Module], Any, tuple[Any, ...], int]] = {
    # build, levels (None: as inspect proposes), further arguments, number of levels
    "resnet": (lambda: UNet("resnet18"), ["encoder.layer*"], (), 4),
    "convnext": (lambda: UNet("convnext_atto"), None, (), 4),
    "mobilenet": (lambda: UNet("mobilenetv3_small_050"), None, (), 5),
    "efficientnet": (lambda: UNet("efficientnet_lite0"), None, (), 5),
    "swin": (lambda: UNet("swin_tiny_patch4_window7_224", nhwc=True, img_size=SIZE, window_size=4), None, (), 4),
    "vit": (
        lambda: UNet("vit_tiny_patch16_224", img_size=SIZE, depth=3, out_indices=(0, 1, 2)),
        ["patch_embed", "blocks.0", "blocks.2"],
        (),
        3,
    ),
    "lraspp": (lambda: torchvision_net("lraspp_mobilenet_v3_large"), None, (), 4),
    "smp unet": (lambda: smp_net("Unet"), None, (), 5),
    "smp fpn": (lambda: smp_net("FPN"), None, (), 5),
    "smp linknet": (lambda: smp_net("Linknet", "mobilenet_v2"), None, (), 5),
    "smp deeplab": (lambda: smp_net("DeepLabV3Plus"), None, (), 4),
    "smp segformer": (lambda: smp_net("Segformer", "mit_b0"), None, (), 4),
    "diffusers vae": (vae, ["encoder.down_blocks.*"], (), 2),
    "diffusers unet": (diffusion_unet, [("conv_in", "down_blocks.0.resnets.0"), "down_blocks.1"], (3,), 2),
}


@pytest.mark.parametrize("name", HOSTS)
def test_there_and_back(name: str) -> None:
    build, levels, more, count = HOSTS[name]
    net, args = build().eval(), (X, *more)
    host, before = copy.deepcopy(net), tensor_of(net(*args))
    found = inspect(net, args)
    assert [level.stride for level in found.levels] == sorted({level.stride for level in found.levels})
    outputs = 0 if name == "diffusers unet" else None
    plan = RetrofitPlan(levels or found.levels, outputs={"down_blocks.1": 0} if outputs == 0 else None, **SMALL)
    report = retrofit(net, plan, args)
    assert len(report.levels) == count, report
    assert_equal(tensor_of(net(*args)), before)
    net.load_state_dict(host.state_dict())
    net.train()
    host.train()
    torch.manual_seed(4)
    after = tensor_of(net(*args))
    torch.manual_seed(4)
    assert_equal(after, tensor_of(host(*args)))

    # One step: the loss goes down on the same weights of the host, by the fillers alone. The loss of a step is
    # taken in eval mode, where nothing is random.
    net.eval()
    fillers = [p for m in net.modules() if isinstance(m, FilledStage) for p in m.kdinpaint_filler.parameters()]
    loss = tensor_of(net(*args)).square().mean()
    gradients = torch.autograd.grad(loss, fillers, allow_unused=True)
    norm = sum(float(g.square().sum()) for g in gradients if g is not None)
    assert norm > 0
    with torch.no_grad():
        for parameter, gradient in zip(fillers, gradients, strict=True):
            if gradient is not None:
                parameter -= gradient * min(0.01 * float(loss.detach()) / norm, 0.1)
        assert tensor_of(net(*args)).square().mean() < loss.detach()
        stripped = tensor_of(net(*args))
        strip(net)
        assert_equal(tensor_of(net(*args)), stripped)
    unretrofit(net)
    assert list(net.state_dict()) == list(host.state_dict())
    assert repr(net) == repr(host)


@pytest.mark.parametrize("name", ["resnet", "convnext", "swin", "vit"])
def test_exports(name: str) -> None:
    build, levels, more, _ = HOSTS[name]
    net, args = build().eval(), (X, *more)
    retrofit(net, RetrofitPlan(levels or inspect(net, args).levels, **SMALL), args)
    graph = torch.export.export(net, args).module()
    torch.testing.assert_close(graph(*args), net(*args), rtol=1e-4, atol=1e-4)


def test_other_sizes_than_the_example() -> None:
    net = UNet("resnet18").eval()
    inputs = [torch.rand(1, 4, 70, 97), torch.rand(3, 4, 33, 40)]
    before = [net(x) for x in inputs]
    retrofit(net, RetrofitPlan(["layer*"], hidden_channels=4), (X,))
    assert_equal([net(x) for x in inputs], before)


def test_channels_last_and_autocast() -> None:
    net = UNet("resnet18").eval().to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    before = net(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = net(x)
    retrofit(net, RetrofitPlan(["layer*"], hidden_channels=4), (x,))
    weights = [m.kdinpaint_filler.entry.weight for m in net.modules() if isinstance(m, FilledStage)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
    assert_equal(net(x), before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal(net(x), lower)
        net.train()(x).float().square().mean().backward()


def test_double_and_half() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        net, x = UNet("resnet18").eval().to(dtype), X.to(dtype)
        before = net(x)
        retrofit(net, RetrofitPlan(["layer1", "layer2"], hidden_channels=4), (x,))
        assert {p.dtype for p in net.parameters()} == {dtype}
        assert_equal(net(x), before)


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("pvt_v2_b0", [4, 8, 16, 32]),  # attention to keys at a lower resolution
        ("hiera_tiny_224", [4, 8, 16, 32]),  # a module between the stages that runs several times
        ("inception_v3", [2, 4]),  # convolutions without padding
        ("hrnet_w18_small", [2, 4, 8, 16, 32]),  # branches that meet again
        ("mambaout_femto", [2, 4, 8, 16, 32]),  # a stem with the channels first, stages with them last
        ("levit_conv_128s", [2, 4, 8, 16, 32]),  # attention with a cache
        ("coat_lite_tiny", [4, 8, 16, 32]),  # tokens whose class token comes and goes
    ],
)
def test_inspect_finds_the_stages(name: str, strides: list[int]) -> None:
    import timm

    size = {"hiera_tiny_224": 224, "inception_v3": 128, "levit_conv_128s": 224, "coat_lite_tiny": 224}.get(name, SIZE)
    x = torch.rand(1, 4, size, size)
    net = timm.create_model(name, pretrained=False, features_only=True, in_chans=4).eval()
    found, before = inspect(net, (x,)).levels, net(x)
    assert [level.stride for level in found] == strides
    retrofit(net, RetrofitPlan(found, **SMALL), (x,))
    assert_equal(net(x), before)


def test_inspect_looks_into_a_whole_network() -> None:
    outer = nn.Sequential(UNet("resnet18"), nn.Sigmoid()).eval()
    assert [level.name for level in inspect(outer, (X,)).levels][-3:] == [f"0.encoder.layer{n}" for n in (2, 3, 4)]
