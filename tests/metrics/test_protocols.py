import pytest
import torch

from kdinpaint._core.errors import ConfigError, RangeError, ShapeError
from kdinpaint.metrics import PROTOCOLS, hole_l1, hole_psnr, measure, psnr, round_to_uint8, ssim


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 24, 32), generator=generator) / 255
    prediction = torch.rand(2, 3, 24, 32, generator=generator)
    mask = torch.zeros(2, 1, 24, 32)
    mask[0, :, 4:12, 4:20] = 1
    mask[1, :, 10:24] = 1
    return prediction, image, mask


def test_rounding():
    x = torch.tensor([-3.0, 0.0, 0.49 / 255, 0.51 / 255, 254.49 / 255, 1.0, 7.0])
    assert round_to_uint8(x).tolist() == [0, 0, 0, 1, 254, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(round_to_uint8(levels.to(dtype) / 255), levels)
    with pytest.raises(RangeError, match="x holds 1 values that are NaN or infinite"):
        round_to_uint8(torch.tensor([0.0, torch.inf]))


def test_default_is_composited_clamped_and_rounded(pair):
    prediction, image, mask = pair
    filled = torch.where(mask != 0, prediction, image).mul(255).round() / 255
    result = measure(prediction, image, mask)
    assert list(result) == ["psnr", "ssim", "hole_psnr", "hole_l1"]
    assert torch.allclose(result["psnr"], psnr(filled, image))
    assert torch.allclose(result["ssim"], ssim(filled, image))
    assert torch.allclose(result["hole_psnr"], hole_psnr(filled, image, mask))
    assert torch.allclose(result["hole_l1"], hole_l1(filled, image, mask))
    assert all(values.shape == (2,) for values in result.values())


def test_by_hand():
    """A hole of a quarter, wrong by 51 levels: MSE 0.04 in the hole, 0.01 in the image."""
    image, mask = torch.full((1, 3, 16, 16), 0.4), torch.zeros(1, 1, 16, 16)
    mask[..., :8, :8] = 1
    result = measure(image + 0.2, image, mask.bool())
    assert float(result["psnr"]) == pytest.approx(20.0, abs=1e-5)
    assert float(result["hole_psnr"]) == pytest.approx(13.9794, abs=1e-4)
    assert float(result["hole_l1"]) == pytest.approx(0.2, abs=1e-6)


def test_what_lies_outside_of_the_hole_or_the_range_does_not_matter(pair):
    prediction, image, mask = pair
    expected = measure(prediction, image, mask)
    garbage = torch.where(mask != 0, prediction, torch.nan)
    wide = torch.where(mask != 0, torch.where(prediction > 0.9, 5.0, prediction), 0.0)
    clamped = torch.where(prediction > 0.9, 1.0, prediction)
    for name in expected:
        assert torch.equal(measure(garbage, image, mask)[name], expected[name])
        assert torch.equal(measure(wide, image, mask)[name], measure(clamped, image, mask)[name])


def test_empty_hole_is_perfect(pair):
    prediction, image, mask = pair
    result = measure(prediction, image, torch.zeros_like(mask))
    assert {name: values.tolist() for name, values in result.items() if name != "ssim"} == {
        "psnr": [100.0] * 2,
        "hole_psnr": [100.0] * 2,
        "hole_l1": [0.0] * 2,
    }


def test_errors(pair):
    prediction, image, mask = pair
    with pytest.raises(ConfigError, match=f"protocol is 'best'; expected one of {', '.join(map(repr, PROTOCOLS))}"):
        measure(prediction, image, mask, protocol="best")
    with pytest.raises(ShapeError, match=r"prediction is \(2, 3, 24, 16\) and image"):
        measure(prediction[..., :16], image, mask)
    with pytest.raises(ShapeError, match="mask is"):
        measure(prediction, image, mask[..., :16])
    with pytest.raises(ShapeError, match="at least 11 pixels"):
        measure(prediction[..., :8], image[..., :8], mask[..., :8])
    with pytest.raises(RangeError, match="image has values"):
        measure(prediction, image * 2 - 1, mask)
    with pytest.raises(RangeError, match="mask is not binary"):
        measure(prediction, image, mask / 2)
    with pytest.raises(RangeError, match="NaN or infinite"):
        measure(prediction * torch.nan, image, mask)
    with pytest.raises(TypeError):
        PROTOCOLS["mine"] = measure
