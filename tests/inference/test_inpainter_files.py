"""Inpainter on files: paths in and out, and every documented error with what its message says."""

import contextlib
import io
import struct

import numpy as np
import pytest
import torch
from harness import randomise
from PIL import Image

from kdinpaint import AutoEncoder, Inpainter, InpaintingNet
from kdinpaint._core.errors import (
    ConfigError,
    ImageFileError,
    KDInpaintWarning,
    OutputError,
    RangeError,
    ShapeError,
    WeightsError,
)
from kdinpaint.inference import convert
from kdinpaint.models import save_model

HEIGHT, WIDTH = 12, 18
NET = randomise(InpaintingNet(3, (4, 6), head_channels=4))
INPAINT = Inpainter(NET, device="cpu")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[3:8, 4:11] = True
IMAGE = torch.from_numpy(PIXELS).permute(2, 0, 1) / 255
MASK = torch.from_numpy(HOLE)


@pytest.fixture
def files(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "image.png")
    Image.fromarray(HOLE.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    return tmp_path


def test_path_gives_a_pil_image(files):
    for path in (files / "image.png", str(files / "image.png")):
        result = INPAINT(path, files / "mask.png")
        assert isinstance(result, Image.Image)
        np.testing.assert_array_equal(np.asarray(result), INPAINT(PIXELS, HOLE))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_written_png_has_bit_exact_known_pixels(files, mode):
    image = (
        Image.fromarray(RNG.integers(0, 65536, HOLE.shape, np.uint16))
        if mode == "I;16"
        else Image.fromarray(PIXELS).convert(mode)
    )
    image.save(files / "image.png")
    output = files / "made" / "on the way" / "result.png"
    for source in (files / "image.png", image):
        assert INPAINT(source, files / "mask.png", output=str(output)) == output
        with Image.open(output) as result:
            assert result.mode == mode
            np.testing.assert_array_equal(np.asarray(result)[~HOLE], np.asarray(image)[~HOLE])
            np.testing.assert_array_equal(np.asarray(result), np.asarray(INPAINT(image, HOLE)))
    assert [p.name for p in output.parent.iterdir()] == ["result.png"]


@pytest.mark.parametrize("ending", [".jpg", ".webp", ".bmp", ".TIFF"])
def test_other_formats_can_be_written(files, ending):
    output = INPAINT(files / "image.png", HOLE, output=files / f"result{ending}")
    with Image.open(output) as result:
        assert result.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(files, orientation):
    # Stored sideways or mirrored, with a tag that says so: the mask belongs to the upright picture.
    smooth = (
        np.stack(np.meshgrid(np.linspace(0, 255, WIDTH), np.linspace(0, 255, HEIGHT)), -1).mean(-1).astype(np.uint8)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that makes the stored picture
    upright = Image.fromarray(smooth)
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    stored.save(files / "photo.jpg", exif=exif, quality=100)
    result = INPAINT(files / "photo.jpg", HOLE)
    assert result.size == (WIDTH, HEIGHT)
    np.testing.assert_allclose(np.asarray(result)[~HOLE].astype(int), smooth[~HOLE].astype(int), atol=4)


@pytest.mark.parametrize("source", ["folder", "file", "run"])
def test_model_from_disk(tmp_path, source):
    folder = tmp_path / "student" if source == "run" else tmp_path
    save_model(NET, folder)
    (tmp_path / "log.txt").write_text("a run folder holds more")
    inpaint = Inpainter(str(tmp_path / "model.safetensors") if source == "file" else tmp_path, device="cpu")
    assert torch.equal(inpaint(IMAGE, MASK), INPAINT(IMAGE, MASK))


# Warnings and errors ----------------------------------------------------------------------------------------


def test_full_hole_warns_and_fills():
    with pytest.warns(
        KDInpaintWarning, match="hole covers the whole image; is the mask inverted.*white.*means hole"
    ) as caught:
        result = INPAINT(IMAGE, torch.ones(HEIGHT, WIDTH))
    assert bool(torch.isfinite(result).all())
    assert caught[0].filename == __file__


def test_nearly_full_hole_warns():
    mask = torch.ones(2, HEIGHT, WIDTH)
    mask[1, 0, 0] = 0
    mask[0, :6] = 0
    with pytest.warns(KDInpaintWarning, match=r"hole covers 99.5% of the image; is the mask inverted"):
        INPAINT(IMAGE.expand(2, -1, -1, -1), mask)


def nan_known():
    image = IMAGE.clone()
    image[1, 0, :2] = float("nan")
    return image


def soft():
    mask = MASK.float()
    mask[4, 5] = 0.5
    return mask


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: INPAINT(IMAGE * 255, MASK),
            RangeError,
            r"image has values from 0 to 255; expected \[0, 1\]. Divide by 255",
        ),
        (lambda: INPAINT(IMAGE * 2 - 1, MASK), RangeError, r"expected \[0, 1\].*\(x \+ 1\) / 2"),
        (lambda: INPAINT(nan_known(), MASK), RangeError, "image holds 2 values that are NaN or infinite"),
        (lambda: INPAINT(IMAGE, soft()), RangeError, r"mask is not binary: 1 of 216 values.*0.5\)"),
        (lambda: INPAINT(IMAGE, MASK * float("nan")), RangeError, "mask holds NaN"),
        (lambda: INPAINT(IMAGE, (HOLE * np.uint8(255)) // 2), RangeError, "not binary: 35 of 216.*127"),
        (lambda: INPAINT(IMAGE, MASK[1:]), ShapeError, r"mask has shape \(11, 18\) and the image is 12 x 18 .*nearest"),
        (lambda: INPAINT(IMAGE, MASK.T), ShapeError, r"mask has shape \(18, 12\)"),
        (lambda: INPAINT(IMAGE, np.stack([HOLE] * 3, -1)), ShapeError, r"mask has shape \(12, 18, 3\)"),
        (lambda: INPAINT(IMAGE.expand(2, -1, -1, -1), MASK.expand(3, -1, -1)), ShapeError, "2 in the batch"),
        (
            lambda: INPAINT(torch.rand(5, HEIGHT, WIDTH), MASK),
            ShapeError,
            "image has 5 channels and the model takes 3.*in_channels=5",
        ),
        (lambda: INPAINT(torch.rand(1, 1, 3, HEIGHT, WIDTH), MASK), ShapeError, r"expected \(H, W\), \(C, H, W\)"),
        (lambda: INPAINT((IMAGE * 255).long(), MASK), ShapeError, "int64 tensor.*uint8 or uint16"),
        (lambda: INPAINT(PIXELS.astype(np.int32), MASK), ShapeError, "array of int32"),
        (
            lambda: INPAINT(IMAGE.numpy(), MASK),
            ShapeError,
            r"channels come last in arrays. Use array.transpose\(1, 2, 0\)",
        ),
        (lambda: INPAINT(None, MASK), ShapeError, "image is NoneType None; expected a path, a PIL image"),
        (lambda: INPAINT(IMAGE, None), ShapeError, "mask is NoneType None; expected a path"),
        (lambda: INPAINT(IMAGE, [MASK]), ShapeError, "got a list of masks for one image"),
        (lambda: INPAINT([IMAGE], MASK), ShapeError, "got 1 images and a single mask"),
        (lambda: INPAINT([IMAGE], [MASK, MASK]), ShapeError, "got 1 images and 2; expected a list of as many"),
        (lambda: INPAINT([IMAGE], [MASK], output="x.png"), ShapeError, "and no output"),
        (
            lambda: INPAINT(IMAGE, MASK, output="x.png"),
            ConfigError,
            "output='x.png' goes with a path or a PIL image; the result for Tensor",
        ),
        (lambda: INPAINT(PIXELS, MASK, output="x.png"), ConfigError, "the result for ndarray is returned"),
        (
            lambda: INPAINT(Image.fromarray(np.full(HOLE.shape, 70_000, np.int32)), MASK),
            RangeError,
            "from 70000 to 70000; expected 0 to 65535",
        ),
        (lambda: INPAINT(Image.fromarray(np.full(HOLE.shape, 70, np.float32)), MASK), RangeError, "Divide by 255"),
        (
            lambda: Inpainter(AutoEncoder(channels=(4, 6))),
            WeightsError,
            "model is a AutoEncoder, which does not inpaint",
        ),
        (lambda: Inpainter(torch.nn.Identity()), WeightsError, "model is a Identity"),
        (lambda: Inpainter("nowhere"), WeightsError, "no weights at nowhere"),
    ],
)
def test_documented_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_weights_of_a_teacher_are_refused(tmp_path):
    save_model(AutoEncoder(channels=(4, 6)), tmp_path)
    with pytest.raises(WeightsError, match="is a AutoEncoder, which does not inpaint; expected an InpaintingNet"):
        Inpainter(tmp_path)


def test_missing_and_unreadable_files(files):
    with pytest.raises(ImageFileError, match=r"nothing.png does not exist"):
        INPAINT(files / "nothing.png", MASK)
    with pytest.raises(ImageFileError, match="does not exist"):
        INPAINT(files / "image.png", files / "nothing.png")
    with pytest.raises(ImageFileError, match="cannot be read as an image"):
        INPAINT(files, MASK)
    (files / "text.png").write_text("not an image")
    with pytest.raises(ImageFileError, match=r"text\.png cannot be read as an image"):
        INPAINT(files / "text.png", MASK)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds in damaged files
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"])
def test_damaged_files_are_reported_as_such(files, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
    raw, rng, refused = buffer.getvalue(), np.random.default_rng(1), 0
    for trial in range(60):
        damaged = bytearray(raw if trial % 3 else raw[: rng.integers(len(raw))])
        for place in rng.integers(0, max(len(damaged), 1), 8):
            if place < len(damaged):
                damaged[place] = rng.integers(256)
        (files / "damaged").write_bytes(damaged)
        with contextlib.suppress(ImageFileError):  # any other error fails
            convert.load_image(files / "damaged")
            refused -= 1
        refused += 1
    assert refused


def test_a_tag_that_cannot_be_parsed_is_reported(files, monkeypatch):
    def broken(_, **options):
        raise struct.error("required argument is not an integer")

    monkeypatch.setattr(convert.ImageOps, "exif_transpose", broken)
    with pytest.raises(ImageFileError, match=r"cannot be read as an image .*required argument"):
        INPAINT(files / "image.png", MASK)


def test_bombs_are_refused_before_they_are_decoded(files, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    with pytest.raises(ImageFileError, match=r"has 18 x 12 pixels, more than the limit of 100"):
        convert.load_image(files / "image.png", max_pixels=100)


def test_pillows_own_limit_is_reported_alike(files, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageFileError, match="is too large"):
        INPAINT(files / "image.png", MASK)


# Writing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("result", "RGB", "'result' names no image format; expected an ending such as .png"),
        ("result.txt", "RGB", "'result.txt' names no image format"),
        ("result.jpg", "RGBA", "'result.jpg': cannot write mode RGBA as JPEG. PNG holds"),
        ("result.png", "F", "cannot write mode F as PNG"),
    ],
)
def test_formats_that_do_not_fit(tmp_path, name, mode, message):
    image = (
        Image.fromarray(np.full(HOLE.shape, 0.5, np.float32)) if mode == "F" else Image.fromarray(PIXELS).convert(mode)
    )
    (tmp_path / name).write_text("earlier")
    with pytest.raises(ConfigError, match=message):
        INPAINT(image, HOLE, output=tmp_path / name)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(name, "earlier")]


def test_a_failed_write_leaves_the_earlier_file(files, monkeypatch):
    output = files / "result.png"
    output.write_text("earlier")

    def full(self, file, *_, **__):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    before = sorted(p.name for p in files.iterdir())
    with pytest.raises(
        OutputError, match=r"cannot write .*result.png: No space left on device. Earlier files are untouched"
    ):
        INPAINT(files / "image.png", HOLE, output=output)
    assert output.read_text() == "earlier"
    assert sorted(p.name for p in files.iterdir()) == before


def test_places_that_cannot_be_written(files):
    (files / "folder.png").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*folder.png"):
        INPAINT(files / "image.png", HOLE, output=files / "folder.png")
    with pytest.raises(OutputError, match="cannot make the folder"):
        INPAINT(files / "image.png", HOLE, output=files / "mask.png" / "result.png")
    assert sorted(p.name for p in files.iterdir()) == ["folder.png", "image.png", "mask.png"]
