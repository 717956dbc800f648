import urllib.error

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from kdinpaint._core.errors import ConfigError, DataError, RangeError, ShapeError, WeightsError
from kdinpaint.metrics import PerceptualMetrics

torchmetrics = pytest.importorskip("torchmetrics.image")


class Distance(nn.Module):
    def forward(self, a, b):
        return (a - b).abs().flatten(1).amax(1)


class Features(nn.Module):
    num_features = 3

    def forward(self, x):
        assert x.dtype == torch.uint8
        return x.float().mean((2, 3))


@pytest.fixture
def images():
    return torch.rand(12, 3, 16, 16), torch.rand(12, 3, 16, 16) ** 2


def test_lpips_is_the_mean_over_images_of_8_bit_values(images):
    preds, target = images
    metrics = PerceptualMetrics(lpips=Distance(), fid=False)
    metrics.update(preds[:5], target[:5])
    metrics.update(preds[5:], target[5:])
    levels = [(x * 255).round() / 127.5 for x in images]
    assert metrics.compute() == {"lpips": pytest.approx(float((levels[0] - levels[1]).abs().flatten(1).amax(1).mean()))}


def test_fid_equals_the_formula(images):
    metrics = PerceptualMetrics(lpips=None, fid=Features())
    for part in range(0, 12, 4):
        metrics.update(*(x[part : part + 4] for x in images))
    a, b = ((x * 255).round().numpy().astype(np.float64).mean((2, 3)) for x in images)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert metrics.compute()["fid"] == pytest.approx(expected, rel=1e-4)


def test_equal_images_are_no_distance_apart(images):
    metrics = PerceptualMetrics(lpips=Distance(), fid=Features())
    metrics.update(images[0], images[0])
    found = metrics.compute()
    assert found["lpips"] == 0
    assert found["fid"] == pytest.approx(0, abs=1e-2)


def test_the_real_lpips_with_random_weights(images, monkeypatch):
    """torchmetrics' own network, its weights replaced by random ones: nothing is fetched."""
    import torchvision

    build = torchvision.models.alexnet
    monkeypatch.setattr(torchvision.models, "alexnet", lambda *args, **kwargs: build(weights=None))
    preds, target = (nn.functional.interpolate(x, scale_factor=4) for x in images)
    metrics = PerceptualMetrics(fid=False)
    metrics.update(preds[:3], target[:3])
    expected = torchmetrics.LearnedPerceptualImagePatchSimilarity("alex", normalize=False)
    expected.net = metrics._lpips
    a, b = ((x[:3] * 255).round() / 127.5 - 1 for x in (preds, target))
    assert metrics.compute()["lpips"] == pytest.approx(float(expected(a, b)), rel=1e-5)


def test_weights_that_cannot_be_had_are_a_clear_error(monkeypatch):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torchmetrics, "LearnedPerceptualImagePatchSimilarity", offline)
    with pytest.raises(WeightsError, match=r"weights of LPIPS \(vgg\) .* no route to host.* leave this metric out"):
        PerceptualMetrics(lpips="vgg", fid=False)


def test_errors(images):
    preds, target = images
    with pytest.raises(ConfigError, match="at least one of them"):
        PerceptualMetrics(lpips=None, fid=False)
    with pytest.raises(ConfigError, match="lpips is 'resnet'"):
        PerceptualMetrics(lpips="resnet", fid=False)
    metrics = PerceptualMetrics(lpips=Distance(), fid=Features())
    with pytest.raises(DataError, match="0 images were added"):
        metrics.compute()
    with pytest.raises(ShapeError, match="Repeat the channel of grey"):
        metrics.update(preds[:, :1], target[:, :1])
    with pytest.raises(ShapeError, match="expected equal shapes"):
        metrics.update(preds[:3], target)
    with pytest.raises(RangeError, match="preds has values"):
        metrics.update(preds * 2, target)
