"""VGG features: layer names, weights asked for by name, and no stand-in without being asked."""

import copy

import pytest
import torch
from torchvision.models import vgg16, vgg19

from kdinpaint.errors import ConfigError, ShapeError, WeightsError
from kdinpaint.losses import VGGFeatures

IMAGE = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_layers_are_where_torchvision_has_them():
    vgg = VGGFeatures(["relu3_4", "relu1_1", "pool1"], arch="vgg19", weights="random", normalise=False)
    with torch.device("meta"):
        reference = vgg19().features
    network = vgg.__dict__["_network"]
    assert [type(a) for a in network] == [type(a) for a in reference[: len(network)]]
    features = vgg(IMAGE)
    for feature, end in zip(features, (18, 2, 5), strict=True):  # after relu3_4, relu1_1 and pool1
        assert torch.equal(feature, network[:end](IMAGE))


def test_first_three_pools_of_vgg16_are_the_slices_that_published_code_names():
    vgg = VGGFeatures(["pool1", "pool2", "pool3"], weights="random")
    assert [tuple(f.shape) for f in vgg(IMAGE)] == [(1, 64, 16, 16), (1, 128, 8, 8), (1, 256, 4, 4)]
    assert sorted(vgg._places) == [4, 9, 16]


def test_is_frozen_and_outside_the_module_tree_but_lets_gradients_through():
    holder = torch.nn.ModuleDict({"vgg": VGGFeatures(["relu1_2"], weights="random")})
    assert not list(holder.parameters())
    assert not holder.state_dict()
    image = IMAGE.clone().requires_grad_()
    holder["vgg"](image)[0].mean().backward()
    assert image.grad.abs().sum() > 0
    assert holder.double()["vgg"](IMAGE.double())[0].dtype == torch.float64
    assert torch.equal(copy.deepcopy(holder)["vgg"](IMAGE.double())[0], holder["vgg"](IMAGE.double())[0])


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    before = torch.get_rng_state()
    a, b = (VGGFeatures(["relu2_1"], weights="random") for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a(IMAGE)[0], b(IMAGE)[0])


def test_normalisation_and_grey_images():
    plain, normal = (VGGFeatures(["relu1_1"], weights="random", normalise=n) for n in (False, True))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    moved = (IMAGE - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(normal(IMAGE)[0], plain(moved)[0])
    grey = IMAGE[:, :1]
    assert torch.equal(plain(grey)[0], plain(grey.repeat(1, 3, 1, 1))[0])


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(0)
    reference = vgg16()
    state = {name: value for name, value in reference.state_dict().items() if name.startswith("features.")}
    torch.save(state, tmp_path / "vgg16.pth")
    vgg = VGGFeatures(["relu2_2"], weights=tmp_path / "vgg16.pth", normalise=False)
    assert torch.equal(vgg(IMAGE)[0], reference.features[:9](IMAGE).detach())
    with pytest.raises(WeightsError, match="does not hold the weights of vgg19"):
        VGGFeatures(["relu2_2"], arch="vgg19", weights=tmp_path / "vgg16.pth")


def test_weights_that_cannot_be_had_are_an_error_and_never_replaced(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(WeightsError, match=r"no route to host.*Download https://.*vgg16.*weights='random'"):
        VGGFeatures(["pool1"])
    with pytest.raises(WeightsError, match="cannot be had from"):
        VGGFeatures(["pool1"], weights=tmp_path / "missing.pth")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: VGGFeatures(["relu9_1"], weights="random"), ConfigError, r"expected some of relu1_1, relu1_2, pool1"),
        (lambda: VGGFeatures([], weights="random"), ConfigError, "layers is"),
        (lambda: VGGFeatures(["pool1"], arch="vgg11", weights="random"), ConfigError, "arch is 'vgg11'"),
        (lambda: VGGFeatures(["pool1"], weights="random")(torch.rand(1, 2, 8, 8)), ShapeError, "has 2 channels"),
    ],
)
def test_documented_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
