"""Each published protocol against the libraries its script called, on files, one image at a time."""

import io

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from scipy.ndimage import correlate
from skimage.color import rgb2gray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kdinpaint._core.errors import ShapeError
from kdinpaint.metrics import PROTOCOLS, measure
from kdinpaint.metrics.rounding import truncate_to_uint8
from kdinpaint.metrics.windowed_ssim import gaussian_window, windowed_ssim


@pytest.fixture(scope="module")
def case():
    """Two photographs with a mean-coloured fill, its noise, and garbage outside the hole."""
    rng = np.random.default_rng(0)
    image = np.stack([skimage.data.astronaut()[:72, 200:280], skimage.data.coffee()[150:222, 300:380]])
    mask = np.zeros((2, 72, 80, 1), np.float32)
    mask[0, 10:30, 5:60] = mask[1, 30:72, 20:44] = 1
    prediction = image.mean((1, 2), keepdims=True) / 255 + rng.normal(0, 0.08, image.shape)
    prediction = np.where(mask == 1, prediction, rng.normal(0, 9, image.shape)).astype(np.float32)
    return prediction, image, mask


def tensors(case):
    prediction, image, mask = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in case)
    return prediction, image.float() / 255, mask


def through_a_file(levels):
    """What a PNG gives back."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG")
    return np.asarray(Image.open(file))


def truncated_files(case):
    for prediction, image, mask in zip(*case, strict=True):
        merged = np.clip(prediction, 0, 1) * mask + (image.astype(np.float32) / 255) * (1 - mask)
        yield through_a_file((merged * 255).astype(np.uint8)), image


def relative(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.abs(a - b).sum() / (a + b).sum()


def gaussian_ssim(a, b, constants, mode):
    """One channel, with a two-dimensional kernel and scipy's filter."""
    axis = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    kernel = np.outer(axis, axis) / axis.sum() ** 2

    def blur(x):
        return correlate(x, kernel, mode="constant")

    ma, mb = blur(a), blur(b)
    numerator = (2 * ma * mb + constants[0]) * (2 * (blur(a * b) - ma * mb) + constants[1])
    denominator = (ma**2 + mb**2 + constants[0]) * (blur(a * a) - ma**2 + blur(b * b) - mb**2 + constants[1])
    values = numerator / denominator
    return (values[5:-5, 5:-5] if mode == "valid" else values).mean()


def over_channels(a, b, constants, mode):
    return np.mean([gaussian_ssim(a[..., c], b[..., c], constants, mode) for c in range(3)])


def expected_edgeconnect(case):
    for filled, truth in truncated_files(case):
        a, b = (rgb2gray((x / 255.0).astype(np.float32)) for x in (truth, filled))
        yield {
            "psnr": peak_signal_noise_ratio(a, b, data_range=1),
            "ssim": structural_similarity(a, b, data_range=1, win_size=51),
            "mae": relative(a, b),
        }


def expected_skimage7(case):
    for filled, truth in truncated_files(case):
        yield {
            "psnr": peak_signal_noise_ratio(truth, filled),
            "ssim": structural_similarity(truth, filled, channel_axis=-1),
            "mae": relative(truth, filled),
        }


def expected_lama(case):
    for filled, truth in truncated_files(case):
        yield {"ssim": over_channels(filled / 255, truth / 255, (1e-4, 9e-4), "zero")}


def expected_mat(case):
    for prediction, image, mask in zip(*case, strict=True):
        filled = np.where(mask == 1, np.rint(np.clip(prediction, 0, 1) * 255), image).astype(np.float64)
        truth = image.astype(np.float64)
        yield {
            "psnr": 20 * np.log10(255 / np.sqrt(np.mean((filled - truth) ** 2))),
            "ssim": over_channels(filled, truth, (2.55**2, 7.65**2), "valid"),
            "l1": np.mean(np.abs(filled - truth)) / 255,
        }


def expected_lbam(case):
    prediction, image, mask = case
    truth = image / 255
    filled = np.where(mask == 1, np.clip(prediction, 0, 1), truth)
    pooled = 10 * np.log10(1 / np.mean((filled - truth) ** 2))
    for a, b in zip(filled, truth, strict=True):
        yield {"psnr": pooled, "ssim": over_channels(255 * a, 255 * b, (1e-4, 9e-4), "zero")}


EXPECTED = {
    "edgeconnect": expected_edgeconnect,
    "skimage7": expected_skimage7,
    "lama": expected_lama,
    "lbam": expected_lbam,
    "mat": expected_mat,
}


@pytest.mark.parametrize("protocol", sorted(EXPECTED))
def test_equals_the_published_computation(case, protocol):
    result = measure(*tensors(case), protocol=protocol)
    expected = list(EXPECTED[protocol](case))
    assert set(result) == set(expected[0])
    for name, values in result.items():
        assert values.tolist() == pytest.approx([row[name] for row in expected], rel=2e-6), name


def test_every_protocol_is_tested():
    assert set(PROTOCOLS) == set(EXPECTED) | {"default"}


def test_protocols_disagree_on_equal_predictions(case):
    """The reason for naming them."""
    values = {name: float(measure(*tensors(case), protocol=name)["ssim"].mean()) for name in PROTOCOLS}
    assert max(values.values()) - min(values.values()) > 0.03
    assert values["mat"] == pytest.approx(values["default"], abs=1e-9)


def test_known_pixels_keep_their_level_when_the_hole_is_truncated(case):
    prediction, image, mask = tensors(case)
    for name in ("edgeconnect", "skimage7", "lama"):
        perfect = measure(prediction, image, torch.zeros_like(mask), protocol=name)
        assert perfect["ssim"].tolist() == pytest.approx([1, 1])
        assert perfect.get("mae", torch.zeros(2)).tolist() == [0, 0]


def test_truncation():
    x = torch.tensor([-1.0, 0.0, 0.999 / 255, 1.001 / 255, 254.99 / 255, 1.0, 2.0])
    assert truncate_to_uint8(x).tolist() == [0, 0, 0, 1, 254, 255, 255]
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(truncate_to_uint8(levels.float() / 255), levels)


def test_grey_images_and_small_ones(case):
    prediction, image, mask = tensors(case)
    grey = measure(prediction[:, :1], image[:, :1], mask, protocol="edgeconnect")
    same = measure(prediction[:, :1].expand(-1, 3, -1, -1), image[:, :1].expand(-1, 3, -1, -1), mask)
    assert torch.allclose(grey["psnr"].round(decimals=1), same["psnr"].round(decimals=1), atol=0.2)
    with pytest.raises(ShapeError, match="window of 51 and needs sides of at least 51"):
        measure(prediction[..., :50], image[..., :50], mask[..., :50], protocol="edgeconnect")
    with pytest.raises(ShapeError, match="images have 2 channels"):
        measure(prediction[:, :2], image[:, :2], mask, protocol="edgeconnect")


def test_the_pooled_error_goes_to_every_image(case):
    result = measure(*tensors(case), protocol="lbam")["psnr"]
    apart = [measure(*(x[i : i + 1] for x in tensors(case)), protocol="lbam")["psnr"].item() for i in range(2)]
    assert result[0] == result[1]
    assert result[0] < np.mean(apart)


def test_gaussian_window_agrees_with_torchmetrics(case):
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = (torch.rand(2, 3, 24, 20, dtype=torch.float64) for _ in range(2))
    _, full = functional.structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    expected = full[..., 5:-5, 5:-5].flatten(1).mean(1)
    assert torch.allclose(windowed_ssim(a, b, gaussian_window()), expected)
