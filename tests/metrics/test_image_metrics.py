import subprocess
import sys

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kdinpaint._core.errors import MissingDependencyError, RangeError, ShapeError
from kdinpaint.metrics import PSNR_CAP, hole_l1, hole_psnr, psnr, ssim


@pytest.fixture(scope="module")
def images():
    """Real photographs and versions of them with different amounts of noise."""
    target = torch.stack(
        [
            torch.from_numpy(np.array(photo[40:168, 60:200])).permute(2, 0, 1).float() / 255
            for photo in (skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea())
        ]
    )
    noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    preds = (target + noise * torch.tensor([0.01, 0.05, 0.2]).view(3, 1, 1, 1)).clamp(0, 1)
    mask = torch.zeros(3, 1, 128, 140)
    mask[:, :, 30:90, 20:100] = 1
    return preds, target, mask


def channels_last(x):
    return x.permute(1, 2, 0).double().numpy()


def test_psnr_agrees_with_scikit_image(images):
    preds, target, _ = images
    expected = [
        peak_signal_noise_ratio(channels_last(t), channels_last(p), data_range=1)
        for p, t in zip(preds, target, strict=True)
    ]
    assert psnr(preds, target).tolist() == pytest.approx(expected, abs=1e-5)


def test_ssim_agrees_with_scikit_image(images):
    preds, target, _ = images
    expected = [
        structural_similarity(
            channels_last(t),
            channels_last(p),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=-1,
            data_range=1,
        )
        for p, t in zip(preds, target, strict=True)
    ]
    assert ssim(preds, target).tolist() == pytest.approx(expected, abs=1e-5)
    assert ssim(preds[:1], target[:1]).shape == (1,)


def test_hole_metrics_see_the_hole_alone(images):
    preds, target, mask = images
    inside = (slice(None), slice(None), slice(30, 90), slice(20, 100))
    assert torch.allclose(hole_psnr(preds, target, mask), psnr(preds[inside], target[inside]))
    expected = (preds[inside].double() - target[inside].double()).abs().flatten(1).mean(1)
    assert torch.allclose(hole_l1(preds, target, mask), expected)
    for metric in (hole_psnr, hole_l1):
        assert torch.equal(metric(preds, target, mask.bool()), metric(preds, target, mask))
        assert torch.equal(metric(torch.where(mask != 0, preds, 0.0), target, mask), metric(preds, target, mask))


def test_equal_images_and_empty_holes_are_finite(images):
    _, target, mask = images
    empty = torch.zeros_like(mask)
    assert psnr(target, target).tolist() == [PSNR_CAP] * 3
    assert hole_psnr(target, target, mask).tolist() == [PSNR_CAP] * 3
    assert hole_psnr(1 - target, target, empty).tolist() == [PSNR_CAP] * 3
    assert hole_l1(1 - target, target, empty).tolist() == [0.0] * 3
    assert ssim(target, target).tolist() == pytest.approx([1.0] * 3)


def test_half_precision_is_measured_precisely(images):
    preds, target, _ = (x.half() for x in images)
    assert torch.equal(psnr(preds, target), psnr(preds.double(), target.double()))


@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    height=st.integers(11, 24),
    width=st.integers(11, 24),
    seed=st.integers(0, 2**31 - 1),
)
def test_one_value_an_image_whatever_else_is_in_the_batch(batch, channels, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    preds, target = torch.rand(2, batch, channels, height, width, generator=generator)
    mask = (torch.rand(batch, 1, height, width, generator=generator) < 0.3).float()
    for metric, arguments in (
        (psnr, (preds, target)),
        (ssim, (preds, target)),
        (hole_psnr, (preds, target, mask)),
        (hole_l1, (preds, target, mask)),
    ):
        values = metric(*arguments)
        assert values.shape == (batch,)
        assert torch.isfinite(values).all()
        alone = torch.cat([metric(*(x[i : i + 1] for x in arguments)) for i in range(batch)])
        assert torch.allclose(values, alone)


@pytest.mark.parametrize("metric", [psnr, ssim, hole_psnr, hole_l1])
def test_errors(metric):
    image, mask = torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16)
    rest = (mask,) if metric in (hole_psnr, hole_l1) else ()
    with pytest.raises(ShapeError, match=r"preds is .*expected a floating-point tensor \(B, C, H, W\)"):
        metric(image[0], image[0], *rest)
    with pytest.raises(ShapeError, match=r"preds is \(2, 3, 16, 16\) and target \(2, 1, 16, 16\); expected equal"):
        metric(image, image[:, :1], *rest)
    with pytest.raises(RangeError, match=r"preds has values .*expected \[0, 1\]. Divide by 255"):
        metric(image * 255, image, *rest)
    with pytest.raises(RangeError, match="target holds 1536 values that are NaN"):
        metric(image, image * torch.nan, *rest)
    if rest:
        with pytest.raises(RangeError, match="mask is not binary"):
            metric(image, image, mask / 2)
        with pytest.raises(ShapeError, match="mask is"):
            metric(image, image, mask[:, :, :8])


def test_ssim_needs_a_window_of_pixels():
    image = torch.rand(1, 3, 10, 40)
    with pytest.raises(ShapeError, match=r"preds is \(10, 40\) .*sides of at least 11 pixels"):
        ssim(image, image)


def test_ssim_without_torchmetrics(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    image = torch.rand(1, 3, 16, 16)
    with pytest.raises(MissingDependencyError, match=r"torchmetrics is needed .*'kdinpaint\[metrics\]'"):
        ssim(image, image)


def test_importing_the_room_imports_no_extra():
    code = "import sys, kdinpaint.metrics, kdinpaint.data; print({'torchmetrics', 'skimage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
