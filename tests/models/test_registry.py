"""Named models and what they cost."""

import pytest
import torch
from torch import nn

from kdinpaint import AdaptiveConv2d, AutoEncoder, InpaintingNet, create_model, list_models
from kdinpaint._core.errors import ConfigError
from kdinpaint.models import ModelCost, model_cost
from kdinpaint.models.comparators import Comparator

COMPARATORS = ("pc", "pc_512", "gc", "ec", "pic")


def test_names():
    sizes = ("tiny", "small", "base")
    expected = [
        f"{kind}_{size}{end}"
        for size in sizes
        for kind, end in (("kdinpaint", ""), ("kdinpaint", "_plain"), ("autoencoder", ""))
    ]
    assert list_models() == sorted([*expected, *COMPARATORS])


@pytest.mark.filterwarnings("error")  # no named teacher may be over-complete
@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("in_channels", [1, 3])
def test_every_model_can_be_made_without_memory(name, in_channels):
    if name.startswith("autoencoder") and in_channels == 1:
        in_channels = 3  # one channel is too few for the bottleneck of these widths, and says so
    with torch.device("meta"):
        net = create_model(name, in_channels=in_channels)
    kind = Comparator if name in COMPARATORS else AutoEncoder if name.startswith("autoencoder") else InpaintingNet
    assert isinstance(net, kind)
    assert net.in_channels == in_channels
    if name.endswith("_plain"):
        assert not any("fillers" in key or "attention" in key for key in net.state_dict())


def test_teacher_and_student_of_a_size_have_the_same_levels():
    for size in ("tiny", "small", "base"):
        with torch.device("meta"):
            assert create_model(f"kdinpaint_{size}").channels == create_model(f"autoencoder_{size}").channels


def test_options_override():
    net = create_model("kdinpaint_tiny", in_channels=2, channels=(4, 8), filler="none")
    assert net.channels == (4, 8)
    assert not len(net.encoder.fillers)
    assert net(torch.rand(1, 2, 8, 8), torch.ones(1, 1, 8, 8)).shape == (1, 2, 8, 8)
    assert create_model("kdinpaint_tiny_plain", attention="sum").decoder.attention is not None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: create_model("resnet"), ConfigError, "there is no model 'resnet'; expected one of autoencoder_base, "),
        (lambda: create_model("kdinpaint_tiny", chanels=(4,)), TypeError, "unexpected keyword argument 'chanels'"),
        (lambda: create_model("autoencoder_tiny", filler="none"), TypeError, "'filler'"),
    ],
)
def test_documented_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_base_costs_no_more_than_the_gated_convolution_generator():
    # 27.7 GMAC and 4.1 million parameters at 256 x 256; with the hole everywhere, which is the worst case.
    image, mask = torch.rand(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
    cost = model_cost(create_model("kdinpaint_base"), image, mask)
    assert 1 < cost.gmac <= 27.7
    assert 1e6 < cost.parameters <= 4.1e6


def test_cost_of_a_convolution():
    assert model_cost(nn.Conv2d(2, 3, 3, padding=1), torch.rand(1, 2, 5, 7)) == ModelCost(
        3 * 2 * 9 + 3, 35 * 3 * 2 * 9 / 1e9
    )


def test_cost_of_an_adaptive_convolution():
    cost = model_cost(AdaptiveConv2d(2, 3, 3, padding=1), torch.rand(1, 2, 5, 7))
    generators, gathering, product = 27 * 2 * 9, 9 * 4 * 2, 9 * 2 * 3
    assert cost.gmac == pytest.approx(35 * (generators + gathering + product) / 1e9)
    assert cost.parameters == 3 * 2 * 9 + 3 + 27 * (2 * 9 + 1)


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training):
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)).train(training)
    before = net[1].num_batches_tracked.clone()
    model_cost(net, torch.rand(1, 1, 2, 2))
    assert net.training == training
    assert torch.equal(net[1].num_batches_tracked, before)
    with pytest.raises(RuntimeError, match="channels"):
        model_cost(net, torch.rand(1, 2, 2, 2))
    assert net.training == training
