"""Distiller on retrofitted hosts of other libraries: losses, a step, and out again. Small and without weights."""

import pytest
import torch
from harness import assert_equal
from library_hosts import diffusion_unet, smp_net, tensor_of, torchvision_net, vae
from retrofit_hosts import liven
from small_students import batch
from torch.nn import functional as F

from kdinpaint import AutoEncoder, Distiller, RetrofitPlan, inspect, retrofit, strip, unretrofit
from kdinpaint.retrofitting import FilledStage

HOSTS = {
    # build, levels (None: as inspect proposes), further options of the plan, further arguments
    "smp unet": (lambda: smp_net("Unet"), ["encoder.layer*"], {}, ()),
    "smp fpn": (lambda: smp_net("FPN"), None, {}, ()),
    "smp linknet": (lambda: smp_net("Linknet", "mobilenet_v2"), None, {}, ()),
    "lraspp": (lambda: torchvision_net("lraspp_mobilenet_v3_large"), None, {}, ()),
    "deeplab": (lambda: torchvision_net("deeplabv3_mobilenet_v3_large"), None, {}, ()),
    "fcn": (lambda: torchvision_net("fcn_resnet50"), ["backbone.layer1", "backbone.layer2"], {}, ()),
    "diffusers vae": (vae, ["encoder.down_blocks.*"], {}, ()),
    "diffusers unet": (
        diffusion_unet,
        [("conv_in", "down_blocks.0.resnets.0"), "down_blocks.1"],
        {"outputs": {"down_blocks.1": 0}},
        (3,),
    ),
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_guided_step_and_out_again(name):
    build, levels, options, more = HOSTS[name]
    x, truth, mask = batch(64)
    net = build()
    keys, shown = list(net.state_dict()), repr(net)
    levels = inspect(net, (x, *more)).levels if levels is None else levels
    plan = RetrofitPlan(levels, hidden_channels=4, **options)
    report = retrofit(net, plan, (x, *more))
    liven(net)
    if name.startswith("diffusers"):  # levels of stride 1, or two of one stride: the Distiller aligns
        teacher = AutoEncoder(3, (8, 16), blocks=0, head_channels=4)
    else:
        teacher = AutoEncoder.for_levels(report.levels, blocks=0, head_channels=4)
    guide = Distiller(net, teacher, plan)

    def total():
        out, losses = guide(x, *more, image=truth, mask=mask)
        assert set(losses) == {"cross", "self"}
        assert all(loss.dim() == 0 and bool(loss.isfinite()) and float(loss.detach()) > 0 for loss in losses.values())
        return F.l1_loss(tensor_of(out), truth) + sum(losses.values())

    # Modes: statistics and scales move in training, so that two losses are compared in eval mode.
    total().backward()
    guide.eval()
    guide.zero_grad()
    before = total()
    before.backward()
    trained = [p for p in guide.parameters() if p.grad is not None]
    fillers = [p for m in net.modules() if isinstance(m, FilledStage) for p in m.kdinpaint_filler.parameters()]
    assert any(bool(p.grad.any()) for p in fillers if p.grad is not None)
    norm = sum(float(p.grad.square().sum()) for p in trained)
    with torch.no_grad():
        for p in trained:
            p -= p.grad * (0.01 * float(before.detach()) / norm)
        assert total() < before.detach()
        stripped = tensor_of(guide(x, *more, image=truth, mask=mask)[0])
        strip(net)
        assert_equal(tensor_of(net(x, *more)), stripped)
    assert sum(isinstance(m, FilledStage) for m in net.modules()) == len(report.levels)
    unretrofit(net)
    assert list(net.state_dict()) == keys
    assert repr(net) == shown
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
