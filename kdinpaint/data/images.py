"""Image files: listing them, and reading them to 8-bit tensors."""

import io
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from kdinpaint._core.errors import ConfigError, DataError
from kdinpaint._core.images import MAX_PIXELS, PathLike, open_image

__all__ = ["decode_image", "is_image_name", "list_images", "read_image"]

_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def list_images(root: PathLike) -> list[Path]:
    """Every image file below a folder, links followed, in the order of the relative paths.

    Files are recognised by suffix (bmp, jpeg, jpg, png, ppm, tif, tiff, webp, in any case); files and folders
    whose name starts with a dot are ignored.

    Args:
        root: The folder.

    Returns:
        Paths that start with `root`, sorted by their POSIX path relative to it.

    Raises:
        DataError: `root` is missing, is no folder, cannot be listed or holds no image.
    """
    folder = Path(root)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}; expected a folder of images. Check the path.")
    found: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if not name.startswith("."):
                image = name.lower().endswith(_SUFFIXES)
                (found if image else others).append(os.path.join(place, name))
    if not found:
        held = f"{len(others)} other files" if others else "no files"
        example = f" (such as {os.path.relpath(min(others), folder)})" if others else ""
        raise DataError(
            f"{folder} holds no image but {held}{example}; expected files ending in {', '.join(_SUFFIXES)}."
        )
    return [Path(name) for name in sorted(found, key=lambda name: name.replace(os.sep, "/"))]


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be listed: {error.strerror}. Check its permissions.") from error


def read_image(path: PathLike, *, channels: int = 3, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Read an image file as 8-bit colour or grey, upright.

    The EXIF rotation is applied. Transparent images are laid over white. 16-bit grey is scaled, not clipped;
    of 16-bit colour Pillow keeps the high byte. Float files must be in [0, 1]. Of several frames the first is
    taken.

    Args:
        path: The file.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        (channels, H, W), uint8.

    Raises:
        ImageFileError: The file is missing, foreign, truncated, too large, or its values have no known range.
        ConfigError: `channels` is neither 1 nor 3.
    """
    check_channels(channels)
    with open_image(path, max_pixels=max_pixels) as image:
        ImageOps.exif_transpose(image, in_place=True)
        levels = _eight_bit(image, channels)
    return torch.from_numpy(levels).reshape(*levels.shape[:2], -1).permute(2, 0, 1).contiguous()


def decode_image(data: bytes, *, name: str, channels: int = 3, enough: int | None = None) -> Tensor:
    """As `read_image`, from the bytes of a file.

    Args:
        data: The encoded image.
        name: For error messages.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        enough: JPEG files are decoded at a half, quarter or eighth of their size while no side falls below this many
            pixels, which takes a fraction of the time; by default at their own size.

    Returns:
        (channels, H, W), uint8.

    Raises:
        ImageFileError: The data is foreign, truncated, too large, or its values have no known range.
        ConfigError: `channels` is neither 1 nor 3.
    """
    check_channels(channels)
    with open_image(io.BytesIO(data), name=name) as image:
        if enough is not None:
            image.draft(None, (enough, enough))
        ImageOps.exif_transpose(image, in_place=True)
        levels = _eight_bit(image, channels)
    return torch.from_numpy(levels).reshape(*levels.shape[:2], -1).permute(2, 0, 1).contiguous()


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image and does not start with a dot."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith(".")


def check_channels(channels: int) -> None:
    """Raise ConfigError unless `channels` is 1 or 3."""
    if channels not in (1, 3):
        raise ConfigError(f"channels is {channels!r}; expected 3 (RGB) or 1 (grey).")


def _eight_bit(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        high = 1.0 if image.mode == "F" else 65535.0
        low, top = values.min(), values.max()
        if not (low >= 0 and top <= high):
            raise ValueError(f"mode {image.mode} holds values from {low:g} to {top:g}, expected 0 to {high:g}")
        grey = np.floor(values * (255 / high) + 0.5).astype(np.uint8)
        return grey if channels == 1 else np.repeat(grey[..., None], 3, axis=2)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return np.array(image.convert("L" if channels == 1 else "RGB"))
