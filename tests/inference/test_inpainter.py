"""Inpainter: every kind of image comes back as it went in, known pixels bit for bit, the hole filled."""

import numpy as np
import pytest
import torch
from harness import SEEDS, assert_equal, random_mask, randomise, seeded
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kdinpaint import Inpainter, InpaintingNet

HEIGHT, WIDTH = 11, 14
COLOUR = Inpainter(randomise(InpaintingNet(3, (4, 6), head_channels=4)), device="cpu")
GREY = Inpainter(randomise(InpaintingNet(1, (4, 6), head_channels=4)), device="cpu")
HOLE = random_mask(1, HEIGHT, WIDTH)[0, 0].numpy()
RNG = np.random.default_rng(0)

MODES = ["L", "LA", "RGB", "RGBA", "I;16", "F"]
CONVERTED = {
    "1": "L",
    "P": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "HSV": "RGB",
    "LAB": "RGB",
    "RGBX": "RGB",
    "PA": "RGBA",
    "RGBa": "RGBA",
    "La": "LA",
    "I": "I;16",
    "I;16B": "I;16",
}


def draw(shape, dtype):
    if np.issubdtype(dtype, np.floating):
        return RNG.random(shape).astype(dtype)
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def picture(mode, size=(WIDTH, HEIGHT)):
    """A PIL image of noise in any mode."""
    if mode == "F":
        return Image.fromarray(draw(size[::-1], np.float32))
    if mode.startswith("I"):
        wide = Image.fromarray(draw(size[::-1], np.uint16))
        return wide if mode == "I;16" else wide.convert("I") if mode == "I" else wide.convert("I").convert(mode)
    if mode in ("La", "RGBa"):
        return picture({"La": "LA", "RGBa": "RGBA"}[mode], size).convert(mode)
    if mode == "PA":
        return picture("P", size).convert("PA")
    bands = len(Image.new(mode, (1, 1)).getbands())
    if mode in ("1", "P"):
        return picture("L" if mode == "1" else "RGB", size).convert(mode)
    shape = (*size[::-1], bands) if bands > 1 else size[::-1]
    return Image.frombytes(mode, size, draw(shape, np.uint8).tobytes())


def known(array):
    """The values of (H, W) or (H, W, C) outside the hole."""
    return np.asarray(array)[~HOLE]


@pytest.mark.parametrize("inpaint", [COLOUR, GREY], ids=["colour net", "grey net"])
@pytest.mark.parametrize("mode", MODES)
def test_pil_modes(inpaint, mode):
    image = picture(mode)
    before = image.tobytes()
    result = inpaint(image, HOLE)
    assert isinstance(result, Image.Image)
    assert (result.mode, result.size) == (image.mode, image.size)
    np.testing.assert_array_equal(known(result), known(image))
    assert (np.asarray(result)[HOLE] != np.asarray(image)[HOLE]).any()
    assert image.tobytes() == before
    if mode in ("LA", "RGBA"):
        np.testing.assert_array_equal(np.asarray(result)[..., -1], np.asarray(image)[..., -1])


@pytest.mark.parametrize("mode", CONVERTED)
def test_pil_modes_that_cannot_hold_new_colours_are_converted(mode):
    image = picture(mode)
    result = COLOUR(image, HOLE)
    assert (result.mode, result.size) == (CONVERTED[mode], image.size)
    expected = np.asarray(image.convert("I")) if mode.startswith("I") else np.asarray(image.convert(CONVERTED[mode]))
    np.testing.assert_array_equal(known(result), known(expected))


def test_palette_with_transparency_keeps_it():
    image = picture("P")
    image.info["transparency"] = 0
    result = COLOUR(image, HOLE)
    assert result.mode == "RGBA"
    np.testing.assert_array_equal(known(result), known(image.convert("RGBA")))


@pytest.mark.parametrize("inpaint", [COLOUR, GREY], ids=["colour net", "grey net"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("batch", [None, 1, 2])
def test_arrays(inpaint, dtype, channels, batch):
    if channels is None and batch is not None:
        return  # (B, H, W) would read as (H, W, C)
    shape = tuple(n for n in (batch, HEIGHT, WIDTH, channels) if n is not None)
    image = draw(shape, dtype)
    before = image.copy()
    result = inpaint(image, HOLE)
    assert type(result) is np.ndarray
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    for got, want in zip(*((result, image) if batch else ([result], [image])), strict=True):
        np.testing.assert_array_equal(known(got), known(want))
        assert (got[HOLE] != want[HOLE]).any()
        if channels in (2, 4):
            np.testing.assert_array_equal(got[..., -1], want[..., -1])
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("inpaint", [COLOUR, GREY], ids=["colour net", "grey net"])
@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.uint16, torch.float16, torch.bfloat16, torch.float32, torch.float64]
)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (2, 1), (2, 3)], ids=str)
def test_tensors(inpaint, dtype, shape):
    image = torch.rand(*shape, HEIGHT, WIDTH, generator=seeded(0))
    image = image.to(dtype) if dtype.is_floating_point else (image * 255).to(torch.int32).to(dtype)
    before = image.clone()
    result = inpaint(image, torch.from_numpy(HOLE))
    assert (result.dtype, result.shape, result.device) == (image.dtype, image.shape, image.device)
    hole = torch.from_numpy(HOLE).expand(image.shape)
    wide = (lambda t: t) if dtype.is_floating_point else (lambda t: t.to(torch.int32))
    assert torch.equal(wide(result)[~hole], wide(image)[~hole])
    assert bool((wide(result)[hole] != wide(image)[hole]).any())
    assert torch.equal(wide(image), wide(before))


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.9), SEEDS, st.sampled_from([COLOUR, GREY]))
def test_known_pixels_are_bit_exact_for_any_size_and_mask(height, width, share, seed, inpaint):
    image = torch.rand(3, height, width, generator=seeded(seed))
    mask = torch.rand(height, width, generator=seeded(seed + 1)) < share
    mask.view(-1)[0] = False
    if mask.float().mean() > 0.95:
        mask[:] = False
    result = inpaint(image, mask)
    assert torch.equal(result[:, ~mask], image[:, ~mask])
    assert 0 <= result.min().item() <= result.max().item() <= 1
    eight = (image * 255).to(torch.uint8)
    assert torch.equal(inpaint(eight, mask)[:, ~mask], eight[:, ~mask])


def test_result_is_the_models_prediction():
    image, mask = torch.rand(2, 3, HEIGHT, WIDTH), random_mask(2, HEIGHT, WIDTH)
    expected = COLOUR.model(image, mask).detach()
    assert_equal(COLOUR(image, mask), torch.where(mask, expected, image))
    eight = (image * 255).to(torch.uint8)
    expected = (COLOUR.model(eight / 255, mask).detach() * 255).round().to(torch.uint8)
    assert_equal(COLOUR(eight, mask), torch.where(mask, expected, eight))


def test_grey_image_on_a_colour_model_takes_the_mean():
    image, mask = torch.rand(1, HEIGHT, WIDTH), torch.from_numpy(HOLE)[None]
    expected = COLOUR.model(image.expand(1, 3, -1, -1), mask[None]).detach().mean(1)
    assert_equal(COLOUR(image, mask), torch.where(mask, expected, image))


def test_colour_image_on_a_grey_model_goes_channel_by_channel():
    image, mask = torch.rand(2, 3, HEIGHT, WIDTH), random_mask(2, HEIGHT, WIDTH)
    alone = torch.cat([GREY(image[:, c : c + 1], mask) for c in range(3)], 1)
    torch.testing.assert_close(GREY(image, mask), alone)


@pytest.mark.parametrize("channels", [2, 4])
def test_models_of_two_and_four_channels_take_arrays_without_alpha(channels):
    inpaint = Inpainter(randomise(InpaintingNet(channels, (4, 6), head_channels=4)))
    image = draw((HEIGHT, WIDTH, channels), np.float32)
    result = inpaint(image, HOLE)
    np.testing.assert_array_equal(known(result), known(image))
    assert (result[HOLE][:, -1] != image[HOLE][:, -1]).any()
    tensor = inpaint(torch.from_numpy(image).permute(2, 0, 1), HOLE)
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), result)


def test_empty_hole_returns_the_input():
    for image in (torch.rand(3, 9, 9), draw((9, 9, 3), np.uint8), picture("RGBA", (9, 9))):
        result = COLOUR(image, np.zeros((9, 9), bool))
        assert type(result) is type(image)
        np.testing.assert_array_equal(np.asarray(result), np.asarray(image))


def test_values_under_the_hole_do_not_matter():
    image, mask = torch.rand(3, HEIGHT, WIDTH), torch.from_numpy(HOLE)
    expected = COLOUR(image, mask)
    for value in (float("nan"), float("inf"), -7.0, 255.0):
        assert_equal(COLOUR(image.masked_fill(mask, value), mask), expected)


def test_lists():
    images = [picture("L"), draw((HEIGHT, WIDTH, 3), np.uint8), torch.rand(3, 9, 9)]
    masks = [HOLE, HOLE, random_mask(1, 9, 9)[0]]
    results = COLOUR(images, masks)
    assert [type(r) for r in results] == [type(i) for i in images]
    for result, image, mask in zip(results, images, masks, strict=True):
        np.testing.assert_array_equal(np.asarray(result), np.asarray(COLOUR(image, mask)))
    assert COLOUR([], []) == []


def test_read_only_and_strided_arrays_and_tensors_with_gradients():
    # Warnings are errors here: PyTorch warns of read-only arrays.
    for shape in ((HEIGHT, WIDTH), (HEIGHT, WIDTH, 3)):
        image, mask = draw(shape, np.float32), HOLE.copy()
        expected = COLOUR(image, mask)
        wide = np.zeros((2 * HEIGHT, *shape[1:]), np.float32)
        wide[::2] = image
        image.setflags(write=False)
        mask.setflags(write=False)
        np.testing.assert_array_equal(COLOUR(image, mask), expected)
        np.testing.assert_array_equal(COLOUR(wide[::2], mask), expected)
        np.testing.assert_array_equal(COLOUR(image[::-1], mask[::-1])[::-1].shape, expected.shape)
    image = torch.rand(3, HEIGHT, WIDTH, requires_grad=True)
    assert not COLOUR(image, HOLE).requires_grad


def test_result_shares_no_memory_with_the_input():
    image = torch.rand(3, HEIGHT, WIDTH)
    for mask in (HOLE, np.zeros_like(HOLE)):
        before = image.clone()
        COLOUR(image, mask).fill_(9)
        assert torch.equal(image, before)


# Masks ------------------------------------------------------------------------------------------------------

IMAGES = torch.rand(2, 3, HEIGHT, WIDTH)


@pytest.mark.parametrize("shape", ["hw", "1hw", "hw1", "11hw", "bhw", "b1hw", "bhw1"])
def test_mask_layouts(shape):
    mask = torch.from_numpy(HOLE)
    sizes = {"h": HEIGHT, "w": WIDTH, "b": 2, "1": 1}
    laid = mask.expand(2, HEIGHT, WIDTH) if "b" in shape else mask
    laid = laid.reshape([sizes[letter] for letter in shape])
    expected = COLOUR(IMAGES, mask.expand(2, 1, HEIGHT, WIDTH))
    assert_equal(COLOUR(IMAGES, laid), expected)
    assert_equal(COLOUR(IMAGES, laid.numpy()), expected)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("top", [1, 255, 65535])
def test_mask_values(dtype, top):
    if np.iinfo(dtype).max < top if np.issubdtype(dtype, np.integer) else dtype is np.bool_ and top > 1:
        return  # the format has no such value
    assert_equal(COLOUR(IMAGES, HOLE.astype(dtype) * dtype(top)), COLOUR(IMAGES, HOLE))
    assert_equal(COLOUR(IMAGES, torch.from_numpy(HOLE.astype(dtype) * dtype(top))), COLOUR(IMAGES, HOLE))


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16", "LA"])
def test_pil_masks(mode):
    if mode == "I;16":
        mask = Image.fromarray(HOLE.astype(np.uint16) * 65535)
    else:
        mask = Image.fromarray(HOLE.astype(np.uint8) * 255).convert(mode)
    assert_equal(COLOUR(IMAGES, mask), COLOUR(IMAGES, HOLE))


@pytest.mark.parametrize("values", [np.uint8, np.uint16, np.float32])
def test_threshold(values):
    top = 1 if values is np.float32 else np.iinfo(values).max
    soft = (np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) * top).astype(values)
    for threshold in (0.25, 0.5, 0.9):
        assert_equal(
            COLOUR(IMAGES, soft, threshold=threshold), COLOUR(IMAGES, soft.astype(np.float64) / top > threshold)
        )


# Models -----------------------------------------------------------------------------------------------------


def test_puts_the_model_into_eval_mode():
    model = InpaintingNet(3, (4, 6)).train()
    assert not Inpainter(model).model.training


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_precision(dtype):
    inpaint = Inpainter(randomise(InpaintingNet(3, (4, 6), head_channels=4, dtype=dtype)), device="cpu")
    result = inpaint(IMAGES, HOLE)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, COLOUR(IMAGES, HOLE), rtol=0, atol=0.2)


def test_runs_on_every_device_and_answers_where_the_image_is(device):
    inpaint = Inpainter(randomise(InpaintingNet(3, (4, 6), head_channels=4)), device=device)
    result = inpaint(IMAGES, HOLE)
    assert result.device == IMAGES.device
    torch.testing.assert_close(result, COLOUR(IMAGES, HOLE), rtol=1e-2, atol=1e-3)
