import errno
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from kdinpaint._core.errors import ConfigError, DataError, ImageFileError
from kdinpaint.data import list_images, read_image


def tensor(image):
    array = np.array(image)
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def png(path, width, height, depth, colour, rows=None):
    """A PNG of a kind Pillow does not write, or of a header alone."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"" if rows is None else zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


class TestListImages:
    def test_is_recursive_sorted_and_ignores_what_is_hidden_or_foreign(self, tmp_path):
        wanted = ["a.PNG", "b/c.jpeg", "b/d/e.webp", "b2.tif", "z.ppm"]
        for name in [*wanted, ".hidden.png", ".cache/x.png", "b/.d/y.jpg", "notes.txt", "png"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == sorted(wanted)
        assert list_images(str(tmp_path)) == list_images(tmp_path)

    def test_follows_links_and_survives_their_loops(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "a.png").touch()
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "link").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "up").symlink_to(tmp_path / "data")
        assert list_images(tmp_path / "data") == [tmp_path / "data" / "link" / "a.png"]

    def test_errors_name_the_folder_and_what_it_holds(self, tmp_path):
        with pytest.raises(DataError, match="nowhere does not exist; expected a folder"):
            list_images(tmp_path / "nowhere")
        (tmp_path / "movie.mp4").touch()
        with pytest.raises(DataError, match="is a file, not a folder"):
            list_images(tmp_path / "movie.mp4")
        with pytest.raises(DataError, match=r"no image but 1 other files \(such as movie.mp4\)"):
            list_images(tmp_path)
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError, match=r"no image but no files; expected files ending in .bmp"):
            list_images(tmp_path / "empty")

    def test_a_folder_that_cannot_be_listed_is_an_error(self, tmp_path, monkeypatch):
        (tmp_path / "locked").mkdir()
        (tmp_path / "a.png").touch()
        scan = os.scandir

        def refuse(path):
            if str(path).endswith("locked"):
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match="locked cannot be listed: Permission denied"):
            list_images(tmp_path)


class TestReadImage:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation_is_applied(self, tmp_path, chelsea, orientation):
        upright = tensor(chelsea)
        undo = {
            1: lambda x: x,
            2: lambda x: x.flip(2),
            3: lambda x: x.flip(1, 2),
            4: lambda x: x.flip(1),
            5: lambda x: x.transpose(1, 2),
            6: lambda x: x.rot90(1, (1, 2)),
            7: lambda x: x.flip(1, 2).transpose(1, 2),
            8: lambda x: x.rot90(-1, (1, 2)),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = undo(upright).permute(1, 2, 0).numpy()
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
        assert torch.equal(read_image(tmp_path / "a.png"), upright)

    @pytest.mark.parametrize(
        ("mode", "suffix"), [("1", "png"), ("L", "png"), ("P", "png"), ("RGB", "ppm"), ("CMYK", "tif"), ("RGB", "bmp")]
    )
    def test_every_opaque_mode_reads_as_pillow_shows_it(self, tmp_path, chelsea, mode, suffix):
        path = tmp_path / f"a.{suffix}"
        image = chelsea.convert(mode)
        image.save(path)
        assert torch.equal(read_image(path), tensor(image.convert("RGB")))
        assert torch.equal(read_image(path, channels=1), tensor(image.convert("L")))
        assert read_image(path).is_contiguous()

    @pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
    def test_transparency_is_laid_over_white(self, tmp_path, chelsea, mode):
        alpha = Image.linear_gradient("L").resize(chelsea.size)
        if mode == "P":
            chelsea.quantize(16).save(tmp_path / "a.png", transparency=3)
            with Image.open(tmp_path / "a.png") as saved:
                see_through = torch.from_numpy(np.array(saved) == 3)
                opaque = tensor(saved.convert("RGBA"))[:3]
            expected = torch.where(see_through, 255, opaque)
        else:
            image = chelsea.convert(mode)
            image.putalpha(alpha)
            image.save(tmp_path / "a.png")
            share = tensor(alpha).double() / 255
            expected = (tensor(image.convert("RGB")) * share + 255 * (1 - share)).round()
        got = read_image(tmp_path / "a.png")
        assert (got.double() - expected.double()).abs().max() <= 1
        assert got.float().mean() > tensor(chelsea).float().mean()

    def test_16_bit_grey_is_scaled_not_clipped(self, tmp_path):
        levels = np.linspace(0, 65535, 96 * 4).astype(np.uint16).reshape(4, 96)
        Image.fromarray(levels).save(tmp_path / "a.png")
        Image.fromarray(levels.astype(np.int32)).save(tmp_path / "a.tif")
        Image.fromarray((levels / 65535).astype(np.float32)).save(tmp_path / "float.tif")
        png(tmp_path / "big.png", 96, 4, 16, 0, [row.astype(">u2").tobytes() for row in levels])
        expected = torch.from_numpy(np.floor(levels / 257 + 0.5).astype(np.uint8))
        for name in ("a.png", "a.tif", "float.tif", "big.png"):
            assert torch.equal(read_image(tmp_path / name, channels=1)[0], expected), name
            assert torch.equal(read_image(tmp_path / name), expected.expand(3, -1, -1)), name

    def test_16_bit_colour_keeps_the_high_byte(self, tmp_path):
        levels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
        path = png(tmp_path / "a.png", 7, 5, 16, 2, [row.astype(">u2").tobytes() for row in levels])
        assert torch.equal(read_image(path), tensor((levels >> 8).astype(np.uint8)))

    def test_values_of_unknown_range_are_an_error(self, tmp_path):
        Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "i.tif")
        Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "f.tif")
        with pytest.raises(ImageFileError, match="mode I holds values from 70000 to 70000, expected 0 to 65535"):
            read_image(tmp_path / "i.tif")
        with pytest.raises(ImageFileError, match="mode F holds values from nan to nan, expected 0 to 1"):
            read_image(tmp_path / "f.tif")

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
    @pytest.mark.parametrize("share", [0.02, 0.6])
    def test_truncated_files_name_file_and_cause(self, tmp_path, chelsea, suffix, share):
        path = tmp_path / f"cut.{suffix}"
        chelsea.save(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageFileError, match=rf"cut\.{suffix} cannot be read as an image \(\w+: .+Restore"):
            read_image(path)

    def test_foreign_missing_and_folder(self, tmp_path):
        (tmp_path / "a.png").write_text("no image at all")
        with pytest.raises(ImageFileError, match=r"a.png cannot be read .*UnidentifiedImageError"):
            read_image(tmp_path / "a.png")
        with pytest.raises(ImageFileError, match=r"b.png does not exist"):
            read_image(tmp_path / "b.png")
        with pytest.raises(OSError, match="cannot be read"):
            read_image(tmp_path)

    def test_bombs_are_refused_by_their_header(self, tmp_path):
        path = png(tmp_path / "bomb.png", 9000, 8000, 8, 2)
        with pytest.raises(ImageFileError, match=r"bomb.png has 9000 x 8000 pixels, more than the limit of 1000000"):
            read_image(path, max_pixels=1_000_000)
        path = png(tmp_path / "huge.png", 60000, 60000, 1, 0)
        with pytest.raises(
            ImageFileError, match=r"huge.png is too large: .*3600000000 pixels.* limit here is 100000000"
        ):
            read_image(path)

    def test_channels(self, tmp_path, chelsea):
        chelsea.save(tmp_path / "a.png")
        with pytest.raises(ConfigError, match=r"channels is 2; expected 3 \(RGB\) or 1 \(grey\)"):
            read_image(tmp_path / "a.png", channels=2)
